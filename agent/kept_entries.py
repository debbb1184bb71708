"""Entries as the state keeps them: encoded but for places and owners' names, so that a copy is made without decoding.

What of an entry depends on the page that it stands in, its places and names of owners, stays apart; all else is passed
on as the bytes that it is.
"""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import cbor2

from mastodon.host.paths import Directory
from mastodon.sealed.entry import EntryFlag
from mastodon.sealed.entry_codec import PackedEntry, join_entry, pack_body
from mastodon.sealed.listing import join_page

HASH, FLAGS, ERROR, DELTA, USER, GROUP = 7, 16, 17, 18, 19, 20
"""Fields of an entry (mastodon.sealed.entry_codec)."""
HASH_LENGTH = 32


class Kept(NamedTuple):
    """One entry. ``places`` is flat, by the numbers of its page's references; ``rest`` are the fields from 18 on."""

    fields: int
    before: bytes
    behind: bytes
    is_file: bool
    size: int
    uid: int
    gid: int
    places: list[int]
    rest: dict[int, Any]

    @property
    def packed(self) -> PackedEntry:
        """The part that does not depend on the page."""
        return PackedEntry(self.fields, self.before, self.behind)

    @property
    def hash(self) -> bytes:
        """The hash of content that has places: the last of the fields before them."""
        return self.before[-HASH_LENGTH:]

    @property
    def all_places(self) -> list[int]:
        """Its own, and those of a delta's base."""
        return self.places + self.rest[DELTA][3] if DELTA in self.rest else self.places


class PageEntries(NamedTuple):
    """All entries of a page, by sections, and its tables of owners."""

    users: dict[int, str]
    groups: dict[int, str]
    sections: list[list[Kept]]

    def pack(self) -> bytes:
        """As the state has them."""
        return cbor2.dumps(self)

    @classmethod
    def unpack(cls, data: bytes) -> "PageEntries":
        """The same entries."""
        users, groups, sections = cbor2.loads(data)
        return cls(users, groups, [[Kept._make(entry) for entry in entries] for entries in sections])

    def plaintext(self, directories: Iterable[Directory]) -> bytes:
        """The page blob's plaintext; the directories are those of its sections."""
        packed: list[tuple[Directory, Sequence[bytes]]] = [
            (directory, [join_entry(entry[:3], entry.places, entry.rest) for entry in entries])
            for directory, entries in zip(directories, self.sections, strict=True)
        ]
        return join_page(self.users, self.groups, packed)


def without_content(packed: PackedEntry, error: int) -> PackedEntry:
    """The same file, whose content could not be had."""
    body = _body(packed)
    body.pop(HASH, None)
    return _packed(body | {ERROR: error})


def flagged(packed: PackedEntry, flag: EntryFlag) -> PackedEntry:
    """The same entry with a flag more."""
    body = _body(packed)
    return _packed(body | {FLAGS: body.get(FLAGS, 0) | int(flag)})


def _body(packed: PackedEntry) -> dict[int, Any]:
    body: dict[int, Any] = cbor2.loads(join_entry(packed, (), {}))
    return body


def _packed(body: dict[int, Any]) -> PackedEntry:
    return pack_body(dict(sorted(body.items())))
