"""Restores a tree: listing in, files out of order, links and directories' attributes last.

The main process carries sealed pages and blobs from the source to worker processes, which open, check and write
(kept_pages.py, worker.py). It decides about what concerns more than one of them: large files, links, deltas, and
directories. Memory is bounded: a few pages are worked on at a time, and the workers get their blobs through arenas of
fixed size. Nothing is ever written outside the target directory, and nothing incomplete looks complete
(host/tree_writer.py).
"""

import errno
import gc
import mmap
import os
import resource
import secrets
import socket
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from mastodon.host.allocation import keep_freed_memory
from mastodon.host.attributes import EXAMPLES
from mastodon.host.existing import Overwrite, Verdict
from mastodon.host.owners import OwnerMap
from mastodon.host.parts import Parts
from mastodon.host.tree_writer import TreeWriter
from mastodon.restore.blobs import BlobReader, LostBlob
from mastodon.restore.compare import content_matches
from mastodon.restore.content import ContentLost
from mastodon.restore.delta import restore_delta
from mastodon.restore.directories import WaitingDirectories, shares
from mastodon.restore.dispatch import Dispatcher
from mastodon.restore.fetch import LEVEL_OF_PAGES, Fetcher
from mastodon.restore.jobs import JobResult, PageFile, PageResult, Part, pack_entry, unpack_whole
from mastodon.restore.kept_pages import Terms, is_whole, shown
from mastodon.restore.needs import LargeFile, Piece, SmallFile
from mastodon.restore.plan import Listing
from mastodon.restore.pool import WorkerPool, worker_count
from mastodon.restore.report import Report
from mastodon.restore.select import Selection
from mastodon.restore.worker import COLLECT_EVERY, serve
from mastodon.sealed.blob import BlobOpener
from mastodon.sealed.entry import HOLE, Entry, EntryType
from mastodon.sealed.listing import Directory

PAGES_A_TURN = 4
"""Neighbouring pages for one worker: they share a bundle, which would else be opened twice."""
TURNS_AHEAD = 2
"""Of each worker."""
LINKS_AT_ONCE = 50_000
DELTAS_AT_ONCE = 256
DIRECTORIES_AT_ONCE = 20_000
SCRATCH_WORKER = 255


@dataclass(frozen=True, slots=True)
class RestoreOptions:
    """How to restore. ``verify`` compares the content of what is there, not just size and time."""

    overwrite: Overwrite = Overwrite.NEVER
    owners: OwnerMap = field(default_factory=OwnerMap.by_number)
    verify: bool = False
    workers: int = field(default_factory=worker_count)


@dataclass(slots=True)
class _OpenPage:
    """A page that a worker has or is to get: its references, and how many of its parts are not done."""

    worker: int
    references: tuple[bytes, ...] = ()
    left: int = 0


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
        self._todo: deque[int] = deque()
        self._open: dict[int, _OpenPage] = {}
        self._undecoded = 0
        self._others: deque[tuple[Directory, Entry, tuple[bytes, ...]]] = deque()
        self._directories = WaitingDirectories()
        self._most_directories = DIRECTORIES_AT_ONCE
        self._groups: dict[int, tuple[Directory, bytes]] = {}
        self._links: list[tuple[Directory, Entry]] = []
        self._deltas: list[tuple[Directory, Entry, tuple[bytes, ...]]] = []
        self._open_files = 0
        self._most_open = _raise_descriptor_limit()

    def run(self) -> Report:
        """Do it. Raises RestoreError for what ends a restore."""
        pool: WorkerPool | None = None
        keep_freed_memory()
        before = gc.get_threshold()
        gc.freeze()  # what is here by now stays, and is shared with the workers as long as nobody touches it
        gc.set_threshold(COLLECT_EVERY)
        try:
            with self._make_writer(0) as writer:
                self._writer = writer
                pool = WorkerPool(self._options.workers, self._serve, [self._target], self._take_result)
                self._pool = pool
                self._dispatcher = dispatcher = Dispatcher(self._reader, pool, writer, self.report, self)
                self._fetcher = Fetcher(
                    self._reader.intake, dispatcher.blob_came, dispatcher.lost, dispatcher.flush, pool.load
                )
                self._restore_pages()
                pool.finish(writer.problems, self._take_losses)
                pool = None
        finally:
            if pool is not None:
                pool.kill()
            gc.set_threshold(*before)
            gc.unfreeze()
        self.report.problems = self._writer.problems
        return self.report

    def _make_writer(self, worker: int) -> TreeWriter:
        options = self._options
        return TreeWriter(
            self._target, token=self._token, worker=worker, overwrite=options.overwrite, owners=options.owners
        )

    def _serve(self, channel: socket.socket, arena: mmap.mmap, number: int) -> None:
        trust = self._reader.trust
        terms = Terms(self._listing, self._selection, self._resumes, self._options.verify)
        serve(channel, arena, self._make_writer(number), BlobOpener(trust.known.machine, trust.id_key), terms)

    def _take_result(self, result: JobResult) -> None:
        self._dispatcher.take_result(result)

    def _take_losses(self, examples: Sequence[str], count: int) -> None:
        self.report.losses += examples[: EXAMPLES - len(self.report.losses)]
        self.report.lost_count += count

    # -- the listing

    def _restore_pages(self) -> None:
        if self._resumes:
            self._writer.remove_leftovers((), named=True)
        wanted = self._selection.page_indices(self._listing.root)
        self._todo.extend(range(self._listing.count) if wanted is None else wanted)
        while True:
            self._schedule_others()
            if not self._window_is_full():
                self._ask_pages()
            if self._fetcher.step(more_to_come=self._undecoded > 0) or self._dispatcher.wait() or self._others:
                continue
            position = shown(self._listing.root.first_keys[self._todo[0]][0]) if self._todo else None
            self._finish_window(position)
            if not self._todo:
                return

    def _ask_pages(self) -> None:
        """Have a few pages on the way to every worker, some neighbours at a time. Where something is there already one
        worker judges it, in order: a directory before anything is made in it."""
        workers = 1 if self._resumes else self._pool.count
        while self._todo:
            share = len(self._todo) // (2 * workers) if workers > 1 else PAGES_A_TURN
            length = max(1, min(PAGES_A_TURN, share))  # less and less at the end, so that all end together
            if len(self._open) > length * (TURNS_AHEAD * workers - 1):
                return
            held = [0] * workers
            for page in self._open.values():
                held[page.worker] += 1
            worker = min(range(workers), key=lambda one: (held[one], self._pool.load(one)))
            turn = [self._todo.popleft() for _ in range(min(length, len(self._todo)))]
            self._undecoded += len(turn)
            for index in turn:
                self._open[index] = _OpenPage(worker)
            self._fetcher.ask_pages([(index, self._listing.page_id(index)) for index in turn], worker)

    def page_here(self, page: PageResult, references: tuple[bytes, ...]) -> None:
        """A worker has decoded a page."""
        self._undecoded -= 1
        if page.lost:
            del self._open[page.page]
            self.report.lost_text(page.lost)
            return
        report = self.report
        report.entries += page.entries
        report.carried += page.carried
        report.fuzzy += page.fuzzy
        report.kept_files += page.kept_files
        report.kept_bytes += page.kept_bytes
        self._selection.mark(page.met)
        for one in page.directories:
            self._directories.add(one)
        self._others.extend((directory, unpack_whole(packed), references) for directory, packed in page.others)
        here = self._open[page.page]
        here.references = references
        here.left = len(page.needs)
        for reference, reach in page.needs:
            self._fetcher.need_part(references[reference], here.worker, (page.page, reference), reach)
        if not here.left:
            del self._open[page.page]

    def page_lost(self, page: int, reason: str) -> None:
        """A page cannot be had."""
        self._undecoded -= 1
        del self._open[page]
        self.report.lost_text(str(self._listing.verified(page, LostBlob(reason))))

    def given_back(self, page: int, files: Sequence[PageFile]) -> None:
        """Whole entries of a page that a worker cannot write: what they lie in is a map."""
        references = self._open[page].references
        for directory, packed in files:
            self._schedule_large(directory, unpack_whole(packed), references)

    def part_done(self, part: Part) -> None:
        """All that can be done for a part of a page has been done."""
        here = self._open[part[0]]
        here.left -= 1
        if not here.left:
            del self._open[part[0]]

    def need_pieces(self, id: bytes, level: int, pieces: Iterable[Piece]) -> None:
        """A map leads to these."""
        self._fetcher.need_pieces(id, level, pieces)

    def file_begun(self) -> None:
        """There is one more large file, as it turned out."""
        self._open_files += 1

    def file_over(self, file: LargeFile) -> None:
        """A large file is complete, or given up."""
        self._open_files -= 1

    # -- what is decided here

    def _schedule_others(self) -> None:
        while self._others and self._open_files < self._most_open:
            self._schedule(*self._others.popleft())

    def _schedule(self, directory: Directory, entry: Entry, references: tuple[bytes, ...]) -> None:
        if entry.link_group and entry.link_group in self._groups:
            entry.places, entry.delta = (), None
            self._links.append((directory, entry))
            return
        if self._resumes and not self._wanted(directory, entry, references):
            return
        if entry.link_group:
            self._groups[entry.link_group] = (directory, entry.name)
        self._schedule_content(directory, entry, references)

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
            self._dispatcher.make([SmallFile(directory, pack_entry(entry), -1)])
        elif entry.delta is not None:
            self._deltas.append((directory, entry, references))
        elif not entry.places:
            why = f": {os.strerror(entry.error)}" if entry.error else ""
            self.report.lost(directory, entry.name, f"its content could not be read when it was backed up{why}")
            if entry.link_group:
                self._groups.pop(entry.link_group)
        elif is_whole(entry):
            place = entry.places[0]
            small = SmallFile(directory, pack_entry(entry), place.offset)
            self._fetcher.need_file(references[place.reference], LEVEL_OF_PAGES, small)
        else:
            self._schedule_large(directory, entry, references)

    def _schedule_large(self, directory: Directory, entry: Entry, references: tuple[bytes, ...]) -> None:
        file = LargeFile(directory, entry)
        self._open_files += 1
        offset = 0
        for place in entry.places:
            if place.reference != HOLE:
                file.left += 1
                piece = Piece(file, offset, place.offset, place.length)
                self._fetcher.need_pieces(references[place.reference], LEVEL_OF_PAGES, [piece])
            offset += place.length
        entry.places = ()
        if not file.left:
            self._dispatcher.complete(file)

    # -- what comes last

    def _window_is_full(self) -> bool:
        """Whether no more pages are to be taken before what waits for the end of others is done."""
        return bool(
            self._others
            or len(self._links) >= LINKS_AT_ONCE
            or len(self._deltas) >= DELTAS_AT_ONCE
            or len(self._directories) >= self._most_directories
        )

    def _finish_window(self, position: Directory | None) -> None:
        """All pages taken are done; now what has to come last: links, deltas, directories left behind."""
        for directory, entry, references in self._deltas:
            self._restore_delta(directory, entry, references)
        self._deltas.clear()
        for directory, entry in self._links:
            self._link(directory, entry)
        self._links.clear()
        passed = self._directories.take_passed(position)
        self.report.directories += len(passed)
        apart, spanning = shares(passed)
        for share in apart:
            self._dispatcher.finish_directories(share)
        self._dispatcher.settle()
        self._dispatcher.finish_directories(spanning)
        self._dispatcher.settle()
        self._most_directories = max(DIRECTORIES_AT_ONCE, 2 * len(self._directories))

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


def _raise_descriptor_limit() -> int:
    """How many large files may be open at once: each needs a descriptor until its last piece is written."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 4096 if hard == resource.RLIM_INFINITY else min(hard, 4096)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        soft = wanted
    return max(16, (min(soft, 4096) if soft != resource.RLIM_INFINITY else 4096) // 2)
