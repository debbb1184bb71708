"""Copies a tree as backup and restore would, with nothing between reading metadata and writing it: for tests."""

import os
from collections.abc import Callable, Iterable, Iterator

from mastodon.host.existing import Verdict
from mastodon.host.metadata import data_extents, read_entry
from mastodon.host.owners import OwnerNames
from mastodon.host.paths import Directory, DirectoryChain
from mastodon.host.tree_writer import TreeWriter
from mastodon.sealed.entry import Entry, EntryType

Item = tuple[Directory, Entry, Iterable[tuple[int, bytes]]]
"""Directory, entry and pieces of content."""
SMALL = 64 * 1024
PIECE = 1 << 20


def read_tree(root_fd: int) -> Iterator[Item]:
    """All items, directories before what is in them; an item's pieces are read while it is the last one given."""
    names = OwnerNames()
    groups: dict[tuple[int, int], int] = {}
    waiting: list[Directory] = [()]
    with DirectoryChain(root_fd) as chain:
        while waiting:
            directory = waiting.pop()
            dir_fd = chain.open(directory)
            for name in sorted(map(os.fsencode, os.listdir(dir_fd))):
                st = os.stat(name, dir_fd=dir_fd, follow_symlinks=False)
                group = 0
                if st.st_nlink > 1 and not os.path.isdir(f"/proc/self/fd/{dir_fd}/{os.fsdecode(name)}"):
                    group = groups.setdefault((st.st_dev, st.st_ino), len(groups) + 1)
                entry = read_entry(dir_fd, name, st, names, link_group=group)
                if entry.type is EntryType.DIRECTORY:
                    waiting.append((*directory, name))
                yield directory, entry, _content(dir_fd, entry)


def read_into_memory(root_fd: int) -> list[Item]:
    """All items at once, each one's pieces from last to first."""
    return [(directory, entry, list(pieces)[::-1]) for directory, entry, pieces in read_tree(root_fd)]


def _content(dir_fd: int, entry: Entry) -> Iterator[tuple[int, bytes]]:
    if entry.type is not EntryType.FILE:
        return
    fd = os.open(entry.name, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=dir_fd)
    try:
        for start, length in data_extents(fd, entry.size):
            for position in range(start, start + length, PIECE):
                yield position, os.pread(fd, min(PIECE, start + length - position), position)
    finally:
        os.close(fd)


def write_item(writer: TreeWriter, item: Item) -> bool:
    """What a restore does about one entry; True where it is there now as it was recorded."""
    directory, entry, pieces = item
    if entry.type is EntryType.DIRECTORY:
        return writer.make(directory, entry)
    verdict = writer.verdict(directory, entry)
    if verdict is Verdict.LEAVE:
        return False
    if writer.link_to_first(directory, entry):
        return True
    if verdict is Verdict.VERIFY:
        return writer.accept(directory, entry)
    if entry.type is not EntryType.FILE:
        return writer.make(directory, entry)
    if entry.size <= SMALL:
        return writer.write_small(directory, entry, b"".join(data for _offset, data in pieces))
    file = writer.begin_file(directory, entry)
    if file is None:
        return False
    for offset, data in pieces:
        file.write(offset, data)
    return writer.finish_file(file)


def read_root(root_fd: int) -> Entry:
    """The entry of the root itself, for ``finish_directories``."""
    return read_entry(root_fd, b".", os.fstat(root_fd), OwnerNames())


def write_tree(
    writer: TreeWriter, items: Iterable[Item], root: Entry, *, stop: Callable[[int], bool] = lambda _count: False
) -> bool:
    """Writes all items and finishes directories; gives up in the middle where ``stop`` says so."""
    directories = []
    for count, item in enumerate(items):
        if stop(count):
            return False
        write_item(writer, item)
        if item[1].type is EntryType.DIRECTORY:
            directories.append(item)
    finish(writer, directories, root)
    writer.finish_links()
    return True


def finish(writer: TreeWriter, items: Iterable[Item], root: Entry) -> None:
    """Finishes all directories."""
    writer.finish_directories(((item[0], item[1]) for item in items if item[1].type is EntryType.DIRECTORY), root)
