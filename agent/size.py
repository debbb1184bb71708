"""Sizes as they are typed: 500M, 2G, 1.5T; K, M, G and T are 1024 bytes and its powers."""

import re

_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_SIZE = re.compile(r"(\d{1,9}(?:\.\d{1,3})?)([KMGT]?)", re.ASCII | re.IGNORECASE)


class BadSize(ValueError):
    """The text says what is wrong with a size."""


def parse_size(text: str) -> int:
    """Bytes. Raises BadSize."""
    match = _SIZE.fullmatch(text)
    if match is None:
        raise BadSize(f"{text!r}: expected a size, e.g. 2G")
    return int(float(match[1]) * _UNITS[match[2].upper()])
