"""A length of time as people type and read it: 90s, 15m, 6h, 2d."""

import re

SECOND_NS = 10**9
HOUR_NS = 3600 * SECOND_NS
DAY_NS = 24 * HOUR_NS
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_DURATION = re.compile(r"(\d{1,9})\s*([smhd])", re.ASCII | re.IGNORECASE)


def parse_duration(text: str) -> int:
    """Seconds. Raises ValueError, whose text says what to type."""
    match = _DURATION.fullmatch(text.strip())
    if match is None:
        raise ValueError("give a time such as 90s, 15m, 6h or 2d")
    return int(match[1]) * UNITS[match[2].lower()]


def show_duration(seconds: float) -> str:
    """In the largest unit that says it without a fraction; from two days on in days."""
    whole = round(seconds)
    if whole >= 2 * UNITS["d"] and whole % UNITS["d"]:
        return f"{whole / UNITS['d']:.1f} d"
    unit = next(unit for unit in "dhms" if unit == "s" or (whole and whole % UNITS[unit] == 0))
    return f"{whole // UNITS[unit]} {unit}"


def show_span(seconds: int) -> str:
    """In the two largest units that matter: for what was measured, not chosen."""
    if seconds < UNITS["m"]:
        return f"{seconds} s"
    if seconds < UNITS["h"]:
        return f"{seconds // UNITS['m']} min"
    if seconds < 2 * UNITS["d"]:
        return f"{seconds // UNITS['h']} h {seconds % UNITS['h'] // UNITS['m']} min"
    return f"{seconds // UNITS['d']} d {seconds % UNITS['d'] // UNITS['h']} h"
