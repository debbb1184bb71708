"""A small tree with everything in it that a restore can get wrong, its day of changes, and what it was like.

A Manifest is taken of the tree before a run and of what was restored afterwards; it knows nothing of Mastodon.
"""

import hashlib
import os
import random
import stat
from collections.abc import Iterator
from pathlib import Path

Manifest = dict[str, tuple[object, ...]]
"""Path in the tree to what is there: type, mode, owner, group, mtime, content or target, xattrs, names of the inode."""

SMALL, LARGE = 14, 2


def make_tree(top: Path, rng: random.Random) -> None:
    """Small files, large ones, links, a fifo, holes, attributes."""
    for number in range(SMALL):
        folder = top / f"d{number % 4}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"f{number}").write_bytes(rng.randbytes(rng.randrange(0, 3000)))
    for number in range(LARGE):
        (top / f"large{number}").write_bytes(rng.randbytes(rng.randrange(60_000, 140_000)))
    (top / "text").write_bytes(b"the same line again\n" * 2000)
    (top / "empty").mkdir()
    os.symlink("d0/f0", top / "link")
    os.symlink("nowhere/\udcff", top / "dangling")
    os.link(top / "d1/f1", top / "d2/second name")
    os.mkfifo(top / "fifo")
    with (top / "holes").open("wb") as file:
        file.seek(200_000)
        file.write(rng.randbytes(500))
    os.setxattr(top / "text", "user.note", b"attribute")
    os.chmod(top / "d3", 0o2750)
    os.chmod(top / "text", 0o604)
    if os.geteuid() == 0:
        os.chown(top / "d0/f4", 1234, 2345)
    os.utime(top / "empty", ns=(10**18, -(10**9)))


def change_tree(top: Path, rng: random.Random) -> None:
    """A small day: some files new, changed, gone or renamed; a large one changed in its middle."""
    files = sorted(path for path in top.glob("d?/*") if path.is_file())
    for path in rng.sample(files, 3):
        path.write_bytes(rng.randbytes(rng.randrange(0, 3000)))
    (top / f"d{rng.randrange(4)}" / f"n{rng.getrandbits(40):x}").write_bytes(rng.randbytes(rng.randrange(1, 4000)))
    if len(files) > SMALL:
        rng.choice(files).unlink()
    moved = rng.choice(sorted(path for path in top.glob("d?/*") if path.is_file()))
    moved.rename(moved.with_name(f"m{rng.getrandbits(40):x}"))
    with (top / f"large{rng.randrange(LARGE)}").open("r+b") as file:
        file.seek(rng.randrange(50_000))
        file.write(rng.randbytes(rng.randrange(1, 9000)))
    os.chmod(rng.choice(sorted(top.glob("d?"))), rng.choice((0o755, 0o700, 0o1777)))


def take_manifest(top: Path) -> Manifest:
    """What is in the tree."""
    return {os.path.relpath(path, top): _describe(path) for path in _walk(os.fspath(top))}


def differences(expected: Manifest, found: Manifest) -> list[str]:
    """In words; empty where both are the same."""
    texts = [f"{path!r} is missing" for path in sorted(expected.keys() - found.keys())]
    texts += [f"{path!r} should not be there" for path in sorted(found.keys() - expected.keys())]
    for path in sorted(expected.keys() & found.keys()):
        if expected[path] != found[path]:
            texts.append(f"{path!r} is {found[path]}, not {expected[path]}")
    return texts


def _walk(top: str) -> Iterator[str]:
    yield top
    for folder, folders, files in os.walk(top):
        for name in (*folders, *files):
            yield os.path.join(folder, name)


def _describe(path: str) -> tuple[object, ...]:
    st = os.lstat(path)
    content: object = ""
    if stat.S_ISREG(st.st_mode):
        with open(path, "rb") as file:
            content = hashlib.sha256(file.read()).hexdigest()
    elif stat.S_ISLNK(st.st_mode):
        content = os.readlink(path)
    names = st.st_nlink if not stat.S_ISDIR(st.st_mode) else 0
    attributes = tuple((name, os.getxattr(path, name, follow_symlinks=False)) for name in _attributes(path))
    size = st.st_size if stat.S_ISREG(st.st_mode) else 0
    what = (stat.S_IFMT(st.st_mode), st.st_mode & 0o7777, st.st_uid, st.st_gid, st.st_mtime_ns)
    return *what, size, content, attributes, names


def _attributes(path: str) -> list[str]:
    return sorted(name for name in os.listxattr(path, follow_symlinks=False) if name.startswith("user."))
