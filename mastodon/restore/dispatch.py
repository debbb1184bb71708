"""Hands blobs that have come to the workers, and deals with what comes back.

The first sealing of an id that comes goes to a worker unopened. Where it does not open, the blob is asked for once
more, every sealing is tried here, and only when none verifies its files are told as lost. Maps are opened here,
since they lead to further needs.
"""

from collections import deque
from collections.abc import Iterable, Sequence
from typing import Protocol

from mastodon.host.tree_writer import TreeWriter
from mastodon.restore.blobs import CLOSED, BlobReader, LostBlob
from mastodon.restore.content import ContentLost, map_places
from mastodon.restore.jobs import Do, JobResult, PackedDirectory, PageFile, PageResult, Part, Task, unpack_entry
from mastodon.restore.needs import ANY, LargeFile, Need, Piece, SmallFile
from mastodon.restore.pool import Blob, WorkerPool
from mastodon.restore.report import Report
from mastodon.sealed.blob import LEVELS, BlobHeader, BlobKind
from mastodon.sealed.entry import HOLE
from mastodon.sealed.errors import FormatError, Malformed
from mastodon.sealed.listing import Directory

JOB_BYTES = 1024 * 1024
JOB_BLOBS = 48
JOB_DESCRIPTORS = 150
FILES_A_JOB = 4096
"""Files written from one blob in one job: more of them are further jobs."""


class Owner(Protocol):
    """The restore that all this is for."""

    def page_here(self, page: PageResult, references: tuple[bytes, ...]) -> None:
        """A worker has decoded a page."""

    def page_lost(self, page: int, reason: str) -> None:
        """A page cannot be had."""

    def given_back(self, page: int, files: Sequence[PageFile]) -> None:
        """Whole entries of a page that a worker cannot write."""

    def part_done(self, part: Part) -> None:
        """All that can be done for a part of a page has been done."""

    def file_begun(self) -> None:
        """There is one more large file, as it turned out."""

    def file_over(self, file: LargeFile) -> None:
        """A large file is complete, or given up."""

    def need_pieces(self, id: bytes, level: int, pieces: Iterable[Piece]) -> None:
        """A map leads to these."""


class _Batch:
    """Tasks that are gathered for a worker."""

    def __init__(self) -> None:
        self.blobs: list[Blob] = []
        self.needs: list[Need] = []
        self.bytes = 0
        self.descriptors: dict[int, int] = {}


class Dispatcher:
    """Blobs in, files out."""

    def __init__(
        self, reader: BlobReader, pool: WorkerPool, writer: TreeWriter, report: Report, owner: Owner
    ) -> None:  # fmt: skip
        self._reader = reader
        self._pool = pool
        self._writer = writer
        self._report = report
        self._owner = owner
        self._results: deque[JobResult] = deque()
        self._running: dict[int, list[Need]] = {}
        self._batches: dict[int, _Batch] = {}
        self.failed_groups: set[int] = set()

    def take_result(self, result: JobResult) -> None:
        """From the pool; dealt with later, since this may be called amid a submit."""
        self._results.append(result)

    def blob_came(self, need: Need, header: BlobHeader, data: bytes | memoryview) -> None:
        """The first sealing of a needed blob is here."""
        self.work_off()
        try:
            _check_kind(need, header)
            if header.kind is BlobKind.MAP:
                self._open_map(need, header, data)
                return
            run_key = self._reader.run_key(header)
        except CLOSED as error:
            self._try_others(need, str(error))
            return
        need.references = header.references
        self._hand_over(need, run_key, data)

    def lost(self, need: Need, reason: str) -> None:
        """A blob cannot be had: all that needs it is told by name."""
        why = f"{reason} (blob {need.id.hex()[:16]})"
        if need.page >= 0:
            self._owner.page_lost(need.page, reason)
        for small in need.files:
            self._report.lost(small.directory, small.name, why)
            if small.link_group:
                self.failed_groups.add(small.link_group)
        for piece in need.pieces:
            self._piece_done(piece, why)
        for worker, part in need.parts:
            task = Task(Do.LOSE, parts=[part], reason=why)
            self._add(worker, Need(need.id, need.level, parts=[(worker, part)]), task)

    def make(self, entries: list[SmallFile]) -> None:
        """Have entries without content made."""
        self._add(ANY, Need(b"", 0, entries), Task(Do.WRITE, files=_grouped(entries)))

    def finish_directories(self, entries: list[PackedDirectory]) -> None:
        """Have directories given their attributes; of those in one call, children come before their parents."""
        if entries:
            self._add(ANY, Need(b"", 0), Task(Do.FINISH, directories=entries))

    def flush(self) -> None:
        """Hand over what was gathered."""
        for worker in list(self._batches):
            self._flush(worker)
        self.work_off()

    def wait(self) -> bool:
        """Wait for a result; False when none is to come."""
        self.flush()
        if not self._running:
            return False
        self._pool.wait()
        self.work_off()
        return True

    def settle(self) -> None:
        """Wait until everything that was handed over is done, second tries included."""
        while self.wait():
            pass

    def work_off(self) -> None:
        """Deal with the results that are here."""
        while self._results:
            self._deal_with(self._results.popleft())

    # -- to the workers

    def _hand_over(self, need: Need, run_key: bytes, data: bytes | memoryview) -> None:
        if need.page >= 0:
            task = Task(Do.PAGE, run_key, need.id, page=need.page)
            self._add(need.worker, need, task, data)
            return
        for worker in dict.fromkeys(worker for worker, _ in need.parts):
            parts = [part for of, part in need.parts if of == worker]
            one = Need(need.id, need.level, parts=[(worker, part) for part in parts], worker=worker)
            self._add(worker, one, Task(Do.WRITE, run_key, need.id, parts=parts), data)
        pieces = [piece for piece in need.pieces if self._begin(piece.file)]
        for piece in need.pieces:
            if piece.file.reason:
                self._piece_done(piece, "")
        files = need.files
        while files or pieces:
            some = Need(need.id, need.level, files[:FILES_A_JOB], pieces[:JOB_DESCRIPTORS])
            files, pieces = files[FILES_A_JOB:], pieces[JOB_DESCRIPTORS:]
            self._add_pieces(some, run_key, data)

    def _add_pieces(self, need: Need, run_key: bytes, data: bytes | memoryview) -> None:
        batch = self._batches.get(ANY)
        if batch is not None and len(batch.descriptors) + len(need.pieces) > JOB_DESCRIPTORS:
            self._flush(ANY)
        descriptors = self._batches.setdefault(ANY, _Batch()).descriptors
        pieces = []
        for piece in need.pieces:
            content = piece.file.content
            assert content is not None  # begun in _hand_over
            index = descriptors.setdefault(content.fd, len(descriptors))
            pieces.append((index, piece.file_offset, piece.blob_offset, piece.length))
        self._add(ANY, need, Task(Do.WRITE, run_key, need.id, files=_grouped(need.files), pieces=pieces), data)

    def _add(self, worker: int, need: Need, task: Task, data: bytes | memoryview = b"") -> None:
        batch = self._batches.setdefault(worker, _Batch())
        batch.blobs.append(Blob(data, task))
        batch.needs.append(need)
        batch.bytes += len(data)
        if len(batch.blobs) >= JOB_BLOBS or batch.bytes >= JOB_BYTES or task.do is not Do.WRITE:
            self._flush(worker)

    def _flush(self, worker: int) -> None:
        batch = self._batches.pop(worker, None)
        if batch is not None and batch.blobs:
            number = self._pool.submit(batch.blobs, list(batch.descriptors), worker)
            self._running[number] = batch.needs

    def _begin(self, file: LargeFile) -> bool:
        if file.content is None and not file.reason:
            file.content = self._writer.begin_file(file.directory, file.entry)
            if file.content is None:
                file.reason = "it could not be made"
        return not file.reason

    # -- from the workers

    def _deal_with(self, result: JobResult) -> None:
        needs = self._running.pop(result.number)
        self._report.files += result.files
        self._report.content_bytes += result.content_bytes
        self.failed_groups.update(result.failed_groups)
        references = {need.page: need.references for need in needs if need.page >= 0}
        for page in result.pages:
            self._owner.page_here(page, references[page.page])
        for index, files in result.given_back:
            self._owner.given_back(index, files)
        closed = dict(result.closed)
        failed = {(task, piece): number for task, piece, number in result.failed_pieces}
        for index, need in enumerate(needs):
            if index in closed:
                self._try_others(need, closed[index])
                continue
            for position, piece in enumerate(need.pieces):
                number = failed.get((index, position), 0)
                if number and piece.file.content is not None:
                    piece.file.content.failure = OSError(number, "")
                self._piece_done(piece, "")
            for _, part in need.parts:
                self._owner.part_done(part)
        self._report.tick()

    def _try_others(self, need: Need, reason: str) -> None:
        other = self._reader.sealing_that_opens(need.id)
        if isinstance(other, LostBlob):
            self.lost(need, other.reason if other.reason else reason)
            return
        header, data = other
        try:
            _check_kind(need, header)
        except FormatError as error:
            self.lost(need, str(error))
            return
        if header.kind is BlobKind.MAP:
            self._open_map(need, header, data)
        else:
            need.references = header.references
            self._hand_over(need, self._reader.run_key(header), data)

    def _piece_done(self, piece: Piece, reason: str) -> None:
        file = piece.file
        file.left -= 1
        if reason and not file.reason:
            file.reason = reason
            self._report.lost(file.directory, file.entry.name, reason)
        if not file.left:
            self.complete(file)

    def complete(self, file: LargeFile) -> None:
        """All pieces of a large file are written, or given up."""
        if file.over:
            return
        file.over = True
        done = False
        if file.content is None and not file.reason:
            self._begin(file)
        if file.content is not None:
            if file.reason:
                self._writer.abandon_file(file.content)
            else:
                done = self._writer.finish_file(file.content)
        if done:
            self._report.files += 1
        elif file.entry.link_group:
            self.failed_groups.add(file.entry.link_group)
        self._owner.file_over(file)

    def _open_map(self, need: Need, header: BlobHeader, data: bytes | memoryview) -> None:
        try:
            blob = self._reader.open(header, data, need.id)
        except CLOSED as error:
            other = self._reader.sealing_that_opens(need.id)
            if isinstance(other, LostBlob):
                self.lost(need, f"{error}")
                return
            blob = self._reader.open(*other, need.id)
        for worker, part in need.parts:  # the map comes again for what these turn out to be
            task = Task(Do.GIVE_BACK, parts=[part])
            self._add(worker, Need(need.id, need.level, parts=[(worker, part)]), task)
        pieces = [*need.pieces, *(self._as_piece(small) for small in need.files)]
        for piece in pieces:
            try:
                if piece.blob_offset:
                    raise ContentLost("a place inside a map")
                places = map_places(blob, piece.length)
            except ContentLost as error:
                self._piece_done(piece, str(error))
                continue
            offset = piece.file_offset
            found = []
            for place in places:
                if place.reference != HOLE:
                    found.append((place.reference, Piece(piece.file, offset, place.offset, place.length)))
                offset += place.length
            piece.file.left += len(found)
            for reference, below in found:
                self._owner.need_pieces(blob.references[reference], LEVELS[BlobKind.MAP], [below])
            self._piece_done(piece, "")

    def _as_piece(self, small: SmallFile) -> Piece:
        file = LargeFile(small.directory, unpack_entry(small.packed), 1)
        self._owner.file_begun()
        return Piece(file, 0, small.offset, small.size)


def _check_kind(need: Need, header: BlobHeader) -> None:
    """Raises FormatError for a blob that cannot be what is needed."""
    if need.page >= 0:
        if header.kind is not BlobKind.PAGE:
            raise Malformed(f"a {header.kind.name.lower()} where a page should be")
    elif LEVELS[header.kind] >= need.level or header.kind is BlobKind.DELTA:
        raise Malformed(f"a {header.kind.name.lower()} where content should be")


def _grouped(files: list[SmallFile]) -> list[tuple[Directory, list[tuple[tuple[object, ...], int]]]]:
    grouped: list[tuple[Directory, list[tuple[tuple[object, ...], int]]]] = []
    for small in files:
        if not grouped or grouped[-1][0] != small.directory:
            grouped.append((small.directory, []))
        grouped[-1][1].append((small.packed, small.offset))
    return grouped
