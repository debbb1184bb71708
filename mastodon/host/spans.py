"""Stretches of time as people write and read them."""

import re

UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_SPAN = re.compile(r"(\d{1,9})([smhdw]?)", re.ASCII)


def parse_span(text: str) -> int:
    """Seconds, from such as ``90m``, ``26h``, ``2d``, or a number of seconds. Raises ValueError."""
    match = _SPAN.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is no time: expected such as 90m, 26h or 2d, or a number of seconds")
    return int(match[1]) * UNITS[match[2]]


def show_span(seconds: int) -> str:
    """In the two largest units that matter."""
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min"
    if seconds < 2 * 86400:
        return f"{seconds // 3600} h {seconds % 3600 // 60} min"
    return f"{seconds // 86400} d {seconds % 86400 // 3600} h"
