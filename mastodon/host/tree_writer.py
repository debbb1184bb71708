"""Makes entries under one target directory, and never anywhere else.

Invariants:

- Every name is checked and used in an open directory below the target; directories are opened name by name and never
  through a symlink, so neither a hostile listing nor somebody who swaps names meanwhile leads outside.
- Nothing incomplete looks complete: it is made as a part (parts.py), gets content and attributes there, and is renamed
  into place; or, in a directory that is not finished, it has a mode that tells so until all else is done. What a
  killed restore leaves ``remove_leftovers`` and ``verdict`` take away.
- A directory that is not finished has a mode that tells so (writing_chain.py); a later restore finishes it even
  where existing directories are to stay as they are.
- No entry's failure raises: it is logged in ``problems``, and the call says False.

Several processes may write below one target at once, each its own files with a TreeWriter of its own; directories are
made on demand by whoever comes first. All names of a link group belong to one process, or are linked with ``link``
when the first name is there. ``finish_directories`` is for one process, at the end.
"""

import errno
import os
import stat
from collections.abc import Container, Iterable
from types import TracebackType
from typing import Self

from mastodon.host.attributes import FAILURES, AttributeSetter, ProblemLog
from mastodon.host.content_file import ContentFile, write_all
from mastodon.host.existing import Overwrite, Verdict, judge, matches, same_inode
from mastodon.host.linux import APPEND_ONLY, IMMUTABLE, NO_COPY_ON_WRITE, set_inode_flags
from mastodon.host.owners import OwnerMap
from mastodon.host.parts import FILE_IN_PROGRESS, Parts, is_incomplete, opened_node
from mastodon.host.paths import READ_FLAGS, Directory, DirectoryChain, check_name
from mastodon.host.writing_chain import WritingChain, WritingDirectory, in_progress, strip_inherited
from mastodon.sealed.entry import Entry, EntryType


class TreeWriter:
    """Writes entries below ``target_fd``, which stays the caller's.

    ``token``: 16 random hex digits, the same in all processes of one restore; ``worker``: another number in each.
    """

    def __init__(
        self,
        target_fd: int,
        *,
        token: str,
        worker: int = 0,
        overwrite: Overwrite = Overwrite.NEVER,
        owners: OwnerMap | None = None,
    ) -> None:
        self.problems = ProblemLog()
        self._target = target_fd
        self._overwrite = overwrite
        replace = overwrite in (Overwrite.ALWAYS, Overwrite.IF_CHANGED)
        self._chain = WritingChain(target_fd, replace=replace)
        self._reading = DirectoryChain(target_fd)
        self._parts = Parts(token, worker, replace=overwrite is not Overwrite.NEVER)
        self._attributes = AttributeSetter(owners or OwnerMap.by_number(), self.problems)
        self._us = (os.geteuid(), os.getegid())
        self._first_names: dict[int, tuple[Directory, bytes]] = {}
        self._late_flags: list[tuple[Directory, Entry]] = []

    # -- before writing

    def verdict(self, directory: Directory, entry: Entry) -> Verdict:
        """What the overwrite policy says about an entry that is no directory."""
        try:
            place = self._chain.place(directory)
            check_name(entry.name)
            if place.fresh:
                return Verdict.WRITE
            st = os.stat(entry.name, dir_fd=place.fd, follow_symlinks=False)
            if place.unfinished and is_incomplete(st):
                os.unlink(entry.name, dir_fd=place.fd)
                return Verdict.WRITE
        except FileNotFoundError:
            return Verdict.WRITE
        except FAILURES as error:
            self.problems.add(directory, entry.name, "place", error)
            return Verdict.LEAVE
        verdict = judge(self._overwrite, place.fd, entry, st)
        if verdict is Verdict.LEAVE:
            self.problems.add(directory, entry.name, "exists and is left as it is", errno.EEXIST)
        return verdict

    def existing_matches(self, directory: Directory, entry: Entry) -> bool:
        """Whether what is there has the entry's type, size, time and target: a hint, the content may still differ."""
        try:
            dir_fd = self._reading.open(directory)
            return matches(dir_fd, entry, os.stat(check_name(entry.name), dir_fd=dir_fd, follow_symlinks=False))
        except FAILURES:
            return False

    def open_existing(self, directory: Directory, name: bytes) -> int | None:
        """A descriptor for reading the regular file that is there, to verify its content; the caller closes it."""
        try:
            fd = os.open(check_name(name), READ_FLAGS, dir_fd=self._reading.open(directory))
        except FAILURES:
            return None
        if stat.S_ISREG(os.fstat(fd).st_mode):
            return fd
        os.close(fd)
        return None

    def accept(self, directory: Directory, entry: Entry) -> bool:
        """Takes what is there (Verdict.VERIFY) for the entry: attributes are set anew, unless nothing is to be touched.

        Later names of its link group are linked to it.
        """
        if self._overwrite is not Overwrite.NEVER:
            try:
                self._set_existing(directory, entry)
            except FAILURES as error:
                self.problems.add(directory, entry.name, "attributes", error)
                return False
        self._remember(directory, entry)
        return True

    def remove_leftovers(self, directory: Directory, keep: Container[bytes] = (), *, named: bool = False) -> int:
        """Removes what an earlier, killed restore left incomplete in a directory; ``keep`` are names of entries.

        ``named``: also what stands under its own name, which is only for a directory that this restore does not yet
        write in.
        """
        try:
            dir_fd = self._reading.open(directory)
            names = [os.fsencode(name) for name in os.listdir(dir_fd)]
            named = named and in_progress(os.fstat(dir_fd))
        except FileNotFoundError:
            return 0
        except FAILURES as error:
            self.problems.add(directory, None, "directory", error)
            return 0
        leftovers = [name for name in names if self._parts.is_leftover(name) and name not in keep]
        if named:
            leftovers += [name for name in names if self._is_incomplete(dir_fd, name)]
        for name in leftovers:
            self._parts.discard(dir_fd, name)
        return len(leftovers)

    def _is_incomplete(self, dir_fd: int, name: bytes) -> bool:
        try:
            return is_incomplete(os.stat(name, dir_fd=dir_fd, follow_symlinks=False))
        except OSError:
            return False

    # -- writing

    def write_small(self, directory: Directory, entry: Entry, data: bytes | memoryview) -> bool:
        """Makes a whole file at once: five or six system calls where it has neither xattrs nor flags."""
        try:
            place = self._chain.place(directory)
            name = part = check_name(entry.name)
            if place.unfinished and entry.mode != FILE_IN_PROGRESS:
                fd = self._create_named(place.fd, name)
            else:
                fd = -1
            if fd < 0:
                fd, part = self._parts.create(place.fd, 0o600)
        except FAILURES as error:
            self.problems.add(directory, entry.name, "create", error)
            return False
        try:
            if place.inherits or entry.inode_flags:
                self._prepare(fd, place, entry)
            if data:
                write_all(fd, data)
            self._attributes.complete(fd, directory, entry, self._us if place.plain else None)
            if part is name and not entry.link_group and not entry.inode_flags:
                return True
            return self._settle(place.fd, part, directory, entry, fd)
        except FAILURES as error:
            self.problems.add(directory, entry.name, "content", error)
            self._parts.discard(place.fd, part)
            return False
        finally:
            os.close(fd)

    def _create_named(self, dir_fd: int, name: bytes) -> int:
        """A file under its own name; -1 where the name is taken, so that the policy decides when a part is settled."""
        try:
            return self._parts.create_named(dir_fd, name)
        except FileExistsError:
            return -1

    def begin_file(self, directory: Directory, entry: Entry) -> ContentFile | None:
        """A file to be filled in any order; all of it is a hole until something is written there."""
        try:
            place = self._chain.place(directory)
            check_name(entry.name)
            fd, part = self._parts.create(place.fd, 0o600)
        except FAILURES as error:
            self.problems.add(directory, entry.name, "create", error)
            return None
        file = ContentFile(fd, part, directory, entry)
        try:
            self._prepare(fd, place, entry)
            os.ftruncate(fd, entry.size)
        except FAILURES as error:
            self.problems.add(directory, entry.name, "content", error)
            self.abandon_file(file)
            return None
        return file

    def finish_file(self, file: ContentFile) -> bool:
        """Sets the attributes of a filled file and moves it into place."""
        if file.failure is not None:
            self.problems.add(file.directory, file.entry.name, "content", file.failure)
            self.abandon_file(file)
            return False
        try:
            self._attributes.apply(file.fd, file.directory, file.entry)
            place = self._chain.place(file.directory)
            return self._settle(place.fd, file.part, file.directory, file.entry, file.fd)
        except FAILURES as error:
            self.problems.add(file.directory, file.entry.name, "place", error)
            return False
        finally:
            file.close()

    def abandon_file(self, file: ContentFile) -> None:
        """Removes a begun file: its content could not be had."""
        file.close()
        try:
            self._parts.discard(self._chain.place(file.directory).fd, file.part)
        except FAILURES as error:
            self.problems.add(file.directory, file.entry.name, "remove what was begun", error)

    def make(self, directory: Directory, entry: Entry) -> bool:
        """Makes what has no content: a directory (finished later), symlink, fifo, socket, device or empty file."""
        if entry.type is EntryType.FILE:
            return self.write_small(directory, entry, b"")
        try:
            if entry.type is EntryType.DIRECTORY:
                self._chain.place((*directory, entry.name))
                return True
            place = self._chain.place(directory)
            check_name(entry.name)
            part = self._parts.create_node(place.fd, entry)
        except FAILURES as error:
            self.problems.add(directory, entry.name, "create", error)
            return False
        try:
            with opened_node(place.fd, part, entry.type) as handle:
                if place.inherits:
                    strip_inherited(handle, flags=False)
                self._attributes.apply(handle, directory, entry)
            return self._settle(place.fd, part, directory, entry, None)
        except FAILURES as error:
            self.problems.add(directory, entry.name, "create", error)
            self._parts.discard(place.fd, part)
            return False

    def link_to_first(self, directory: Directory, entry: Entry) -> bool:
        """Links a further name of a link group to the one that this writer has made or accepted.

        False where there is none yet, or linking fails: then the entry is written like any other.
        """
        first = self._first_names.get(entry.link_group) if entry.link_group else None
        return first is not None and self.link(directory, entry, *first)

    def link(self, directory: Directory, entry: Entry, first_directory: Directory, first_name: bytes) -> bool:
        """Makes an entry as a hard link to a name that is there already."""
        part = self._parts.new_name()
        try:
            check_name(entry.name)
            first_fd = self._reading.open(first_directory)
            dir_fd = self._chain.place(directory).fd
            if same_inode(first_fd, check_name(first_name), dir_fd, entry.name):
                return True
            os.link(first_name, part, src_dir_fd=first_fd, dst_dir_fd=dir_fd, follow_symlinks=False)
            try:
                self._parts.settle(dir_fd, part, entry.name)
            except OSError:
                self._parts.discard(dir_fd, part)
                raise
        except FAILURES as error:
            self.problems.add(directory, entry.name, "hard link", error)
            return False
        return True

    # -- at the end

    def finish_directories(
        self, entries: Iterable[tuple[Directory, Entry]], target: Entry | None = None,
        fitting: Container[Directory] = (),
    ) -> None:  # fmt: skip
        """Gives directories their attributes, children before their parents; makes those that are missing.

        ``target`` is for the target directory itself. A directory that no restore made stays as it is under NEVER,
        unless it is one of ``fitting``: these matched their entries before anything was made in them.
        """
        for directory, entry in sorted(entries, key=lambda pair: (pair[0], pair[1].name), reverse=True):
            try:
                fd = self._chain.place((*directory, entry.name)).fd
                self._finish_directory(fd, directory, entry, (*directory, entry.name) in fitting)
            except FAILURES as error:
                self.problems.add(directory, entry.name, "directory", error)
        if target is not None:
            try:
                self._finish_directory(self._target, (), target)
            except FAILURES as error:
                self.problems.add((), None, "directory", error)

    def finish_links(self) -> None:
        """Sets the flags that would have refused further links. Once all names of all link groups are made."""
        for directory, entry in self._late_flags:
            fd = self.open_existing(directory, entry.name)
            if fd is None:
                self.problems.add(directory, entry.name, "inode flags", errno.ENOENT)
                continue
            self._attributes.set_flags(fd, directory, entry)
            os.close(fd)
        self._late_flags.clear()

    def close(self) -> None:
        """Sets what is still to be set, and closes all directories."""
        self.finish_links()
        self._chain.close()
        self._reading.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    # -- inside

    def _prepare(self, fd: int, place: WritingDirectory, entry: Entry) -> None:
        """Before a new file gets content: nothing inherited, and the one flag that only an empty file takes."""
        if place.inherits:
            strip_inherited(fd, flags=True)
        if entry.inode_flags & NO_COPY_ON_WRITE:
            try:
                set_inode_flags(fd, NO_COPY_ON_WRITE)
            except OSError:
                return  # logged when all flags are set

    def _settle(self, dir_fd: int, part: bytes, directory: Directory, entry: Entry, fd: int | None) -> bool:
        try:
            if part is not entry.name:
                self._parts.settle(dir_fd, part, entry.name)
        except FAILURES as error:
            self.problems.add(directory, entry.name, "place", error)
            self._parts.discard(dir_fd, part)
            return False
        if entry.inode_flags and fd is not None:
            if entry.link_group and entry.inode_flags & (IMMUTABLE | APPEND_ONLY):
                self._late_flags.append((directory, entry))
            else:
                self._attributes.set_flags(fd, directory, entry)
        self._remember(directory, entry)
        return True

    def _remember(self, directory: Directory, entry: Entry) -> None:
        if entry.link_group:
            self._first_names.setdefault(entry.link_group, (directory, entry.name))

    def _set_existing(self, directory: Directory, entry: Entry) -> None:
        dir_fd = self._chain.place(directory).fd
        check_name(entry.name)
        if entry.type is not EntryType.FILE:
            with opened_node(dir_fd, entry.name, entry.type) as handle:
                self._attributes.apply(handle, directory, entry, existing=True)
            return
        fd = os.open(entry.name, READ_FLAGS, dir_fd=dir_fd)
        try:
            self._attributes.release(fd)
            self._attributes.apply(fd, directory, entry, existing=True)
            self._attributes.update_flags(fd, directory, entry)
        finally:
            os.close(fd)

    def _finish_directory(self, fd: int, directory: Directory, entry: Entry, fits: bool = False) -> None:
        st = os.fstat(fd)
        unfinished = in_progress(st)
        if unfinished:
            self._attributes.complete(fd, directory, entry, (st.st_uid, st.st_gid))
        elif fits or self._overwrite is not Overwrite.NEVER:
            self._attributes.release(fd)
            self._attributes.apply(fd, directory, entry, existing=True)
        else:
            return
        if entry.inode_flags or not unfinished:  # those that a new one inherited were taken away
            self._attributes.update_flags(fd, directory, entry)
