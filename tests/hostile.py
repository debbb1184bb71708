"""What every parser is put through: each bit flipped, cut everywhere, with bytes behind, in bounded memory."""

import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any

from hypothesis import HealthCheck, settings

from mastodon.wire.frame import FrameReader
from mastodon.wire.messages import Message

# The clock of a loaded machine says nothing about a parser.
quick = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))


def flips(data: bytes, step: int = 1) -> Iterator[tuple[int, bytes]]:
    """``data`` with a single bit flipped, with the byte's offset; every ``step``-th of all."""
    for number in range(0, len(data) * 8, step):
        offset = number // 8
        changed = bytearray(data)
        changed[offset] ^= 1 << number % 8
        yield offset, bytes(changed)


def accepted_flips(
    parse: Callable[[bytes], Any], data: bytes, errors: type[Exception] | tuple[type[Exception], ...], step: int = 1
) -> dict[int, list[Any]]:
    """Offsets where a flipped bit was taken, and what then came out. Any error but ``errors`` is the test's."""
    taken: dict[int, list[Any]] = {}
    for offset, changed in flips(data, step):
        try:
            result = parse(changed)
        except errors:
            continue
        taken.setdefault(offset, []).append(result)
    return taken


def accepted_cuts(
    parse: Callable[[bytes], Any], data: bytes, errors: type[Exception] | tuple[type[Exception], ...], step: int = 1
) -> list[int]:
    """Lengths to which ``data`` could be cut, or (above its own) be lengthened, and still be taken."""
    taken = []
    cases = [data[:length] for length in range(0, len(data), step)]
    for candidate in [*cases, data + b"\0", data + data]:
        try:
            parse(candidate)
        except errors:
            continue
        taken.append(len(candidate))
    return taken


def peak_memory(call: Callable[[], Any]) -> int:
    """The most bytes that ``call`` had allocated at a time."""
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def frame_of(message: Message, limit: int) -> tuple[int, bytes]:
    """A message as the other end's frame reader gives it, with nothing left over."""
    reader = FrameReader(limit)
    reader.receive(message.encode())
    frame = reader.next_frame()
    assert frame is not None and not reader.buffered
    return frame
