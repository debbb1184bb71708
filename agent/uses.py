"""How much of each blob a page of the listing uses, and how far into the blob that reaches.

What the state keeps of it, beside a page's references: 4 bytes used, 4 bytes reach, for each. Only small files are
counted: zeros stand where a reference is a map, or a blob of large files' pieces.
"""

import struct
from collections.abc import Iterable, Iterator, Sequence

NUMBER = (1 << 32) - 1
_USE = struct.Struct("<II")

Use = tuple[bytes, int, int]
"""(blob id, bytes used, reach)."""


class Uses:
    """Counted by the numbers of references."""

    def __init__(self) -> None:
        self._used: list[int] = []
        self._reach: list[int] = []

    def add(self, index: int, offset: int, length: int) -> None:
        """A place in the blob with that number."""
        while index >= len(self._used):
            self._used.append(0)
            self._reach.append(0)
        self._used[index] += length
        if offset + length > self._reach[index]:
            self._reach[index] = offset + length

    def of(self, ids: Sequence[bytes]) -> Iterator[Use]:
        """The same by ids, all of them."""
        for index, id in enumerate(ids):
            if index < len(self._used):
                yield id, self._used[index], self._reach[index]
            else:
                yield id, 0, 0


def pack_uses(uses: Iterable[Use]) -> bytes:
    """As the state keeps them, in the order of the references."""
    return b"".join(_USE.pack(min(used, NUMBER), min(reach, NUMBER)) for _, used, reach in uses)


def unpack_uses(ids: Iterable[bytes], packed: bytes) -> Iterator[Use]:
    """As they were packed."""
    for id, (used, reach) in zip(ids, _USE.iter_unpack(packed), strict=False):
        yield id, used, reach
