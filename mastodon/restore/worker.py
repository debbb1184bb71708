"""The worker process of a restore: opens sealed blobs, checks them, and writes files from them.

It lives in a fork of the main process, talks over one packet socket, and reads blobs and jobs from memory shared
with it. It is told nothing that it could send anywhere, and ends when the main process does. What it cannot write it
logs as a problem of the entry; what does not open it reports, so that another sealing can be tried.
"""

import errno
import marshal
import mmap
import os
import signal
import socket
import struct
from collections.abc import Sequence

from mastodon.host.attributes import ProblemLog
from mastodon.host.tree_writer import TreeWriter
from mastodon.restore.jobs import BlobJob, JobResult, decode_job, encode_result, unpack_entry
from mastodon.sealed.blob import BlobOpener, parse_header
from mastodon.sealed.errors import FormatError

ORDER = struct.Struct("=QQQQ")
"""Number of the job (0 ends the work), where it starts in the arena, where from there its description, its length."""
MAX_DESCRIPTORS = 200
LOG_PIECE = 200
"""Problems in one packet."""


class Worker:
    """One process's work."""

    def __init__(self, writer: TreeWriter, opener: BlobOpener) -> None:
        self._writer = writer
        self._opener = opener

    def run(self, number: int, job: memoryview, description: memoryview, descriptors: Sequence[int]) -> JobResult:
        """Do one job."""
        result = JobResult(number)
        for index, blob in enumerate(decode_job(description)):
            plaintext = b""
            if blob.run_key:
                try:
                    plaintext = self._open(blob, job[blob.start : blob.start + blob.length])
                except FormatError as error:
                    result.closed.append((index, str(error)))
                    continue
            self._write_files(blob, plaintext, result)
            for position, piece in enumerate(blob.pieces):
                number_or_zero = _write_piece(piece, plaintext, descriptors)
                if number_or_zero:
                    result.failed_pieces.append((index, position, number_or_zero))
                else:
                    result.content_bytes += piece[3]
        return result

    def _open(self, blob: BlobJob, data: memoryview) -> bytes:
        return self._opener.open(data, parse_header(data), blob.run_key, blob.id)

    def _write_files(self, blob: BlobJob, plaintext: bytes, result: JobResult) -> None:
        view = memoryview(plaintext)
        for directory, files in blob.files:
            for packed, offset in files:
                entry = unpack_entry(packed)
                if offset < 0:
                    made = self._writer.make(directory, entry)
                elif offset + entry.size > len(plaintext):
                    self._writer.problems.add(directory, entry.name, "content outside its blob", errno.EBADMSG)
                    made = False
                else:
                    made = self._writer.write_small(directory, entry, view[offset : offset + entry.size])
                if made:
                    result.files += 1
                    result.content_bytes += entry.size
                elif entry.link_group and result.failed_groups is not None:
                    result.failed_groups.append(entry.link_group)


def _write_piece(piece: tuple[int, int, int, int], plaintext: bytes, descriptors: Sequence[int]) -> int:
    """0, or the errno of what went wrong."""
    file, file_offset, blob_offset, length = piece
    if blob_offset + length > len(plaintext):
        return errno.EBADMSG
    view = memoryview(plaintext)[blob_offset : blob_offset + length]
    try:
        while view:
            written = os.pwrite(descriptors[file], view, file_offset)
            view, file_offset = view[written:], file_offset + written
    except OSError as error:
        return error.errno or errno.EIO
    return 0


def serve(channel: socket.socket, arena: mmap.mmap, writer: TreeWriter, opener: BlobOpener) -> None:
    """A worker's whole life, in the forked process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the main process decides, and closes the socket
    worker = Worker(writer, opener)
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
        channel.send(encode_result(result))
    writer.close()
    _send_log(channel, writer.problems)


def _send_log(channel: socket.socket, log: ProblemLog) -> None:
    for start in range(0, len(log.examples), LOG_PIECE):
        part = [(one.path[-200:], one.what[:60], one.errno) for one in log.examples[start : start + LOG_PIECE]]
        channel.send(marshal.dumps(part))
    counts = [(what, number, count) for (what, number), count in log.counts.most_common(500)]
    channel.send(marshal.dumps((counts,)))
