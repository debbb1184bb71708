"""Walks the paths to back up in the order of the listing, and merges what is there with the listing of the last run.

Order: a directory's children sorted by their bytes, then each of its subdirectories, which is the order of
(directory, name). Everything goes by directory descriptors; nothing is followed, no file is opened. What is as the
last run saw it (type, mode, size, both times, inode) is only counted. What cannot be looked at is carried over from
the old listing, and told.
"""

import errno
import os
import stat
from bisect import bisect_left
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

from mastodon.host.paths import Directory, DirectoryChain
from mastodon.sealed.snapshot import Reason
from mastodon_agent.exclude import Rules
from mastodon_agent.records import ROW_SIZE, make_row
from mastodon_agent.roots import Node
from mastodon_agent.state import StatePage

CACHE_TAG = b"CACHEDIR.TAG"
CACHE_SIGNATURE = b"Signature: 8a477f597d28d172789f06886806bc55"
DIRECTORY_BYTES_LIMIT = 384 * 1024
"""Bytes of all names that lead to a directory: what lies deeper does not fit in a page of the listing."""

PSEUDO = frozenset(
    b"proc sysfs cgroup cgroup2 devpts securityfs debugfs tracefs pstore bpf configfs fusectl mqueue binfmt_misc"
    b" rpc_pipefs nsfs selinuxfs efivarfs autofs".split()
)
"""File systems that show the kernel, not files: recorded as the directories where they are mounted."""


class Visitor(Protocol):
    """Takes what the scan finds, in order."""

    def unchanged(self, count: int) -> None:
        """The next entries of the old listing are as they were."""

    def gone(self, count: int) -> None:
        """The next entries of the old listing are no longer there, or excluded now."""

    def carried(self, count: int) -> None:
        """The next entries of the old listing could not be looked at."""

    def changed(self, directory: Directory, dir_fd: int, name: bytes, st: os.stat_result, replaces: bool) -> None:
        """Something new or changed; ``replaces``: the next entry of the old listing was it before."""

    def note(self, reason: Reason, directory: Directory, name: bytes | None, number: int) -> None:
        """Something to count and to tell: the errno says why."""


class OldListing:
    """A cursor over the old listing, in its order. What is passed over counts as ``gone``."""

    def __init__(self, pages: Iterator[StatePage], distrust: Callable[[StatePage], bytes] = StatePage.rows) -> None:
        self._sections = self._open(pages, distrust)
        self._directory: Directory | None = None
        self._names: list[bytes] = []
        self._rows = b""
        self._index = 0
        self.skipped = 0
        self._matches = False
        self._next()

    def enter(self, directory: Directory) -> None:
        """Move to the entries of a directory."""
        while self._directory is not None and self._directory < directory:
            self.skipped += len(self._names) - self._index
            self._next()
        self._matches = self._directory == directory

    def find(self, name: bytes) -> bytes | None:
        """The row of that name in the directory entered, which is passed with it; None if it was not there."""
        if not self._matches:
            return None
        names = self._names
        index = self._index
        while index < len(names):
            old = names[index]
            if old >= name:
                break
            index += 1
            self.skipped += 1
        else:
            directory = self._directory
            self._next()
            self._matches = self._directory == directory
            return self.find(name)
        self._index = index
        if names[index] != name:
            return None
        self._index = index + 1
        return self._rows[index * ROW_SIZE : (index + 1) * ROW_SIZE]

    def pass_below(self, directory: Directory) -> int:
        """How many entries lie in a directory and below it; they are passed, and not skipped."""
        self.enter(directory)
        depth = len(directory)
        count = 0
        while self._directory is not None and self._directory[:depth] == directory:
            count += len(self._names) - self._index
            self._next()
        self._matches = False
        return count

    def pass_all(self) -> None:
        """Skip what is left."""
        while self._directory is not None:
            self.skipped += len(self._names) - self._index
            self._next()

    def _next(self) -> None:
        self._index = 0
        self._directory, self._names, self._rows = next(self._sections, (None, [], b""))

    @staticmethod
    def _open(
        pages: Iterator[StatePage], distrust: Callable[[StatePage], bytes]
    ) -> Iterator[tuple[Directory | None, list[bytes], bytes]]:
        for page in pages:
            rows = distrust(page)
            at = 0
            for directory, names in page.sections():
                end = at + len(names) * ROW_SIZE
                yield directory, names, rows[at:end]
                at = end


@dataclass(frozen=True, slots=True)
class ScanRules:
    """What to look at, and how."""

    excludes: Rules
    one_file_system: bool = False
    skip_inode: tuple[int, int] | None = None
    """(device, inode) of a directory that is recorded and not entered: the agent's own state."""


@dataclass(frozen=True, slots=True)
class _Pending:
    """A subdirectory that is still to be visited."""

    name: bytes
    node: Node | None
    """Where only some names in it are wanted; None: everything."""
    device: int
    carry: bool = False
    """It could not be looked at: its old entries stay."""


class Scan:
    """One walk. ``pseudo`` are the devices of PSEUDO file systems."""

    def __init__(
        self, top: Node, rules: ScanRules, old: OldListing, visitor: Visitor, pseudo: frozenset[int] = frozenset()
    ) -> None:
        self._top = top
        self._rules = rules
        self._old = old
        self._visitor = visitor
        self._pseudo = pseudo
        self._unchanged = 0
        self._excludes = rules.excludes if rules.excludes.decides_by_name else None
        self._prefix = b""

    def run(self) -> None:
        """Walk everything. Raises OSError where / itself cannot be opened."""
        top_fd = os.open("/", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        path: list[bytes] = []
        try:
            with DirectoryChain(top_fd) as chain:
                device = os.fstat(top_fd).st_dev
                levels = [self._visit(chain, (), _Pending(b"", None if self._top.whole else self._top, device))]
                while levels:
                    if not levels[-1]:
                        levels.pop()
                        if path:
                            path.pop()
                        continue
                    pending = levels[-1].pop()
                    path.append(pending.name)
                    levels.append(self._visit(chain, tuple(path), pending))
        finally:
            os.close(top_fd)
        self._old.pass_all()
        self._flush()

    def _visit(self, chain: DirectoryChain, directory: Directory, pending: _Pending) -> list[_Pending]:
        """Everything in one directory; its subdirectories, the first one last."""
        if pending.carry:
            self._carry_below(directory)
            return []
        try:
            if sum(map(len, directory)) > DIRECTORY_BYTES_LIMIT:
                raise OSError(errno.ENAMETOOLONG, "too deep")
            fd = chain.open(directory)
            names = self._names(fd, pending.node)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                self._note(Reason.GONE, directory, None, errno.ENOENT)
                self._old.enter(directory)
            else:
                self._note(reason_of(error), directory, None, error.errno or errno.EIO)
                self._carry_below(directory)
            return []
        self._old.enter(directory)
        if self._excludes:
            self._prefix = b"".join(name + b"/" for name in directory)
        found: list[_Pending] = []
        for name in names:
            one = self._look(directory, fd, name, pending)
            if one is not None:
                found.append(one)
        found.reverse()
        return found

    def _names(self, fd: int, node: Node | None) -> list[bytes]:
        if node is not None:
            return sorted(node.children)
        names = sorted(map(os.fsencode, os.listdir(fd)))
        excludes = self._rules.excludes
        if excludes.tags or excludes.caches:
            kept = [tag for tag in excludes.tags if _contains(names, tag)]
            if excludes.caches and _contains(names, CACHE_TAG) and is_cache(fd):
                kept.append(CACHE_TAG)
            if kept:
                return sorted(set(kept))
        return names

    def _look(self, directory: Directory, fd: int, name: bytes, parent: _Pending) -> _Pending | None:
        """One name; what is to be visited if it is a directory."""
        node = None if parent.node is None else parent.node.children[name]
        try:
            st = os.stat(name, dir_fd=fd, follow_symlinks=False)
        except OSError as error:
            return self._unseen(directory, name, node, error)
        is_directory = stat.S_ISDIR(st.st_mode)
        if parent.node is None and self._excludes and self._excludes.excludes(self._prefix + name, is_directory):
            return None
        row = self._old.find(name)
        if self._old.skipped:
            self._flush()
        if row == make_row(st):
            self._unchanged += 1
        else:
            self._flush()
            self._visitor.changed(directory, fd, name, st, row is not None)
        if is_directory:
            return self._enter(name, st, node, parent)
        if node is not None and not node.whole:
            self._note(Reason.MISSING_PATH, directory, name, errno.ENOTDIR)
        return None

    def _enter(self, name: bytes, st: os.stat_result, node: Node | None, parent: _Pending) -> _Pending | None:
        """A directory, unless it is a boundary."""
        if node is not None:
            return _Pending(name, None if node.whole else node, st.st_dev)
        if (st.st_dev, st.st_ino) == self._rules.skip_inode:
            return None
        if st.st_dev != parent.device and (self._rules.one_file_system or st.st_dev in self._pseudo):
            return None
        return _Pending(name, None, st.st_dev)

    def _unseen(self, directory: Directory, name: bytes, node: Node | None, error: OSError) -> _Pending | None:
        """A name that lstat fails for: gone meanwhile, a missing path, or out of reach."""
        number = error.errno or errno.EIO
        if node is None and number == errno.ENOENT:
            self._note(Reason.GONE, directory, name, number)
            return None
        reason = reason_of(error)
        if node is not None and number in (errno.ENOENT, errno.ENOTDIR):
            reason = Reason.MISSING_PATH
        row = self._old.find(name)
        self._note(reason, directory, name, number)
        if row is not None:
            self._visitor.carried(1)
        return _Pending(name, None, 0, carry=True)

    def _carry_below(self, directory: Directory) -> None:
        self._old.enter(directory)
        self._flush()
        count = self._old.pass_below(directory)
        if count:
            self._visitor.carried(count)

    def _note(self, reason: Reason, directory: Directory, name: bytes | None, number: int) -> None:
        self._flush()
        self._visitor.note(reason, directory, name, number)

    def _flush(self) -> None:
        if self._unchanged:
            self._visitor.unchanged(self._unchanged)
            self._unchanged = 0
        if self._old.skipped:
            self._visitor.gone(self._old.skipped)
            self._old.skipped = 0


def reason_of(error: OSError) -> Reason:
    """How a failure to read is counted."""
    if error.errno in (errno.EACCES, errno.EPERM, errno.ENAMETOOLONG, errno.ELOOP):
        return Reason.UNREADABLE
    return Reason.IO_ERROR


def is_cache(dir_fd: int) -> bool:
    """Whether a directory's CACHEDIR.TAG is a genuine one."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    try:
        fd = os.open(CACHE_TAG, flags, dir_fd=dir_fd)
    except OSError:
        return False
    try:
        return stat.S_ISREG(os.fstat(fd).st_mode) and os.read(fd, len(CACHE_SIGNATURE)) == CACHE_SIGNATURE
    except OSError:
        return False
    finally:
        os.close(fd)


def pseudo_devices(mountinfo: bytes) -> frozenset[int]:
    """The devices of PSEUDO file systems in /proc/self/mountinfo."""
    devices = set()
    for line in mountinfo.splitlines():
        before, _, after = line.partition(b" - ")
        words = before.split()
        if len(words) > 2 and after.split(b" ", 1)[0] in PSEUDO:
            major, _, minor = words[2].partition(b":")
            devices.add(os.makedev(int(major), int(minor)))
    return frozenset(devices)


def _contains(names: list[bytes], name: bytes) -> bool:
    index = bisect_left(names, name)
    return index < len(names) and names[index] == name
