"""The agent's listing of its last run, page by page: a hint that makes the next run fast, never more.

The file ``listing`` in the state directory::

    head      8   magic "MASTLIST"        1   version, 1
              32  machine id              16  pair id
              16  BLAKE3 of the bytes before
    page      the block below, once a page of the listing, in order

    block     4   magic "PAGE"
              4   length of names: CBOR [[[directory's names...], [names...]], ...]
              4   length of rows: 36 bytes an entry (records.py)
              4   length of the page's plaintext, zstd
              4   length of references: 32 bytes each
              4   length of maps: CBOR list of the indices of references that are maps
              4   entries   4  files   8  bytes of content
              1   1 if the page ended where its content says, 0 if the listing was at its end
              32  the page's blob id
              16  BLAKE3 of the whole block without this field
              then names, rows, plaintext, references, maps

Promises: memory for one page at a time, however many files there are. It is of one machine and one pair; any other
file, an older version, a cut or damaged block is the same as no listing from there on. While a run lasts, the new
listing grows as ``listing.part``; ``adopt_unfinished`` puts the pages of an interrupted run in front of what it had
not reached yet.
"""

import os
import struct
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass

import cbor2
import zstandard

from mastodon.host.paths import Directory
from mastodon.sealed.listing import PAGE_LIMIT, Key
from mastodon.sealed.purposes import Purpose, hasher
from mastodon_agent.records import ROW_SIZE

MAGIC = b"MASTLIST"
VERSION = 1
HEAD = struct.Struct("<8sB32s16s16s")
BLOCK = struct.Struct("<4sIIIIIIIQB32s16s")
CHECK = 16
BLOCK_LIMIT = 64 * 1024 * 1024
NAME = "listing"
PART = "listing.part"
SEEDING = "seeding"
"""There while no run has gone through all files yet; an empty file."""


@dataclass(slots=True)
class StatePage:
    """One page of the listing as the last run left it. Names and rows are taken apart only when asked for."""

    id: bytes
    count: int
    files: int
    content_bytes: int
    whole: bool
    raw: bytes
    """The block's bytes, which are copied when the page stays."""
    _lengths: tuple[int, int, int, int, int]

    def sections(self) -> list[tuple[Directory, list[bytes]]]:
        """Each directory in the page, and the names in it."""
        return [(tuple(directory), names) for directory, names in cbor2.loads(self._part(0))]

    def rows(self) -> bytes:
        """What each entry is compared with, ROW_SIZE bytes an entry."""
        return self._part(1)

    def plaintext(self) -> bytes:
        """The page blob's plaintext."""
        return zstandard.ZstdDecompressor().decompress(self._part(2), max_output_size=PAGE_LIMIT)

    def references(self) -> list[bytes]:
        """The page blob's references."""
        packed = self._part(3)
        return [packed[at : at + 32] for at in range(0, len(packed), 32)]

    def maps(self) -> list[int]:
        """Which of the references are maps."""
        return list(cbor2.loads(self._part(4)))

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
        return self.raw[start : start + self._lengths[number]]


@dataclass(slots=True)
class NewPage:
    """What a listing's writer needs to know of a page."""

    id: bytes
    sections: list[tuple[Directory, list[bytes]]]
    rows: list[bytes]
    plaintext: bytes
    references: list[bytes]
    maps: list[int]
    files: int
    content_bytes: int
    whole: bool


class ListingWriter:
    """Writes a listing page by page; it becomes the state when it is published.

    A disk that refuses costs speed, not the backup: ``failure`` then says why, and nothing is published.
    """

    def __init__(self, directory: str, machine: bytes, pair: bytes) -> None:
        self._final = os.path.join(directory, NAME)
        self._path = os.path.join(directory, PART)
        self._compressor = zstandard.ZstdCompressor(level=1)
        self._fd = -1
        self.failure: OSError | None = None
        try:
            flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
            self._fd = os.open(self._path, flags, 0o600)
        except OSError as error:
            self.failure = error
        self._write(_head(machine, pair))

    def add(self, page: NewPage) -> None:
        """A page that was made in this run."""
        names = cbor2.dumps([[list(directory), names] for directory, names in page.sections])
        maps = cbor2.dumps(page.maps)
        parts = (
            names, b"".join(page.rows), self._compressor.compress(page.plaintext), b"".join(page.references), maps
        )  # fmt: skip
        head = BLOCK.pack(
            b"PAGE", *map(len, parts), len(page.rows), page.files, page.content_bytes, page.whole, page.id, b""
        )[:-CHECK]
        body = b"".join(parts)
        self._write(head + _check(head, body) + body)

    def keep(self, page: StatePage) -> None:
        """A page that stays as it is."""
        self._write(page.raw)

    def publish(self) -> None:
        """What was written is the state from now on."""
        if self.failure is None:
            try:
                os.fsync(self._fd)
                os.replace(self._path, self._final)
                with suppress(FileNotFoundError):
                    os.unlink(os.path.join(os.path.dirname(self._final), SEEDING))
            except OSError as error:
                self.failure = error
        self.close()

    def publish_copy(self) -> None:
        """What was written so far becomes the state too, and the listing goes on."""
        if self.failure is not None:
            return
        copy = self._final + ".copy"
        try:
            with open(copy, "wb", opener=_private) as target:
                os.lseek(self._fd, 0, os.SEEK_SET)
                while piece := os.read(self._fd, 1 << 20):
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

    def _write(self, data: bytes) -> None:
        view = memoryview(data)
        try:
            while view and self.failure is None:
                view = view[os.write(self._fd, view) :]
        except OSError as error:
            self.failure = error


def read_pages(path: str, machine: bytes, pair: bytes | None) -> Iterator[StatePage]:
    """The pages of a listing, as far as they are good; none for a file that is not there or not of this pair.

    No ``pair``: any pair of this machine.
    """
    try:
        file = open(path, "rb", opener=_read_only)  # noqa: SIM115 - closed by the with below
    except OSError:
        return
    with file:
        try:
            head = file.read(HEAD.size)
            if len(head) != HEAD.size or head != _head(machine, HEAD.unpack(head)[3] if pair is None else pair):
                return
            while (page := _read_block(file.read)) is not None:
                yield page
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
    with open(joined, "wb", opener=_private) as target:
        target.write(_head(machine, pair))
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


def _read_block(read: Callable[[int], bytes]) -> StatePage | None:
    head = read(BLOCK.size)
    if len(head) != BLOCK.size or head[:4] != b"PAGE":
        return None
    _, *numbers, check = BLOCK.unpack(head)
    lengths = tuple(numbers[:5])
    count, files, content_bytes, whole, id = numbers[5:]
    if sum(lengths) > BLOCK_LIMIT or lengths[1] != count * ROW_SIZE or not count:
        return None
    body = read(sum(lengths))
    if len(body) != sum(lengths) or _check(head[:-CHECK], body) != check:
        return None
    return StatePage(id, count, files, content_bytes, bool(whole), head + body, lengths)


def _head(machine: bytes, pair: bytes) -> bytes:
    head = HEAD.pack(MAGIC, VERSION, machine, pair, b"")[:-CHECK]
    return head + _check(head)


def _check(head: bytes, body: bytes = b"") -> bytes:
    state = hasher(Purpose.AGENT_STATE)
    state.update(head)
    state.update(body)
    return bytes(state.digest(length=CHECK))


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW, 0o600)


def _read_only(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW)
