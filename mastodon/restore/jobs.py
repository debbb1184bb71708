"""What the main process hands to a worker: sealed blobs, and what is to be written from each.

Entries cross as plain tuples through ``marshal``, which is several times faster than pickling objects; only this
program's own processes ever read them. A file that lies whole in one blob is written at once. Of a larger file a
job has pieces: stretches of the blob and where they go in a file that the main process has begun.
"""

import marshal
from dataclasses import dataclass, field
from typing import Any

from mastodon.sealed.entry import Entry, EntryType
from mastodon.sealed.listing import Directory

TYPES = {int(kind): kind for kind in EntryType}
PLAIN = 2
"""Version of marshal without back references, which cost more than they save here."""

PackedEntry = tuple[Any, ...]
PackedFile = tuple[PackedEntry, int]
"""An entry and the offset of its content in the blob; its length is the entry's size. -1: it has no content."""
PackedPiece = tuple[int, int, int, int]
"""Index of the file among the job's descriptors, offset in the file, offset in the blob, length."""


@dataclass(slots=True)
class BlobJob:
    """One blob's part of a job; ``start`` counts from the job's own start in the arena.

    Without a ``run_key`` there is no blob: entries without content are made.
    """

    run_key: bytes
    id: bytes
    start: int
    length: int
    files: list[tuple[Directory, list[PackedFile]]] = field(default_factory=list)
    pieces: list[PackedPiece] = field(default_factory=list)


@dataclass(slots=True)
class JobResult:
    """What became of a job. ``closed`` are (index of the blob, why it does not open), ``failed_pieces``
    (index of the blob, index of the piece, errno), ``failed_groups`` link groups whose first name was not made
    (None: too many to tell, so all of the job)."""

    number: int
    files: int = 0
    content_bytes: int = 0
    closed: list[tuple[int, str]] = field(default_factory=list)
    failed_pieces: list[tuple[int, int, int]] = field(default_factory=list)
    failed_groups: list[int] | None = field(default_factory=list)


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


def encode_job(blobs: list[BlobJob]) -> bytes:
    """A job's bytes."""
    return marshal.dumps([(one.run_key, one.id, one.start, one.length, one.files, one.pieces) for one in blobs], PLAIN)


def decode_job(data: bytes | memoryview) -> list[BlobJob]:
    """The job again."""
    return [BlobJob(*one) for one in marshal.loads(data)]


def encode_result(result: JobResult) -> bytes:
    """A result's bytes: always small enough for one packet."""
    groups = result.failed_groups
    if groups is not None and len(groups) > 2000:
        groups = None
    closed = [(index, why[:200]) for index, why in result.closed]
    return marshal.dumps((result.number, result.files, result.content_bytes, closed, result.failed_pieces, groups))


def decode_result(data: bytes) -> JobResult:
    """The result again."""
    return JobResult(*marshal.loads(data))
