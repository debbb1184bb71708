"""The reader processes: forked before there are any threads, they scan and read as often as they are told to.

Each has a ring of its own, and scans one share of the listing's order after the other (dealing.py); the shares are
emptied in order, so that what comes out is the edit script of a single walk. A job comes through a pipe; a process ends
when its pipe does.
"""

import contextlib
import marshal
import os
import signal
import struct
import time
from collections.abc import Callable, Iterator
from dataclasses import astuple, dataclass, replace

from mastodon_agent import refresh
from mastodon_agent.dealing import MOST_PARTS, Dealing
from mastodon_agent.distrust import rows_reader
from mastodon_agent.forerunner import Forerunner, Progress, TooLate
from mastodon_agent.listing_parts import PART_MINIMUM, Part, cut_in_parts, listing_version
from mastodon_agent.old_listing import OldListing
from mastodon_agent.reader import FileReader, Watch, no_watch
from mastodon_agent.records import Kind
from mastodon_agent.refresh import Doubts
from mastodon_agent.ring import SLOTS, OtherEnded, Ring, RingReader, RingWriter
from mastodon_agent.roots import Node
from mastodon_agent.scan import Scan, ScanRules, Visitor, pseudo_devices
from mastodon_agent.script import Script
from mastodon_agent.share import Share
from mastodon_agent.state import read_pages

_LENGTH = struct.Struct("<I")
MOST_READERS = 8
"""More processes than that would wait for the one that takes what they read."""
PARTS_EACH = 4
"""So many parts for each process, since some are much more work than others and nobody knows which."""
LATER_SLOTS = 24
"""Of all rings but the first, together: what changed in the later shares waits there for its turn."""
PAUSE_S = 0.001


NOTHING = memoryview(b"")


class SharesDiffer(Exception):
    """What one process saw on the way to the next one's share was not there when that one looked, or the reverse."""


def reader_count(listing: str) -> int:
    """Two for each core, since while one waits for the disk another works; no more than a listing is worth."""
    try:
        worth = os.stat(listing).st_size // PART_MINIMUM
    except OSError:
        worth = 0
    return min(MOST_READERS, 2 * len(os.sched_getaffinity(0)), max(2, worth))


@dataclass(frozen=True, slots=True)
class ReaderSetting:
    """What all jobs of a run share. ``key`` is that of file hashes, ``clock`` gives nanoseconds since 1970."""

    top: Node
    rules: ScanRules
    key: bytes
    machine: bytes
    clock: Callable[[], int]
    watch: Watch = no_watch


@dataclass(frozen=True, slots=True)
class ScanJob:
    """A scan against the listing in that file; ``missing`` and ``reread`` as in distrust.py."""

    listing: str
    pair: bytes
    missing: tuple[bytes, ...] = ()
    reread: bool = False


def _meaning(job: ScanJob) -> object:
    """The same for jobs that come to the same: without a listing, its pair does not matter."""
    version = listing_version(job.listing)
    return job.listing, version, job.pair if version else b"", job.missing, job.reread


class ReaderProcesses:
    """The forked processes, seen from the one that forked them: ``count`` of them, of which a job uses what it can."""

    def __init__(self, setting: ReaderSetting, count: int = 1) -> None:
        self._machine = setting.machine
        self._readers: list[_Reader] = []
        self._busy: list[_Reader] = []
        self._ahead: object = None
        self._parts: list[Part] = []
        self._most = min(MOST_PARTS, count * PARTS_EACH) if count > 1 else 1
        self._progress = Progress()
        self._dealing = Dealing()
        later = min(SLOTS, LATER_SLOTS // max(1, count - 1))
        for number in range(count):
            ring = Ring(later if number else SLOTS)
            self._readers.append(_Reader(setting, ring, self._progress, self._dealing, self._readers))

    def begin_ahead(self, job: ScanJob) -> None:
        """Begin what will most likely be asked for, before it is known."""
        self._begin(job)
        self._ahead = _meaning(job)

    def begin(self, job: ScanJob) -> list[Part]:
        """Scan and read; the parts of the listing that the processes take, in order.

        What was begun ahead is gone on with if it is just this.
        """
        ahead, self._ahead = self._ahead, None
        if ahead != _meaning(job):
            if ahead is not None:
                self._drain()
            self._begin(job)
        return self._parts

    def _begin(self, job: ScanJob) -> None:
        self._parts = cut_in_parts(job.listing, self._machine, job.pair, self._most)
        self._progress.begin()
        task = _Task(job, tuple(self._parts), self._dealing.begin(len(self._parts)))
        self._busy = self._readers[: len(self._parts)]
        for reader in self._busy:
            reader.begin(task)
        if not listing_version(job.listing) and len(self._readers) > 1:
            self._readers[1].begin(replace(task, ahead=self._progress.round))

    def records(self, idle: Callable[[], None]) -> Iterator[tuple[int, memoryview, memoryview]]:
        """The script (records.py); between two parts, NEXT. Raises SharesDiffer at its end, and OtherEnded."""
        seen = b""
        differ = False
        for number in range(len(self._parts)):
            if number:
                yield Kind.NEXT, NOTHING, NOTHING
            for kind, data, meta in self._owner(number, idle).ring.records(idle):
                if kind == Kind.DONE:
                    # Here, since behind the loop the slot is the writer's again.
                    before, after = marshal.loads(meta)
                    break
                yield kind, data, meta
            differ = differ or before != seen
            seen = after
        if differ:
            self._most = 1  # what made them differ may still be going on
            raise SharesDiffer
        yield Kind.DONE, NOTHING, NOTHING

    def _owner(self, part: int, idle: Callable[[], None]) -> "_Reader":
        """The process that has a part, or will have it in a moment. Raises OtherEnded."""
        while (number := self._dealing.owner(part)) is None:
            if all(reader.has_ended() for reader in self._busy):
                raise OtherEnded
            idle()
            time.sleep(PAUSE_S)
        return self._readers[number]

    def _drain(self) -> None:
        """Let a job come to its end, whatever it finds."""
        with contextlib.suppress(SharesDiffer):
            for _ in self.records(lambda: None):
                pass

    def close(self) -> None:
        """End them, whatever they are doing, and wait until they are gone."""
        for reader in self._readers:
            reader.close()
        self._dealing.close()


@dataclass(frozen=True, slots=True)
class _Task:
    """What the processes are told: the job, the parts that are dealt in that round, or what to run ahead of."""

    job: ScanJob
    parts: tuple[Part, ...]
    round: int
    ahead: int = 0
    """The number of a forerunner's round; 0: to scan and read."""

    def pack(self) -> bytes:
        """For the pipe."""
        return marshal.dumps((astuple(self.job), tuple(map(astuple, self.parts)), self.round, self.ahead))

    @classmethod
    def unpack(cls, packed: bytes) -> "_Task":
        """The same task."""
        job, parts, round, ahead = marshal.loads(packed)
        return cls(ScanJob(*job), tuple(Part(*part) for part in parts), round, ahead)


class _Reader:
    """One process. ``others`` were forked before, and their ends of pipes are none of its business."""

    def __init__(
        self, setting: ReaderSetting, ring: Ring, progress: Progress, dealing: Dealing, others: list["_Reader"]
    ) -> None:
        jobs_read, self._jobs = os.pipe()
        number = len(others)
        self._pid = os.fork()
        if not self._pid:
            os.close(self._jobs)
            for other in others:
                other.let_go()
            _live(_Scanner(ring.writer(), setting, progress, dealing, number), jobs_read)
        os.close(jobs_read)
        self.ring: RingReader = ring.reader()

    def begin(self, task: _Task) -> None:
        """Have a task done."""
        packed = task.pack()
        os.write(self._jobs, _LENGTH.pack(len(packed)))
        view = memoryview(packed)
        while view:
            view = view[os.write(self._jobs, view) :]

    def has_ended(self) -> bool:
        """Whether the process is gone."""
        return os.waitid(os.P_PID, self._pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def let_go(self) -> None:
        """Close this side's ends of its pipes."""
        os.close(self._jobs)
        self.ring.close()

    def close(self) -> None:
        """End it and wait until it is gone."""
        self.let_go()
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._pid, signal.SIGKILL)
        os.waitpid(self._pid, 0)


def _live(scanner: "_Scanner", jobs: int) -> None:
    """The forked process's whole life."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the other process ends this one
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    code = 0
    try:
        while (task := _next_task(jobs)) is not None:
            scanner.run(task)
    except OtherEnded:
        pass
    except BaseException as error:
        code = 1
        with contextlib.suppress(OtherEnded):
            text = f"reading files failed: {type(error).__name__}: {error}"
            scanner.ring.record(Kind.CRASHED, marshal.dumps(text))
            scanner.ring.flush()
    finally:
        os._exit(code)  # nothing of the other process's may run here: no exit handlers, no buffers


class _Scanner:
    """What a forked process has, and does. ``number`` is its own."""

    def __init__(
        self, ring: RingWriter, setting: ReaderSetting, progress: Progress, dealing: Dealing, number: int
    ) -> None:
        self.ring = ring
        self._setting = setting
        self._progress = progress
        self._dealing = dealing
        self._number = number

    def run(self, task: _Task) -> None:
        """Do what there is to do of a task. Raises OtherEnded."""
        try:
            with open("/proc/self/mountinfo", "rb") as file:
                pseudo = pseudo_devices(file.read())
        except OSError:
            pseudo = frozenset()
        noted = refresh.load(os.path.dirname(task.job.listing), self._setting.machine)
        if task.ahead:
            with contextlib.suppress(TooLate, OSError):
                self._scan(task, 0, Forerunner(self._progress, task.ahead), pseudo, Doubts(noted.bundles))
            return
        while (number := self._dealing.take(task.round, self._number)) is not None:
            doubts = Doubts(noted.bundles)
            setting = self._setting
            reader = FileReader(
                Script(self.ring), setting.key, setting.clock, self._progress, setting.watch, doubts.was
            )
            reader.finish(*self._scan(task, number, reader, pseudo, doubts))

    def _scan(
        self, task: _Task, number: int, visitor: Visitor, pseudo: frozenset[int], doubts: Doubts
    ) -> tuple[bytes, ...]:
        job, part, setting = task.job, task.parts[number], self._setting
        pages = read_pages(job.listing, setting.machine, job.pair, part.start, part.end)
        old = OldListing(pages, doubts.over(rows_reader(job.missing, job.reread)))
        return Scan(setting.top, setting.rules, old, visitor, pseudo, Share(part.low, part.high)).run()


def _next_task(jobs: int) -> _Task | None:
    head = _read_exactly(jobs, _LENGTH.size)
    packed = _read_exactly(jobs, _LENGTH.unpack(head)[0]) if head is not None else None
    return None if packed is None else _Task.unpack(packed)


def _read_exactly(fd: int, length: int) -> bytes | None:
    data = b""
    while len(data) < length:
        piece = os.read(fd, min(length - len(data), 1 << 16))
        if not piece:
            return None
        data += piece
    return data
