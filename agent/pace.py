"""Keeps to so many bytes a second."""

from collections.abc import Callable

BURST_S = 1.0


class Throttle:
    """``spend`` says how long to rest after sending; ``clock`` gives seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._rate = 0
        self._free_at = clock()

    def set_rate(self, bytes_per_second: int) -> None:
        """From now on at most so much; 0: as fast as it goes."""
        self._rate = bytes_per_second
        self._free_at = self._clock()

    def spend(self, length: int) -> float:
        """Seconds to rest before more is sent, after ``length`` bytes went out; ask again with 0 after resting."""
        if not self._rate:
            return 0.0
        now = self._clock()
        self._free_at = max(self._free_at, now - BURST_S) + length / self._rate
        return self._free_at - now
