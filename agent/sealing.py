"""Seals blobs in threads, and gives them back in the order in which they came.

Compression and encryption of a blob are a few long calls that release the interpreter's lock: threads are enough here,
other than for reading many small files. One thread on two cores, since the reader process has the other one.
"""

import os
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from mastodon.sealed.blob import SALT_LENGTH, BlobKind, BlobSealer
from mastodon_agent.packing import SealedBlob

LEVEL = 3


def sealing_threads() -> int:
    """One for each core that the reader leaves."""
    return max(1, len(os.sched_getaffinity(0)) - 1)


@dataclass(slots=True)
class _Job:
    kind: BlobKind
    id: bytes
    references: Sequence[bytes]
    plaintext: bytes | memoryview
    sealed: bytes = b""
    error: BaseException | None = field(default=None)

    @property
    def is_done(self) -> bool:
        return bool(self.sealed) or self.error is not None


class SealingPool:
    """``make_sealer`` gives each thread a sealer of its own; ``random_bytes`` the salts."""

    def __init__(
        self, make_sealer: Callable[[], BlobSealer], random_bytes: Callable[[int], bytes], threads: int
    ) -> None:
        self._make_sealer = make_sealer
        self._random_bytes = random_bytes
        self._changed = threading.Condition()
        self._waiting: deque[_Job] = deque()
        self._ordered: deque[_Job] = deque()
        self._closed = False
        self._most = threads + 2
        self._threads = [threading.Thread(target=self._work, name=f"sealer-{n}") for n in range(threads)]
        for thread in self._threads:
            thread.start()

    @property
    def is_full(self) -> bool:
        """Whether so much is under way that the oldest should be taken before more is put in."""
        return len(self._ordered) >= self._most

    def put(self, kind: BlobKind, id: bytes, references: Sequence[bytes], plaintext: bytes | memoryview) -> None:
        """Have a blob sealed. The plaintext must not change any more."""
        job = _Job(kind, id, references, plaintext)
        self._ordered.append(job)
        with self._changed:
            self._waiting.append(job)
            self._changed.notify_all()

    def take(self, wait: bool) -> SealedBlob | None:
        """The oldest blob, sealed; None if there is none, or it is not ready and ``wait`` is false."""
        if not self._ordered:
            return None
        job = self._ordered[0]
        with self._changed:
            while wait and not job.is_done:
                self._changed.wait()
            if not job.is_done:
                return None
        self._ordered.popleft()
        if job.error is not None:
            raise job.error
        return job.id, job.kind, job.sealed

    def close(self) -> None:
        """End the threads; what is still waiting is not sealed."""
        with self._changed:
            self._closed = True
            self._waiting.clear()
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        sealer = self._make_sealer()
        while True:
            with self._changed:
                while not self._waiting and not self._closed:
                    self._changed.wait()
                if self._closed:
                    return
                job = self._waiting.popleft()
            try:
                salt = self._random_bytes(SALT_LENGTH)
                job.sealed = sealer.seal(job.kind, job.id, job.references, job.plaintext, salt)
            except BaseException as error:
                job.error = error
            job.plaintext = b""
            with self._changed:
                self._changed.notify_all()
