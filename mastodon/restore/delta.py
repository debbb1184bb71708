"""Applies a VCDIFF delta (RFC 3284, as xdelta3 makes it) to its base.

Base, delta and result are parts beside the place where the file is to stand: nothing is written elsewhere, and they
are gone again whatever happens. The result counts only with the hash that the listing names. The program xdelta3 does
the work, in bounded memory; where it is not installed pyxdelta does, which takes 64 MiB for its window.
"""

import contextlib
import importlib
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence

from mastodon.host.parts import Parts
from mastodon.host.tree_writer import TreeWriter
from mastodon.restore.blobs import BlobReader
from mastodon.restore.content import ContentLost, Stretch, hashed, stretches
from mastodon.sealed.content import FileHasher, file_hash_key
from mastodon.sealed.entry import Entry, EntryType
from mastodon.sealed.listing import Directory

PIECE = 1024 * 1024
WINDOW = 8 * 1024 * 1024
"""What xdelta3 keeps of the base in memory; by itself it would take 64 MiB."""


def apply_delta(base: str, delta: str, result: str) -> None:
    """Write to the file ``result`` what the delta makes of the base. Raises ContentLost."""
    program = shutil.which("xdelta3")
    if program is not None:
        _apply_with_program(program, base, delta, result)
        return
    try:
        module = importlib.import_module("pyxdelta")
    except ImportError:
        raise ContentLost("a delta needs xdelta3: install the package xdelta3, or pyxdelta") from None
    try:
        done = module.decode(infile=base, patchfile=delta, outfile=result)
    except Exception as error:  # whatever the library raises: it converts C errors in its own way
        raise ContentLost(f"the delta does not fit its base: {error}") from None
    if done is False:
        raise ContentLost("the delta does not fit its base")


def copy_out(parts: Iterator[Stretch], fd: int) -> int:
    """Write content to an open file, holes left out; tells its size. Raises ContentLost or OSError."""
    size = 0
    for part in parts:
        if part.data is not None:
            view, offset = part.data, part.offset
            while view:
                written = os.pwrite(fd, view, offset)
                view, offset = view[written:], offset + written
        size += part.length
    os.ftruncate(fd, size)
    return size


def _apply_with_program(program: str, base: str, delta: str, result: str) -> None:
    try:
        done = subprocess.run(
            [program, "-d", "-f", "-B", str(WINDOW), "-s", base, delta, result],
            capture_output=True, text=True, check=False, pass_fds=_fds(base, delta, result),
        )  # fmt: skip
    except OSError as error:
        raise ContentLost(f"xdelta3 cannot be run: {error.strerror}") from None
    if done.returncode:
        raise ContentLost(f"the delta does not fit its base: {done.stderr.strip()[:200]}")


def _fds(*paths: str) -> tuple[int, ...]:
    """Descriptors that paths below /proc/self/fd stand for."""
    prefix = "/proc/self/fd/"
    return tuple(int(path.removeprefix(prefix)) for path in paths if path.startswith(prefix))


@contextlib.contextmanager
def scratch(directory_fd: int, parts: Parts) -> Iterator[int]:
    """An open file without a name below the target. Raises OSError."""
    try:
        fd = os.open(".", os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600, dir_fd=directory_fd)
    except OSError:  # not every file system has it
        fd, name = parts.create(directory_fd, 0o600)
        parts.discard(directory_fd, name)
    try:
        yield fd
    finally:
        os.close(fd)


@contextlib.contextmanager
def delta_result(
    reader: BlobReader, directory_fd: int, parts: Parts, entry: Entry, references: Sequence[bytes]
) -> Iterator[int]:
    """An open, nameless file with the verified content of a file that is kept as a delta.

    Raises ContentLost or OSError when it cannot be had.
    """
    delta = entry.delta
    assert delta is not None
    with contextlib.ExitStack() as stack:
        base_fd, delta_fd, result_fd = (stack.enter_context(scratch(directory_fd, parts)) for _ in range(3))
        base = Entry(entry.name, EntryType.FILE, size=delta.base_size, hash=delta.base_hash)
        id_key = reader.trust.id_key
        copy_out(hashed(base, stretches(reader, references, delta.base_places), id_key), base_fd)
        copy_out(stretches(reader, references, entry.places), delta_fd)
        apply_delta(*(f"/proc/self/fd/{fd}" for fd in (base_fd, delta_fd, result_fd)))
        _check(result_fd, entry, id_key)
        yield result_fd


def restore_delta(
    reader: BlobReader, writer: TreeWriter, target_fd: int, parts: Parts, directory: Directory, entry: Entry,
    references: Sequence[bytes],
) -> bool:  # fmt: skip
    """Make a file that is kept as a delta. False where it could not be made here (it was logged).

    Raises ContentLost or OSError when its content cannot be had.
    """
    with delta_result(reader, target_fd, parts, entry, references) as result_fd:
        target = writer.begin_file(directory, entry)
        if target is None:
            return False
        offset = 0
        while data := os.pread(result_fd, PIECE, offset):
            target.write(offset, data)
            offset += len(data)
        return writer.finish_file(target)


def _check(fd: int, entry: Entry, id_key: bytes) -> None:
    if os.fstat(fd).st_size != entry.size:
        raise ContentLost("the delta makes a file of another size")
    hasher = FileHasher(file_hash_key(id_key))
    offset = 0
    while data := os.pread(fd, PIECE, offset):
        hasher.data(data)
        offset += len(data)
    if hasher.digest(entry.size) != entry.hash:
        raise ContentLost("what the delta makes does not have the hash that its listing names")
