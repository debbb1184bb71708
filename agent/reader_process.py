"""The reader process: forked before there are any threads, it scans and reads as often as it is told to.

A job comes through a pipe; the edit script goes out through the ring. The process ends when the pipe does.
"""

import contextlib
import marshal
import os
import signal
import struct
from collections.abc import Callable, Collection
from dataclasses import dataclass

from mastodon_agent.distrust import rows_reader
from mastodon_agent.reader import FileReader, Watch, no_watch
from mastodon_agent.records import Kind
from mastodon_agent.ring import OtherEnded, Ring, RingReader, RingWriter
from mastodon_agent.roots import Node
from mastodon_agent.scan import OldListing, Scan, ScanRules, pseudo_devices
from mastodon_agent.script import Script
from mastodon_agent.state import read_pages

_LENGTH = struct.Struct("<I")


@dataclass(frozen=True, slots=True)
class ReaderSetting:
    """What all jobs of a run share. ``key`` is that of file hashes, ``clock`` gives nanoseconds since 1970."""

    top: Node
    rules: ScanRules
    key: bytes
    machine: bytes
    clock: Callable[[], int]
    watch: Watch = no_watch


class ReaderProcess:
    """The forked process, seen from the one that forked it."""

    def __init__(self, setting: ReaderSetting) -> None:
        ring = Ring()
        jobs_read, self._jobs = os.pipe()
        self._pid = os.fork()
        if not self._pid:
            os.close(self._jobs)
            _live(ring.writer(), jobs_read, setting)
        os.close(jobs_read)
        self.ring: RingReader = ring.reader()

    def begin(self, listing: str, pair: bytes, missing: Collection[bytes] = (), reread: bool = False) -> None:
        """Scan and read, against the listing in that file."""
        job = marshal.dumps((listing, pair, list(missing), reread))
        os.write(self._jobs, _LENGTH.pack(len(job)))
        view = memoryview(job)
        while view:
            view = view[os.write(self._jobs, view) :]

    def close(self) -> None:
        """End it, whatever it is doing, and wait until it is gone."""
        os.close(self._jobs)
        self.ring.close()
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._pid, signal.SIGKILL)
        os.waitpid(self._pid, 0)


def _live(ring: RingWriter, jobs: int, setting: ReaderSetting) -> None:
    """The forked process's whole life."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the other process ends this one
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    code = 0
    try:
        while (job := _next_job(jobs)) is not None:
            _scan(ring, setting, *job)
    except OtherEnded:
        pass
    except BaseException as error:
        code = 1
        with contextlib.suppress(OtherEnded):
            ring.record(Kind.CRASHED, marshal.dumps(f"reading files failed: {type(error).__name__}: {error}"))
            ring.flush()
    finally:
        os._exit(code)  # nothing of the other process's may run here: no exit handlers, no buffers


def _scan(
    ring: RingWriter, setting: ReaderSetting, listing: str, pair: bytes, missing: list[bytes], reread: bool
) -> None:
    script = Script(ring)
    reader = FileReader(script, setting.key, setting.clock, setting.watch)
    old = OldListing(read_pages(listing, setting.machine, pair), rows_reader(missing, reread))
    try:
        with open("/proc/self/mountinfo", "rb") as file:
            pseudo = pseudo_devices(file.read())
    except OSError:
        pseudo = frozenset()
    Scan(setting.top, setting.rules, old, reader, pseudo).run()
    reader.finish()


def _next_job(jobs: int) -> tuple[str, bytes, list[bytes], bool] | None:
    head = _read_exactly(jobs, _LENGTH.size)
    if head is None:
        return None
    body = _read_exactly(jobs, _LENGTH.unpack(head)[0])
    if body is None:
        return None
    listing, pair, missing, reread = marshal.loads(body)
    return listing, pair, missing, reread


def _read_exactly(fd: int, length: int) -> bytes | None:
    data = b""
    while len(data) < length:
        piece = os.read(fd, min(length - len(data), 1 << 16))
        if not piece:
            return None
        data += piece
    return data
