"""Seals blobs in threads, and gives them back in the order in which they came.

Compression and encryption of a blob are a few long calls that release the interpreter's lock: threads are enough here,
other than for reading many small files.

Blobs go to the threads in batches, so that many small ones do not cost a change of threads each; the threads take
turns, so that the oldest batch is always known to be the next one of a certain thread.
"""

import os
import queue
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mastodon.sealed.blob import SALT_LENGTH, BlobKind, BlobSealer
from mastodon_agent.packing import SealedBlob

BATCH = 512 * 1024
"""Bytes of plaintext, from which a batch is handed over."""


SWITCH_S = 0.0005
"""How long a thread may keep the interpreter's lock from one that waits for it. With Python's own 5 ms a sealing
thread waits longer, each time it comes back from compressing a blob, than it had compressed."""


def sealing_threads() -> int:
    """One for each core."""
    return len(os.sched_getaffinity(0))


@dataclass(slots=True)
class PlainBlob:
    """What is to be sealed. The plaintext must not change any more."""

    kind: BlobKind
    id: bytes
    references: Sequence[bytes]
    plaintext: bytes | memoryview


class SealingPool:
    """``make_sealer`` gives each thread a sealer of its own; ``random_bytes`` the salts."""

    def __init__(
        self, make_sealer: Callable[[], BlobSealer], random_bytes: Callable[[int], bytes], threads: int
    ) -> None:
        sys.setswitchinterval(SWITCH_S)
        self._lanes = [_Lane(make_sealer(), random_bytes, f"sealer-{n}") for n in range(threads)]
        self._open: list[PlainBlob] = []
        self._open_bytes = 0
        self._put = 0
        self._taken = 0

    @property
    def is_full(self) -> bool:
        """Whether so much is under way that the oldest should be taken before more is put in."""
        return self._put - self._taken >= len(self._lanes) + 2

    def put(self, blob: PlainBlob) -> None:
        """Have a blob sealed."""
        self._open.append(blob)
        self._open_bytes += len(blob.plaintext)
        if self._open_bytes >= BATCH:
            self._hand_over()

    def take(self, wait: bool) -> list[SealedBlob]:
        """The oldest blobs, sealed; none if there are none, or they are not ready and ``wait`` is false."""
        if self._put == self._taken:
            if not wait or not self._open:
                return []
            self._hand_over()
        try:
            result = self._lanes[self._taken % len(self._lanes)].done.get(block=wait)
        except queue.Empty:
            return []
        self._taken += 1
        if isinstance(result, BaseException):
            raise result
        return result

    def close(self) -> None:
        """End the threads; what is still waiting is not sealed."""
        for lane in self._lanes:
            lane.close()

    def _hand_over(self) -> None:
        self._lanes[self._put % len(self._lanes)].waiting.put(self._open)
        self._put += 1
        self._open, self._open_bytes = [], 0


class _Lane:
    """One thread, and the batches that wait for it or for being taken."""

    def __init__(self, sealer: BlobSealer, random_bytes: Callable[[int], bytes], name: str) -> None:
        self.waiting: queue.SimpleQueue[list[PlainBlob] | None] = queue.SimpleQueue()
        self.done: queue.SimpleQueue[list[SealedBlob] | BaseException] = queue.SimpleQueue()
        self._sealer = sealer
        self._random_bytes = random_bytes
        self._is_closed = False
        self._thread = threading.Thread(target=self._work, name=name)
        self._thread.start()

    def close(self) -> None:
        self._is_closed = True
        self.waiting.put(None)
        self._thread.join()

    def _work(self) -> None:
        while (batch := self.waiting.get()) is not None and not self._is_closed:
            try:
                self.done.put([self._seal(blob) for blob in batch])
            except BaseException as error:
                self.done.put(error)

    def _seal(self, blob: PlainBlob) -> SealedBlob:
        salt = self._random_bytes(SALT_LENGTH)
        sealed = self._sealer.seal(blob.kind, blob.id, blob.references, blob.plaintext, salt)
        blob.plaintext = b""
        return blob.id, blob.kind, sealed
