"""POSIX ACLs as Linux keeps them in xattrs: whom they name, and the same ACL for other numbers.

The bytes: u32 version (2), then 8 bytes an entry: u16 tag, u16 permissions, u32 id, all little-endian.
"""

import struct
from collections.abc import Callable, Iterator

ACCESS = b"system.posix_acl_access"
DEFAULT = b"system.posix_acl_default"
ACL_XATTRS = frozenset((ACCESS, DEFAULT))

_VERSION = struct.Struct("<I")
_ENTRY = struct.Struct("<HHI")
_USER = 0x02
_GROUP = 0x08
_KINDS = {_USER: "u", _GROUP: "g"}

Remap = Callable[[str, int], int | None]
"""From (kind "u" or "g", recorded id) to the id to use here; None where there is none."""


class UnknownAcl(ValueError):
    """Not a version 2 POSIX ACL; it can be kept and set as bytes, but nobody in it can be renumbered."""


def _entries(value: bytes) -> Iterator[tuple[int, int, int]]:
    if len(value) < _VERSION.size or (len(value) - _VERSION.size) % _ENTRY.size:
        raise UnknownAcl("not a whole number of ACL entries")
    if _VERSION.unpack_from(value)[0] != 2:
        raise UnknownAcl("not version 2 of the ACL format")
    return _ENTRY.iter_unpack(value[_VERSION.size :])


def qualifiers(value: bytes) -> list[tuple[str, int]]:
    """The users ("u", id) and groups ("g", id) that an ACL names; none where the bytes are no ACL."""
    try:
        return [(_KINDS[tag], number) for tag, _permissions, number in _entries(value) if tag in _KINDS]
    except UnknownAcl:
        return []


def remapped(value: bytes, remap: Remap) -> tuple[bytes, list[tuple[str, int]]]:
    """The ACL with its qualifiers renumbered, and those left out because they have no number here.

    Leaving one out is safe, giving its rights to whoever has its number here is not. Raises UnknownAcl.
    """
    kept, lost = [], []
    for tag, permissions, number in _entries(value):
        kind = _KINDS.get(tag)
        if kind is not None:
            found = remap(kind, number)
            if found is None:
                lost.append((kind, number))
                continue
            number = found
        kept.append((tag, permissions, number))
    kept.sort(key=lambda entry: (entry[0], entry[2]))  # the order of tags is that of the kernel
    return _VERSION.pack(2) + b"".join(_ENTRY.pack(*entry) for entry in kept), lost
