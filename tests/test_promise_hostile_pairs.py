"""P1: a machine that makes hundreds of sealing pairs leaves its older snapshots as cheap to list and restore as before.

A real daemon, real TLS and the admin's own client; what comes over the wire is counted.
"""

import os
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred

from bench.blocking_peers import AppendPeer
from mastodon.daemon import commits
from mastodon.host.socket_tls import TLSStream, connect
from mastodon.restore.blobs import OpenBlob
from mastodon.restore.memory import Memory
from mastodon.restore.plan import Page
from mastodon.restore.server_source import ServerSource
from mastodon.restore.session import Session
from mastodon.restore.source import all_pairs
from mastodon.restore.trust import EnvelopeClosed, KnownMachine
from mastodon.sealed import pair
from mastodon.sealed.machine_secret import id_key_commitment
from mastodon.sealed.pair import ENVELOPE_LIMIT
from mastodon.sealed.record import record_hash
from mastodon.wire.messages import Ack, Committed, NewPair, NewSnapshot, PackEnd, Piece
from mastodon.wire.restore_messages import PAIRS_LIMIT
from mastodon.wire.restore_verbs import ALPN
from tests.restore_case import FILES, listed
from tests.running_server import ServerTestCase
from tests.tiny_backup import TinyBackup

SECRET = b"a machine that somebody has root"
HOSTILE = 260
RESEALED_EACH = 30
LARGE = ENVELOPE_LIMIT - 1024
BOUND = 512 * 1024
"""Less than five of the hostile envelopes."""


class CountingStream:
    """Counts what the server sends."""

    def __init__(self, stream: TLSStream) -> None:
        self._stream = stream
        self.server_pin = stream.server_pin
        self.received = 0

    def send(self, data: bytes) -> None:
        self._stream.send(data)

    def receive_pieces(self) -> list[bytes]:
        pieces = self._stream.receive_pieces()
        self.received += sum(map(len, pieces))
        return pieces

    def close(self) -> None:
        self._stream.close()


class HostilePairsTests(ServerTestCase):
    """A machine with one good snapshot, whose pairs then become very many and large."""

    def setUp(self) -> Any:
        self.patch(commits, "PAIRS_PER_DAY", HOSTILE + 1)
        self.patch(pair, "SCRYPT_N", 2)  # what stretching a passphrase costs is not what is counted
        self.padding = 0
        self.opened: list[bytes] = []
        self.warnings: list[str] = []
        self.backup = TinyBackup(SECRET, envelope_of=lambda payload: b"sealed:" + payload + bytes(self.padding))
        return super().setUp()

    def test_promise_p1_hundreds_of_pairs(self) -> Deferred[None]:
        """The older snapshot is listed and restored with a page of names and the one pair that it needs; before and
        after the admin has adopted that pair, and though the same blobs are sealed again under hostile pairs."""

        def attack() -> None:
            self.server.enrol(self.tenant, SECRET)
            self.back_up_and_attack()
            first = self.backup.made.pairs[0]
            adopted = ((b"p" * 16, record_hash(first[0])),)
            for known in (self.known(), self.known(pairs=adopted)):
                session, stream = self.session(known)
                self.assertEqual([one.record.sequence for one in session.history.snapshots], [1])
                self.assertEqual(self.content(session), b"".join(FILES.values()))
                self.assertLess(stream.received, BOUND)
                self.assertEqual(set(self.opened), {first[1].removeprefix(b"sealed:")})
                self.assertIn("sealing pair 2", self.warnings[0])
                self.assertLess(len(self.warnings), 10)
                self.warnings.clear()
            self.assert_all_listed()

        return self.thread(attack)

    def assert_all_listed(self) -> None:
        """Page by page the admin sees the names of all pairs."""
        session, stream = self.session(self.known())
        names = list(all_pairs(session.source, self.backup.machine))
        self.assertEqual([one.number for one in names], list(range(1, HOSTILE + 2)))
        self.assertEqual([one.hash for one in names], [record_hash(record) for record, *_ in self.backup.made.pairs])
        self.assertEqual(len(session.source.pairs(self.backup.machine, 0, 65535)), PAIRS_LIMIT)
        self.assertLess(stream.received, BOUND)

    def back_up_and_attack(self) -> None:
        """One good snapshot; then hostile pairs, and every so often all blobs of the snapshot sealed anew."""
        self.backup.small(listed(FILES))
        with self.server.append_peer() as peer:
            peer.enter(self.backup.secret)
            self.send_pair(peer)
            self.send_packs(peer)
            peer.send(NewSnapshot(self.backup.made.snapshots[0][0]))
            peer.expect(Committed)
            self.padding = LARGE
            for number in range(HOSTILE):
                self.backup.add_pair(number.to_bytes(16, "big"), os.urandom(32))
                self.send_pair(peer)
                if number % RESEALED_EACH == 0:
                    self.backup.new_run()
                    self.backup.small(listed(FILES))
                    self.send_packs(peer)

    def send_pair(self, peer: AppendPeer) -> None:
        record, envelope, _ = self.backup.made.pairs[-1]
        peer.send(NewPair(record, envelope))
        peer.expect(Ack)

    def send_packs(self, peer: AppendPeer) -> None:
        for pack, data in self.backup.made.packs.items():
            peer.send(Piece(data), PackEnd(pack))
            peer.expect(Ack)
        self.backup.made.packs.clear()

    def known(self, **changes: Any) -> KnownMachine:
        secret = self.backup.secret
        commitment = id_key_commitment(secret.id_key)
        return KnownMachine("web01", secret.machine_id, secret.public_key, commitment, **changes)

    def session(self, known: KnownMachine) -> tuple[Session, CountingStream]:
        """The admin's client at the restore port."""
        folder = Path(self.mktemp())
        folder.mkdir()
        certificate, key = folder / "crt", folder / "key"
        certificate.write_bytes(self.tenant.identity.certificate_pem())
        key.write_bytes(self.tenant.identity.key_pem())
        host = "127.0.0.1", self.server.restore_port
        stream = CountingStream(connect([host], [self.server.identity.pin], ALPN, (str(certificate), str(key))))
        self.addCleanup(stream.close)
        source = ServerSource([stream].pop)  # a connection that is lost is not made again
        return Session(source, known, self.open_envelope, Memory(None), self.warnings.append), stream

    def open_envelope(self, envelope: bytes) -> bytes:
        """What gpg would do."""
        if not envelope.startswith(b"sealed:"):
            raise EnvelopeClosed("not an encrypted OpenPGP message")
        self.opened.append(envelope.removeprefix(b"sealed:"))
        return self.opened[-1]

    def content(self, session: Session) -> bytes:
        """All that the first snapshot holds."""
        (page,) = session.listing(session.snapshot("1")).pages()
        assert isinstance(page, Page)
        (bundle,) = session.reader.read_now(page.references).values()
        assert isinstance(bundle, OpenBlob)
        return bundle.plaintext
