"""A number of bytes a second, as the operator types and reads it."""

import re

import click

UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
_RATE = re.compile(r"(\d{1,12})\s*([KMG]?)", re.ASCII | re.IGNORECASE)


class Rate(click.ParamType[int | None]):
    """Bytes a second; 0 for `off`, None for `default`."""

    name = "rate"

    def convert(self, value: object, parameter: click.Parameter | None, context: click.Context | None) -> int | None:
        """What was typed."""
        word = str(value).strip().lower()
        if word in ("off", "default"):
            return 0 if word == "off" else None
        match = _RATE.fullmatch(word)
        if match is None:
            self.fail("give a number of bytes a second such as 50M, or `off`, or `default`", parameter, context)
        return int(match[1]) * UNITS[match[2].upper()]


RATE = Rate()


def rate_text(rate: int | None) -> str:
    """A rate, for reading."""
    if rate is None:
        return "as the configuration says"
    if not rate:
        return "no cap"
    unit = next(unit for unit in "GMK_" if unit == "_" or rate % UNITS[unit] == 0)
    return f"{rate} bytes/s" if unit == "_" else f"{rate // UNITS[unit]} {unit}iB/s"
