"""Numbers of bytes as people type and read them."""

import re

UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_SIZE = re.compile(r"(\d{1,12})\s*([KMGT]?)(?:iB|B)?", re.ASCII | re.IGNORECASE)


def show_size(number: int) -> str:
    """In bytes, KiB, MiB, GiB or TiB."""
    size = float(number)
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{number} bytes" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


def show_blobs(count: int, size: int) -> str:
    """So many blobs, of so many bytes."""
    return f"{count} blob{'' if count == 1 else 's'}, {show_size(size)}"


def parse_size(text: str) -> int:
    """Bytes, from 500G or 2 TiB; K, M, G, T are 1024 bytes and its powers. Raises ValueError, saying what to type."""
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text!r} is no size: give one such as 500G or 2T")
    return int(match[1]) * UNITS[match[2].upper()]


def parse_quota(text: str) -> str:
    """A quota as a setting's value: bytes in decimal, empty for `none`. Raises ValueError."""
    return "" if text.strip().lower() == "none" else str(parse_size(text))


def show_use(used: int, quota: int | None) -> str:
    """What is used of a quota."""
    if quota is None:
        return f"{show_size(used)}, no quota"
    percent = f", {100 * used / quota:.0f} %" if quota else ""
    return f"{show_size(used)} of {show_size(quota)}{percent}"
