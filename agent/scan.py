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
from collections.abc import Container
from dataclasses import dataclass
from typing import Protocol

from mastodon.host.paths import READ_FLAGS, Directory, DirectoryChain
from mastodon.sealed.snapshot import Reason
from mastodon_agent.exclude import Rules
from mastodon_agent.old_listing import OldListing
from mastodon_agent.records import ROW_SIZE, make_row, make_rows
from mastodon_agent.roots import Node
from mastodon_agent.share import Seam, Share

CACHE_TAG = b"CACHEDIR.TAG"
CACHE_SIGNATURE = b"Signature: 8a477f597d28d172789f06886806bc55"
DIRECTORY_BYTES_LIMIT = 384 * 1024
"""Bytes of all names that lead to a directory: what lies deeper does not fit in a page of the listing."""
DEEP = DIRECTORY_BYTES_LIMIT // 255

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


EVERYTHING = Share()
FORMAT, DIRECTORY = 0o170000, 0o040000
"""Of a mode: stat.S_ISDIR in place."""


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
    """One walk over a share. ``pseudo`` are the devices of PSEUDO file systems."""

    def __init__(
        self,
        top: Node,
        rules: ScanRules,
        old: OldListing,
        visitor: Visitor,
        pseudo: frozenset[int] = frozenset(),
        share: Share = EVERYTHING,
    ) -> None:
        self._top = top
        self._rules = rules
        self._old = old
        self._visitor = visitor
        self._pseudo = pseudo
        self._share = share
        self._ends = tuple(None if key is None else Seam(key) for key in (share.low, share.high))
        self._seams = [seam for seam in self._ends if seam is not None]
        self._unchanged = 0
        self._excludes = rules.excludes if rules.excludes.decides_by_name else None
        self._prefix = b""

    def run(self) -> tuple[bytes, ...]:
        """Walk everything; what was seen on the way to the share's two ends. Raises OSError where / does not open."""
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
                    directory = tuple(path)
                    if self._share.is_behind(directory):
                        break
                    levels.append(self._visit(chain, directory, pending))
        finally:
            os.close(top_fd)
        self._old.pass_all()
        self._flush()
        return tuple(b"" if seam is None else seam.digest() for seam in self._ends)

    def _visit(self, chain: DirectoryChain, directory: Directory, pending: _Pending) -> list[_Pending]:
        """Everything in one directory; its subdirectories, the first one last."""
        if pending.carry:
            self._carry_below(directory)
            return []
        seams = [seam for seam in self._seams if seam.lies_below(directory)]
        try:
            if len(directory) > DEEP and sum(map(len, directory)) > DIRECTORY_BYTES_LIMIT:
                raise OSError(errno.ENAMETOOLONG, "too deep")
            fd = chain.open(directory)
            names = self._names(fd, pending.node)
            subdirectories: Container[bytes] = ()
            if seams:
                subdirectories = _subdirectories(fd) if pending.node is None else pending.node.children
        except OSError as error:
            for seam in seams:
                seam.failed(directory, error.errno or errno.EIO)
            self._fail(directory, error)
            return []
        self._old.enter(directory)
        if self._excludes:
            self._prefix = b"".join(name + b"/" for name in directory)
        found: list[_Pending] = []
        if seams:
            for name in self._share.passed(directory, names):
                if name in subdirectories and (one := self._look_past(fd, name, pending)) is not None:
                    found.append(one)
            names = self._share.own(directory, names)
        self._merge(directory, fd, names, pending, found)
        for seam in seams:
            seam.found(directory, [(one.name, one.carry) for one in found if one.name in subdirectories])
        found.reverse()
        return found

    def _fail(self, directory: Directory, error: OSError) -> None:
        """A directory that cannot be opened or read."""
        gone = error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)
        if self._share.begins_in(directory):
            reason, number = (Reason.GONE, errno.ENOENT) if gone else (reason_of(error), error.errno or errno.EIO)
            self._note(reason, directory, None, number)
        if gone:
            self._old.enter(directory)
        else:
            self._carry_below(directory)

    def _names(self, fd: int, node: Node | None) -> list[bytes]:
        if node is not None:
            return sorted(node.children)
        listed = os.listdir(fd)
        if not listed:
            return []
        names = os.fsencode("/".join(listed)).split(b"/")  # one call for all of them
        names.sort()
        excludes = self._rules.excludes
        if excludes.tags or excludes.caches:
            kept = [tag for tag in excludes.tags if _contains(names, tag)]
            if excludes.caches and _contains(names, CACHE_TAG) and is_cache(fd):
                kept.append(CACHE_TAG)
            if kept:
                return sorted(set(kept))
        return names

    def _merge(
        self, directory: Directory, fd: int, names: list[bytes], parent: _Pending, found: list[_Pending]
    ) -> None:
        """A directory's names beside its old entries; what is to be visited is added to ``found``."""
        at, end = 0, len(names)
        while at < end:
            rows = self._old.find_all(names, at) if parent.node is None else None
            count = 0 if rows is None else self._pass_same(fd, names, at, rows, parent, found)
            if not count:
                one = self._look(directory, fd, names[at], parent)
                if one is not None:
                    found.append(one)
                count = 1
            at += count

    def _pass_same(
        self, fd: int, names: list[bytes], at: int, rows: bytes, parent: _Pending, found: list[_Pending]
    ) -> int:
        """As many names from ``at`` on as there are rows, if all of them are as these say; else 0.

        Nearly all names of a usual run come this way, many in each call: hence the loops within single expressions.
        """
        look = os.stat
        some = names[at : at + len(rows) // ROW_SIZE]
        if self._excludes and self._excludes.may_exclude(self._prefix, some):
            return 0
        try:
            stats = [look(name, dir_fd=fd, follow_symlinks=False) for name in some]
        except OSError:
            return 0
        if make_rows(stats) != rows:
            return 0
        if self._old.skipped:
            self._flush()
        self._old.pass_found()
        self._unchanged += len(some)
        for name, st in [(name, st) for name, st in zip(some, stats, strict=True) if st.st_mode & FORMAT == DIRECTORY]:
            one = self._enter(name, st, None, parent)
            if one is not None:
                found.append(one)
        return len(some)

    def _look_past(self, fd: int, name: bytes, parent: _Pending) -> _Pending | None:
        """A subdirectory whose entry is another share's, which tells of it as well."""
        node = None if parent.node is None else parent.node.children[name]
        try:
            st = os.stat(name, dir_fd=fd, follow_symlinks=False)
        except OSError as error:
            return None if node is None and error.errno == errno.ENOENT else _Pending(name, None, 0, carry=True)
        if not stat.S_ISDIR(st.st_mode):
            return None
        if node is None and self._excludes and self._excludes.excludes(self._prefix + name, True):
            return None
        return self._enter(name, st, node, parent)

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


def _subdirectories(fd: int) -> frozenset[bytes]:
    """The names in a directory that are directories, as far as it says so itself; those in doubt as well."""
    with os.scandir(fd) as entries:
        return frozenset(os.fsencode(entry.name) for entry in entries if _may_be_directory(entry))


def _may_be_directory(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_dir(follow_symlinks=False)
    except OSError:
        return True


def reason_of(error: OSError) -> Reason:
    """How a failure to read is counted."""
    if error.errno in (errno.EACCES, errno.EPERM, errno.ENAMETOOLONG, errno.ELOOP):
        return Reason.UNREADABLE
    return Reason.IO_ERROR


def is_cache(dir_fd: int) -> bool:
    """Whether a directory's CACHEDIR.TAG is a genuine one."""
    try:
        fd = os.open(CACHE_TAG, READ_FLAGS, dir_fd=dir_fd)
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
