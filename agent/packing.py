"""Gathers sealed blobs into packs of about 16 MiB, or what came in a minute."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from mastodon.sealed.pack import PackWriter

TARGET = 16 * 1024 * 1024
SMALLEST_TARGET = 1024 * 1024
OLDEST_S = 60.0

SealedBlob = tuple[bytes, int, bytes]
"""(id, kind, header and sealed part)."""


@dataclass(slots=True, eq=False)
class SealedPack:
    """A pack ready to be sent, and to be sent again: ``parts`` make it up."""

    id: bytes
    parts: list[bytes]
    blobs: list[SealedBlob]
    size: int


def target_size(server_limit: int, rate: int) -> int:
    """When to end a pack: below the server's limit, and sent in about a minute where only ``rate`` may be sent."""
    size = min(TARGET, server_limit // 2)
    return min(size, max(SMALLEST_TARGET, int(rate * OLDEST_S))) if rate else size


class PackMaker:
    """Builds one pack after the other, each ended when it has ``target`` bytes. ``clock`` gives seconds."""

    def __init__(self, machine: bytes, run: bytes, clock: Callable[[], float], target: int) -> None:
        self._machine = machine
        self._run = run
        self._clock = clock
        self._target = target
        self._begun = 0.0
        self._blobs: list[SealedBlob] = []
        self._size = 0

    def add(self, blob: SealedBlob) -> SealedPack | None:
        """Take a blob; the pack if it is full now. Every blob fits: three of the largest are below a pack's bound."""
        if not self._blobs:
            self._begun = self._clock()
        self._blobs.append(blob)
        self._size += len(blob[2])
        return self.finish() if self._size >= self._target else None

    @property
    def identity(self) -> tuple[bytes, bytes]:
        """Machine id and run record, which every pack names."""
        return self._machine, self._run

    @property
    def is_due(self) -> bool:
        """Whether the oldest blob has waited long enough."""
        return bool(self._blobs) and self._clock() - self._begun >= OLDEST_S

    def finish(self) -> SealedPack | None:
        """The pack as it is; None when nothing is in it."""
        if not self._blobs:
            return None
        blobs, self._blobs, self._size = self._blobs, [], 0
        return make_pack(self._machine, self._run, blobs)


def make_pack(machine: bytes, run: bytes, blobs: Iterable[SealedBlob]) -> SealedPack:
    """A pack of these blobs."""
    taken = list(blobs)
    writer = PackWriter(machine, [run])
    parts = [writer.add(*blob) for blob in taken]
    last, id = writer.finish()
    parts.append(last)
    return SealedPack(id, parts, taken, sum(map(len, parts)))
