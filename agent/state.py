"""The agent's listing of its last run, page by page: a hint that makes the next run fast, never more.

The file ``listing`` in the state directory::

    head      8   magic "MASTLIST"        1   version, 3
              32  machine id              16  pair id
              16  BLAKE3 of the bytes before
    page      the block below, once a page of the listing, in order

    block     4   magic "PAGE"
              4   length of names: CBOR [[[directory's names...], [names...]], ...]
              4   length of rows: 36 bytes an entry (records.py)
              4   length of entries: all entries of the page, zstd (kept_entries.py)
              4   length of references: 32 bytes each
              4   length of maps: CBOR list of the indices of references that are maps
              4   length of uses: how much of each reference is used (uses.py)
              4   entries   4  files   8  bytes of content
              1   1 if the page ended where its content says, 0 if the listing was at its end
              32  the page's blob id
              16  BLAKE3 of the whole block without this field
              then names, rows, entries, references, maps, uses

Promises: memory for one page at a time, however many files there are. It is of one machine and one pair; any other
file, an older version, a cut or damaged block is the same as no listing from there on. While a run lasts, the new
listing grows as ``listing.part``; ``adopt_unfinished`` puts the pages of an interrupted run in front of what it had
not reached yet.
"""

import errno
import os
import struct
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import BinaryIO

import cbor2
import zstandard

from mastodon.host.paths import Directory
from mastodon.sealed.listing import PAGE_LIMIT, Key
from mastodon.sealed.purposes import Purpose, hasher
from mastodon_agent.kept_entries import PageEntries
from mastodon_agent.records import ROW_SIZE
from mastodon_agent.uses import Use, unpack_uses

MAGIC = b"MASTLIST"
VERSION = 3
HEAD = struct.Struct("<8sB32s16s16s")
BLOCK = struct.Struct("<4sIIIIIIIIQB32s16s")
PARTS = 6
BLOCK_MAGIC = b"PAGE"
CHECK = 16
ENTRIES_LIMIT = 4 * PAGE_LIMIT
BLOCK_LIMIT = 64 * 1024 * 1024
PIECE = 1024 * 1024
NAME = "listing"
PART = "listing.part"
SEEDING = "seeding"
"""There while no run has gone through all files yet; an empty file."""


@dataclass(slots=True)
class StatePage:
    """One page of the listing as the last run left it. Names and rows are read and taken apart only when asked for."""

    id: bytes
    count: int
    files: int
    content_bytes: int
    whole: bool
    fd: int
    """The file that it lies in, open while its pages are in use."""
    start: int
    """Where its block lies in the file."""
    raw: bytes
    """The block's bytes, checked; empty where a reader process has read and checked them before."""
    _lengths: tuple[int, ...]

    @property
    def end(self) -> int:
        """Where the next block lies."""
        return self.start + BLOCK.size + sum(self._lengths)

    def sections(self) -> list[tuple[Directory, list[bytes]]]:
        """Each directory in the page, and the names in it."""
        return [(tuple(directory), names) for directory, names in cbor2.loads(self._part(0))]

    def rows(self) -> bytes:
        """What each entry is compared with, ROW_SIZE bytes an entry."""
        return self._part(1)

    def entries(self) -> PageEntries:
        """Its entries, section by section."""
        return PageEntries.unpack(zstandard.ZstdDecompressor().decompress(self._part(2), max_output_size=ENTRIES_LIMIT))

    def plaintext(self) -> bytes:
        """The page blob's plaintext."""
        return self.entries().plaintext(directory for directory, _ in self.sections())

    def references(self) -> list[bytes]:
        """The page blob's references."""
        packed = self._part(3)
        return [packed[at : at + 32] for at in range(0, len(packed), 32)]

    def maps(self) -> list[int]:
        """Which of the references are maps."""
        return list(cbor2.loads(self._part(4)))

    def uses(self) -> Iterator[Use]:
        """How much it uses of each of its references."""
        return unpack_uses(self.references(), self._part(5))

    def first_key(self) -> Key:
        """The key of the first entry."""
        directory, names = cbor2.loads(self._part(0))[0]
        return tuple(directory), names[0]

    def last_key(self) -> Key:
        """The key of the last entry."""
        directory, names = cbor2.loads(self._part(0))[-1]
        return tuple(directory), names[-1]

    def _part(self, number: int) -> bytes:
        start = BLOCK.size + sum(self._lengths[:number])
        length = self._lengths[number]
        return self.raw[start : start + length] if self.raw else os.pread(self.fd, length, self.start + start)


@dataclass(slots=True)
class NewPage:
    """What a listing's writer needs to know of a page."""

    id: bytes
    sections: list[tuple[Directory, list[bytes]]]
    rows: list[bytes]
    entries: PageEntries
    references: list[bytes]
    maps: list[int]
    files: int
    content_bytes: int
    whole: bool
    uses: bytes = b""


class ListingWriter:
    """Writes a listing page by page; it becomes the state when it is published.

    Pages that stay are not copied before another one follows, so that a listing that stays whole is left alone.
    A disk that refuses costs speed, not the backup: ``failure`` then says why, and nothing is published.
    """

    def __init__(self, directory: str, machine: bytes, pair: bytes) -> None:
        self._final = os.path.join(directory, NAME)
        self._path = os.path.join(directory, PART)
        self._head = head_of(machine, pair)
        self._compressor = zstandard.ZstdCompressor(level=1)
        self._fd = -1
        self._kept: tuple[int, int, int] | None = None
        self.failure: OSError | None = None

    def add(self, page: NewPage) -> None:
        """A page that was made in this run."""
        self._copy_kept()
        names = cbor2.dumps([[list(directory), names] for directory, names in page.sections])
        maps = cbor2.dumps(page.maps)
        parts = (
            names, b"".join(page.rows), self._compressor.compress(page.entries.pack()), b"".join(page.references), maps,
            page.uses,
        )  # fmt: skip
        head = BLOCK.pack(
            BLOCK_MAGIC, *map(len, parts), len(page.rows), page.files, page.content_bytes, page.whole, page.id, b""
        )[:-CHECK]
        body = b"".join(parts)
        self._write(head + _check(head, body) + body)

    def keep(self, page: StatePage) -> None:
        """A page that stays as it is; its file stays open until the listing is published."""
        if self._kept is not None and self._kept[0] == page.fd and self._kept[2] == page.start:
            self._kept = page.fd, self._kept[1], page.end
        else:
            self._copy_kept()
            self._kept = page.fd, page.start, page.end

    def publish(self) -> None:
        """What was written is the state from now on."""
        try:
            if not self._is_as_it_was():
                self._copy_kept()
                self._open()
                if self.failure is None:
                    os.fsync(self._fd)
                    os.replace(self._path, self._final)
            if self.failure is None:
                for name in (SEEDING, PART):
                    with suppress(FileNotFoundError):
                        os.unlink(os.path.join(os.path.dirname(self._final), name))
        except OSError as error:
            self.failure = error
        self.close()

    def publish_copy(self) -> None:
        """What was written so far becomes the state too, and the listing goes on."""
        self._copy_kept()
        self._open()
        if self.failure is not None:
            return
        copy = self._final + ".copy"
        try:
            with open(copy, "wb", opener=private) as target:
                os.lseek(self._fd, 0, os.SEEK_SET)
                while piece := os.read(self._fd, PIECE):
                    target.write(piece)
                target.flush()
                os.fsync(target.fileno())
            os.replace(copy, self._final)
        except OSError as error:
            self.failure = error

    def close(self) -> None:
        """Let go; what was not published stays for ``adopt_unfinished``."""
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            with suppress(OSError):
                os.close(fd)

    def _is_as_it_was(self) -> bool:
        """Whether all pages of the state stayed, and nothing else came."""
        if self._fd >= 0 or self._kept is None:
            return False
        fd, start, end = self._kept
        old = os.fstat(fd)
        return start == HEAD.size and end == old.st_size and old.st_ino == os.stat(self._final).st_ino

    def _copy_kept(self) -> None:
        """Write the pages that stayed since the last one that was made."""
        if self._kept is None:
            return
        fd, at, end = self._kept
        self._kept = None
        while at < end and self.failure is None:
            try:
                piece = os.pread(fd, min(PIECE, end - at), at)
                if not piece:
                    raise OSError(errno.EIO, "the old listing was cut")
            except OSError as error:
                self.failure = error
                return
            self._write(piece)
            at += len(piece)

    def _open(self) -> None:
        """Begin the file, at the first that is to be written."""
        if self._fd >= 0 or self.failure is not None:
            return
        try:
            flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
            self._fd = os.open(self._path, flags, 0o600)
        except OSError as error:
            self.failure = error
        self._write(self._head)

    def _write(self, data: bytes) -> None:
        self._open()
        view = memoryview(data)
        try:
            while view and self.failure is None:
                view = view[os.write(self._fd, view) :]
        except OSError as error:
            self.failure = error


def read_pages(
    path: str, machine: bytes, pair: bytes | None, start: int = HEAD.size, end: int = sys.maxsize
) -> Iterator[StatePage]:
    """The pages of a listing, as far as they are good; none for a file that is not there or not of this pair.

    No ``pair``: any pair of this machine. Those that begin between ``start`` and ``end``.
    """
    try:
        file = open(path, "rb", opener=read_only)  # noqa: SIM115 - closed by the with below
    except OSError:
        return
    with file:
        try:
            head = file.read(HEAD.size)
            if len(head) != HEAD.size or head != head_of(machine, HEAD.unpack(head)[3] if pair is None else pair):
                return
            at = file.seek(start)
            while at < end and (page := read_block(file, at)) is not None:
                yield page
                at = page.end
        except OSError:
            return


def adopt_unfinished(directory: str, machine: bytes, pair: bytes, is_durable: Callable[[bytes], bool]) -> bool:
    """Whether an interrupted run had left pages: those that the server has come in front of the older state.

    The files in them are not read again. Of the older listing's page in which it stopped, the rest is not used.
    """
    part = os.path.join(directory, PART)
    if not os.path.exists(part):
        return False
    try:
        return _join(part, os.path.join(directory, NAME), machine, pair, is_durable)
    except OSError:
        return False


def _join(part: str, kept: str, machine: bytes, pair: bytes, is_durable: Callable[[bytes], bool]) -> bool:
    last: Key | None = None
    joined = kept + ".joined"
    with open(joined, "wb", opener=private) as target:
        target.write(head_of(machine, pair))
        for page in read_pages(part, machine, pair):
            if not is_durable(page.id):
                break
            last = page.last_key()
            target.write(page.raw)
        if last is not None:
            for page in read_pages(kept, machine, pair):
                if page.first_key() > last:
                    target.write(page.raw)
    if last is not None:
        os.replace(joined, kept)
    else:
        os.unlink(joined)
    os.unlink(part)
    return last is not None


def is_seeding(directory: str, machine: bytes, pair: bytes) -> bool:
    """Whether no run has gone through all files yet."""
    marker = os.path.join(directory, SEEDING)
    if next(read_pages(os.path.join(directory, NAME), machine, pair), None) is not None:
        return os.path.exists(marker)
    with suppress(OSError):
        os.close(os.open(marker, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))
    return True


def forget_listing(directory: str) -> None:
    """Remove the listing and what an interrupted run left of one."""
    for name in (NAME, PART):
        with suppress(FileNotFoundError):
            os.unlink(os.path.join(directory, name))


def read_block(file: BinaryIO, at: int) -> StatePage | None:
    """The page at ``at``, to which the file was read; None if it is no good one."""
    head = file.read(BLOCK.size)
    page = page_at(file.fileno(), at, head)
    if page is None:
        return None
    length = page.end - at - BLOCK.size
    body = file.read(length)
    if len(body) != length or _check(head[:-CHECK], body) != head[-CHECK:]:
        return None
    page.raw = head + body
    return page


def page_at(fd: int, at: int, head: bytes) -> StatePage | None:
    """The page that a block's head speaks of, if that makes sense."""
    if len(head) != BLOCK.size or head[:4] != BLOCK_MAGIC:
        return None
    _, *numbers, _ = BLOCK.unpack(head)
    lengths = tuple(numbers[:PARTS])
    count, files, content_bytes, whole, id = numbers[PARTS:]
    if sum(lengths) > BLOCK_LIMIT or lengths[1] != count * ROW_SIZE or not count:
        return None
    return StatePage(id, count, files, content_bytes, bool(whole), fd, at, b"", lengths)


def head_of(machine: bytes, pair: bytes) -> bytes:
    """The bytes at the start of a listing of this machine and pair."""
    head = HEAD.pack(MAGIC, VERSION, machine, pair, b"")[:-CHECK]
    return head + _check(head)


def _check(head: bytes, body: bytes = b"") -> bytes:
    state = hasher(Purpose.AGENT_STATE)
    state.update(head)
    state.update(body)
    return bytes(state.digest(length=CHECK))


def read_only(path: str, flags: int) -> int:
    """An opener that follows no symlink at the end of a path."""
    return os.open(path, flags | os.O_NOFOLLOW)


def private(path: str, flags: int) -> int:
    """The same for a file that is written: only its owner may read it."""
    return os.open(path, flags | os.O_NOFOLLOW, 0o600)
