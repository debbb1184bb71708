"""Servers for the agent's tests. ``Vault`` keeps what one machine appended: it verifies what a server can (packs,
signatures, pairs, closure), and opens everything, as an admin with the envelope would. ``FolderSession`` reaches it
without a wire, ``FakeAppendServer`` over TLS.
"""

import contextlib
import os
import secrets
import socket
import ssl
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from mastodon.host.certificates import Identity
from mastodon.host.openpgp import open_sealed
from mastodon.restore.delta import apply_delta
from mastodon.sealed.blob import LEVELS, BlobHeader, BlobKind, BlobOpener
from mastodon.sealed.content import FileHasher, decode_map, file_hash_key, places_length
from mastodon.sealed.entry import HOLE, Entry, Place
from mastodon.sealed.listing import Directory, Root, check_order, decode_page
from mastodon.sealed.machine_secret import MachineSecret
from mastodon.sealed.pack import parse_pack
from mastodon.sealed.pair import PairRecord, open_payload
from mastodon.sealed.record import record_hash
from mastodon.sealed.run import RunRecord, run_id, verify_run
from mastodon.sealed.snapshot import SnapshotRecord
from mastodon.wire.append_server import AppendSession, LookUp, Open, Perform
from mastodon.wire.effects import Close, Send
from mastodon.wire.errors import ErrorCode
from mastodon.wire.frame import APPEND_FRAME_LIMIT, FrameReader
from mastodon.wire.messages import (
    Answer,
    Committed,
    Error,
    Finish,
    Keepalive,
    Message,
    Missing,
    NewPair,
    NewSnapshot,
    Offer,
    PackEnd,
    Piece,
    decode_client,
    make_error,
)
from mastodon_agent.packing import SealedPack
from mastodon_agent.session import Durable, Offended, SessionEvent, SnapshotRefused, Wants

MISSING_SHOWN = 4096
"""Missing ids that one answer names."""


@dataclass
class Stored:
    """A blob as it lies in its pack."""

    header: BlobHeader
    data: bytes
    run: bytes


@dataclass
class Vault:
    """All that one machine appended. ``passphrase`` opens its envelopes."""

    secret: MachineSecret
    passphrase: bytes = b"open sesame"
    packs: dict[bytes, bytes] = field(default_factory=dict)
    blobs: dict[bytes, Stored] = field(default_factory=dict)
    pairs: list[tuple[bytes, bytes]] = field(default_factory=list)
    snapshots: list[bytes] = field(default_factory=list)
    received: int = 0
    opens_envelopes: bool = True
    """Whether envelopes are real ones; a test that leaves gpg out puts their payload there."""

    # What a server does

    def head(self) -> tuple[int, bytes]:
        """Sequence and hash of the newest snapshot."""
        if not self.snapshots:
            return 0, b""
        return self.record(-1).sequence, record_hash(self.snapshots[-1])

    def newest_pair(self) -> bytes:
        """The newest pair record."""
        return self.pairs[-1][0] if self.pairs else b""

    def current(self, id: bytes) -> bool:
        """Whether a blob lies here under the newest pair."""
        stored = self.blobs.get(id)
        if stored is None or not self.pairs:
            return False
        return self.run(stored.run).pair == PairRecord.read_unverified(self.newest_pair()).pair

    def run(self, signed: bytes) -> RunRecord:
        """A run record, verified once."""
        if signed not in self._runs:
            self._runs[signed] = verify_run(signed, self.secret.machine_id, self.secret.public_key)
        return self._runs[signed]

    def answer(self) -> Answer:
        """To a HELLO."""
        sequence, hash = self.head()
        count = sum(self.current(id) for id in self.blobs)
        return Answer(1, 1, 0, sequence, hash, self.newest_pair(), count)

    def store_pack(self, id: bytes, data: bytes) -> list[bytes]:
        """Take a pack; the ids of blobs that are here already, in which case it is refused."""
        pack = parse_pack(data, self.secret.machine_id)
        if pack.id != id:
            raise AssertionError("a pack under another id")
        if id in self.packs:
            return []
        offending = [one.header.id for one in pack.blobs if self.current(one.header.id)]
        if offending:
            return offending
        self.packs[id] = data
        self.received += len(data)
        for one in pack.blobs:
            run = pack.runs[one.header.run]
            self.run(run)
            self.blobs[one.header.id] = Stored(one.header, data[one.offset : one.offset + one.header.size], run)
        return []

    def missing(self, root: bytes) -> list[bytes]:
        """What the closure of a root lacks."""
        lacking, seen, todo = [], set(), [(root, 4)]
        while todo:
            id, above = todo.pop()
            if id in seen:
                continue
            seen.add(id)
            if not self.current(id):
                lacking.append(id)
                continue
            level = LEVELS[self.blobs[id].header.kind]
            if level >= above:
                raise AssertionError("a reference that does not go down")
            todo += [(reference, level) for reference in self.blobs[id].header.references]
        return lacking

    def commit(self, signed: bytes) -> Committed | Missing:
        """Take a snapshot record. Raises SnapshotRefused."""
        record = SnapshotRecord.verify(signed, self.secret.public_key)
        sequence, hash = self.head()
        if record_hash(signed) == hash:
            return Committed(hash, 1, record.status)
        if (record.sequence, record.predecessor) != (sequence + 1, hash):
            raise SnapshotRefused("the head is another")
        lacking = self.missing(record.root)
        if lacking:
            return Missing(b"".join(lacking[:MISSING_SHOWN]), len(lacking) > MISSING_SHOWN)
        self.snapshots.append(signed)
        return Committed(record_hash(signed), 1, record.status)

    # What an admin does

    def record(self, number: int = -1) -> SnapshotRecord:
        """A snapshot record."""
        return SnapshotRecord.verify(self.snapshots[number], self.secret.public_key)

    def open(self, id: bytes, kind: BlobKind) -> tuple[bytes, BlobHeader]:
        """A blob's plaintext, everything verified on the way."""
        stored = self.blobs[id]
        if stored.header.kind is not kind:
            raise AssertionError(f"a {stored.header.kind.name} where a {kind.name} was expected")
        run = self.run(stored.run)
        if stored.run not in self._keys:
            record, envelope = next(
                (record, envelope)
                for record, envelope in self.pairs
                if PairRecord.read_unverified(record).pair == run.pair
            )
            payload = open_sealed(envelope, passphrase=self.passphrase) if self.opens_envelopes else envelope
            private = open_payload(payload, PairRecord.verify(record, self.secret.public_key))
            self._keys[stored.run] = run.open(private)[0]
        if stored.header.run != run_id(stored.run):
            raise AssertionError("a blob of another run")
        opener = BlobOpener(self.secret.machine_id, self.secret.id_key)
        return opener.open(stored.data, stored.header, self._keys[stored.run], id), stored.header

    _keys: dict[bytes, bytes] = field(default_factory=dict)
    _runs: dict[bytes, RunRecord] = field(default_factory=dict)

    def root(self, number: int = -1) -> tuple[Root, Sequence[bytes]]:
        """A snapshot's root, and the pages that it lists."""
        plaintext, header = self.open(self.record(number).root, BlobKind.ROOT)
        return Root.decode(plaintext, len(header.references)), header.references

    def entries(self, number: int = -1) -> Iterator[tuple[Directory, Entry, Sequence[bytes]]]:
        """All entries of a snapshot, in order, each with its page's references."""
        root, pages = self.root(number)
        decoded = []
        for first, id in zip(root.first_keys, pages, strict=True):
            plaintext, header = self.open(id, BlobKind.PAGE)
            sections = decode_page(plaintext, len(header.references))
            if (sections[0].directory, sections[0].entries[0].name) != first:
                raise AssertionError("a page that begins with another key than the root says")
            decoded.append((sections, header.references))
        for sections, (_, references) in zip(check_order(one for one, _ in decoded), decoded, strict=True):
            for section in sections:
                for entry in section.entries:
                    yield section.directory, entry, references

    def tree(self, number: int = -1) -> dict[bytes, Entry]:
        """All entries by path."""
        return {b"/" + b"/".join((*where, entry.name)): entry for where, entry, _ in self.entries(number)}

    def content(self, path: bytes, number: int = -1) -> bytes:
        """A file's content, its whole hash verified."""
        for where, entry, references in self.entries(number):
            if b"/" + b"/".join((*where, entry.name)) == path:
                return self.content_of(entry, references)
        raise KeyError(path)

    def content_of(self, entry: Entry, references: Sequence[bytes]) -> bytes:
        """The content of an entry, its whole hash verified; a delta is applied to its base."""
        hasher = FileHasher(file_hash_key(self.secret.id_key))
        out = bytearray()
        for hole, piece in self._content(entry, references):
            if hole:
                hasher.hole(len(out), hole)
                out += bytes(hole)
            else:
                hasher.data(piece)
                out += piece
        if entry.hash and hasher.digest(entry.size) != entry.hash:
            raise AssertionError(f"{entry.name!r}: the content does not have its hash")
        return bytes(out)

    def _content(self, entry: Entry, references: Sequence[bytes]) -> Iterator[tuple[int, bytes]]:
        if entry.delta is None:
            for place in entry.places:
                yield from self._pieces(place, references)
            return
        delta = entry.delta
        base = replace(entry, hash=delta.base_hash, size=delta.base_size, places=delta.base_places, delta=None)
        with tempfile.TemporaryDirectory() as folder:
            paths = [os.path.join(folder, name) for name in ("base", "delta", "result")]
            Path(paths[0]).write_bytes(self.content_of(base, references))
            packed = [piece for place in entry.places for _, piece in self._pieces(place, references)]
            Path(paths[1]).write_bytes(b"".join(packed))
            apply_delta(*paths)
            yield 0, Path(paths[2]).read_bytes()

    def _pieces(self, place: Place, references: Sequence[bytes]) -> Iterator[tuple[int, bytes]]:
        if place.reference == HOLE:
            yield place.length, b""
            return
        id = references[place.reference]
        kind = self.blobs[id].header.kind
        plaintext, header = self.open(id, kind)
        if kind is BlobKind.MAP:
            places = decode_map(plaintext, len(header.references))
            if places_length(places) != place.length or place.offset:
                raise AssertionError("a map of another length than its place")
            for inner in places:
                yield from self._pieces(inner, header.references)
        else:
            yield 0, plaintext[place.offset : place.offset + place.length]


class FolderSession:
    """A session without a wire: everything goes straight into a vault."""

    def __init__(self, vault: Vault) -> None:
        self.vault = vault
        self.answer = vault.answer()
        self.offered: list[bytes] = []
        self.sent: list[SealedPack] = []
        self._events: list[SessionEvent] = []

    def add_pair(self, record: bytes, envelope: bytes) -> None:
        PairRecord.verify(record, self.vault.secret.public_key)
        self.vault.pairs.append((record, envelope))

    def offer(self, number: int, ids: Sequence[bytes]) -> None:
        self.offered += ids
        self._events.append(Wants(number, tuple(not self.vault.current(id) for id in ids)))

    def send_pack(self, pack: SealedPack) -> None:
        self.sent.append(pack)
        offending = self.vault.store_pack(pack.id, b"".join(pack.parts))
        self._events.append(Offended(pack.id, tuple(offending)) if offending else Durable(pack.id))

    def events(self, wait: bool) -> list[SessionEvent]:
        if wait and not self._events:
            raise AssertionError("waiting for an answer that nobody owes")
        events, self._events = self._events, []
        return events

    def commit(self, record: bytes) -> Committed | Missing:
        return self.vault.commit(record)

    def refresh(self) -> Answer:
        self.answer = self.vault.answer()
        return self.answer

    def progress(self, files: int, content_bytes: int) -> None:
        pass


@dataclass
class Faults:
    """What a test has the server do wrong; each counter is used up."""

    cut_at_pack: int = 0
    """Cut the connection in the middle of the n-th pack from now on, once."""
    refuse_hello: list[Error] = field(default_factory=list)
    """Answer the next HELLOs with these."""
    answer_packs: list[Error] = field(default_factory=list)
    """Answer the next packs with these."""
    lose_commit_reply: bool = False
    """Commit the next snapshot, then cut the connection instead of saying so."""
    silent: bool = False
    """Accept connections and say nothing."""
    greeting: bytes = b""
    """Send these bytes for a greeting."""
    pace: int = 0
    mute: bool = False
    """Answer the next pack with signs of life alone, for ever."""


class FakeAppendServer:
    """The server's half of the append port on loopback, one thread a connection. ``vault`` takes what comes."""

    def __init__(self, vault: Vault, identity: Identity, folder: Path) -> None:
        self.vault = vault
        self.identity = identity
        self.faults = Faults()
        self.heard: list[Message] = []
        self.connections = 0
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.minimum_version = ssl.TLSVersion.TLSv1_3
        self._context.set_alpn_protocols(["mastodon/1"])
        key, certificate = folder / "server.key", folder / "server.crt"
        key.write_bytes(identity.key_pem())
        certificate.write_bytes(identity.certificate_pem())
        self._context.load_cert_chain(certificate, key)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._open: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def close(self) -> None:
        """Stop, and wait for all threads."""
        with contextlib.suppress(OSError):  # closed already
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for one in self._open:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(10)

    def _accept(self) -> None:
        while True:
            try:
                raw, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            self._open.append(raw)
            thread = threading.Thread(target=self._serve, args=(raw,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, raw: socket.socket) -> None:
        with contextlib.suppress(OSError, ssl.SSLError), self._context.wrap_socket(raw, server_side=True) as stream:
            if self.faults.silent:
                stream.recv(1)
                return
            if self.faults.greeting:
                stream.sendall(self.faults.greeting)
                stream.recv(1 << 16)
                return
            _ServedConnection(self, stream).run()


class Cut(Exception):
    """The server ends the connection without a word."""


class _ServedConnection:
    """Performs what the server's session asks for."""

    def __init__(self, server: FakeAppendServer, stream: ssl.SSLSocket) -> None:
        self._server = server
        self._stream = stream
        self._session = AppendSession(secrets.token_bytes(32), server.identity.pin)
        self._reader = FrameReader(APPEND_FRAME_LIMIT)
        self._pack = bytearray()

    def run(self) -> None:
        with contextlib.suppress(Cut):
            self._do(self._session.greet())
            while data := self._stream.recv(1 << 16):
                self._reader.receive(data)
                while (frame := self._reader.next_frame()) is not None:
                    message = decode_client(*frame)
                    if not isinstance(message, Piece):
                        self._server.heard.append(message)
                    self._do(self._session.receive(message))

    def _do(self, effects: Iterable[object]) -> None:
        for effect in effects:
            if isinstance(effect, Send):
                self._stream.sendall(effect.message.encode())
            elif isinstance(effect, LookUp):
                secret = self._server.vault.secret
                self._do(self._session.known(secret.public_key if effect.machine == secret.machine_id else None))
            elif isinstance(effect, Open):
                if self._server.faults.refuse_hello:
                    error = self._server.faults.refuse_hello.pop(0)
                    self._do(self._session.turned_away(error.code, error.text))
                else:
                    answer = replace(self._server.vault.answer(), pace=self._server.faults.pace)
                    self._do(self._session.opened(answer))
            elif isinstance(effect, Perform):
                self._do(self._perform(effect.message))
            elif isinstance(effect, Close):
                raise Cut

    def _perform(self, message: Message) -> Iterable[object]:
        vault, session, faults = self._server.vault, self._session, self._server.faults
        if isinstance(message, Piece):
            self._pack += message.data
            return []
        if isinstance(message, PackEnd):
            return self._take_pack(message.pack)
        if isinstance(message, Offer):
            ids = [message.ids[at : at + 32] for at in range(0, len(message.ids), 32)]
            return session.wanted(message.number, message.ids, {id for id in ids if vault.current(id)})
        if isinstance(message, NewPair):
            PairRecord.verify(message.record, vault.secret.public_key)
            vault.pairs.append((message.record, message.envelope))
            return session.durable(record_hash(message.record))
        if isinstance(message, NewSnapshot):
            try:
                word = vault.commit(message.record)
            except SnapshotRefused as error:
                return session.refused(make_error(ErrorCode.SNAPSHOT_REFUSED, str(error)))
            if faults.lose_commit_reply:
                faults.lose_commit_reply = False
                raise Cut
            return session.committed(word) if isinstance(word, Committed) else session.missing(word)
        return session.finished() if isinstance(message, Finish) else []

    def _take_pack(self, id: bytes) -> Iterable[object]:
        faults = self._server.faults
        data, self._pack = bytes(self._pack), bytearray()
        if faults.cut_at_pack:
            faults.cut_at_pack -= 1
            if not faults.cut_at_pack:
                raise Cut
        while faults.mute:
            self._stream.sendall(Keepalive().encode())
            time.sleep(0.02)
        if faults.answer_packs:
            return self._session.refused(faults.answer_packs.pop(0))
        offending = self._server.vault.store_pack(id, data)
        if offending:
            error = make_error(ErrorCode.PACK_REFUSED, "other sealings of what is here", tuple(offending))
            return self._session.refused(error)
        return self._session.durable(id)
