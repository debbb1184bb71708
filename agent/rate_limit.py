"""`--limit-rate`: how many bytes a second this machine may send, which may depend on the time of day.

    1M                           always
    08-18=1M,off                 between 08:00 and 18:00; as fast as it goes otherwise
    08:30-18=512K,22-06=20M,5M   the first range that fits counts, else what stands alone

Times are local, K, M and G are 1024 bytes and its powers, as restic, rclone and curl have them.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from time import struct_time

DAY = 24 * 60
SLOWEST = 1024
EXAMPLE = "e.g. 1M, or 08-18=1M,off for 1 MB/s between 08:00 and 18:00 and no limit otherwise"

_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
_RATE = re.compile(r"(\d{1,9}(?:\.\d{1,3})?)([KMG]?)", re.ASCII | re.IGNORECASE)
_TIME = re.compile(r"(\d{1,2})(?::(\d{2}))?", re.ASCII)


class BadLimit(ValueError):
    """The text says what is wrong with a limit."""


@dataclass(frozen=True, slots=True)
class Hours:
    """From one minute of the day up to another, over midnight if that is the earlier one."""

    begin: int
    end: int
    rate: int

    def holds(self, minute: int) -> bool:
        """Whether that minute of the day lies in it."""
        if self.begin < self.end:
            return self.begin <= minute < self.end
        return minute >= self.begin or minute < self.end


@dataclass(frozen=True, slots=True)
class RateLimit:
    """Bytes a second by the time of day; 0: no limit."""

    hours: tuple[Hours, ...] = ()
    otherwise: int = 0

    def at(self, minute: int) -> int:
        """What holds at that minute of the day."""
        return next((one.rate for one in self.hours if one.holds(minute)), self.otherwise)

    @property
    def slowest(self) -> int:
        """The least that is ever allowed; 0: there is no limit."""
        return min(filter(None, (self.otherwise, *(one.rate for one in self.hours))), default=0)

    def by(self, local_time: Callable[[], struct_time]) -> Callable[[], int]:
        """What holds now, by that clock."""

        def now() -> int:
            time = local_time()
            return self.at(time.tm_hour * 60 + time.tm_min)

        return now if self.hours else lambda: self.otherwise


def parse_rate_limit(text: str) -> RateLimit:
    """Raises BadLimit."""
    hours: list[Hours] = []
    otherwise: int | None = None
    for part in text.split(","):
        span, is_range, rate = part.strip().rpartition("=")
        if is_range:
            hours.append(_hours(span, _rate(rate)))
        elif otherwise is None:
            otherwise = _rate(rate)
        else:
            raise BadLimit(f"{text!r} has two rates without hours: {EXAMPLE}")
    return RateLimit(tuple(hours), otherwise or 0)


def _rate(text: str) -> int:
    if text.lower() == "off":
        return 0
    match = _RATE.fullmatch(text)
    if match is None:
        raise BadLimit(f"{text!r} is no rate: {EXAMPLE}")
    rate = int(float(match[1]) * _UNITS[match[2].upper()])
    if rate < SLOWEST:
        raise BadLimit(f"{text!r} is less than 1K, at which no backup ends; for no limit: off")
    return rate


def _hours(text: str, rate: int) -> Hours:
    begin, dash, end = text.partition("-")
    if not dash:
        raise BadLimit(f"{text!r} is no time of day: {EXAMPLE}")
    first, last = _minute(begin), _minute(end)
    if first % DAY == last % DAY and (first, last) != (0, DAY):
        raise BadLimit(f"{text!r} ends when it begins: for the whole day, name the rate alone")
    return Hours(first % DAY, last, rate)


def _minute(text: str) -> int:
    match = _TIME.fullmatch(text.strip())
    minute = int(match[1]) * 60 + int(match[2] or 0) if match else DAY + 1
    if match is None or minute > DAY or int(match[2] or 0) > 59:
        raise BadLimit(f"{text!r} is no time of day: hours 0 to 24, {EXAMPLE}, or 08:30-18=1M")
    return minute
