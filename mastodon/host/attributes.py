"""Gives what was just made the owner, xattrs, ACLs, mode, times and inode flags that its entry records.

The order is the only one that works: chown clears setuid and capabilities, so it comes first; an ACL moves mode bits,
so chmod follows; it comes after the times, since the mode tells what is complete; inode flags last, since an immutable
file takes nothing more. What this user or file
system refuses becomes a Problem, and the rest is still set. Where the owner is not the recorded one (its name does
not resolve, or chown is refused), setuid and setgid are dropped: they would lend somebody else's rights.

``handle`` is an open descriptor, or a path below /proc/self/fd that stands for exactly one inode.
"""

import errno
import os
from collections import Counter
from dataclasses import dataclass, field

from mastodon.host import acl
from mastodon.host.linux import APPEND_ONLY, IMMUTABLE, inode_flags, set_inode_flags
from mastodon.host.owners import OwnerMap
from mastodon.host.paths import Directory, printable
from mastodon.sealed.entry import Entry, EntryType

SET_IDS = 0o6000
EXAMPLES = 10_000
"""Problems kept one by one; of more there is the count only, so that a restore's memory stays bounded."""

_REPLACEABLE = (b"user.", b"trusted.", b"system.posix_acl_")
"""Xattrs that an existing file loses if its entry lacks them; the others (labels) belong to this system."""

FAILURES = (OSError, ValueError, OverflowError)
"""What a system call raises: refused, an impossible name (NUL), a number out of range."""


@dataclass(frozen=True, slots=True)
class Problem:
    """Something of one entry that could not be restored: what, and the errno that tells why."""

    path: bytes
    what: str
    errno: int

    def __str__(self) -> str:
        shown = self.path.decode("utf-8", "backslashreplace").replace("\n", "\\n") or "."
        return f"{shown}: {self.what}: {os.strerror(self.errno)}"


@dataclass(slots=True)
class ProblemLog:
    """The problems of a restore: the first ones whole, all of them counted by (what, errno)."""

    examples: list[Problem] = field(default_factory=list)
    counts: Counter[tuple[str, int]] = field(default_factory=Counter)

    def add(self, directory: Directory, name: bytes | None, what: str, reason: Exception | int) -> None:
        """Notes one problem of the entry of that name."""
        number = reason if isinstance(reason, int) else error_number(reason)
        self.counts[what, number] += 1
        if len(self.examples) < EXAMPLES:
            self.examples.append(Problem(printable(directory, name), what, number))


def error_number(error: Exception) -> int:
    """The errno of one of FAILURES."""
    if isinstance(error, OSError):
        return error.errno or errno.EIO
    return errno.EOVERFLOW if isinstance(error, OverflowError) else errno.EINVAL


class AttributeSetter:
    """Sets recorded attributes under one owner map, and logs what could not be set."""

    def __init__(self, owners: OwnerMap, problems: ProblemLog) -> None:
        self._owners = owners
        self._problems = problems
        self._found: dict[tuple[int, int, str, str], tuple[int | None, int | None]] = {}

    def owner(self, entry: Entry) -> tuple[int | None, int | None]:
        """The user and group id to use here, None for one that has none."""
        recorded = entry.uid, entry.gid, entry.user, entry.group
        found = self._found.get(recorded)
        if found is None:
            found = self._owners.user(entry.uid, entry.user), self._owners.group(entry.gid, entry.group)
            self._found[recorded] = found
        return found

    def complete(self, fd: int, where: Directory, entry: Entry, made_by: tuple[int, int] | None) -> None:
        """The same as ``apply`` for something new, whose owner and group are ``made_by`` where that is known."""
        uid, gid = self.owner(entry)
        if entry.xattrs or uid is None or gid is None:
            self.apply(fd, where, entry)
            return
        try:
            if made_by != (uid, gid):
                os.chown(fd, uid, gid)
            os.utime(fd, ns=(entry.mtime_ns, entry.mtime_ns))
            os.chmod(fd, entry.mode & 0o7777)
        except FAILURES:
            self.apply(fd, where, entry)  # which tells what cannot be set, and sets the rest

    def apply(self, handle: int | bytes, where: Directory, entry: Entry, *, existing: bool = False) -> None:
        """All but inode flags. Of something ``existing`` the xattrs that the entry lacks are taken away."""
        mode = entry.mode & 0o7777
        if not self._set_owner(handle, where, entry):
            mode &= ~SET_IDS
        if existing:
            self._remove_xattrs(handle, where, entry)
        if entry.xattrs:
            self._set_xattrs(handle, where, entry)
        try:
            os.utime(handle, ns=(entry.mtime_ns, entry.mtime_ns))
        except FAILURES as error:
            self._problems.add(where, entry.name, "times", error)
        if entry.type is not EntryType.SYMLINK:
            try:
                os.chmod(handle, mode)
            except FAILURES as error:
                self._problems.add(where, entry.name, "mode", error)

    def set_flags(self, fd: int, where: Directory, entry: Entry) -> None:
        """The recorded inode flags of an open file or directory."""
        try:
            refused = set_inode_flags(fd, entry.inode_flags)
        except FAILURES as error:
            self._problems.add(where, entry.name, "inode flags", error)
        else:
            if refused:
                self._problems.add(where, entry.name, f"inode flags {refused:#x}", errno.EOPNOTSUPP)

    def update_flags(self, fd: int, where: Directory, entry: Entry) -> None:
        """The same for something that was there before: touched only where its flags are others."""
        try:
            differs = inode_flags(fd) != entry.inode_flags
        except FAILURES:
            differs = bool(entry.inode_flags)
        if differs:
            self.set_flags(fd, where, entry)

    def release(self, fd: int) -> None:
        """Takes away the flags that would refuse every change, before something existing is changed."""
        flags = inode_flags(fd)
        if flags & (IMMUTABLE | APPEND_ONLY):
            set_inode_flags(fd, flags & ~(IMMUTABLE | APPEND_ONLY))

    def _set_owner(self, handle: int | bytes, where: Directory, entry: Entry) -> bool:
        """Whether owner and group are now what the entry records."""
        uid, gid = self.owner(entry)
        whole = True
        for what, name, number in (("owner", entry.user, uid), ("group", entry.group, gid)):
            if number is None:
                self._problems.add(where, entry.name, f"{what} {name!r} is unknown here", errno.ENOENT)
                whole = False
        try:
            # -1 leaves the owner as it is, which is the restoring user's
            os.chown(handle, -1 if uid is None else uid, -1 if gid is None else gid)
        except FAILURES as error:
            self._problems.add(where, entry.name, "owner", error)
            whole = False
            if gid is not None:  # a group that one is a member of can be given without privilege
                try:
                    os.chown(handle, -1, gid)
                except FAILURES:
                    return False
        return whole

    def _set_xattrs(self, handle: int | bytes, where: Directory, entry: Entry) -> None:
        for name, value in entry.xattrs:
            if self._owners.renumbers and name in acl.ACL_XATTRS:
                value = self._renumbered(where, entry, value)
            try:
                os.setxattr(handle, name, value)
            except FAILURES as error:
                self._problems.add(where, entry.name, "xattr " + name.decode("utf-8", "backslashreplace"), error)

    def _renumbered(self, where: Directory, entry: Entry, value: bytes) -> bytes:
        names = {(kind, number): name for kind, number, name in entry.acl_names}
        try:
            value, lost = acl.remapped(
                value, lambda kind, number: self._owners.qualifier(kind, number, names.get((kind, number), ""))
            )
        except acl.UnknownAcl:
            return value  # the kernel will refuse it, and that is logged
        for kind, number in lost:
            what = "user" if kind == "u" else "group"
            name = names.get((kind, number), "")
            self._problems.add(where, entry.name, f"ACL of {what} {name!r}, unknown here", errno.ENOENT)
        return value

    def _remove_xattrs(self, handle: int | bytes, where: Directory, entry: Entry) -> None:
        recorded = {name for name, _value in entry.xattrs}
        try:
            for name in map(os.fsencode, os.listxattr(handle)):
                if name not in recorded and name.startswith(_REPLACEABLE):
                    os.removexattr(handle, name)
        except FAILURES as error:
            if error_number(error) not in (errno.EOPNOTSUPP, errno.ENOSYS):
                self._problems.add(where, entry.name, "xattrs of what was there", error)
