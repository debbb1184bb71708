"""The listing of the last run in parts, one for each reader process, and as the process sees it that keeps its pages.

A part begins with a page. Where it does is found by looking for a good page near the place: nothing has to be read
before, and what is damaged costs no more than the rest of its part.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import BinaryIO

from mastodon.sealed.listing import Key
from mastodon_agent.state import BLOCK, BLOCK_MAGIC, HEAD, StatePage, head_of, page_at, read_block, read_only

PART_MINIMUM = 256 * 1024
"""Some 2,000 entries: a process of its own does not pay for less."""
WINDOW = 4 * 1024 * 1024
"""How far a part may begin behind the place where it should."""
STEP = 128 * 1024


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a listing's file, from the page whose first key is ``low`` to that of ``high``."""

    start: int
    end: int
    low: Key | None = None
    high: Key | None = None


class OpenListing:
    """The old listing, open for as long as its pages are in use; of those that do not fit, as if there was none.

    What its pages hold is not checked here: a reader process does that, and says of good ones alone that they stay.
    """

    def __init__(self, path: str, machine: bytes, pair: bytes) -> None:
        self._fd = -1
        with suppress(OSError):
            self._fd = read_only(path, os.O_RDONLY | os.O_CLOEXEC)
            if os.pread(self._fd, HEAD.size, 0) != head_of(machine, pair):
                self.close()

    def pages(self, part: Part) -> Iterator[StatePage]:
        """The pages in a part of the file."""
        at = part.start
        while self._fd >= 0 and at < part.end:
            page = page_at(self._fd, at, os.pread(self._fd, BLOCK.size, at))
            if page is None:
                return
            yield page
            at = page.end

    def close(self) -> None:
        """Let go of the file, and of all its pages."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def listing_pair(path: str, machine: bytes) -> bytes:
    """The pair of this machine to which a listing belongs; empty where there is none."""
    with suppress(OSError):
        with open(path, "rb", opener=read_only) as file:
            head = file.read(HEAD.size)
        if len(head) == HEAD.size:
            pair: bytes = HEAD.unpack(head)[3]
            return pair if head == head_of(machine, pair) else b""
    return b""


def listing_version(path: str) -> object:
    """Something that is another for another file in its place."""
    try:
        st = os.stat(path)
    except OSError:
        return None
    return st.st_dev, st.st_ino, st.st_size, st.st_mtime_ns


def cut_in_parts(path: str, machine: bytes, pair: bytes, count: int) -> list[Part]:
    """A listing in at most ``count`` parts of about the same length, each but the first beginning with a good page."""
    whole = Part(HEAD.size, sys.maxsize)
    try:
        file = open(path, "rb", opener=read_only)  # noqa: SIM115 - closed by the with below
    except OSError:
        return [whole]
    with file:
        try:
            size = os.fstat(file.fileno()).st_size
            if file.read(HEAD.size) != head_of(machine, pair):
                return [whole]
            count = min(count, max(1, size // PART_MINIMUM))
            found = [_find_block(file, size * number // count) for number in range(1, count)]
        except OSError:
            return [whole]
    parts = [whole]
    for page in found:
        before = parts[-1]
        if page is None or page.start <= before.start:
            continue
        key = page.first_key()
        if before.low is None or before.low < key:
            parts[-1:] = [Part(before.start, page.start, before.low, key), Part(page.start, sys.maxsize, key)]
    return parts


def _find_block(file: BinaryIO, at: int) -> StatePage | None:
    """The first good page that begins soon behind ``at``."""
    end = at + WINDOW
    while at < end:
        step = os.pread(file.fileno(), STEP + len(BLOCK_MAGIC) - 1, at)
        found = step.find(BLOCK_MAGIC)
        while found >= 0:
            file.seek(at + found)
            page = read_block(file, at + found)
            if page is not None:
                return page
            found = step.find(BLOCK_MAGIC, found + 1)
        at += STEP
    return None
