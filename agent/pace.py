"""Keeps to so many bytes a second: the server's pace or this machine's own limit, whichever is stricter."""

from collections.abc import Callable

BURST_S = 1.0
SLICES_PER_S = 4
SHORTEST_SLICE = 1024


def unlimited() -> int:
    """This machine has no limit of its own."""
    return 0


class Throttle:
    """``spend`` says how long to rest after sending.

    ``clock`` gives seconds, ``limit`` the bytes a second that this machine allows at the moment (0: any). A change of
    either limit holds from the next call on; what was sent before it is owed at the new rate.
    """

    def __init__(self, clock: Callable[[], float], limit: Callable[[], int] = unlimited) -> None:
        self._clock = clock
        self._limit = limit
        self._server = 0
        self._rate = 0
        self._free_at = clock()

    def set_rate(self, bytes_per_second: int) -> None:
        """The server's pace from now on; 0: as fast as it goes."""
        self._server = bytes_per_second

    def slice(self, longest: int) -> int:
        """How much to send in one go: little where the limit is low, so that the line is busy evenly."""
        rate = self._limit()
        return min(longest, max(SHORTEST_SLICE, rate // SLICES_PER_S)) if rate else longest

    def spend(self, length: int) -> float:
        """Seconds to rest before more is sent, after ``length`` bytes went out; ask again with 0 after resting."""
        now = self._clock()
        rate = self._stricter()
        if rate != self._rate:
            owed = max(0.0, self._free_at - now) * self._rate
            self._rate = rate
            self._free_at = now + owed / rate if rate else now
        if not rate:
            return 0.0
        self._free_at = max(self._free_at, now - BURST_S) + length / rate
        return self._free_at - now

    def _stricter(self) -> int:
        return min(filter(None, (self._server, self._limit())), default=0)
