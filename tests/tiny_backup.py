"""A tiny, independent writer of backups for tests: straight from the formats, without agent or daemon.

It seals a directory into packs and a ledger laid out as a spool. Its cuts are simple and its speed does not matter; but
whatever a listing can say it can write, also what no honest agent would.
"""

import functools
import os
import stat
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mastodon.host.metadata import data_extents, read_entry
from mastodon.host.owners import OwnerNames
from mastodon.host.spool_layout import LEDGER, MARKER, Marker, chain_directory, pack_name, segment_name
from mastodon.sealed.admin_secret import AdminSecret
from mastodon.sealed.blob import BlobKind, BlobSealer, blob_id
from mastodon.sealed.book import BookContent, Card, Generation, make_book
from mastodon.sealed.content import FileHasher, encode_map, file_hash_key, places_length
from mastodon.sealed.enrolment import Enrolment
from mastodon.sealed.entry import HOLE, Entry, EntryType, Place
from mastodon.sealed.hpke import SealingKey
from mastodon.sealed.ledger import Head, encode_entry, encode_segment_head
from mastodon.sealed.ledger_entries import (
    BookSwapped,
    ChainStarted,
    EntryBody,
    MachineEnrolled,
    PairAdded,
    SnapshotCommitted,
)
from mastodon.sealed.listing import Directory, Root, Section, encode_page
from mastodon.sealed.machine_secret import MachineSecret, id_key_commitment
from mastodon.sealed.pack import PACK_LIMIT, PackWriter
from mastodon.sealed.pair import EnvelopeMode, EnvelopePayload, PairRecord, envelope_hash, pair_mac
from mastodon.sealed.record import record_hash
from mastodon.sealed.run import make_run, run_id
from mastodon.sealed.snapshot import SnapshotRecord, SnapshotStatus
from mastodon.sealed.url import MachineUrl

BUNDLE = 512 * 1024
CHUNK = 64 * 1024
PLACES = 256
DAY = "2026/11/24"
BASE_NS = 1_795_500_000 * 10**9
PASSPHRASE = b"tell me what you eat"
TENANT = b"t" * 32
MARK_CHAIN = b"c" * 16


@functools.cache
def gpg_symmetric(payload: bytes, passphrase: bytes) -> bytes:
    """An OpenPGP message under a passphrase, made by gpg itself."""
    with tempfile.TemporaryDirectory(prefix="gpg-", dir="/tmp") as home:
        gpg = ["gpg", "--homedir", home, "--batch", "--quiet", "--pinentry-mode", "loopback", "--passphrase-fd", "0"]
        how = ["--s2k-count", "1024", "--cipher-algo", "AES256", "--symmetric", "-o", "-"]
        Path(home, "payload").write_bytes(payload)
        done = subprocess.run([*gpg, *how, f"{home}/payload"], input=passphrase, capture_output=True, check=True)
        subprocess.run(["gpgconf", "--homedir", home, "--kill", "gpg-agent"], check=False)
        return done.stdout


@dataclass(slots=True)
class Made:
    """What a writer has made so far, for tests to look into and to twist."""

    packs: dict[bytes, bytes] = field(default_factory=dict)
    blobs: dict[bytes, list[bytes]] = field(default_factory=dict)
    runs: dict[bytes, bytes] = field(default_factory=dict)
    pairs: list[tuple[bytes, bytes, int]] = field(default_factory=list)
    snapshots: list[tuple[bytes, int]] = field(default_factory=list)


class TinyBackup:
    """One machine's backups. ``envelope_of`` turns a payload into an envelope: by gpg unless given."""

    def __init__(
        self, secret: bytes = b"s" * 32, passphrase: bytes = PASSPHRASE, tenant: bytes = TENANT,
        recipients: Sequence[bytes] = (), envelope_of: Callable[[bytes], bytes] | None = None, seed: bytes = b"e" * 32,
    ) -> None:  # fmt: skip
        self.secret = MachineSecret(secret)
        self.url = MachineUrl("web01", secret, (("backup.example", 7410),))
        self.machine = self.secret.machine_id
        self.tenant = tenant
        self.made = Made()
        self.sequence = 0
        self.head = b""
        self.hash_key = file_hash_key(self.secret.id_key)
        self._envelope_of = envelope_of or (lambda payload: gpg_symmetric(payload, passphrase))
        self.pair = self.add_pair(b"p" * 16, seed, passphrase, recipients)
        self._run = 0
        self.new_run()

    # -- records

    def add_pair(
        self, pair: bytes, seed: bytes, passphrase: bytes = PASSPHRASE, recipients: Sequence[bytes] = ()
    ) -> PairRecord:
        """A further sealing pair, used from the next run on."""
        payload = EnvelopePayload(self.machine, pair, seed).encode()
        envelope = self._envelope_of(payload)
        mode = EnvelopeMode.RECIPIENTS if recipients else EnvelopeMode.PASSPHRASE
        previous = record_hash(self.made.pairs[-1][0]) if self.made.pairs else b""
        record = PairRecord(
            self.machine, pair, BASE_NS, len(self.made.pairs) + 1, previous, SealingKey(seed).public_key, mode,
            tuple(recipients), pair_mac(self.secret.pair_mac_key, pair, mode, recipients, passphrase),
            envelope_hash(envelope),
        )  # fmt: skip
        self.made.pairs.append((record.sign(self.secret.signing_key), envelope, 0))
        self.pair = record
        return record

    def new_run(self) -> None:
        """Whatever is sealed from now on belongs to a new run."""
        self._run += 1
        run_key = bytes([self._run]) * 32
        nonce = self._run.to_bytes(16, "big")
        self.run_nonce = nonce
        record = make_run(self.secret.signing_key, self.pair, nonce, BASE_NS, run_key, self.secret.id_key)
        self.run = run_id(record)
        self.made.runs[self.run] = record
        self.sealer = BlobSealer(self.machine, self.run, run_key)
        self._pack: PackWriter | None = None
        self._pack_bytes: list[bytes] = []
        self._sealed: set[bytes] = set()

    def snapshot(self, root: bytes, status: SnapshotStatus = SnapshotStatus.COMPLETE, time_ns: int = 0) -> bytes:
        """Commit a root; the record."""
        self.finish_pack()
        self.sequence += 1
        when = time_ns or BASE_NS + self.sequence * 3600 * 10**9
        record = SnapshotRecord(
            self.machine, self.sequence, self.pair.pair, status, (), when, root, self.run_nonce, self.head, self.head
        ).sign(self.secret.signing_key)
        self.head = record_hash(record)
        self.made.snapshots.append((record, when + 10**9))
        return record

    # -- blobs

    def seal(
        self, kind: BlobKind, plaintext: bytes, references: Sequence[bytes] = (), id: bytes | None = None
    ) -> bytes:
        """Seal a blob into the pack; its id (which a test may falsify)."""
        id = blob_id(self.secret.id_key, kind, references, plaintext) if id is None else id
        if id in self._sealed:
            return id
        self._sealed.add(id)
        data = self.sealer.seal(kind, id, references, plaintext, os.urandom(16))
        self.made.blobs.setdefault(id, []).append(data)
        if self._pack is not None and not self._pack.fits(len(data)):
            self.finish_pack()
        if self._pack is None:
            self._pack = PackWriter(self.machine, [self.made.runs[self.run]])
        self._pack_bytes.append(self._pack.add(id, kind, data))
        if self._pack.length > PACK_LIMIT // 2:
            self.finish_pack()
        return id

    def finish_pack(self) -> None:
        """Close the pack."""
        if self._pack is not None:
            last, pack = self._pack.finish()
            self.made.packs[pack] = b"".join((*self._pack_bytes, last))
            self._pack, self._pack_bytes = None, []

    def page(self, sections: Sequence[Section], references: Sequence[bytes]) -> bytes:
        """Seal a page."""
        return self.seal(BlobKind.PAGE, encode_page(sections), references)

    def root(
        self, pages: Sequence[tuple[bytes, Sequence[Section]]], entries: int = 0, files: int = 0, size: int = 0
    ) -> bytes:
        """Seal a root over pages."""
        keys = tuple((sections[0].directory, sections[0].entries[0].name) for _, sections in pages)
        root = Root(keys, ((b"",),), (), entries, files, size, (("hostname", b"web01"),), "test", "UTC", "web01")
        return self.seal(BlobKind.ROOT, root.encode(), [page for page, _ in pages])

    def small(self, entries: Sequence[tuple[Directory, Entry, bytes]], time_ns: int = 0) -> bytes:
        """A snapshot of a few files with these contents, in one bundle and one page; entries in order."""
        bundle = b"".join(content for _, _, content in entries)
        references = [self.seal(BlobKind.BUNDLE, bundle)] if bundle else []
        sections: list[Section] = []
        offset = 0
        for directory, entry, content in entries:
            if entry.type is EntryType.FILE:
                entry.size = len(content)
                entry.hash = self.hash(content)
                entry.places = (Place(0, offset, len(content)),) if content else ()
            offset += len(content)
            if not sections or sections[-1].directory != directory:
                sections.append(Section(directory, []))
            list.append(sections[-1].entries, entry)  # type: ignore[arg-type]
        page = self.page(sections, references)
        return self.snapshot(self.root([(page, sections)], len(entries)), time_ns=time_ns)

    def hash(self, content: bytes) -> bytes:
        """A whole-file hash."""
        hasher = FileHasher(self.hash_key)
        hasher.data(content)
        return hasher.digest(len(content))

    # -- trees

    def tree(self, top: str | Path, entries_a_page: int = 500) -> bytes:
        """A snapshot of everything below a directory, as if it were the machine's root."""
        walk = _Walk(self, os.fsencode(top))
        return self.snapshot(walk.seal(entries_a_page))

    # -- spools

    def write_spool(self, root: Path, book: bytes = b"", extra: Sequence[EntryBody] = ()) -> Path:
        """Lay everything out as a spool."""
        self.finish_pack()
        root.mkdir(parents=True, exist_ok=True)
        (root / MARKER).write_bytes(Marker(b"u" * 16).encode())
        for pack, data in self.made.packs.items():
            path = root / pack_name(DAY, pack)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        bodies: list[EntryBody] = [ChainStarted((b"x" * 32,), b"y" * 32, "1")]
        bodies.append(MachineEnrolled(self.enrolment(), b""))
        bodies += [PairAdded(self.machine, record, envelope, again) for record, envelope, again in self.made.pairs]
        bodies += [SnapshotCommitted(record) for record, _ in self.made.snapshots]
        if book:
            bodies.append(BookSwapped(book, b""))
        write_ledger(root, [*bodies, *extra])
        return root

    def enrolment(self) -> bytes:
        """The machine's enrolment, signed by itself."""
        record = Enrolment(self.machine, self.secret.public_key, self.tenant, (b"x" * 32,), b"h" * 16, 0, BASE_NS)
        return record.sign(self.secret.signing_key)

    def card(self, name: str = "web01", passkey: bytes = PASSPHRASE) -> Card:
        """What the admin's book says of this machine."""
        commitment = id_key_commitment(self.secret.id_key)
        generation = Generation(
            self.machine, self.secret.public_key, self.secret.order_key.public_key, commitment, BASE_NS, (), passkey
        )
        return Card(name, b"h" * 16, (generation,))

    def book(self, admin: AdminSecret, version: int = 1) -> bytes:
        """A book with this machine's card."""
        content = BookContent((self.card(),))
        return make_book(content, admin.tenant, version, b"", admin.book_key, admin.order_key, b"z" * 16)


def write_ledger(root: Path, bodies: Sequence[EntryBody], chain: bytes = MARK_CHAIN) -> Path:
    """A chain of one segment with these entries."""
    head = Head(chain)
    parts = [encode_segment_head(head)]
    for number, body in enumerate(bodies):
        data, head = encode_entry(head, body, BASE_NS + number, True)
        parts.append(data)
    path = chain_directory(root, chain) / segment_name(1)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join(parts))
    return root / LEDGER


class _Walk:
    """Seals one tree: contents first, then the listing."""

    def __init__(self, backup: TinyBackup, top: bytes) -> None:
        self._backup = backup
        self._top = os.open(top, os.O_RDONLY | os.O_DIRECTORY)
        self._names = OwnerNames()
        self._links: dict[tuple[int, int], int] = {}
        self._bundle = bytearray()
        self._in_bundle: list[tuple[Entry, int, int]] = []
        self._blob_of: dict[int, list[tuple[bytes | None, int, int]]] = {}
        self.files = self.size = 0

    def seal(self, entries_a_page: int) -> bytes:
        listed: list[tuple[Directory, Entry]] = list(self._entries((), os.dup(self._top)))
        self._close_bundle()
        os.close(self._top)
        pages = []
        for start in range(0, len(listed), entries_a_page):
            pages.append(self._page(listed[start : start + entries_a_page]))
        return self._backup.root(pages, len(listed), self.files, self.size)

    def _entries(self, directory: Directory, fd: int) -> Iterator[tuple[Directory, Entry]]:
        """Children of a directory in order, then those of each subdirectory."""
        subdirectories = []
        for name in sorted(os.fsencode(one) for one in os.listdir(fd)):
            st = os.stat(name, dir_fd=fd, follow_symlinks=False)
            group = 0
            if st.st_nlink > 1 and not stat.S_ISDIR(st.st_mode):
                group = self._links.setdefault((st.st_dev, st.st_ino), len(self._links) + 1)
            entry = read_entry(fd, name, st, self._names, link_group=group)
            if entry.type is EntryType.FILE:
                self._read(fd, entry)
            elif entry.type is EntryType.DIRECTORY:
                subdirectories.append(name)
            yield directory, entry
        for name in subdirectories:
            below = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=fd)
            yield from self._entries((*directory, name), below)
        os.close(fd)

    def _read(self, dir_fd: int, entry: Entry) -> None:
        fd = os.open(entry.name, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=dir_fd)
        try:
            self.files, self.size = self.files + 1, self.size + entry.size
            hasher = FileHasher(self._backup.hash_key)
            extents = data_extents(fd, entry.size)
            if entry.size and entry.size <= BUNDLE and extents == [(0, entry.size)]:
                content = os.pread(fd, entry.size, 0)
                hasher.data(content)
                self._add_to_bundle(entry, content)
            else:
                self._read_large(fd, entry, extents, hasher)
            entry.hash = hasher.digest(entry.size)
        finally:
            os.close(fd)

    def _add_to_bundle(self, entry: Entry, content: bytes) -> None:
        if len(self._bundle) + len(content) > BUNDLE:
            self._close_bundle()
        self._in_bundle.append((entry, len(self._bundle), len(content)))
        self._bundle += content

    def _close_bundle(self) -> None:
        if self._bundle:
            blob = self._backup.seal(BlobKind.BUNDLE, bytes(self._bundle))
            for entry, offset, length in self._in_bundle:
                self._blob_of[id(entry)] = [(blob, offset, length)]
            self._bundle, self._in_bundle = bytearray(), []

    def _read_large(self, fd: int, entry: Entry, extents: list[tuple[int, int]], hasher: FileHasher) -> None:
        found: list[tuple[bytes | None, int, int]] = []
        at = 0
        for start, length in [*extents, (entry.size, 0)]:
            if start > at:
                hasher.hole(at, start - at)
                found.append((None, 0, start - at))
            for offset in range(start, start + length, CHUNK):
                piece = os.pread(fd, min(CHUNK, start + length - offset), offset)
                hasher.data(piece)
                found.append((self._backup.seal(BlobKind.CHUNK, piece), 0, len(piece)))
            at = start + length
        self._blob_of[id(entry)] = found if len(found) <= PLACES else self._mapped(found)

    def _mapped(self, found: list[tuple[bytes | None, int, int]]) -> list[tuple[bytes | None, int, int]]:
        maps: list[tuple[bytes | None, int, int]] = []
        for start in range(0, len(found), 1000):
            references: list[bytes] = []
            places = _places(found[start : start + 1000], references)
            blob = self._backup.seal(BlobKind.MAP, encode_map(places), references)
            maps.append((blob, 0, places_length(places)))
        return maps

    def _page(self, listed: Sequence[tuple[Directory, Entry]]) -> tuple[bytes, list[Section]]:
        references: list[bytes] = []
        sections: list[Section] = []
        for directory, entry in listed:
            entry.places = _places(self._blob_of.get(id(entry), []), references)
            if not sections or sections[-1].directory != directory:
                sections.append(Section(directory, []))
            list.append(sections[-1].entries, entry)  # type: ignore[arg-type]
        return self._backup.page(sections, references), sections


def _places(found: Sequence[tuple[bytes | None, int, int]], references: list[bytes]) -> tuple[Place, ...]:
    places = []
    for blob, offset, length in found:
        if blob is None:
            places.append(Place(HOLE, 0, length))
            continue
        if blob not in references:
            references.append(blob)
        places.append(Place(references.index(blob), offset, length))
    return tuple(places)
