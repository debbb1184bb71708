"""The worker process of a restore: opens sealed pages and blobs, checks them, and writes files from them.

It lives in a fork of the main process, talks over one packet socket, and reads blobs and jobs from memory shared
with it. It is told nothing that it could send anywhere, and ends when the main process does. What it cannot write it
logs as a problem of the entry; what does not open it reports, so that another sealing can be tried.
"""

import errno
import gc
import marshal
import mmap
import os
import signal
import socket
import struct
from collections.abc import Sequence

from mastodon.host.attributes import EXAMPLES, ProblemLog
from mastodon.host.tree_writer import TreeWriter
from mastodon.restore.blobs import OpenBlob
from mastodon.restore.jobs import Do, JobResult, Task, decode_job, encode_result, unpack_entry
from mastodon.restore.kept_pages import KeptPages, Terms
from mastodon.restore.plan import show_path
from mastodon.sealed.blob import BlobKind, BlobOpener, parse_header
from mastodon.sealed.entry import Entry
from mastodon.sealed.errors import FormatError
from mastodon.sealed.listing import Directory

ORDER = struct.Struct("=QQQQ")
"""Number of the job (0 ends the work), where it starts in the arena, where from there its description, its length."""
MAX_DESCRIPTORS = 200
LOG_PIECE = 100
"""Problems and losses in one packet."""
PACKET = 60_000
MORE, LAST = b"\x01", b"\x00"
"""Before each packet of a result, which may be larger than a packet."""
NO_BLOB = OpenBlob(BlobKind.BUNDLE, (), b"")
COLLECT_EVERY = 100_000
"""Objects made until the garbage collector looks: a page's entries are no garbage, and go without it."""


class Worker:
    """One process's work."""

    def __init__(self, writer: TreeWriter, opener: BlobOpener, terms: Terms) -> None:
        self._writer = writer
        self._opener = opener
        self._pages = KeptPages(terms, writer, self._make)
        self._result = JobResult(0)
        self.losses: list[str] = []
        self.lost_count = 0

    def run(self, number: int, job: memoryview, description: memoryview, descriptors: Sequence[int]) -> JobResult:
        """Do one job."""
        result = self._result = JobResult(number)
        for index, task in enumerate(decode_job(description)):
            blob = NO_BLOB
            if task.run_key:
                try:
                    blob = self._open(task, job[task.start : task.start + task.length])
                except FormatError as error:
                    result.closed.append((index, str(error)))
                    continue
            self._do(index, task, blob, descriptors)
        return result

    def _open(self, task: Task, data: memoryview) -> OpenBlob:
        header = parse_header(data)
        return OpenBlob(header.kind, header.references, self._opener.open(data, header, task.run_key, task.id))

    def _do(self, index: int, task: Task, blob: OpenBlob, descriptors: Sequence[int]) -> None:
        match task.do:
            case Do.WRITE:
                self._write(index, task, blob.plaintext, descriptors)
            case Do.PAGE:
                self._result.pages.append(self._pages.take(task.page, blob))
            case Do.LOSE:
                for part in task.parts:
                    for directory, entry in self._pages.part(part):
                        self._lose(directory, entry.name, task.reason)
            case Do.GIVE_BACK:
                self._result.given_back += [(part[0], self._pages.give_back(part)) for part in task.parts]
            case Do.FINISH:
                entries = [(where, unpack_entry(packed)) for where, packed, _ in task.directories]
                fitting = {(*where, packed[0]) for where, packed, fits in task.directories if fits}
                self._writer.finish_directories(entries, fitting=fitting)

    def _write(self, index: int, task: Task, plaintext: bytes, descriptors: Sequence[int]) -> None:
        view = memoryview(plaintext)
        for directory, files in task.files:
            for packed, offset in files:
                entry = unpack_entry(packed)
                if offset < 0:
                    self._make(directory, entry)
                else:
                    self._write_file(directory, entry, view, offset)
        for part in task.parts:
            for directory, entry in self._pages.part(part):
                self._write_file(directory, entry, view, entry.places[0].offset)
        for position, piece in enumerate(task.pieces):
            failure = _write_piece(piece, view, descriptors)
            if failure:
                self._result.failed_pieces.append((index, position, failure))
            else:
                self._result.content_bytes += piece[3]

    def _write_file(self, directory: Directory, entry: Entry, view: memoryview, offset: int) -> None:
        end = offset + entry.size
        if end > len(view):
            self._writer.problems.add(directory, entry.name, "content outside its blob", errno.EBADMSG)
            self._count(entry, False)
        else:
            self._count(entry, self._writer.write_small(directory, entry, view[offset:end]))

    def _make(self, directory: Directory, entry: Entry) -> None:
        self._count(entry, self._writer.make(directory, entry))

    def _count(self, entry: Entry, made: bool) -> None:
        if made:
            self._result.files += 1
            self._result.content_bytes += entry.size
        elif entry.link_group:
            self._result.failed_groups.append(entry.link_group)

    def _lose(self, directory: Directory, name: bytes, reason: str) -> None:
        self.lost_count += 1
        if len(self.losses) < EXAMPLES:
            self.losses.append(f"{show_path(directory, name)}: {reason}")


def _write_piece(piece: tuple[int, int, int, int], plaintext: memoryview, descriptors: Sequence[int]) -> int:
    """0, or the errno of what went wrong."""
    file, file_offset, blob_offset, length = piece
    if blob_offset + length > len(plaintext):
        return errno.EBADMSG
    view = plaintext[blob_offset : blob_offset + length]
    try:
        while view:
            written = os.pwrite(descriptors[file], view, file_offset)
            view, file_offset = view[written:], file_offset + written
    except OSError as error:
        return error.errno or errno.EIO
    return 0


def serve(channel: socket.socket, arena: mmap.mmap, writer: TreeWriter, opener: BlobOpener, terms: Terms) -> None:
    """A worker's whole life, in the forked process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the main process decides, and closes the socket
    gc.set_threshold(COLLECT_EVERY)
    worker = Worker(writer, opener, terms)
    shared = memoryview(arena)
    while True:
        packet, descriptors, _flags, _address = socket.recv_fds(channel, ORDER.size, MAX_DESCRIPTORS)
        if not packet:
            return
        order, start, at, length = ORDER.unpack(packet)
        if not order:
            break
        job = shared[start : start + at + length]
        result = worker.run(order, job[:at], job[at:], descriptors)
        for descriptor in descriptors:
            os.close(descriptor)
        _send_result(channel, encode_result(result))
    writer.close()
    _send_log(channel, writer.problems, worker)


def _send_result(channel: socket.socket, data: bytes) -> None:
    while len(data) > PACKET:
        channel.send(MORE + data[:PACKET])
        data = data[PACKET:]
    channel.send(LAST + data)


def _send_log(channel: socket.socket, log: ProblemLog, worker: Worker) -> None:
    problems = [(one.path[-200:], one.what[:60], one.errno) for one in log.examples]
    losses = [text[-300:] for text in worker.losses]
    for start in range(0, max(len(problems), len(losses)), LOG_PIECE):
        piece = problems[start : start + LOG_PIECE], losses[start : start + LOG_PIECE]
        channel.send(marshal.dumps(piece))
    counts = [(what, number, count) for (what, number), count in log.counts.most_common(500)]
    channel.send(marshal.dumps((counts, worker.lost_count, True)))
