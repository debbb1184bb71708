"""An exact compare of two trees, independent of the code that it judges.

    python -m bench.compare A B        prints the first differences, then their number; exit 1 if there are any

Names, types, contents, modes, owners, times of all but symlinks, xattrs, hard link groups, and that what was sparse is.
The tops' own attributes are left out: some tools restore into a folder, not the folder.
"""

import hashlib
import os
import stat
import sys
from dataclasses import dataclass, field

SHOWN = 20
SPARSE_SLACK = 8 << 20


@dataclass(slots=True)
class Tree:
    """What a walk over a tree found, by path below its top."""

    entries: dict[bytes, tuple[object, ...]] = field(default_factory=dict)
    allocated: dict[bytes, int] = field(default_factory=dict)
    links: dict[tuple[int, int], list[bytes]] = field(default_factory=dict)

    def groups(self) -> list[list[bytes]]:
        """The hard link groups inside the tree."""
        return sorted(sorted(names) for names in self.links.values() if len(names) > 1)


def content_of(path: bytes, mode: int) -> object:
    if stat.S_ISLNK(mode):
        return os.readlink(path)
    if not stat.S_ISREG(mode):
        return None
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def xattrs_of(path: bytes) -> object:
    try:
        return sorted((name, os.getxattr(path, name)) for name in os.listxattr(path))
    except OSError as error:
        return f"unreadable: {error.strerror}"


def describe(path: bytes, found: os.stat_result) -> tuple[object, ...]:
    """Everything about one entry that a restore has to bring back."""
    fixed = (stat.S_IFMT(found.st_mode), stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid, found.st_rdev)
    if stat.S_ISLNK(found.st_mode):
        return (*fixed, content_of(path, found.st_mode))
    return (*fixed, content_of(path, found.st_mode), found.st_mtime_ns, xattrs_of(path))


def read_tree(top: bytes) -> Tree:
    tree = Tree()
    for root, folders, files in os.walk(top):
        for name in [*folders, *files]:
            path = os.path.join(root, name)
            key = os.path.relpath(path, top)
            found = os.lstat(path)
            tree.entries[key] = describe(path, found)
            if stat.S_ISREG(found.st_mode):
                tree.allocated[key] = found.st_blocks * 512
                if found.st_nlink > 1:
                    tree.links.setdefault((found.st_dev, found.st_ino), []).append(key)
    return tree


def differences(first: str, second: str) -> list[str]:
    """One line for each entry, hard link group or hole that is not the same in both."""
    one, two = read_tree(os.fsencode(first)), read_tree(os.fsencode(second))
    lines = []
    for key in sorted(one.entries.keys() | two.entries.keys()):
        if one.entries.get(key) != two.entries.get(key):
            lines.append(f"differs: {key!r} {one.entries.get(key)} {two.entries.get(key)}")
    if one.groups() != two.groups():
        lines.append("hard link groups differ")
    for key, size in one.allocated.items():
        if two.allocated.get(key, 0) > 2 * size + SPARSE_SLACK:
            lines.append(f"not sparse any more: {key!r}")
    return lines


def main() -> int:
    if len(sys.argv) != 3:
        print(__doc__)
        return 2
    lines = differences(sys.argv[1], sys.argv[2])
    print(*lines[:SHOWN], len(lines), sep="\n")
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
