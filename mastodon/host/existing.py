"""What stands where an entry is to go, and what the overwrite policy makes of it."""

import os
import stat
from enum import Enum

from mastodon.host.metadata import DEVICES, TYPES
from mastodon.sealed.entry import Entry, EntryType


class Overwrite(Enum):
    """What happens to something that stands where an entry is to go."""

    NEVER = "never"
    IF_CHANGED = "if-changed"
    IF_NEWER = "if-newer"
    ALWAYS = "always"


class Verdict(Enum):
    """What to do about an entry."""

    WRITE = "write"
    VERIFY = "verify"  # what is there looks the same: compare the content where that is wanted, then accept or write
    LEAVE = "leave"  # something else is there and stays


def matches(dir_fd: int, entry: Entry, st: os.stat_result) -> bool:
    """Whether what is there has the entry's type, size, time and target: a hint, the content may still differ."""
    if TYPES.get(stat.S_IFMT(st.st_mode)) is not entry.type or st.st_mtime_ns != entry.mtime_ns:
        return False
    if entry.type is EntryType.FILE:
        return st.st_size == entry.size
    if entry.type is EntryType.SYMLINK:
        return os.readlink(entry.name, dir_fd=dir_fd) == entry.target
    return entry.type not in DEVICES or (os.major(st.st_rdev), os.minor(st.st_rdev)) == entry.rdev


def judge(policy: Overwrite, dir_fd: int, entry: Entry, st: os.stat_result) -> Verdict:
    """What the policy says about an entry in whose place something stands that ``st`` describes."""
    if matches(dir_fd, entry, st):
        return Verdict.VERIFY
    if policy is Overwrite.IF_NEWER and st.st_mtime_ns < entry.mtime_ns:
        return Verdict.WRITE
    return Verdict.WRITE if policy in (Overwrite.ALWAYS, Overwrite.IF_CHANGED) else Verdict.LEAVE


def same_inode(first_fd: int, first_name: bytes, dir_fd: int, name: bytes) -> bool:
    """Whether two names are hard links already; the first must be there (OSError), the second need not."""
    first = os.stat(first_name, dir_fd=first_fd, follow_symlinks=False)
    try:
        there = os.stat(name, dir_fd=dir_fd, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return (first.st_dev, first.st_ino) == (there.st_dev, there.st_ino)
