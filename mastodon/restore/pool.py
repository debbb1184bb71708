"""The worker processes of a restore, and the memory through which they get their jobs.

Each worker has an arena, memory shared by a fork, used as a ring: jobs are put there one after the other and freed in
the same order when their results come. So nothing is pickled or copied through pipes, and the memory of a restore is
bounded by the arenas; of each only the beginning is used as long as nothing larger comes. Descriptors of begun files
go along with a job over the socket. Two processes beat threads, which lose to the interpreter lock at each small
system call.
"""

import contextlib
import errno
import marshal
import mmap
import os
import select
import socket
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mastodon.host.attributes import EXAMPLES, Problem, ProblemLog
from mastodon.restore.errors import RestoreError
from mastodon.restore.jobs import JobResult, Task, decode_result, encode_job
from mastodon.restore.needs import ANY
from mastodon.restore.worker import MORE, ORDER

ARENA = 24 * 1024 * 1024
"""More than the largest blob (18 MiB) and the largest job description beside it."""
USUAL = 8 * 1024 * 1024
"""What of an arena is used while that is enough."""
MOST_WORKERS = 4
OUTSTANDING = 64
PACKET = 64 * 1024

ServeWorker = Callable[[socket.socket, mmap.mmap, int], None]
Losses = Callable[[Sequence[str], int], None]
"""Told examples of what was lost, and how many there were."""


class WorkerDied(RestoreError):
    """A worker process ended before its time: killed for lack of memory, or a bug."""


@dataclass(frozen=True, slots=True)
class Blob:
    """What is to be done with a blob: the sealed bytes (empty for none), and the task but for its place."""

    data: bytes | memoryview
    task: Task


class Ring:
    """Places in an arena, freed in the order in which they were taken."""

    def __init__(self, size: int, usual: int) -> None:
        self._whole = size
        self._usual = self._size = usual
        self._taken: deque[tuple[int, int]] = deque()

    def take(self, length: int) -> int | None:
        """Where so many bytes may be put, or None while there is no room."""
        if not self._taken:
            self._size = self._usual if length <= self._usual else self._whole
        if length > self._size:
            return None
        start = 0
        if self._taken:
            first = self._taken[0][0]
            start = sum(self._taken[-1])
            wrapped = start <= first
            if not wrapped and start + length > self._size:  # the rest of the arena stays unused this time round
                start, wrapped = 0, True
            if wrapped and start + length > first:
                return None
        self._taken.append((start, length))
        return start

    def free(self) -> None:
        """The oldest place is free again."""
        self._taken.popleft()


class _Process:
    """One worker as the main process sees it."""

    def __init__(self, pid: int, channel: socket.socket, arena: mmap.mmap) -> None:
        self.pid = pid
        self.channel = channel
        self.arena = arena
        self.ring = Ring(len(arena), USUAL)
        self.begun = bytearray()
        self.waiting: deque[int] = deque()
        self.load = 0
        self.sizes: deque[int] = deque()


class WorkerPool:
    """Hands jobs to the least busy worker and collects results. ``on_result`` gets each."""

    def __init__(
        self, count: int, serve: ServeWorker, keep: Sequence[int], on_result: Callable[[JobResult], None]
    ) -> None:
        """Forks ``count`` workers, which keep only the descriptors ``keep`` and their own."""
        self._on_result = on_result
        self._number = 0
        self._processes: list[_Process] = []
        try:
            for index in range(count):
                self._processes.append(_fork(index + 1, serve, keep))
        except OSError as error:
            self.kill()
            raise RestoreError(f"no worker process can be started: {error.strerror}") from None
        self._poll = select.poll()
        self._by_fd = {one.channel.fileno(): one for one in self._processes}
        for fd in self._by_fd:
            self._poll.register(fd, select.POLLIN)

    @property
    def count(self) -> int:
        """How many workers there are; they are numbered from 0."""
        return len(self._processes)

    def load(self, worker: int) -> int:
        """Bytes of jobs that a worker has before it."""
        return self._processes[worker].load

    def submit(self, blobs: Sequence[Blob], descriptors: Sequence[int], worker: int = ANY) -> int:
        """Give a job to a worker; waits while it is (or all are) busy. The number is that of the result."""
        self._number += 1
        while True:
            self._drain(wait=False)
            process = min(self._processes, key=_load) if worker == ANY else self._processes[worker]
            if len(process.waiting) < OUTSTANDING and self._place(process, blobs, descriptors):
                return self._number
            self._drain(wait=True)

    def wait(self) -> None:
        """Wait until a result came, if one is to come."""
        if any(one.waiting for one in self._processes):
            self._drain(wait=True)

    def settle(self) -> None:
        """Wait until all jobs are done."""
        while any(one.waiting for one in self._processes):
            self._drain(wait=True)

    def finish(self, log: ProblemLog, losses: Losses) -> None:
        """End the workers in good order, add their problems to ``log``, and tell ``losses`` what they lost."""
        self.settle()
        for process in self._processes:
            process.channel.send(ORDER.pack(0, 0, 0, 0))
        for process in self._processes:
            _merge_log(process, log, losses)
            process.channel.close()
            os.waitpid(process.pid, 0)
        self._processes = []

    def kill(self) -> None:
        """End the workers at once; what they have begun stays behind as parts."""
        for process in self._processes:
            process.channel.close()
            with contextlib.suppress(ChildProcessError):
                os.waitpid(process.pid, 0)
        self._processes = []

    def _place(self, process: _Process, blobs: Sequence[Blob], descriptors: Sequence[int]) -> bool:
        at = 0
        for blob in blobs:
            blob.task.start, blob.task.length = at, len(blob.data)
            at += len(blob.data)
        description = encode_job([blob.task for blob in blobs])
        room = at + len(description)
        start = process.ring.take(room)
        if start is None:
            return False
        for blob in blobs:
            begin = start + blob.task.start
            process.arena[begin : begin + len(blob.data)] = blob.data
        process.arena[start + at : start + room] = description
        process.waiting.append(self._number)
        process.sizes.append(room)
        process.load += room
        try:
            socket.send_fds(process.channel, [ORDER.pack(self._number, start, at, len(description))], list(descriptors))
        except OSError as error:
            raise _died(error) from None
        return True

    def _drain(self, *, wait: bool) -> None:
        for fd, _event in self._poll.poll(None if wait else 0):
            process = self._by_fd[fd]
            try:
                packet = process.channel.recv(PACKET)
            except OSError as error:
                raise _died(error) from None
            if not packet:
                raise _died(None)
            process.begun += memoryview(packet)[1:]
            if packet.startswith(MORE):
                continue
            result = decode_result(process.begun)
            process.begun = bytearray()
            process.waiting.popleft()
            process.ring.free()
            process.load -= process.sizes.popleft()
            self._on_result(result)


def _load(process: _Process) -> int:
    return process.load


def worker_count() -> int:
    """As many workers as this process may use cores, within bounds."""
    return max(1, min(MOST_WORKERS, len(os.sched_getaffinity(0))))


def _fork(number: int, serve: ServeWorker, keep: Sequence[int]) -> _Process:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    arena = mmap.mmap(-1, ARENA)
    pid = os.fork()
    if pid:
        theirs.close()
        return _Process(pid, ours, arena)
    status = 1
    try:
        _close_others({0, 1, 2, theirs.fileno(), *keep})
        serve(theirs, arena, number)
        status = 0
    except (KeyboardInterrupt, BrokenPipeError, ConnectionResetError):
        status = 1  # the main process has gone
    except Exception as error:
        os.write(2, f"restore worker: {type(error).__name__}: {error}\n".encode())
    finally:
        os._exit(status)


def _close_others(keep: set[int]) -> None:
    """Whatever the main process has open (server, other workers) is none of a worker's business."""
    for name in os.listdir("/proc/self/fd"):
        if int(name) not in keep:
            with contextlib.suppress(OSError):
                os.close(int(name))


def _merge_log(process: _Process, log: ProblemLog, losses: Losses) -> None:
    while True:
        packet = process.channel.recv(PACKET * 4)
        if not packet:
            raise _died(None)
        content = marshal.loads(packet)
        if len(content) == 3:
            for what, number, count in content[0]:
                log.counts[what, number] += count
            losses((), content[1])
            return
        for path, what, number in content[0]:
            if len(log.examples) < EXAMPLES:
                log.examples.append(Problem(path, what, number))
        losses(content[1], 0)


def _died(error: OSError | None) -> WorkerDied:
    reason = f" ({errno.errorcode.get(error.errno or 0, 'broken')})" if error else ""
    return WorkerDied(
        f"a worker process ended{reason}; was there too little memory? Run the same command again: what is complete "
        "is kept and only the rest fetched"
    )
