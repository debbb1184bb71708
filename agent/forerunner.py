"""Walks ahead of the reader on a first run, in a process of its own, so that the disk is asked early and often.

Nearly all of a first run's waiting is for inodes and small files that lie nowhere in memory yet: one process that asks
for them one by one leaves the disk idle, and the other cores too. The forerunner is the same scan with a visitor that
only opens each file and announces it to the kernel. It stays a bounded way ahead, leaves to the reader what that has
reached by itself, and gives up as soon as the reader is through. Nothing depends on it.
"""

import mmap
import os
import stat
import time
from contextlib import suppress

from mastodon.host.paths import Directory
from mastodon.sealed.snapshot import Reason
from mastodon_agent.opening import ANNOUNCED, announce, open_quietly

FILES_AHEAD = 4096
BYTES_AHEAD = 64 * 1024 * 1024
PAUSE_S = 0.002
ROUND, FILES, BYTES, DONE = range(4)


class TooLate(Exception):
    """The reader is through, or reads for another round: there is nothing to run ahead of."""


class Progress:
    """How far the reader is, in memory that the processes share. Made before the fork."""

    def __init__(self) -> None:
        self._numbers = memoryview(mmap.mmap(-1, mmap.PAGESIZE)).cast("Q")

    def begin(self) -> None:
        """A new round begins, and ends every older one."""
        self._numbers[FILES] = self._numbers[BYTES] = self._numbers[DONE] = 0
        self._numbers[ROUND] += 1

    @property
    def round(self) -> int:
        """The number of the present one."""
        return self._numbers[ROUND]

    def passed(self, st: os.stat_result) -> None:
        """The reader has come to this new or changed entry."""
        self._numbers[FILES] += 1
        self._numbers[BYTES] += cost(st)

    def finish(self) -> None:
        """The reader is through."""
        self._numbers[DONE] = 1

    def wait(self, round: int, files: int, bytes_: int) -> bool:
        """Returns once whoever is so far is not too far ahead; false if the reader is there already. Raises TooLate."""
        numbers = self._numbers
        while True:
            if numbers[ROUND] != round or numbers[DONE]:
                raise TooLate
            if files - numbers[FILES] <= FILES_AHEAD and bytes_ - numbers[BYTES] <= BYTES_AHEAD:
                return files > numbers[FILES]
            time.sleep(PAUSE_S)


class Forerunner:
    """A scan's visitor (scan.Visitor) that reads nothing."""

    def __init__(self, progress: Progress, round: int) -> None:
        self._progress = progress
        self._round = round
        self._files = 0
        self._bytes = 0

    def changed(self, directory: Directory, dir_fd: int, name: bytes, st: os.stat_result, replaces: bool) -> None:
        """A new or changed entry, which the reader will want. Raises TooLate."""
        self._files += 1
        self._bytes += cost(st)
        if self._progress.wait(self._round, self._files, self._bytes) and cost(st):
            with suppress(OSError):
                fd = open_quietly(name, dir_fd)
                announce(fd, 0, cost(st))
                os.close(fd)

    def unchanged(self, count: int) -> None:
        """Not read."""

    def gone(self, count: int) -> None:
        """Not read."""

    def carried(self, count: int) -> None:
        """Not read."""

    def note(self, reason: Reason, directory: Directory, name: bytes | None, number: int) -> None:
        """The reader tells."""


def cost(st: os.stat_result) -> int:
    """Bytes that are announced of what a stat describes."""
    return min(st.st_size, ANNOUNCED) if stat.S_ISREG(st.st_mode) else 0
