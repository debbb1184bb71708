"""Restores a tree: listing in, files out of order, links and directories' attributes last.

The main process reads the listing, decides what to write, asks for blobs and hands them to worker processes, which
open, check and write. Memory is bounded: the listing is streamed, a window of it is worked on at a time, and the
workers get their blobs through arenas of fixed size. Nothing is ever written outside the target directory, and
nothing incomplete stands under its name (host/tree_writer.py).
"""

import errno
import mmap
import os
import resource
import secrets
import socket
from collections.abc import Callable
from dataclasses import dataclass, field

from mastodon.host.existing import Overwrite, Verdict
from mastodon.host.owners import OwnerMap
from mastodon.host.parts import Parts
from mastodon.host.tree_writer import TreeWriter
from mastodon.restore.blobs import BlobReader
from mastodon.restore.compare import content_matches
from mastodon.restore.content import ContentLost
from mastodon.restore.delta import restore_delta
from mastodon.restore.directories import WaitingDirectories
from mastodon.restore.dispatch import Dispatcher
from mastodon.restore.fetch import Fetcher
from mastodon.restore.jobs import JobResult, pack_entry
from mastodon.restore.needs import LargeFile, Piece, SmallFile
from mastodon.restore.plan import Listing, LostPage, Page
from mastodon.restore.pool import WorkerPool, worker_count
from mastodon.restore.report import Report
from mastodon.restore.select import Selection
from mastodon.restore.worker import serve
from mastodon.sealed.blob import BlobOpener
from mastodon.sealed.entry import HOLE, Entry, EntryFlag, EntryType
from mastodon.sealed.listing import SOURCE, Directory

WINDOW_ENTRIES = 16_384
WINDOW_BLOBS = 16_384
WHOLE_LIMIT = 4 * 1024 * 1024
"""A file up to this size that lies in one blob is written at once."""
MAKE_BATCH = 256
LEVEL_OF_PAGES = 2
LINKS_AT_ONCE = 50_000
DIRECTORIES_AT_ONCE = 20_000
SHOWN_SOURCE = b".source"
SCRATCH_WORKER = 255


@dataclass(frozen=True, slots=True)
class RestoreOptions:
    """How to restore. ``verify`` compares the content of what is there, not just size and time."""

    overwrite: Overwrite = Overwrite.NEVER
    owners: OwnerMap = field(default_factory=OwnerMap.by_number)
    verify: bool = False
    workers: int = field(default_factory=worker_count)


class TreeRestore:
    """One restore below ``target_fd``."""

    def __init__(
        self, reader: BlobReader, listing: Listing, selection: Selection, target_fd: int, options: RestoreOptions,
        on_tick: Callable[[Report], None] | None = None,
    ) -> None:  # fmt: skip
        self.report = Report(on_tick=on_tick)
        self._reader = reader
        self._listing = listing
        self._selection = selection
        self._target = target_fd
        self._options = options
        self._token = secrets.token_hex(8)
        self._scratch = Parts(self._token, SCRATCH_WORKER, replace=False)
        self._resumes = bool(os.listdir(target_fd))
        self._directories = WaitingDirectories()
        self._groups: dict[int, tuple[Directory, bytes]] = {}
        self._links: list[tuple[Directory, Entry]] = []
        self._deltas: list[tuple[Directory, Entry, tuple[bytes, ...]]] = []
        self._bare: list[SmallFile] = []
        self._window = 0
        self._open_files = 0
        self._most_open = _raise_descriptor_limit()

    def run(self) -> Report:
        """Do it. Raises RestoreError for what ends a restore."""
        pool: WorkerPool | None = None
        try:
            with self._make_writer(0) as writer:
                self._writer = writer
                pool = WorkerPool(self._options.workers, self._serve, [self._target], self._take_result)
                self._fetcher = Fetcher(self._reader.intake)
                self._dispatcher = Dispatcher(self._reader, pool, writer, self.report, self._fetcher.need_pieces)
                self._fetcher.dispatcher = self._dispatcher
                self._restore_pages()
                self._finish_window(None)
                pool.finish(writer.problems)
                pool = None
        finally:
            if pool is not None:
                pool.kill()
        self.report.problems = self._writer.problems
        return self.report

    def _make_writer(self, worker: int) -> TreeWriter:
        options = self._options
        return TreeWriter(
            self._target, token=self._token, worker=worker, overwrite=options.overwrite, owners=options.owners
        )

    def _serve(self, channel: socket.socket, arena: mmap.mmap, number: int) -> None:
        trust = self._reader.trust
        serve(channel, arena, self._make_writer(number), BlobOpener(trust.known.machine, trust.id_key))

    def _take_result(self, result: JobResult) -> None:
        self._dispatcher.take_result(result)

    # -- the listing

    def _restore_pages(self) -> None:
        if self._resumes:
            self._writer.remove_leftovers((), named=True)
        for page in self._listing.pages(self._selection.page_indices(self._listing.root)):
            if isinstance(page, LostPage):
                self.report.lost_text(str(page))
                continue
            self._schedule_page(page)
            self.report.tick()

    def _schedule_page(self, page: Page) -> None:
        for section in page.sections:
            directory = section.directory
            here = shown(directory)
            if self._resumes:
                self._writer.remove_leftovers(here, {entry.name for entry in section.entries})
            for entry in section.entries:
                if self._selection.takes(directory, entry.name):
                    self._schedule(here, entry, page.references)
                elif entry.type is EntryType.DIRECTORY and self._selection.is_ancestor((*directory, entry.name)):
                    self._wait_for(here, entry)
            if self._window_is_full():
                self._next_window(here)

    def _schedule(self, directory: Directory, entry: Entry, references: tuple[bytes, ...]) -> None:
        self._window += 1
        self.report.entries += 1
        if entry.flags:
            self.report.carried += bool(entry.flags & EntryFlag.CARRIED)
            self.report.fuzzy += bool(entry.flags & EntryFlag.FUZZY)
        if entry.type is EntryType.DIRECTORY:
            self._wait_for(directory, entry)
            return
        if entry.link_group and entry.link_group in self._groups:
            entry.places, entry.delta = (), None
            self._links.append((directory, entry))
            return
        if self._resumes and not self._wanted(directory, entry, references):
            return
        if entry.link_group:
            self._groups[entry.link_group] = (directory, entry.name)
        self._schedule_content(directory, entry, references)

    def _wait_for(self, directory: Directory, entry: Entry) -> None:
        """A directory: one that looks finished loses its time when something is made in it, and gets it back."""
        self._directories.add(directory, entry, fits=self._resumes and self._writer.existing_matches(directory, entry))

    def _wanted(self, directory: Directory, entry: Entry, references: tuple[bytes, ...]) -> bool:
        """Whether an entry has to be written, seeing what is there."""
        verdict = self._writer.verdict(directory, entry)
        if verdict is Verdict.VERIFY and self._options.verify and entry.size:
            verdict = self._verify(directory, entry, references)
        if verdict is Verdict.WRITE:
            return True
        if verdict is Verdict.VERIFY and self._writer.accept(directory, entry):
            self.report.kept_files += entry.type is EntryType.FILE
            self.report.kept_bytes += entry.size
            if entry.link_group:
                self._groups[entry.link_group] = (directory, entry.name)
        return False

    def _verify(self, directory: Directory, entry: Entry, references: tuple[bytes, ...]) -> Verdict:
        try:
            if content_matches(self._reader, self._writer, directory, entry, references):
                return Verdict.VERIFY
        except ContentLost as error:
            self.report.lost(directory, entry.name, f"what is there cannot be compared: {error}")
            return Verdict.LEAVE
        if self._options.overwrite is Overwrite.NEVER:
            self._writer.problems.add(directory, entry.name, "has another content and is left as it is", errno.EEXIST)
            return Verdict.LEAVE
        return Verdict.WRITE

    def _schedule_content(self, directory: Directory, entry: Entry, references: tuple[bytes, ...]) -> None:
        if entry.type is not EntryType.FILE or not entry.size:
            self._bare.append(SmallFile(directory, pack_entry(entry), -1))
            if len(self._bare) >= MAKE_BATCH:
                self._make_bare()
        elif entry.delta is not None:
            self._deltas.append((directory, entry, references))
        elif not entry.places:
            why = f": {os.strerror(entry.error)}" if entry.error else ""
            self.report.lost(directory, entry.name, f"its content could not be read when it was backed up{why}")
            if entry.link_group:
                self._groups.pop(entry.link_group)
        elif len(entry.places) == 1 and entry.size <= WHOLE_LIMIT and entry.places[0].reference != HOLE:
            place = entry.places[0]
            small = SmallFile(directory, pack_entry(entry), place.offset)
            self._fetcher.need_file(references[place.reference], LEVEL_OF_PAGES, small)
        else:
            self._schedule_large(directory, entry, references)

    def _schedule_large(self, directory: Directory, entry: Entry, references: tuple[bytes, ...]) -> None:
        file = LargeFile(directory, entry)
        offset = 0
        for place in entry.places:
            if place.reference != HOLE:
                file.left += 1
                piece = Piece(file, offset, place.offset, place.length)
                self._fetcher.need_pieces(references[place.reference], LEVEL_OF_PAGES, [piece])
            offset += place.length
        entry.places = ()
        if file.left:
            self._open_files += 1
        else:
            self._dispatcher.complete(file)

    def _make_bare(self) -> None:
        if self._bare:
            self._dispatcher.make(self._bare)
            self._bare = []

    # -- windows

    def _window_is_full(self) -> bool:
        return (
            self._window >= WINDOW_ENTRIES
            or self._fetcher.waiting >= WINDOW_BLOBS
            or self._open_files >= self._most_open
        )

    def _next_window(self, position: Directory) -> None:
        many = self._open_files >= self._most_open
        self._fetcher.pump(all_of_it=many)
        if many or len(self._links) >= LINKS_AT_ONCE or len(self._directories) >= DIRECTORIES_AT_ONCE or self._deltas:
            self._finish_window(position)
        self._window = 0

    def _finish_window(self, position: Directory | None) -> None:
        """Wait for all that is under way; then what has to come last: links, deltas, directories left behind."""
        self._make_bare()
        self._fetcher.pump(all_of_it=True)
        self._dispatcher.settle()
        while self._fetcher.waiting:  # maps that opened at the second try lead to more
            self._fetcher.pump(all_of_it=True)
            self._dispatcher.settle()
        self._open_files = 0
        for directory, entry, references in self._deltas:
            self._restore_delta(directory, entry, references)
        self._deltas.clear()
        for directory, entry in self._links:
            self._link(directory, entry)
        self._links.clear()
        passed = self._directories.take_passed(position)
        fitting = {(*directory, entry.name) for directory, entry, fits in passed if fits}
        self._writer.finish_directories(((directory, entry) for directory, entry, _ in passed), fitting=fitting)
        self.report.directories += len(passed)

    def _link(self, directory: Directory, entry: Entry) -> None:
        if entry.link_group in self._dispatcher.failed_groups:
            self.report.lost(directory, entry.name, "the file that it is a hard link to could not be restored")
        elif self._writer.link(directory, entry, *self._groups[entry.link_group]):
            self.report.links += 1

    def _restore_delta(self, directory: Directory, entry: Entry, references: tuple[bytes, ...]) -> None:
        try:
            done = restore_delta(self._reader, self._writer, self._target, self._scratch, directory, entry, references)
        except (ContentLost, OSError) as error:
            self.report.lost(directory, entry.name, str(error))
            done = False
        if done:
            self.report.files += 1
            self.report.content_bytes += entry.size
        elif entry.link_group:
            self._dispatcher.failed_groups.add(entry.link_group)


def shown(directory: Directory) -> Directory:
    """Where a directory of the listing goes below the target: sources go to .source."""
    return (SHOWN_SOURCE, *directory[1:]) if directory and directory[0] == SOURCE else directory


def _raise_descriptor_limit() -> int:
    """How many large files may be open at once: each needs a descriptor until its last piece is written."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 4096 if hard == resource.RLIM_INFINITY else min(hard, 4096)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        soft = wanted
    return max(16, (min(soft, 4096) if soft != resource.RLIM_INFINITY else 4096) // 2)
