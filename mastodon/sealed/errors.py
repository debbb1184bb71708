"""What can be wrong with bytes that somebody else wrote."""


class FormatError(ValueError):
    """Bytes were refused; the text says which part and why."""


class Malformed(FormatError):
    """Not the format: cut short, out of bounds, not canonical, or with trailing bytes."""


class Unsupported(FormatError):
    """Well-formed, but made by a later release: update this program and try again."""


class Forged(FormatError):
    """A signature, checksum, id or seal does not fit: the bytes were altered or made up."""


class Mismatch(FormatError):
    """Authentic, but of another machine, pair, run, tenant or time than was asked for."""
