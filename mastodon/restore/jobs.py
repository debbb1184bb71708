"""What the main process hands to a worker, and what comes back.

A worker gets sealed pages of the listing, keeps the files of each that it can write by itself, and gets the sealed
blobs in which they lie; so an entry is decoded where it is used, and crosses to the main process only where that has
to decide. Tasks and entries cross as plain tuples through ``marshal``, which is several times faster than pickling
objects; only this program's own processes ever read them.
"""

import marshal
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

from mastodon.sealed.entry import Delta, Entry, EntryFlag, EntryType, Place
from mastodon.sealed.listing import Directory

TYPES = {int(kind): kind for kind in EntryType}
PLAIN = 2
"""Version of marshal without back references, which cost more than they save here."""

PackedEntry = tuple[Any, ...]
PackedFile = tuple[PackedEntry, int]
"""An entry and the offset of its content in the blob; its length is the entry's size. -1: it has no content."""
PackedPiece = tuple[int, int, int, int]
"""Index of the file among the job's descriptors, offset in the file, offset in the blob, length."""
Part = tuple[int, int]
"""The files of a page that lie in one blob: the page's index and the blob's among the page's references."""


class Do(IntEnum):
    """What a task is. Without a run key there is no blob."""

    WRITE = 1
    """Write the files and pieces named, and the parts of pages, from the blob."""
    PAGE = 2
    """The blob is the listing's page of the index ``page``: keep what can be written here, tell the rest."""
    LOSE = 3
    """The blob of these parts cannot be had, ``reason`` says why: tell their files as lost."""
    GIVE_BACK = 4
    """These parts' files cannot be written from a blob that comes here: give their entries back."""
    FINISH = 5
    """Give ``directories`` their attributes, children first."""


@dataclass(slots=True)
class Task:
    """One blob's part of a job, or what is to be done without one; ``start`` counts from the job's own start in the
    arena."""

    do: Do
    run_key: bytes = b""
    id: bytes = b""
    start: int = 0
    length: int = 0
    files: list[tuple[Directory, list[PackedFile]]] = field(default_factory=list)
    pieces: list[PackedPiece] = field(default_factory=list)
    parts: list[Part] = field(default_factory=list)
    page: int = -1
    reason: str = ""
    directories: list["PackedDirectory"] = field(default_factory=list)


PageFile = tuple[Directory, PackedEntry]
PackedDirectory = tuple[Directory, PackedEntry, bool]
"""Whether one like it was there before this restore wrote anything in it."""


@dataclass(slots=True)
class PageResult:
    """What a page holds. ``needs`` are (reference, bytes of it that are known to be there) for the files that the
    worker keeps; ``directories`` are finished and ``others`` (whole entries) written at the main process's word;
    ``ancestors`` lead to what was selected. ``lost``: why there is no page."""

    page: int
    entries: int = 0
    carried: int = 0
    fuzzy: int = 0
    kept_files: int = 0
    kept_bytes: int = 0
    needs: list[tuple[int, int]] = field(default_factory=list)
    directories: list[PackedDirectory] = field(default_factory=list)
    others: list[PageFile] = field(default_factory=list)
    met: list[Directory] = field(default_factory=list)
    lost: str = ""


@dataclass(slots=True)
class JobResult:
    """What became of a job. ``closed`` are (index of the task, why its blob does not open), ``failed_pieces``
    (index of the task, index of the piece, errno), ``failed_groups`` link groups whose first name was not made;
    ``given_back`` (page, entries) of Do.GIVE_BACK."""

    number: int
    files: int = 0
    content_bytes: int = 0
    closed: list[tuple[int, str]] = field(default_factory=list)
    failed_pieces: list[tuple[int, int, int]] = field(default_factory=list)
    failed_groups: list[int] = field(default_factory=list)
    pages: list[PageResult] = field(default_factory=list)
    given_back: list[tuple[int, list[PageFile]]] = field(default_factory=list)


def pack_entry(entry: Entry) -> PackedEntry:
    """An entry without its content, as plain values."""
    return (
        entry.name, int(entry.type), entry.mode, entry.uid, entry.gid, entry.mtime_ns, entry.size, entry.user,
        entry.group, entry.target, entry.link_group, entry.rdev, entry.xattrs, entry.acl_names, entry.inode_flags,
    )  # fmt: skip


def unpack_entry(packed: PackedEntry) -> Entry:
    """The entry again."""
    name, kind, mode, uid, gid, mtime_ns, size, user, group, target, link_group, rdev, xattrs, acl_names, flags = packed
    return Entry(
        name, TYPES[kind], mode, uid, gid, mtime_ns, size, user, group, target=target, link_group=link_group,
        rdev=rdev, xattrs=xattrs, acl_names=acl_names, inode_flags=flags,
    )  # fmt: skip


def pack_whole(entry: Entry) -> PackedEntry:
    """An entry with its content's places, as plain values."""
    delta = entry.delta
    packed_delta = delta and (delta.method, delta.base_hash, delta.base_size, _pack_places(delta.base_places))
    places = _pack_places(entry.places)
    return pack_entry(entry), entry.hash, places, int(entry.flags), entry.error, packed_delta


def unpack_whole(packed: PackedEntry) -> Entry:
    """The entry again."""
    bare, digest, places, flags, error, delta = packed
    entry = unpack_entry(bare)
    entry.hash, entry.places, entry.flags, entry.error = digest, _unpack_places(places), EntryFlag(flags), error
    if delta is not None:
        method, base_hash, base_size, base_places = delta
        entry.delta = Delta(method, base_hash, base_size, _unpack_places(base_places))
    return entry


def encode_job(tasks: list[Task]) -> bytes:
    """A job's bytes."""
    return marshal.dumps(
        [
            (int(one.do), one.run_key, one.id, one.start, one.length, one.files, one.pieces, one.parts, one.page,
             one.reason, one.directories)
            for one in tasks
        ],
        PLAIN,
    )  # fmt: skip


def decode_job(data: bytes | memoryview) -> list[Task]:
    """The job again."""
    return [Task(Do(one[0]), *one[1:]) for one in marshal.loads(data)]


def encode_result(result: JobResult) -> bytes:
    """A result's bytes."""
    closed = [(index, why[:200]) for index, why in result.closed]
    pages = [
        (one.page, one.entries, one.carried, one.fuzzy, one.kept_files, one.kept_bytes, one.needs, one.directories,
         one.others, one.met, one.lost)
        for one in result.pages
    ]  # fmt: skip
    plain = (
        result.number, result.files, result.content_bytes, closed, result.failed_pieces, result.failed_groups, pages,
        result.given_back,
    )  # fmt: skip
    return marshal.dumps(plain, PLAIN)


def decode_result(data: bytes | bytearray) -> JobResult:
    """The result again."""
    result = JobResult(*marshal.loads(data))
    result.pages = [PageResult(*one) for one in result.pages]  # type: ignore[misc]
    return result


def _pack_places(places: tuple[Place, ...]) -> list[tuple[int, int, int]]:
    return [(one.reference, one.offset, one.length) for one in places]


def _unpack_places(packed: list[tuple[int, int, int]]) -> tuple[Place, ...]:
    return tuple(Place(*one) for one in packed)
