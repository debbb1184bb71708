"""The reader processes: forked before there are any threads, they scan and read as often as they are told to.

Each takes a share of the listing's order, with a ring of its own; the rings are emptied one after the other, so that
what comes out is the edit script of a single walk. A job comes through a pipe; a process ends when its pipe does.
"""

import contextlib
import marshal
import os
import signal
import struct
from collections.abc import Callable, Iterator
from dataclasses import astuple, dataclass

from mastodon_agent import refresh
from mastodon_agent.distrust import rows_reader
from mastodon_agent.forerunner import Forerunner, Progress, TooLate
from mastodon_agent.listing_parts import PART_MINIMUM, Part, cut_in_parts, listing_version
from mastodon_agent.old_listing import OldListing
from mastodon_agent.reader import FileReader, Watch, no_watch
from mastodon_agent.records import Kind
from mastodon_agent.refresh import Doubts
from mastodon_agent.ring import SLOTS, OtherEnded, Ring, RingReader, RingWriter
from mastodon_agent.roots import Node
from mastodon_agent.scan import Scan, ScanRules, pseudo_devices
from mastodon_agent.script import Script
from mastodon_agent.share import Share
from mastodon_agent.state import read_pages

_LENGTH = struct.Struct("<I")
MOST_READERS = 8
"""More processes than that would wait for the one that takes what they read."""
LATER_SLOTS = 24
"""Of all rings but the first, together: what changed in the later shares waits there for its turn."""


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
        self._most = count
        self._progress = Progress()
        later = min(SLOTS, LATER_SLOTS // max(1, count - 1))
        for number in range(count):
            ring = Ring(later if number else SLOTS)
            self._readers.append(_Reader(setting, ring, self._progress, self._readers))

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
        self._busy = self._readers[: len(self._parts)]
        self._progress.begin()
        for reader, part in zip(self._busy, self._parts, strict=True):
            reader.begin(job, part)
        if not listing_version(job.listing) and len(self._readers) > 1:
            self._readers[1].begin(job, self._parts[0], self._progress.round)

    def records(self, idle: Callable[[], None]) -> Iterator[tuple[int, memoryview, memoryview]]:
        """The script (records.py); between two parts, NEXT. Raises SharesDiffer at its end, and OtherEnded."""
        seen = b""
        differ = False
        while self._busy:
            reader = self._busy[0]
            for kind, data, meta in reader.ring.records(idle):
                if kind == Kind.DONE:
                    break
                yield kind, data, meta
            before, after = marshal.loads(meta)
            differ = differ or before != seen
            seen = after
            del self._busy[0]
            if self._busy:
                yield Kind.NEXT, NOTHING, NOTHING
        if differ:
            self._most = 1  # what made them differ may still be going on
            raise SharesDiffer
        yield Kind.DONE, NOTHING, NOTHING

    def _drain(self) -> None:
        """Let a job come to its end, whatever it finds."""
        with contextlib.suppress(SharesDiffer):
            for _ in self.records(lambda: None):
                pass

    def close(self) -> None:
        """End them, whatever they are doing, and wait until they are gone."""
        for reader in self._readers:
            reader.close()


class _Reader:
    """One process. ``others`` were forked before, and their ends of pipes are none of its business."""

    def __init__(self, setting: ReaderSetting, ring: Ring, progress: Progress, others: list["_Reader"]) -> None:
        jobs_read, self._jobs = os.pipe()
        self._pid = os.fork()
        if not self._pid:
            os.close(self._jobs)
            for other in others:
                other.let_go()
            _live(ring.writer(), jobs_read, setting, progress)
        os.close(jobs_read)
        self.ring: RingReader = ring.reader()

    def begin(self, job: ScanJob, part: Part, ahead: int = 0) -> None:
        """Scan and read, against a part of the listing; or ``ahead`` of the reader, in the round of that number."""
        packed = marshal.dumps((astuple(job), astuple(part), ahead))
        os.write(self._jobs, _LENGTH.pack(len(packed)))
        view = memoryview(packed)
        while view:
            view = view[os.write(self._jobs, view) :]

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


def _live(ring: RingWriter, jobs: int, setting: ReaderSetting, progress: Progress) -> None:
    """The forked process's whole life."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the other process ends this one
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    code = 0
    try:
        while (job := _next_job(jobs)) is not None:
            _scan(ring, setting, progress, *job)
    except OtherEnded:
        pass
    except BaseException as error:
        code = 1
        with contextlib.suppress(OtherEnded):
            ring.record(Kind.CRASHED, marshal.dumps(f"reading files failed: {type(error).__name__}: {error}"))
            ring.flush()
    finally:
        os._exit(code)  # nothing of the other process's may run here: no exit handlers, no buffers


def _scan(ring: RingWriter, setting: ReaderSetting, progress: Progress, job: ScanJob, part: Part, ahead: int) -> None:
    pages = read_pages(job.listing, setting.machine, job.pair, part.start, part.end)
    doubts = Doubts(refresh.load(os.path.dirname(job.listing), setting.machine).bundles)
    old = OldListing(pages, doubts.over(rows_reader(job.missing, job.reread)))
    try:
        with open("/proc/self/mountinfo", "rb") as file:
            pseudo = pseudo_devices(file.read())
    except OSError:
        pseudo = frozenset()
    share = Share(part.low, part.high)
    if ahead:
        with contextlib.suppress(TooLate, OSError):
            Scan(setting.top, setting.rules, old, Forerunner(progress, ahead), pseudo, share).run()
        return
    reader = FileReader(Script(ring), setting.key, setting.clock, progress, setting.watch, doubts.was)
    reader.finish(*Scan(setting.top, setting.rules, old, reader, pseudo, share).run())


def _next_job(jobs: int) -> tuple[ScanJob, Part, int] | None:
    head = _read_exactly(jobs, _LENGTH.size)
    if head is None:
        return None
    body = _read_exactly(jobs, _LENGTH.unpack(head)[0])
    if body is None:
        return None
    job, part, ahead = marshal.loads(body)
    return ScanJob(*job), Part(*part), ahead


def _read_exactly(fd: int, length: int) -> bytes | None:
    data = b""
    while len(data) < length:
        piece = os.read(fd, min(length - len(data), 1 << 16))
        if not piece:
            return None
        data += piece
    return data
