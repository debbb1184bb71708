"""Deals the parts of a listing out to the reader processes: in order, each to whoever is free.

Parts are more than processes: where one of them is long in coming, because it has large files that changed, its process
alone stays with it, and the others take the rest. The parts are emptied in the same order, so a process that waits for
room in its ring never waits for one that has not been dealt yet.
"""

import fcntl
import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager

MOST_PARTS = 255
ROUND, COUNT, DEALT, OWNERS = range(4)


class Dealing:
    """In memory that the processes share. Made before the fork."""

    def __init__(self) -> None:
        self._numbers = memoryview(mmap.mmap(-1, mmap.PAGESIZE)).cast("Q")
        self._lock = os.memfd_create("parts")

    def begin(self, count: int) -> int:
        """So many parts are to be dealt; the number of this round. What is left of an older one is not."""
        with self._locked():
            numbers = self._numbers
            numbers[ROUND] += 1
            numbers[COUNT], numbers[DEALT] = count, 0
            numbers[OWNERS : OWNERS + count] = memoryview(bytes(8 * count)).cast("Q")
            return numbers[ROUND]

    def take(self, round: int, process: int) -> int | None:
        """The next part, which is this process's now; None where none is left in this round."""
        with self._locked():
            numbers = self._numbers
            part = numbers[DEALT]
            if numbers[ROUND] != round or part == numbers[COUNT]:
                return None
            numbers[DEALT] += 1
            numbers[OWNERS + part] = process + 1
            return part

    def owner(self, part: int) -> int | None:
        """The process that took a part; None as long as nobody did."""
        number = self._numbers[OWNERS + part]
        return number - 1 if number else None

    def close(self) -> None:
        """Let go of the lock's file."""
        os.close(self._lock)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        fcntl.lockf(self._lock, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.lockf(self._lock, fcntl.LOCK_UN)
