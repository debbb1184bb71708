"""How an entry stands in a page: a CBOR map with what differs from the default.

protocol-spec.md §9::

    0 name   1 type   2 mode   3 uid   4 gid   5 mtime [s, ns]   6 size   7 whole-file hash
    8 places, flat   9 symlink target   10 link group   11 device [major, minor]   12 birth [s, ns]
    13 xattrs [[name, value], ...]   14 ACL names [[kind, id, name], ...]   15 inode flags
    16 flags   17 error   18 delta [method, base hash, base size, base places]
    19 user and 20 group, only where they differ from the page's table
    23 extension map (schema.py)

Lists are ascending, and nothing stands there that is the default: an entry has one encoding.
"""

from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Any, NamedTuple

from mastodon.sealed import cbor
from mastodon.sealed.entry import (
    MAX_FILE_SIZE,
    NAME_LIMIT,
    PLACES_LIMIT,
    TARGET_LIMIT,
    XATTR_TOTAL_LIMIT,
    Delta,
    Entry,
    EntryFlag,
    EntryType,
    decode_places,
    encode_places,
    places_length,
)
from mastodon.sealed.errors import Malformed, Unsupported
from mastodon.sealed.schema import EXTENSIONS, Check, array, check_extensions, octets, row, text, unsigned

SECOND = 10**9
SECONDS_LEAST, SECONDS_MOST = -(1 << 63), (1 << 63) - 1
ENTRY_TYPES = {int(kind): kind for kind in EntryType}
DEVICES = frozenset({EntryType.CHARACTER_DEVICE, EntryType.BLOCK_DEVICE})
TARGETED = DEVICES | {EntryType.SYMLINK}
CRITICAL_FLAGS = 0xFF
KNOWN_FLAGS = int(EntryFlag.FUZZY | EntryFlag.CARRIED)
OWNER_LIMIT = 256
_owner_text = text(OWNER_LIMIT)
_DOTS = frozenset({b".", b".."})


@lru_cache(maxsize=4096)
def owner_name(name: str) -> str:
    """``name``, or no name where it is none that a page may hold (control characters, not UTF-8, too long)."""
    try:
        return str(_owner_text(name))
    except Malformed:
        return ""


def check_name(name: Any, first: bool = False) -> bytes:
    """A name as the file system may have it. The empty name may only come first in a directory (sources).

    Raises Malformed.
    """
    if type(name) is not bytes or len(name) > NAME_LIMIT or (not name and not first):
        raise Malformed("a name of no or too many bytes")
    if b"/" in name or b"\0" in name or name in _DOTS:
        raise Malformed(f"a name that no directory can hold: {name!r}")
    return name


def encode_entry(entry: Entry, users: dict[int, str], groups: dict[int, str]) -> dict[int, Any]:
    """The map for an entry, its keys ascending; owner names go into the page's tables."""
    body = _fields_before_places(entry)
    if entry.places:
        body[8] = encode_places(entry.places)
    body |= _fields_behind_places(entry)
    if entry.delta is not None:
        body[18] = encode_delta(entry.delta)
    return body | odd_owners(entry.uid, entry.user, entry.gid, entry.group, users, groups)


class PackedEntry(NamedTuple):
    """An entry's map as bytes, in two parts: what stands before its places, and what stands behind them.

    Places, delta and odd owner names are the page's matter, and come in with join_entry. ``fields`` is how many there
    are in both parts.
    """

    fields: int
    before: bytes
    behind: bytes


def pack_entry(entry: Entry) -> PackedEntry:
    """All of an entry but places, delta and owner names."""
    return _pack(_fields_before_places(entry), _fields_behind_places(entry))


def pack_body(body: dict[int, Any]) -> PackedEntry:
    """The same from the entry's map."""
    return _pack(
        {number: value for number, value in body.items() if number < 8},
        {number: value for number, value in body.items() if 8 < number < 18},
    )


def join_entry(packed: tuple[int, bytes, bytes], places: Sequence[int], rest: dict[int, Any]) -> bytes:
    """The encoded map, with places as a flat array (entry.encode_places; none: no field), and fields from 18 on.

    ``packed`` is a PackedEntry.
    """
    count, before, behind = packed
    if places:
        before += b"\x08" + cbor.encode_ordered(places)
        count += 1
    if rest:
        behind += cbor.encode_ordered(rest)[1:]
        count += len(rest)
    return _MAP_HEADS[count] + before + behind


def odd_owners(
    uid: int, user: str, gid: int, group: str, users: dict[int, str], groups: dict[int, str]
) -> dict[int, str]:
    """Put an entry's owner names into the page's tables; the fields for those that have another name there."""
    odd: dict[int, str] = {}
    for number, owner, name, table in ((19, uid, user, users), (20, gid, group, groups)):
        known = table.get(owner)
        if known is None:
            table[owner] = owner_name(name)
        elif known != name and known != owner_name(name):
            odd[number] = owner_name(name)
    return odd


def encode_delta(delta: Delta) -> list[Any]:
    """Field 18."""
    return [delta.method, delta.base_hash, delta.base_size, encode_places(delta.base_places)]


_MAP_HEADS = [bytes((0xA0 + count,)) for count in range(24)]


def _pack(before: dict[int, Any], behind: dict[int, Any]) -> PackedEntry:
    # An encoded map of so few fields has a head of one byte.
    return PackedEntry(
        len(before) + len(behind), cbor.encode_ordered(before)[1:], cbor.encode_ordered(behind)[1:] if behind else b""
    )


def _fields_before_places(entry: Entry) -> dict[int, Any]:
    fields: dict[int, Any] = {
        0: entry.name,
        1: int(entry.type),
        2: entry.mode,
        3: entry.uid,
        4: entry.gid,
        5: list(divmod(entry.mtime_ns, SECOND)),
    }
    if entry.type is EntryType.FILE:
        fields[6] = entry.size
        if entry.hash:
            fields[7] = entry.hash
    return fields


def _fields_behind_places(entry: Entry) -> dict[int, Any]:
    fields: dict[int, Any] = {}
    if entry.target:
        fields[9] = entry.target
    if entry.link_group:
        fields[10] = entry.link_group
    if entry.rdev is not None:
        fields[11] = list(entry.rdev)
    if entry.birth_ns is not None:
        fields[12] = list(divmod(entry.birth_ns, SECOND))
    _encode_rare(entry, fields)
    return fields


def _encode_rare(entry: Entry, body: dict[int, Any]) -> None:
    if entry.xattrs:
        body[13] = [list(pair) for pair in sorted(entry.xattrs)]
    if entry.acl_names:
        names = {(kind, number): owner_name(name) for kind, number, name in entry.acl_names}
        body[14] = [[*qualifier, names[qualifier]] for qualifier in sorted(names)]
    if entry.inode_flags:
        body[15] = entry.inode_flags
    if entry.flags:
        body[16] = int(entry.flags)
    if entry.error:
        body[17] = entry.error


def _filled(check: Check) -> Check:
    """As ``check``, but what is zero or empty is left out of an entry and so may not stand in it."""

    def checked(value: Any) -> Any:
        result = check(value)
        if not result:
            raise Malformed("a default that is not left out")
        return result

    return checked


def _xattr_name(value: Any) -> bytes:
    if type(value) is not bytes or not 0 < len(value) <= NAME_LIMIT or b"\0" in value:
        raise Malformed("a bad xattr name")
    return value


def _acl_kind(value: Any) -> str:
    if value not in ("u", "g"):
        raise Malformed("an ACL name's kind is u or g")
    return str(value)


_rare: dict[int, tuple[str, Check]] = {
    9: ("target", octets(1, TARGET_LIMIT)),
    10: ("link_group", _filled(unsigned())),
    11: ("rdev", row(unsigned(32), unsigned(32))),
    13: ("xattrs", array(row(_xattr_name, octets(0, 65536)), 4096, 1)),
    14: ("acl_names", array(row(_acl_kind, unsigned(32), text(OWNER_LIMIT)), 4096, 1)),
    15: ("inode_flags", _filled(unsigned(32))),
    17: ("error", _filled(unsigned(16))),
    19: ("user", text(OWNER_LIMIT)),
    20: ("group", text(OWNER_LIMIT)),
}
_u32 = unsigned(32)
_size = unsigned(63)
_hash = octets(32)


def decode_entry(body: Any, users: dict[int, str], groups: dict[int, str], references: int) -> Entry:
    """The entry in a page's map, whose keys were looked at (cbor.check_maps). Raises Malformed or Unsupported.

    Written for the common file or directory, of which a restore decodes millions: the rest goes through _decode_rare.
    """
    if type(body) is not dict:
        raise Malformed("an entry is a map")
    try:
        name, number, mode, uid, gid, mtime = body[0], body[1], body[2], body[3], body[4], body[5]
    except KeyError as error:
        raise Malformed(f"entry: field {error} is missing") from None
    kind = ENTRY_TYPES.get(number) if type(number) is int else None
    if kind is None:
        raise Unsupported(f"entry of unknown type {number!r}")
    if type(mode) is not int or not 0 <= mode <= 0o7777:
        raise Malformed("entry: mode out of bounds")
    user, group = users.get(_u32(uid), ""), groups.get(_u32(gid), "")
    entry = Entry(check_name(name), kind, mode, uid, gid, _time(mtime), 0, user, group)
    seen = 6
    if kind is EntryType.FILE:
        seen += _decode_content(entry, body, references)
    birth = body.get(12)
    if birth is not None:
        entry.birth_ns = _time(birth)
        seen += 1
    if len(body) != seen:
        _decode_rare(entry, body, references)
        if (19 in body and entry.user == users.get(uid)) or (20 in body and entry.group == groups.get(gid)):
            raise Malformed("entry: an owner's name that is the page's")
    if kind in TARGETED:
        _check_target(entry)
    return entry


def _decode_content(entry: Entry, body: dict[int, Any], references: int) -> int:
    """Size, hash and places of a file; how many fields these were."""
    size = body.get(6)
    if type(size) is not int or not 0 <= size <= MAX_FILE_SIZE:
        raise Malformed("entry: a file without a size")
    entry.size = size
    digest, flat = body.get(7), body.get(8)
    if digest is not None:
        entry.hash = _hash(digest)
    if flat is None:
        if 18 in body or (size and 17 not in body):
            raise Malformed("entry: a file without its content, and no error to say why")
        return 1 + (digest is not None)
    if digest is None:
        raise Malformed("entry: content without its hash")
    places = entry.places = _places(flat, references)
    if 18 not in body and (places_length(places) if len(places) > 1 else places[0].length) != size:
        raise Malformed("entry: places do not add up to the size")
    return 3


def _decode_rare(entry: Entry, body: dict[int, Any], references: int) -> None:
    for number, value in body.items():
        if value is None:
            raise Malformed("entry: a field with nothing in it")
        if number > 8 or (number > 5 and entry.type is not EntryType.FILE):
            _decode_field(entry, number, value, references)
    _check_rare(entry)


def _decode_field(entry: Entry, number: int, value: Any, references: int) -> None:
    if number == 12:
        return
    if number == 16:
        if type(value) is not int or not 0 < value < 1 << 16:
            raise Malformed("entry: flags out of bounds")
        if value & CRITICAL_FLAGS & ~KNOWN_FLAGS:
            raise Unsupported("entry: unknown flags")
        entry.flags = EntryFlag(value & KNOWN_FLAGS)
    elif number == 18:
        if entry.type is not EntryType.FILE:
            raise Malformed("entry: content where none can be")
        entry.delta = _delta(value, references)
    elif number in _rare:
        attribute, check = _rare[number]
        setattr(entry, attribute, check(value))
    elif number == EXTENSIONS:
        check_extensions("entry", value)
    elif number in (6, 7, 8):
        raise Malformed("entry: content where none can be")
    else:
        raise Unsupported(f"entry: unknown field {number}")


def _check_rare(entry: Entry) -> None:
    if entry.target and entry.type is not EntryType.SYMLINK:
        raise Malformed("entry: a target belongs to a symlink, and to nothing else")
    if entry.rdev is not None and entry.type not in DEVICES:
        raise Malformed("entry: a device number belongs to a device, and to nothing else")
    if entry.link_group and entry.type is EntryType.DIRECTORY:
        raise Malformed("entry: a directory with hard links")
    if entry.xattrs:
        if sum(len(name) + len(value) for name, value in entry.xattrs) > XATTR_TOTAL_LIMIT:
            raise Malformed("entry: xattrs beyond their bound")
        if any(one[0] >= two[0] for one, two in pairwise(entry.xattrs)):
            raise Malformed("entry: xattrs out of order, or twice")
    if entry.acl_names and any(one[:2] >= two[:2] for one, two in pairwise(entry.acl_names)):
        raise Malformed("entry: ACL names out of order, or twice")


def _check_target(entry: Entry) -> None:
    if entry.type is EntryType.SYMLINK:
        if not entry.target or b"\0" in entry.target:
            raise Malformed("entry: a symlink without a target that a system could hold")
    elif entry.rdev is None:
        raise Malformed("entry: a device without its number")


def _places(value: Any, references: int) -> Any:
    places = decode_places(value, references)
    if not 0 < len(places) <= PLACES_LIMIT:
        raise Malformed("entry: no or too many places")
    return places


def _delta(value: Any, references: int) -> Delta:
    if type(value) is not list or len(value) != 4:
        raise Malformed("entry: a delta is [method, base hash, base size, base places]")
    if type(value[0]) is not int or value[0] != 1:
        raise Unsupported(f"entry: unknown delta method {value[0]!r}")
    delta = Delta(1, _hash(value[1]), _size(value[2]), _places(value[3], references))
    if places_length(delta.base_places) != delta.base_size:
        raise Malformed("entry: the base's places do not add up to its size")
    return delta


def _time(value: Any) -> int:
    if type(value) is not list or len(value) != 2:
        raise Malformed("a time is [seconds, nanoseconds]")
    seconds, nanoseconds = value
    if type(seconds) is not int or type(nanoseconds) is not int:
        raise Malformed("a time is [seconds, nanoseconds]")
    if not SECONDS_LEAST <= seconds <= SECONDS_MOST or not 0 <= nanoseconds < SECOND:
        raise Malformed("a time out of bounds")
    return seconds * SECOND + nanoseconds
