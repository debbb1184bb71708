"""`--splay SPAN`: a wait before the run, so that machines started at the same minute do not come all at once.

Each machine waits for a time of its own within the span, the same one every time, derived from its id.
"""

import re

LONGEST_S = 24 * 3600

_SPAN = re.compile(r"(\d{1,7})([smh]?)", re.ASCII)
_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600}


class BadSpan(ValueError):
    """The text says what is wrong with a span of time."""


def parse_span(text: str) -> int:
    """Seconds. Raises BadSpan."""
    match = _SPAN.fullmatch(text)
    seconds = int(match[1]) * _UNITS[match[2]] if match else 0
    if not 0 < seconds <= LONGEST_S:
        raise BadSpan(f"{text!r}: expected a span of time up to 24h, e.g. 30m, 90s, 1h")
    return seconds


def delay(machine: bytes, span_s: int) -> float:
    """How many seconds this machine waits. Other bytes of the id than those that make a crontab line's minute."""
    return float(int.from_bytes(machine[8:16], "big") * span_s >> 64)
