"""A source of backups: spool directories, read without daemon or catalogue."""

import heapq
import os
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from mastodon.host.spool_reader import KeptPair, LedgerRecords, MachineRecords, front_length, packs_of, walk_blobs
from mastodon.restore.errors import NotThere
from mastodon.restore.source import Answered, BlobCame, Event, ListedPair, OfferedPair
from mastodon.sealed.blob import BlobHeader, parse_header
from mastodon.sealed.errors import FormatError

OPEN_PACKS = 64


class SpoolSource:
    """Implements Source over the packs and ledgers of spools."""

    has_an_end = True

    def __init__(self, roots: Sequence[Path], records: LedgerRecords, warn: Callable[[str], None]) -> None:
        self._warn = warn
        self._roots = roots
        self._records = records
        self._machine = b""
        self._paths: list[Path] = []
        self._places: dict[bytes, tuple[tuple[int, int, int], ...]] = {}
        self._runs: dict[bytes, tuple[int, int, int]] = {}
        self._events: deque[tuple[int, list[bytes], bool]] = deque()
        self._missing: set[bytes] = set()
        self._questions = 0
        self._open: OrderedDict[int, int] = OrderedDict()
        self._pending: deque[tuple[int, int, int]] = deque()

    def pairs(self, machine: bytes, first: int, limit: int) -> Sequence[ListedPair]:
        """The names of a machine's pairs with a number of at least ``first``, in order, at most ``limit``."""
        offered = (one for kept in self._of(machine).pairs.values() for one in kept.values())
        chosen = heapq.nsmallest(limit, (one for one in offered if one.number and one.number >= first), key=_number)
        return [ListedPair(one.number, one.pair, one.hash, one.time_ns) for one in chosen]

    def envelopes(self, machine: bytes, pair: bytes) -> Sequence[OfferedPair]:
        """All records of one pair, with their envelopes."""
        found = []
        for kept in self._of(machine).pairs.get(pair, {}).values():
            try:
                found.append(OfferedPair(*kept.read(), reenvelope=not kept.number))
            except (OSError, FormatError) as error:
                self._warn(f"{kept.path}: a sealing pair cannot be read any more: {error}")
        return found

    def snapshots(self, machine: bytes) -> Iterable[tuple[bytes, int]]:
        """All snapshot records, each with the time at which the server took it."""
        return self._of(machine).snapshots.items()

    def runs(self, machine: bytes, ids: Sequence[bytes]) -> Sequence[bytes]:
        """Run records by id, those that there are."""
        self._index(machine)
        found = []
        for run in ids:
            place = self._runs.get(run)
            if place is not None:
                found.append(self._read(*place))
        return found

    def ask(self, machine: bytes, ids: Sequence[bytes]) -> int:
        """Ask for blobs: of one id all sealings come, of several ids the first that is whole of each."""
        self._index(machine)
        self._questions += 1
        wanted = sorted(set(ids), key=lambda id: self._places.get(id, ((0, 0, 0),))[0])
        self._events.append((self._questions, wanted[::-1], len(wanted) == 1))
        return self._questions

    def receive(self) -> Event:
        """The next event."""
        question, left, every_sealing = self._events[0]
        while left:
            if not self._pending:
                self._pending.extend(self._places.get(left[-1], ()))
            while self._pending:
                found = self._sealing(left[-1], self._pending.popleft())
                if found is None:
                    continue
                if not every_sealing:
                    self._pending.clear()
                if not self._pending:
                    left.pop()
                return BlobCame(question, *found)
            self._missing.add(left.pop())
        self._events.popleft()
        missing, self._missing = frozenset(self._missing), set()
        return Answered(question, missing)

    def close(self) -> None:
        """Close the packs."""
        while self._open:
            os.close(self._open.popitem()[1])

    def _of(self, machine: bytes) -> MachineRecords:
        records = self._records.machines.get(machine)
        if records is None:
            raise NotThere(f"the ledgers in these spools know no machine {machine.hex()}")
        return records

    def _index(self, machine: bytes) -> None:
        if machine == self._machine:
            return
        self.close()
        self._machine = machine
        self._paths, self._places, self._runs = [], {}, {}
        for pack in packs_of(self._roots, machine, self._warn):
            number = len(self._paths)
            self._paths.append(pack.path)
            for id, offset, length in pack.blobs:
                self._places[id] = (*self._places.get(id, ()), (number, offset, length))
            for run, offset, length in pack.runs:
                self._runs.setdefault(run, (number, offset, length))

    def _sealing(self, id: bytes, place: tuple[int, int, int]) -> tuple[BlobHeader, bytes] | None:
        """What lies at a place, if it is a blob of that id; else what a walk through that pack finds."""
        pack, offset, length = place
        found = self._parsed(id, pack, offset, length)
        if found is None:
            path = self._paths[pack]
            self._warn(f"{path}: damaged, or its index does not tell the truth, at blob {id.hex()[:16]}")
            try:
                fd = self._descriptor(pack)
                size = os.fstat(fd).st_size
                for other, at, other_length in walk_blobs(fd, front_length(fd), size):
                    if other == id:
                        found = self._parsed(id, pack, at, other_length)
            except (OSError, FormatError):
                return None
        return found

    def _parsed(self, id: bytes, pack: int, offset: int, length: int) -> tuple[BlobHeader, bytes] | None:
        data = self._read(pack, offset, length)
        try:
            header = parse_header(data)
        except FormatError:
            return None
        return (header, data) if header.id == id and header.size == len(data) else None

    def _read(self, pack: int, offset: int, length: int) -> bytes:
        try:
            return os.pread(self._descriptor(pack), length, offset)
        except OSError as error:
            self._warn(f"{self._paths[pack]}: cannot be read: {error.strerror}")
            return b""

    def _descriptor(self, pack: int) -> int:
        fd = self._open.get(pack)
        if fd is None:
            if len(self._open) >= OPEN_PACKS:
                os.close(self._open.popitem(last=False)[1])
            fd = self._open[pack] = os.open(self._paths[pack], os.O_RDONLY | os.O_CLOEXEC)
        else:
            self._open.move_to_end(pack)
        return fd


def _number(pair: KeptPair) -> int:
    return pair.number
