"""An exact compare of two trees, independent of the code that it judges.

    python -m bench.compare A B        prints the first differences, then their number; exit 1 if there are any

Names, types, contents, modes, owners, times of all but symlinks, xattrs, hard link groups, and that what was sparse is.
The tops' own attributes are left out: some tools restore into a folder, not the folder. What only one tree has is one
difference, whatever lies below it. Memory is bounded by the largest folder and the number of hard linked names, not by
the number of files.
"""

import os
import stat
import sys
from collections.abc import Iterator

SHOWN = 20
SPARSE_SLACK = 8 << 20
PIECE = 1 << 20

Inode = tuple[int, int]


class Comparison:
    """One walk over both trees, folder by folder."""

    def __init__(self, one: bytes, two: bytes) -> None:
        self._tops = one, two
        self._partner: tuple[dict[Inode, Inode], dict[Inode, Inode]] = {}, {}
        """Of hard linked files: the other tree's inode, both ways."""

    def differences(self) -> Iterator[str]:
        """One line each."""
        waiting = [b""]
        while waiting:
            folder = waiting.pop()
            below = [set(os.listdir(os.path.join(top, folder))) for top in self._tops]
            for name in sorted(below[0] | below[1]):
                key = os.path.join(folder, name)
                if name not in below[0] or name not in below[1]:
                    yield f"only in the {'first' if name in below[0] else 'second'}: {key!r}"
                    continue
                paths = tuple(os.path.join(top, key) for top in self._tops)
                found = tuple(os.lstat(path) for path in paths)
                yield from self._compare(key, paths, found)
                if all(stat.S_ISDIR(one.st_mode) for one in found):
                    waiting.append(key)

    def _compare(self, key: bytes, paths: tuple[bytes, ...], found: tuple[os.stat_result, ...]) -> Iterator[str]:
        one, two = (attributes(path, each) for path, each in zip(paths, found, strict=True))
        if one != two:
            yield f"differs: {key!r} {one} {two}"
        elif stat.S_ISREG(found[0].st_mode):
            if not same_content(*paths):
                yield f"differs: {key!r} in its content"
            elif found[1].st_blocks * 512 > 2 * found[0].st_blocks * 512 + SPARSE_SLACK:
                yield f"not sparse any more: {key!r}"
            if not self._linked_alike(*found):
                yield f"hard links differ: {key!r}"

    def _linked_alike(self, one: os.stat_result, two: os.stat_result) -> bool:
        if one.st_nlink == 1 and two.st_nlink == 1:
            return True
        first, second = (one.st_dev, one.st_ino), (two.st_dev, two.st_ino)
        there, back = self._partner
        return there.setdefault(first, second) == second and back.setdefault(second, first) == first


def attributes(path: bytes, found: os.stat_result) -> tuple[object, ...]:
    """Everything about one entry, but content and links, that a restore has to bring back."""
    fixed = (stat.S_IFMT(found.st_mode), stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid, found.st_rdev)
    if stat.S_ISLNK(found.st_mode):
        return (*fixed, os.readlink(path))
    size = found.st_size if stat.S_ISREG(found.st_mode) else 0
    return (*fixed, size, found.st_mtime_ns, xattrs_of(path))


def xattrs_of(path: bytes) -> object:
    try:
        return sorted((name, os.getxattr(path, name)) for name in os.listxattr(path))
    except OSError as error:
        return f"unreadable: {error.strerror}"


def same_content(one: bytes, two: bytes) -> bool:
    """Whether two files of one size have the same bytes."""
    with open(one, "rb", buffering=0) as first, open(two, "rb", buffering=0) as second:
        while True:
            data = first.read(PIECE)
            if data != second.read(PIECE):
                return False
            if not data:
                return True


def main() -> int:
    if len(sys.argv) != 3:
        print(__doc__)
        return 2
    count = 0
    for line in Comparison(os.fsencode(sys.argv[1]), os.fsencode(sys.argv[2])).differences():
        count += 1
        if count <= SHOWN:
            print(line)
    print(count)
    return 1 if count else 0


if __name__ == "__main__":
    sys.exit(main())
