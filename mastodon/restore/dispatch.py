"""Hands blobs that have come to the workers, and deals with what comes back.

The first sealing of an id that comes goes to a worker unopened. Where it does not open, the blob is asked for once
more, every sealing is tried here, and only when none verifies its files are told as lost. Maps are opened here,
since they lead to further needs.
"""

from collections import deque
from collections.abc import Callable, Iterable

from mastodon.host.tree_writer import TreeWriter
from mastodon.restore.blobs import CLOSED, BlobReader, LostBlob
from mastodon.restore.content import ContentLost, map_places
from mastodon.restore.jobs import BlobJob, JobResult, unpack_entry
from mastodon.restore.needs import LargeFile, Need, Piece, SmallFile
from mastodon.restore.pool import Blob, WorkerPool
from mastodon.restore.report import Report
from mastodon.sealed.blob import LEVELS, BlobHeader, BlobKind
from mastodon.sealed.entry import HOLE
from mastodon.sealed.errors import FormatError
from mastodon.sealed.listing import Directory

JOB_BYTES = 512 * 1024
JOB_BLOBS = 48
JOB_DESCRIPTORS = 150
FILES_A_JOB = 4096
"""Files written from one blob in one job: more of them are further jobs."""


class Dispatcher:
    """Blobs in, files out. ``need_more`` is told what maps lead to."""

    def __init__(
        self, reader: BlobReader, pool: WorkerPool, writer: TreeWriter, report: Report,
        need_more: Callable[[bytes, int, Iterable[Piece]], None],
    ) -> None:  # fmt: skip
        self._reader = reader
        self._pool = pool
        self._writer = writer
        self._report = report
        self._need_more = need_more
        self._results: deque[JobResult] = deque()
        self._running: dict[int, list[Need]] = {}
        self._blobs: list[Blob] = []
        self._needs: list[Need] = []
        self._bytes = 0
        self._descriptors: dict[int, int] = {}
        self.failed_groups: set[int] = set()
        self.all_groups_suspect = False

    def take_result(self, result: JobResult) -> None:
        """From the pool; dealt with later, since this may be called amid a submit."""
        self._results.append(result)

    def blob_came(self, need: Need, header: BlobHeader, data: bytes | memoryview) -> None:
        """The first sealing of a needed blob is here."""
        self.work_off()
        try:
            if LEVELS[header.kind] >= need.level or header.kind is BlobKind.DELTA:
                raise FormatError(f"a {header.kind.name.lower()} where content should be")
            if header.kind is BlobKind.MAP:
                self._open_map(need, header, data)
                return
            run_key = self._reader.run_key(header)
        except CLOSED as error:
            self._try_others(need, str(error))
            return
        self._hand_over(need, run_key, data)

    def lost(self, need: Need, reason: str) -> None:
        """A blob cannot be had: all that needs it is told by name."""
        why = f"{reason} (blob {need.id.hex()[:16]})"
        for small in need.files:
            self._report.lost(small.directory, small.name, why)
            if small.link_group:
                self.failed_groups.add(small.link_group)
        for piece in need.pieces:
            self._piece_done(piece, why)

    def make(self, entries: list[SmallFile]) -> None:
        """Have entries without content made."""
        need = Need(b"", 0, entries)
        self._blobs.append(Blob(b"", _job(need, b"", entries, [])))
        self._needs.append(need)
        self.flush()

    def flush(self) -> None:
        """Hand over what was gathered."""
        if self._blobs:
            number = self._pool.submit(self._blobs, list(self._descriptors))
            self._running[number] = self._needs
            self._blobs, self._needs, self._descriptors, self._bytes = [], [], {}, 0
        self.work_off()

    def settle(self) -> None:
        """Wait until everything that was handed over is done, second tries included."""
        self.flush()
        while self._running:
            self._pool.settle()
            self.work_off()
            self.flush()

    def work_off(self) -> None:
        """Deal with the results that are here."""
        while self._results:
            self._deal_with(self._results.popleft())

    # -- to the workers

    def _hand_over(self, need: Need, run_key: bytes, data: bytes | memoryview) -> None:
        pieces = [piece for piece in need.pieces if self._begin(piece.file)]
        for piece in need.pieces:
            if piece.file.reason:
                self._piece_done(piece, "")
        need.pieces = pieces
        files = need.files
        while files or pieces:
            part = Need(need.id, need.level, files[:FILES_A_JOB], pieces[:JOB_DESCRIPTORS])
            files, pieces = files[FILES_A_JOB:], pieces[JOB_DESCRIPTORS:]
            if len(self._descriptors) + len(part.pieces) > JOB_DESCRIPTORS or self._bytes + len(data) > JOB_BYTES:
                self.flush()
            job = _job(part, run_key, part.files, [self._place(piece) for piece in part.pieces])
            self._blobs.append(Blob(data, job))
            self._needs.append(part)
            self._bytes += len(data)
            if len(self._blobs) >= JOB_BLOBS or self._bytes >= JOB_BYTES:
                self.flush()

    def _place(self, piece: Piece) -> tuple[int, int, int, int]:
        content = piece.file.content
        assert content is not None  # begun in _hand_over
        index = self._descriptors.setdefault(content.fd, len(self._descriptors))
        return index, piece.file_offset, piece.blob_offset, piece.length

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
        closed = dict(result.closed)
        failed = {(blob, piece): number for blob, piece, number in result.failed_pieces}
        for index, need in enumerate(needs):
            if index in closed:
                self._try_others(need, closed[index])
                continue
            for position, piece in enumerate(need.pieces):
                number = failed.get((index, position), 0)
                if number and piece.file.content is not None:
                    piece.file.content.failure = OSError(number, "")
                self._piece_done(piece, "")
        if result.failed_groups is None:
            self.failed_groups.update(one.link_group for need in needs for one in need.files if one.link_group)
        else:
            self.failed_groups.update(result.failed_groups)
        self._report.tick()

    def _try_others(self, need: Need, reason: str) -> None:
        other = self._reader.sealing_that_opens(need.id)
        if isinstance(other, LostBlob):
            self.lost(need, other.reason if other.reason else reason)
            return
        header, data = other
        if LEVELS[header.kind] >= need.level or header.kind is BlobKind.DELTA:
            self.lost(need, f"a {header.kind.name.lower()} where content should be")
        elif header.kind is BlobKind.MAP:
            self._open_map(need, header, data)
        else:
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

    def _open_map(self, need: Need, header: BlobHeader, data: bytes | memoryview) -> None:
        try:
            blob = self._reader.open(header, data, need.id)
        except CLOSED as error:
            other = self._reader.sealing_that_opens(need.id)
            if isinstance(other, LostBlob):
                self.lost(need, f"{error}")
                return
            blob = self._reader.open(*other, need.id)
        pieces = [*need.pieces, *(_as_piece(small) for small in need.files)]
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
                self._need_more(blob.references[reference], LEVELS[BlobKind.MAP], [below])
            self._piece_done(piece, "")


def _as_piece(small: SmallFile) -> Piece:
    file = LargeFile(small.directory, unpack_entry(small.packed), 1)
    return Piece(file, 0, small.offset, small.size)


def _job(need: Need, run_key: bytes, files: list[SmallFile], pieces: list[tuple[int, int, int, int]]) -> BlobJob:
    grouped: list[tuple[Directory, list[tuple[tuple[object, ...], int]]]] = []
    for small in files:
        if not grouped or grouped[-1][0] != small.directory:
            grouped.append((small.directory, []))
        grouped[-1][1].append((small.packed, small.offset))
    return BlobJob(run_key, need.id, 0, 0, grouped, pieces)
