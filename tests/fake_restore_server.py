"""A restore port inside the test: a transport that answers a client's frames at once, truthfully or as it is told.

``lies`` are functions that get the request and the messages that would answer it, and give back others; a lie may be
replaced at any time. Nothing here checks anything: it is the server that the client must not have to trust.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from mastodon.restore.memory import Memory
from mastodon.restore.server_source import ServerSource
from mastodon.restore.session import Session
from mastodon.restore.trust import EnvelopeClosed, KnownMachine
from mastodon.sealed.blob import parse_header
from mastodon.sealed.errors import FormatError
from mastodon.sealed.ledger_entries import Role
from mastodon.sealed.machine_secret import id_key_commitment
from mastodon.sealed.pair import PairRecord, ReenvelopeRecord
from mastodon.sealed.record import record_hash
from mastodon.wire.errors import ErrorCode
from mastodon.wire.frame import RESTORE_FRAME_LIMIT, FrameReader
from mastodon.wire.messages import Message, make_error
from mastodon.wire.restore_client import split_ids
from mastodon.wire.restore_messages import (
    BookItem,
    BookRequest,
    DataItem,
    Done,
    EnvelopeItem,
    EnvelopesRequest,
    FetchRequest,
    PairItem,
    PairsRequest,
    RunItem,
    RunsRequest,
    SnapshotItem,
    SnapshotsRequest,
    StateRequest,
    WhoItem,
    WhoRequest,
    decode_request,
)
from tests.tiny_backup import BASE_NS, PASSPHRASE, Made, TinyBackup

PIN = b"x" * 32
CUT = 64 * 1024

Lie = Callable[[Message, list[Message]], Iterable[Message]]


class FakeServer:
    """Answers from what a TinyBackup made. ``connect`` gives a new connection, as a ServerSource wants it."""

    def __init__(self, made: Made, tenant: bytes = b"t" * 32) -> None:
        self.made = made
        self.tenant = tenant
        self.lie: Lie = lambda request, messages: messages
        self.requests: list[Message] = []
        self.statements: list[tuple[bytes, bytes]] = []
        self.book = b""
        self.connections = 0

    def connect(self) -> "FakeStream":
        """A new connection."""
        self.connections += 1
        return FakeStream(self)

    def answer(self, request: Any) -> list[Message]:
        """The truth, then the lie about it."""
        self.requests.append(request)
        return list(self.lie(request, self._truth(request)))

    def _truth(self, request: Any) -> list[Message]:
        number = request.request
        match request:
            case WhoRequest():
                hosts = ("backup.example:7410",)
                items: list[Message] = [
                    WhoItem(number, self.tenant, "demo", Role.ADMIN, (PIN,), BASE_NS, len(self.statements), hosts)
                ]
            case SnapshotsRequest():
                items = [SnapshotItem(number, record, time_ns) for record, time_ns in self.made.snapshots]
            case PairsRequest():
                named = [(pair, offered[0]) for pair, offered in self._pairs() if isinstance(pair, PairRecord)]
                listed = [
                    PairItem(number, pair.number, pair.pair, record_hash(record), pair.time_ns)
                    for pair, record in sorted(named, key=lambda one: one[0].number)
                    if pair.number >= request.first
                ]
                items = [*listed[: request.limit]]
            case EnvelopesRequest():
                items = [
                    EnvelopeItem(number, *offered)
                    for pair, offered in self._pairs()
                    if pair is None or pair.pair == request.pair
                ]
            case RunsRequest():
                wanted = split_ids(request.ids)
                items = [RunItem(number, self.made.runs[run]) for run in wanted if run in self.made.runs]
            case FetchRequest():
                return self._fetch(number, split_ids(request.ids))
            case BookRequest():
                items = [BookItem(number, self.book)] if self.book else []
            case StateRequest():
                self.statements.append((request.statement, request.attachment))
                self.book = request.attachment or self.book
                items = []
            case _:
                return [make_error(ErrorCode.NOT_ALLOWED, "not in this test", request=number)]
        return [*items, Done(number)]

    def _pairs(self) -> Iterator[tuple[PairRecord | ReenvelopeRecord | None, tuple[bytes, bytes, int]]]:
        """What there is of pairs, and what it says; None where it is nonsense, which stands with every pair."""
        for record, envelope, again in self.made.pairs:
            try:
                said = (ReenvelopeRecord if again else PairRecord).read_unverified(record)
            except FormatError:
                yield None, (record, envelope, again)
            else:
                yield said, (record, envelope, again)

    def _fetch(self, number: int, ids: Sequence[bytes]) -> list[Message]:
        data = b"".join(sealed for id in ids for sealed in self.made.blobs.get(id, ()))
        missing = b"".join(id for id in ids if not self.made.blobs.get(id))
        items: list[Message] = [DataItem(number, data[at : at + CUT]) for at in range(0, len(data), CUT)]
        return [*items, Done(number, missing)]


class FakeStream:
    """A connection without a network."""

    server_pin = PIN

    def __init__(self, server: FakeServer) -> None:
        self._server = server
        self._frames = FrameReader(RESTORE_FRAME_LIMIT)
        self._out = bytearray()

    def send(self, data: bytes) -> None:
        self._frames.receive(data)
        while (frame := self._frames.next_frame()) is not None:
            for message in self._server.answer(decode_request(*frame)):
                self._out += message.encode()

    def receive_pieces(self) -> list[bytes]:
        data, self._out = bytes(self._out[:1_000_003]), self._out[1_000_003:]
        return [data] if data else []

    def close(self) -> None:
        self._out.clear()


def swap_data(change: Callable[[bytes], bytes], id: bytes | None = None) -> Lie:
    """A lie that changes the bytes of blobs: all that come, or one."""

    def lie(request: Any, messages: list[Message]) -> Iterable[Message]:
        if not isinstance(request, FetchRequest):
            return messages
        result: list[Message] = []
        for sealed in blobs_in(messages):
            changed = change(sealed) if id in (None, parse_header(sealed).id) else sealed
            if changed:
                result.append(DataItem(request.request, changed))
        return [*result, *(one for one in messages if not isinstance(one, DataItem))]

    return lie


def blobs_in(messages: Iterable[Message]) -> list[bytes]:
    """The blobs in an answer."""
    data = b"".join(one.data for one in messages if isinstance(one, DataItem))
    found = []
    while data:
        size = parse_header(data).size
        found.append(data[:size])
        data = data[size:]
    return found


def known_from(backup: TinyBackup, **changes: Any) -> KnownMachine:
    """What a card says of a tiny backup's machine."""
    commitment = id_key_commitment(backup.secret.id_key)
    values = {"name": "web01", "machine": backup.machine, "public_key": backup.secret.public_key}
    return KnownMachine(**{**values, "id_key_commitment": commitment, **changes})


class FakeAdmin:
    """Opens sessions on a fake server; envelopes are opened without gpg, by looking them up."""

    def __init__(self, backup: TinyBackup, memory: Memory | None = None) -> None:
        self.backup = backup
        self.server = FakeServer(backup.made)
        self.memory = memory or Memory(None)
        self.warnings: list[str] = []
        self.opened: list[bytes] = []

    def open_envelope(self, envelope: bytes) -> bytes:
        """The payload of an envelope that ``fake_envelope`` made."""
        self.opened.append(envelope)
        if not envelope.startswith(b"sealed:"):
            raise EnvelopeClosed("not an encrypted OpenPGP message")
        return envelope.removeprefix(b"sealed:")

    def session(self, **options: Any) -> Session:
        """A new session, as a new command would make it."""
        known = options.pop("known", None) or known_from(self.backup)
        source = ServerSource(self.server.connect, sleep=lambda _: None)
        return Session(source, known, self.open_envelope, self.memory, self.warnings.append, **options)


def fake_backup(**options: Any) -> TinyBackup:
    """A tiny backup whose envelopes need no gpg."""
    return TinyBackup(envelope_of=lambda payload: b"sealed:" + payload, **options)


__all__ = ["PASSPHRASE", "FakeAdmin", "FakeServer", "blobs_in", "fake_backup", "known_from", "swap_data"]
