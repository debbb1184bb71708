"""Blocking peers that speak to a real daemon over real TLS, byte for byte as they are told: agents, clients and
attackers of the tests and of the measurements. They know the messages and nothing of mastodon_agent or
mastodon.restore.
"""

import socket
import ssl
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Self, TypeVar

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from mastodon.host.certificates import Identity, spki_pin
from mastodon.sealed import cbor
from mastodon.sealed.blob import BlobKind, BlobSealer, blob_id
from mastodon.sealed.hpke import SealingKey
from mastodon.sealed.listing import Root, Section, encode_page, first_key
from mastodon.sealed.machine_secret import MachineSecret
from mastodon.sealed.pack import PackWriter
from mastodon.sealed.pair import EnvelopeMode, PairRecord, envelope_hash
from mastodon.sealed.record import HEAD, MAGIC, SUITE, Record, record_hash
from mastodon.sealed.record import VERSION as FORMAT
from mastodon.sealed.run import make_run, run_id
from mastodon.sealed.snapshot import SnapshotRecord, SnapshotStatus
from mastodon.wire.frame import RESTORE_FRAME_LIMIT, FrameReader, encode_frame
from mastodon.wire.hello import VERSION, sign_hello
from mastodon.wire.messages import (
    Ack,
    Answer,
    Committed,
    Error,
    Greeting,
    Hello,
    Keepalive,
    Message,
    Missing,
    NewPair,
    NewSnapshot,
    PackEnd,
    Piece,
    decode_server,
)
from mastodon.wire.restore_messages import DataItem, Done, decode_reply

TIMEOUT_S = 60.0
M = TypeVar("M", bound=Message)


def client_context(
    alpn: Sequence[str], identity: Identity | None = None, chain: Sequence[Identity] = ()
) -> ssl.SSLContext:
    """A context that checks nothing of the server; with a client certificate, and more behind it in the chain."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if alpn:
        context.set_alpn_protocols(list(alpn))
    if identity is not None:
        with tempfile.TemporaryDirectory() as folder:
            key, certificates = Path(folder) / "key", Path(folder) / "crt"
            key.write_bytes(identity.key_pem())
            certificates.write_bytes(b"".join(one.certificate_pem() for one in (identity, *chain)))
            context.load_cert_chain(certificates, key)
    return context


def sign_anyhow(record: Record, key: Ed25519PrivateKey) -> bytes:
    """A record signed as it is, also where no honest program would: what an attacker with the key can make."""
    body = cbor.encode(record.to_body())
    signed = HEAD.pack(MAGIC, record.TYPE, FORMAT, SUITE, 0, 0, 0, len(body)) + body
    return signed + key.sign(record.PURPOSE.prefix + signed)


def altered(data: bytes) -> bytes:
    """The same with its last bit flipped."""
    return data[:-1] + bytes([data[-1] ^ 1])


class Peer:
    """One connection."""

    def __init__(self, port: int, context: ssl.SSLContext, session: ssl.SSLSession | None = None) -> None:
        raw = socket.create_connection(("127.0.0.1", port), TIMEOUT_S)
        try:
            self.socket = context.wrap_socket(raw, session=session)
        except BaseException:
            raw.close()
            raise
        self.pin = spki_pin(x509.load_der_x509_certificate(self.socket.getpeercert(True) or b""))
        self._reader = FrameReader(RESTORE_FRAME_LIMIT)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, *messages: Message) -> None:
        self.socket.sendall(b"".join(message.encode() for message in messages))

    def send_raw(self, data: bytes) -> None:
        self.socket.sendall(data)

    def send_frame(self, kind: int, payload: bytes) -> None:
        self.send_raw(encode_frame(kind, payload))

    def frame(self) -> tuple[int, bytes] | None:
        """The next frame, or None when the other end closed."""
        while (frame := self._reader.next_frame()) is None:
            try:
                data = self.socket.recv(1 << 16)
            except (ConnectionError, ssl.SSLEOFError):
                return None
            if not data:
                return None
            self._reader.receive(data)
        return frame

    def closed(self) -> bool:
        """Whether the other end closes, whatever it still says."""
        while self.frame() is not None:
            pass
        return True


class AppendPeer(Peer):
    """Speaks to the append port."""

    def __init__(self, port: int) -> None:
        super().__init__(port, client_context(["mastodon/1"]))
        self.greeting = self.expect(Greeting)

    def message(self) -> Message | None:
        while (frame := self.frame()) is not None:
            message = decode_server(*frame)
            if not isinstance(message, Keepalive):
                return message
        return None

    def expect(self, kind: type[M]) -> M:
        message = self.message()
        if not isinstance(message, kind):
            raise AssertionError(f"expected {kind.__name__}, got {message}")
        return message

    def hello_for(self, secret: MachineSecret, nonce: bytes = b"r" * 16, **changes: Any) -> Hello:
        signature = sign_hello(secret.signing_key, self.greeting.nonce, self.pin, secret.machine_id, VERSION)
        values = {
            "version": VERSION, "machine": secret.machine_id, "signature": signature, "run_nonce": nonce,
            "remembered_sequence": 0, "remembered_hash": b"", "time_ns": time.time_ns(), "agent_version": "test",
        }  # fmt: skip
        return Hello(**{**values, **changes})

    def enter(self, secret: MachineSecret, nonce: bytes = b"r" * 16) -> Answer:
        """HELLO, and the answer."""
        self.send(self.hello_for(secret, nonce))
        return self.expect(Answer)


class TinyMachine:
    """A machine with a pair and a run, that seals what the test tells it."""

    def __init__(self, secret: MachineSecret, number: int = 1, previous: bytes = b"", salt: bytes = b"") -> None:
        self.secret = secret
        self.private = SealingKey(bytes([number]) * 32)
        self.envelope = b"an OpenPGP message, opaque to the server" + salt
        self.pair = PairRecord(
            secret.machine_id, bytes([number]) * 16, 1, number, previous, self.private.public_key,
            EnvelopeMode.PASSPHRASE, (), bytes(32), envelope_hash(self.envelope),
        )  # fmt: skip
        self.pair_record = self.pair.sign(secret.signing_key)
        self.run_key = b"k" * 32
        self.run = make_run(secret.signing_key, self.pair, b"r" * 16, 1, self.run_key, secret.id_key)
        self.sealer = BlobSealer(secret.machine_id, run_id(self.run), self.run_key)
        self._salt = 0

    def blob(self, kind: BlobKind, references: Sequence[bytes], plaintext: bytes) -> tuple[bytes, int, bytes]:
        """Id, kind and sealed bytes."""
        id = blob_id(self.secret.id_key, kind, references, plaintext)
        self._salt += 1
        return id, kind, self.sealer.seal(kind, id, references, plaintext, self._salt.to_bytes(16, "big"))

    def pack(
        self, blobs: Iterable[tuple[bytes, int, bytes]], runs: Sequence[bytes] | None = None
    ) -> tuple[bytes, bytes]:
        """Pack id and bytes."""
        writer = PackWriter(self.secret.machine_id, [self.run] if runs is None else runs)
        parts = [writer.add(*blob) for blob in blobs]
        last, id = writer.finish()
        return id, b"".join([*parts, last])

    def listing(self, sections: Sequence[Section], references: Sequence[bytes]) -> list[tuple[bytes, int, bytes]]:
        """A page and its root."""
        page = self.blob(BlobKind.PAGE, references, encode_page(sections))
        count = sum(len(section.entries) for section in sections)
        root = Root((first_key(sections),), ((),), (), count, 0, 0, (), "test", "UTC", "host").encode()
        return [page, self.blob(BlobKind.ROOT, [page[0]], root)]

    def snapshot(self, root: bytes, sequence: int = 1, predecessor: bytes = b"", **changes: Any) -> bytes:
        """A signed snapshot record."""
        values = {
            "machine": self.secret.machine_id, "sequence": sequence, "pair": self.pair.pair,
            "status": SnapshotStatus.COMPLETE, "counts": (), "time_ns": 1, "root": root, "run_nonce": b"r" * 16,
            "predecessor": predecessor, "remembered": b"",
        }  # fmt: skip
        return sign_anyhow(SnapshotRecord(**{**values, **changes}), self.secret.signing_key)

    # Over the wire

    def send_pair(self, peer: AppendPeer) -> None:
        peer.send(NewPair(self.pair_record, self.envelope))
        if peer.expect(Ack).id != record_hash(self.pair_record):
            raise AssertionError("an ack for something else")

    def send_pack(self, peer: AppendPeer, pack: tuple[bytes, bytes], expect: type[Message] = Ack) -> Any:
        id, data = pack
        pieces = [Piece(data[at : at + 100_000]) for at in range(0, len(data), 100_000)]
        peer.send(*pieces, PackEnd(id))
        return peer.expect(expect)

    def commit(self, peer: AppendPeer, record: bytes) -> Committed | Missing | Error:
        peer.send(NewSnapshot(record))
        message = peer.message()
        if not isinstance(message, Committed | Missing | Error):
            raise AssertionError(f"a commit was answered by {message}")
        return message


class RestorePeer(Peer):
    """Speaks to the restore port."""

    def __init__(self, port: int, identity: Identity | None, chain: Sequence[Identity] = ()) -> None:
        super().__init__(port, client_context(["mastodon-restore/1"], identity, chain))
        self._number = 0

    def ask(self, kind: Callable[..., Message], *values: Any) -> list[Message]:
        """All that is answered to a request, up to DONE or an error (both included)."""
        self._number += 1
        self.send(kind(self._number, *values))
        items: list[Message] = []
        while True:
            frame = self.frame()
            if frame is None:
                return items
            item = decode_reply(*frame)
            if isinstance(item, Keepalive):
                continue
            items.append(item)
            if isinstance(item, Done | Error):
                return items

    def data(self, kind: Callable[..., Message], *values: Any) -> tuple[bytes, Message]:
        """The bytes of a FETCH's answer, and its last message."""
        items = self.ask(kind, *values)
        return b"".join(item.data for item in items if isinstance(item, DataItem)), items[-1]
