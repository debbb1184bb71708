"""Reads what the scan finds new or changed, and writes it into the ring as an edit script: the reader process's work.

Files are opened some way ahead and announced to the kernel, so that the disk has them ready when their turn comes;
the script keeps the scan's order all the same. What a file's content is:

* gone before it is opened: no entry;
* what it had when it was opened: growth beyond that is left for the next run;
* changed while it was read (another size, mtime or ctime afterwards): read again, up to ATTEMPTS times, then kept as
  it came, flagged fuzzy;
* not readable: told, and the last good copy stays.
"""

import errno
import marshal
import os
import stat
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from blake3 import blake3

from mastodon.host.metadata import read_entry
from mastodon.host.owners import OwnerNames
from mastodon.host.paths import Directory
from mastodon.sealed.content import whole_hash
from mastodon.sealed.entry import Entry, EntryFlag, EntryType
from mastodon.sealed.purposes import Purpose
from mastodon.sealed.snapshot import Reason
from mastodon_agent.forerunner import Progress
from mastodon_agent.large_reader import Verdict, extents_of, judge, read_into, stream
from mastodon_agent.opening import ANNOUNCED, announce, open_quietly
from mastodon_agent.records import NO_ROW, Kind, make_row
from mastodon_agent.scan import reason_of
from mastodon_agent.script import Script

SMALL = 512 * 1024
"""Longer files, and sparse ones, are cut into chunks."""
AHEAD = 64
WAITING = 4096
"""Steps of the script that may wait behind an opened file."""
ATTEMPTS = 3
RACY_NS = 2 * 10**9
LINKS = 4096
"""Hard-linked inodes whose content is remembered; both ends of the ring forget in the same order."""

_REPLACED = (errno.ELOOP, errno.ENXIO, errno.ENODEV)

Watch = Callable[[str, bytes], None]
"""Called with "open" or "read" and a file's name before that is done: where tests change the file."""


def no_watch(_step: str, _name: bytes) -> None:
    """Nobody watches."""


Was = Callable[[Directory, bytes], bytes | None]
"""The row of an entry that is read again although nothing says that it changed (refresh.py)."""


def nothing_was(_directory: Directory, _name: bytes) -> bytes | None:
    """Only what changed is read."""
    return None


@dataclass(slots=True)
class _Opened:
    """A file whose turn to be read comes."""

    fd: int
    directory: Directory
    entry: Entry
    st: os.stat_result
    racy: bool
    replaces: bool
    same: bool
    """It is read again although it is what it was: if it cannot be read, the old entry just stays."""


class FileReader:
    """The scan's visitor. ``key`` is that of file hashes, ``clock`` gives nanoseconds since 1970."""

    def __init__(
        self, script: Script, key: bytes, clock: Callable[[], int], progress: Progress, watch: Watch = no_watch,
        was: Was = nothing_was,
    ) -> None:  # fmt: skip
        self._script = script
        self._progress = progress
        self._ring = script.ring
        self._key = key
        self._clock = clock
        self._watch = watch
        self._was = was
        self._names = OwnerNames()
        self._steps: deque[tuple[Callable[..., None], tuple[Any, ...]]] = deque()
        self._opened = 0
        self._links: OrderedDict[int, tuple[bytes, bytes, int]] = OrderedDict()  # row, hash, size
        self._empty_hash = whole_hash(key, b"")

    # What the scan finds

    def unchanged(self, count: int) -> None:
        """The next old entries stay."""
        self._do(self._script.count, Kind.UNCHANGED, count)

    def gone(self, count: int) -> None:
        """The next old entries go."""
        self._do(self._script.count, Kind.GONE, count)

    def carried(self, count: int) -> None:
        """The next old entries are carried over."""
        self._do(self._script.count, Kind.CARRIED, count)

    def note(self, reason: Reason, directory: Directory, name: bytes | None, number: int) -> None:
        """Something to count."""
        self._do(self._script.note, reason, directory, name, number)

    def changed(self, directory: Directory, dir_fd: int, name: bytes, st: os.stat_result, replaces: bool) -> None:
        """A new or changed entry."""
        self._watch("open", name)
        self._progress.passed(st)
        try:
            if stat.S_ISREG(st.st_mode) and st.st_size:
                self._open(directory, dir_fd, name, replaces)
            else:
                self._describe(directory, dir_fd, name, st, replaces)
        except FileNotFoundError:
            self._vanished(directory, name, replaces)
        except OSError as error:
            self._lost(directory, name, replaces, reason_of(error), error.errno or errno.EIO)

    def finish(self, before: bytes, after: bytes) -> None:
        """Read what is still waiting, and end the script; what was seen at the seams (share.py)."""
        while self._steps:
            self._step()
        self._progress.finish()
        self._script.done(before, after)

    # Steps in order

    def _do(self, step: Callable[..., None], *arguments: Any) -> None:
        """At once where nothing waits, else behind it."""
        if not self._steps:
            step(*arguments)
            return
        self._steps.append((step, arguments))
        while self._opened > AHEAD or len(self._steps) > WAITING:
            self._step()

    def _step(self) -> None:
        step, arguments = self._steps.popleft()
        step(*arguments)

    def _vanished(self, directory: Directory, name: bytes, replaces: bool) -> None:
        if replaces:
            self.gone(1)
        self.note(Reason.GONE, directory, name, errno.ENOENT)

    def _describe(self, directory: Directory, dir_fd: int, name: bytes, st: os.stat_result, replaces: bool) -> None:
        """An entry without content."""
        try:
            entry = read_entry(dir_fd, name, st, self._names, link_group=link_group(st))
        except ValueError:
            self._lost(directory, name, replaces, Reason.METADATA, errno.EINVAL)
            return
        if entry.error == errno.ENOENT:
            raise FileNotFoundError
        if entry.type is EntryType.SYMLINK and not entry.target:
            self._lost(directory, name, replaces, Reason.UNREADABLE, entry.error or errno.EINVAL)
            return
        if entry.type is EntryType.FILE:
            entry.hash = self._empty_hash
        # What keeps a directory from being opened is told when it is visited.
        if entry.error and not (entry.type is EntryType.DIRECTORY and entry.error == errno.EACCES):
            self.note(Reason.METADATA, directory, name, entry.error)
        row = NO_ROW if entry.error or self._is_racy(st) else make_row(st)
        self._do(self._script.entry, Kind.ENTRY, directory, entry, row, replaces)

    def _lost(self, directory: Directory, name: bytes, replaces: bool, reason: Reason, number: int) -> None:
        """Something that cannot be recorded now: what was recorded before stays."""
        if replaces:
            self.carried(1)
        self.note(reason, directory, name, number)

    def _open(self, directory: Directory, dir_fd: int, name: bytes, replaces: bool) -> None:
        """A regular file: opened, described, and put where its turn comes."""
        was = self._was(directory, name)
        try:
            fd = open_quietly(name, dir_fd)
        except FileNotFoundError:
            raise
        except OSError as error:
            if error.errno in _REPLACED:
                self._replaced(directory, dir_fd, name, replaces)
                return
            st = os.stat(name, dir_fd=dir_fd, follow_symlinks=False)
            if was == make_row(st):
                self.unchanged(1)
                return
            entry = read_entry(dir_fd, name, st, self._names, link_group=link_group(st))
            self._do(self._fail, directory, entry, replaces, error)
            return
        st = os.fstat(fd)
        if not stat.S_ISREG(st.st_mode):
            os.close(fd)
            self._replaced(directory, dir_fd, name, replaces)
            return
        racy = self._is_racy(st)
        entry = read_entry(dir_fd, name, st, self._names, fd=fd, link_group=link_group(st))
        same = was == make_row(st)
        if entry.error and same:
            os.close(fd)
            self.unchanged(1)
            return
        if entry.error:
            self.note(Reason.METADATA, directory, name, entry.error)
        announce(fd, 0, min(st.st_size, ANNOUNCED))
        self._opened += 1
        racy = racy or entry.error != 0
        self._steps.append((self._read, (_Opened(fd, directory, entry, st, racy, replaces, same),)))
        while self._opened > AHEAD:
            self._step()

    def _replaced(self, directory: Directory, dir_fd: int, name: bytes, replaces: bool) -> None:
        """What was a regular file a moment ago is something else now."""
        st = os.stat(name, dir_fd=dir_fd, follow_symlinks=False)
        if stat.S_ISREG(st.st_mode):
            self._lost(directory, name, replaces, Reason.UNREADABLE, errno.EBUSY)
        else:
            self._describe(directory, dir_fd, name, st, replaces)

    # Reading, in order

    def _read(self, file: _Opened) -> None:
        self._opened -= 1
        try:
            self._watch("read", file.entry.name)
            group = file.entry.link_group
            known = self._links.get(group) if group else None
            if known is not None and known[0] == make_row(file.st):
                row = NO_ROW if file.racy else known[0]
                _, file.entry.hash, file.entry.size = known
                self._script.entry(Kind.LINKED, file.directory, file.entry, row, file.replaces)
                return
            extents = extents_of(file.fd, file.st)
            if file.st.st_size <= SMALL and len(extents) == 1 and extents[0] == (0, file.st.st_size):
                self._read_small(file)
            else:
                self._read_large(file)
        except OSError as error:
            if file.same:
                self._script.count(Kind.UNCHANGED, 1)
            else:
                self._fail(file.directory, file.entry, file.replaces, error)
        finally:
            os.close(file.fd)

    def _read_small(self, file: _Opened) -> None:
        self._script.enter(file.directory)
        for attempt in range(1, ATTEMPTS + 1):
            view = self._ring.room(file.st.st_size)
            got = read_into(file.fd, view, 0)
            after = os.fstat(file.fd)
            verdict = judge(file.st, after, got)
            if verdict is not Verdict.CHANGED or attempt == ATTEMPTS:
                break
            self._renew(file, after)
            if after.st_size > SMALL:
                self._read_large(file)
                return
        file.entry.hash = whole_hash(self._key, view[:got])
        self._emit(Kind.SMALL, file, verdict, got)

    def _read_large(self, file: _Opened) -> None:
        file.same = False  # what was begun is ended
        self._script.enter(file.directory)
        kind = Kind.BEGIN
        for attempt in range(1, ATTEMPTS + 1):
            self._ring.record(kind, marshal.dumps((file.st.st_size, file.replaces)))
            extents = extents_of(file.fd, file.st)
            got, file.entry.hash = stream(self._ring, file.fd, file.st.st_size, extents, self._key)
            after = os.fstat(file.fd)
            verdict = judge(file.st, after, got)
            if verdict is not Verdict.CHANGED or attempt == ATTEMPTS:
                break
            self._renew(file, after)
            kind = Kind.RESTART
        self._emit(Kind.END, file, verdict, got)

    def _renew(self, file: _Opened, st: os.stat_result) -> None:
        """It is another file now: what stat tells of it anew, and the rest next time."""
        file.st = st
        file.same = False
        file.racy = True
        entry = file.entry
        entry.mode = stat.S_IMODE(st.st_mode)
        entry.uid, entry.gid = st.st_uid, st.st_gid
        entry.user, entry.group = self._names.user(st.st_uid), self._names.group(st.st_gid)
        entry.mtime_ns = st.st_mtime_ns

    def _emit(self, kind: Kind, file: _Opened, verdict: Verdict, got: int) -> None:
        entry = file.entry
        entry.size = got
        row = NO_ROW if file.racy or verdict is not Verdict.STABLE else make_row(file.st)
        if verdict is Verdict.CHANGED:
            entry.flags = EntryFlag.FUZZY
        self._script.entry(kind, file.directory, entry, row, file.replaces, got if kind is Kind.SMALL else 0)
        if verdict is not Verdict.STABLE:
            reason = Reason.FUZZY if verdict is Verdict.CHANGED else Reason.GREW
            self._script.note(reason, file.directory, entry.name, 0)
        elif entry.link_group and row != NO_ROW:
            self._links[entry.link_group] = row, entry.hash, got
            if len(self._links) > LINKS:
                self._links.popitem(last=False)

    def _fail(self, directory: Directory, entry: Entry, replaces: bool, error: OSError) -> None:
        entry.error = error.errno or errno.EIO
        entry.hash = b""
        self._script.entry(Kind.FAILED, directory, entry, NO_ROW, replaces)
        self._script.note(reason_of(error), directory, entry.name, entry.error)

    def _is_racy(self, st: os.stat_result) -> bool:
        """Whether it may change again without its times telling."""
        now = self._clock()
        return abs(now - st.st_mtime_ns) < RACY_NS or abs(now - st.st_ctime_ns) < RACY_NS


def link_group(st: os.stat_result) -> int:
    """The number that all names of one hard-linked inode share; 0 for what has one name, or is a directory."""
    if st.st_nlink < 2 or stat.S_ISDIR(st.st_mode):
        return 0
    digest = blake3(Purpose.LINK_GROUP.prefix + b"%d %d" % (st.st_dev, st.st_ino)).digest(length=8)
    return int.from_bytes(digest, "big") or 1
