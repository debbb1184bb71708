"""Where records and sealed blobs come from: a server or a folder of packs. Nothing that a source says is believed.

Blobs are asked for in batches, several at a time, and arrive in whatever order suits the source. ``Intake`` waits for
the answer to one question while what belongs to others is kept aside; a source bounds how much that can be, since
it sends only what was asked for.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from mastodon.sealed.blob import BlobHeader

PAIRS_PAGE = 256
LAST_PAIR = (1 << 32) - 1


@dataclass(frozen=True, slots=True)
class OfferedPair:
    """A pair record, or a re-envelope record of the admin's, and its envelope."""

    record: bytes
    envelope: bytes
    reenvelope: bool


@dataclass(frozen=True, slots=True)
class ListedPair:
    """A pair by name, as the source has it: the machine's number of it, id and hash of its record, time of arrival."""

    number: int
    pair: bytes
    hash: bytes
    time_ns: int


@dataclass(frozen=True, slots=True)
class BlobCame:
    """A sealing of one of the ids asked for, its header parsed and nothing verified yet."""

    question: int
    header: BlobHeader
    data: bytes | memoryview


@dataclass(frozen=True, slots=True)
class Answered:
    """All that the source has of a question's ids has come; ``missing`` are ids that it has not."""

    question: int
    missing: frozenset[bytes]


Event = BlobCame | Answered


class PairSource(Protocol):
    """A place that has sealing pairs of machines."""

    def pairs(self, machine: bytes, first: int, limit: int) -> Sequence[ListedPair]:
        """The names of a machine's pairs with a number of at least ``first``, in order, at most ``limit``."""
        ...

    def envelopes(self, machine: bytes, pair: bytes) -> Sequence[OfferedPair]:
        """All records of one pair, with their envelopes."""
        ...


class Source(PairSource, Protocol):
    """A place that has backups of machines. ``has_an_end``: it cannot make up records for ever."""

    has_an_end: bool

    def snapshots(self, machine: bytes) -> Iterable[tuple[bytes, int]]:
        """All snapshot records, each with the time at which the server took it."""
        ...

    def runs(self, machine: bytes, ids: Sequence[bytes]) -> Sequence[bytes]:
        """Run records by id, those that there are."""
        ...

    def ask(self, machine: bytes, ids: Sequence[bytes]) -> int:
        """Ask for blobs; the number names the question in the events."""
        ...

    def receive(self) -> Event:
        """The next event of any question; waits for it."""
        ...


def all_pairs(source: PairSource, machine: bytes) -> Iterator[ListedPair]:
    """The names of all of a machine's pairs, page by page: a hostile machine may have very many."""
    first = 0
    while first <= LAST_PAIR:
        page = source.pairs(machine, first, PAIRS_PAGE)
        yield from page
        following = max((one.number for one in page), default=-1) + 1
        if len(page) < PAIRS_PAGE or following <= first:
            return
        first = following


class Intake:
    """A source's blobs of one machine, question by question or as they come."""

    def __init__(self, source: Source, machine: bytes) -> None:
        self.source = source
        self.machine = machine
        self._aside: deque[Event] = deque()
        self._apart: dict[int, deque[Event]] = {}

    def ask(self, ids: Sequence[bytes]) -> int:
        """Ask for blobs whose events ``next_event`` gives."""
        return self.source.ask(self.machine, ids)

    def ask_apart(self, ids: Sequence[bytes]) -> int:
        """Ask for blobs that only ``collect`` gives."""
        question = self.source.ask(self.machine, ids)
        self._apart[question] = deque()
        return question

    def next_event(self) -> Event:
        """The next event of the questions that are not apart; waits for it."""
        while not self._aside:
            self._take()
        return self._aside.popleft()

    def collect(self, question: int) -> Iterator[Event]:
        """The events of a question asked apart, the last one being its Answered."""
        events = self._apart[question]
        while True:
            while not events:
                self._take()
            event = events.popleft()
            if isinstance(event, Answered):
                del self._apart[question]
                yield event
                return
            yield event

    def _take(self) -> None:
        event = self.source.receive()
        self._apart.get(event.question, self._aside).append(event)
