"""Is all there that a snapshot reaches? A walk from the root down through what is not known to be whole yet.

Promises: a page or map is marked closed only when every id below it is there under the countable pairs, each on a
strictly lower level; what is closed is not walked again, so that a commit costs what is new in it. What is missing is
named, a bounded number of ids at a time. The catalogue does other machines' work between the steps.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from mastodon.catalogue.interface import BlobState, Catalogue
from mastodon.daemon.errors import Unavailable
from mastodon.sealed.blob import LEVELS
from mastodon.wire.messages import MISSING_LIMIT

IDS_AT_ONCE = 4096
PARENTS_AT_ONCE = 64
TOP = max(LEVELS.values()) + 1
ATTEMPTS = 5


@dataclass(slots=True)
class Found:
    """What a walk came to know: ids that are whole, that are missing, and that stand on a wrong level."""

    whole: set[bytes] = field(default_factory=set)
    missing: dict[bytes, None] = field(default_factory=dict)
    wrong: dict[bytes, None] = field(default_factory=dict)
    more: bool = False


class _Enough(Exception):
    """So much is missing, or was looked at, that the walk ends here."""


class _Changed(Exception):
    """Something was lost while the walk went on."""


class Closure:
    """Walks through one machine's blobs."""

    def __init__(self, catalogue: Catalogue, machine: bytes, budget: int | None = None) -> None:
        """``budget`` bounds the references looked at; None: as many as there are."""
        self._catalogue = catalogue
        self._machine = machine
        self._budget = budget
        self._left = budget
        self._closure = 0
        self._found = Found()

    async def walk(self, ids: Sequence[bytes]) -> Found:
        """Walk down from ``ids``. Raises Unavailable when packs get lost all the time."""
        for _ in range(ATTEMPTS):
            self._found = Found()
            self._left = self._budget
            self._closure = await self._catalogue.closure(self._machine)
            try:
                self._found.whole = await self._whole(ids, TOP)
            except _Enough:
                self._found.more = True
            except _Changed:
                continue
            return self._found
        raise Unavailable("packs are being lost from the spools: try again")

    async def _whole(self, ids: Sequence[bytes], below: int) -> set[bytes]:
        """Those of ``ids`` that are there, on a level under ``below``, with all that they reach."""
        whole: set[bytes] = set()
        for part in _parts(ids, IDS_AT_ONCE):
            states = await self._catalogue.blob_states(self._machine, part, behind_writes=True)
            unsure: dict[int, list[bytes]] = {}
            for one in part:
                level = self._judge(one, states.get(one), below)
                if level == 0:
                    whole.add(one)
                elif level > 0:
                    unsure.setdefault(level, []).append(one)
            for level, parents in sorted(unsure.items()):
                for group in _parts(parents, PARENTS_AT_ONCE):
                    whole |= await self._close(group, level)
        return whole

    def _judge(self, one: bytes, state: BlobState | None, below: int) -> int:
        """0 for whole, a level for a parent that has to be walked, -1 for what is not there or wrong."""
        if state is None or not state.present:
            if len(self._found.missing) >= MISSING_LIMIT:
                raise _Enough
            self._found.missing[one] = None
            return -1
        level = LEVELS[state.kind]
        if level >= below:
            self._found.wrong[one] = None
            return -1
        return 0 if state.closed else level

    async def _close(self, parents: Sequence[bytes], level: int) -> set[bytes]:
        """Those of ``parents``, all of one level, that are whole; they are marked so."""
        references = await self._catalogue.references(self._machine, parents)
        children = list(dict.fromkeys(child for one in parents for child in references.get(one, ())))
        if self._left is not None:
            self._left -= len(children)
            if self._left < 0:
                raise _Enough
        there = await self._whole(children, level)
        closed = [one for one in parents if all(child in there for child in references.get(one, ()))]
        if closed and not await self._catalogue.mark_closed(self._machine, closed, self._closure):
            raise _Changed
        return set(closed)


def _parts(ids: Sequence[bytes], size: int) -> Iterator[Sequence[bytes]]:
    for at in range(0, len(ids), size):
        yield ids[at : at + size]
