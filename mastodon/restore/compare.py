"""Compares what stands in the target with what the listing says, by the whole file's keyed hash: nothing is fetched
but the maps of large files."""

import os
from collections.abc import Sequence

from mastodon.host.tree_writer import TreeWriter
from mastodon.restore.blobs import BlobReader
from mastodon.restore.content import extents
from mastodon.sealed.content import FileHasher, file_hash_key
from mastodon.sealed.entry import Entry
from mastodon.sealed.listing import Directory

READ = 1024 * 1024


def content_matches(
    reader: BlobReader, writer: TreeWriter, directory: Directory, entry: Entry, references: Sequence[bytes]
) -> bool:
    """Whether the file that is there has the entry's content. Raises ContentLost when that cannot be told."""
    fd = writer.open_existing(directory, entry.name)
    if fd is None:
        return False
    try:
        if os.fstat(fd).st_size != entry.size or not entry.hash:
            return False
        hasher = FileHasher(file_hash_key(reader.trust.id_key))
        # of a delta's result the holes are not known: it is hashed as it was made, without any
        places = [(0, entry.size, False)] if entry.delta else extents(reader, references, entry.places)
        for offset, length, is_hole in places:
            if is_hole:
                hasher.hole(offset, length)
            elif not _feed(fd, offset, length, hasher):
                return False
        return hasher.digest(entry.size) == entry.hash
    except OSError:
        return False
    finally:
        os.close(fd)


def _feed(fd: int, offset: int, length: int, hasher: FileHasher) -> bool:
    while length:
        data = os.pread(fd, min(READ, length), offset)
        if not data:
            return False
        hasher.data(data)
        offset, length = offset + len(data), length - len(data)
    return True
