"""Numbers of bytes as people read them."""


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
