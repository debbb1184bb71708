"""The restore port under attack: who may ask is decided by the proven key alone, now, and within its tenant."""

import datetime
import os
import ssl
import time
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.x509.oid import NameOID
from twisted.internet.defer import Deferred

from bench.blocking_peers import Peer, RestorePeer, TinyMachine, altered, client_context
from mastodon.daemon.events import EventCode
from mastodon.daemon.restore_store import Located
from mastodon.host.certificates import Identity, make_identity
from mastodon.sealed.blob import BlobKind
from mastodon.sealed.book import BookContent, Card, Generation, make_book
from mastodon.sealed.ledger_entries import Role
from mastodon.sealed.machine_secret import MachineSecret, id_key_commitment
from mastodon.sealed.record import record_hash
from mastodon.sealed.statement import (
    CertificateContent,
    MachineContent,
    PinContent,
    StatementVerb,
    encode_content,
)
from mastodon.wire.errors import ErrorCode
from mastodon.wire.messages import Error, Message
from mastodon.wire.restore_messages import (
    BookItem,
    BookRequest,
    Done,
    EnvelopesRequest,
    FetchRequest,
    MachineItem,
    MachinesRequest,
    PairsRequest,
    RestoreVerb,
    RunsRequest,
    SnapshotsRequest,
    StateRequest,
    WhoItem,
    WhoRequest,
    decode_reply,
)
from tests.running_server import ServerTestCase, Tenant

ALPN = ["mastodon-restore/1"]


def fresh_identity(name: str = "stranger") -> Identity:
    return make_identity(name, datetime.datetime.now(datetime.UTC))


def expired(key: Ed25519PrivateKey) -> x509.Certificate:
    """A certificate for the key that was good for one day of 1999."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "alice")])
    begin = datetime.datetime(1999, 1, 1, tzinfo=datetime.UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), 7, begin, begin + datetime.timedelta(days=1))
    return builder.sign(key, None)


class CertificateTests(ServerTestCase):
    """Which client keys are served."""

    def refused(self, identity: Identity, chain: tuple[Identity, ...] = ()) -> bool:
        with RestorePeer(self.server.restore_port, identity, chain) as peer:
            items = peer.ask(MachinesRequest)
            return [self.code(item) for item in items] == [ErrorCode.NOT_AUTHENTICATED] and peer.closed()

    def served(self, identity: Identity) -> bool:
        with RestorePeer(self.server.restore_port, identity) as peer:
            return isinstance(peer.ask(MachinesRequest)[-1], Done)

    def test_promise_p2_no_certificate(self) -> Deferred[None]:
        """Without a client certificate there is no handshake, so nothing is ever answered."""

        def attack() -> None:
            try:
                with RestorePeer(self.server.restore_port, None) as peer:
                    self.assertEqual(peer.ask(WhoRequest), [])
            except (ssl.SSLError, ConnectionError):
                return

        return self.thread(attack)

    def test_promise_p2_unregistered_key(self) -> Deferred[None]:
        """A key that nobody registered is told so, and nothing else."""
        return self.thread(lambda: self.assertTrue(self.refused(fresh_identity())))

    def test_promise_p2_extra_certificate(self) -> Deferred[None]:
        """A registered certificate elsewhere in the chain, whose key the peer does not hold, gives no authority."""

        def attack() -> None:
            stranger = fresh_identity()
            self.assertTrue(self.refused(stranger, (self.tenant.identity,)))
            self.assertTrue(self.refused(stranger, (self.tenant.identity, self.tenant.identity)))

        return self.thread(attack)

    def test_dates_only_warn(self) -> Deferred[None]:
        """An expired certificate of a registered key is served: the key has authority, the dates have none."""

        def work() -> None:
            key = self.tenant.identity.key
            assert isinstance(key, Ed25519PrivateKey)
            self.assertTrue(self.served(Identity(key, expired(key))))

        return self.thread(work)

    def test_promise_p2_removed_key(self) -> Deferred[None]:
        """A key that is removed is out at once, also on an open connection, and for ever."""

        def attack() -> None:
            second = fresh_identity("second")
            register = encode_content(CertificateContent(second.pin, Role.ADMIN, "second"))
            self.server.state(self.tenant, StatementVerb.REGISTER_CERTIFICATE, register)
            self.assertTrue(self.served(second))
            with RestorePeer(self.server.restore_port, second) as peer:
                self.assertIsInstance(peer.ask(WhoRequest)[0], WhoItem)
                self.server.state(self.tenant, StatementVerb.REMOVE_CERTIFICATE, encode_content(PinContent(second.pin)))
                self.assertEqual([self.code(item) for item in peer.ask(WhoRequest)], [ErrorCode.NOT_AUTHENTICATED])
                self.assertTrue(peer.closed())
            self.assertTrue(self.refused(second))
            with self.server.restore_peer(self.tenant) as peer:
                again = self.tenant.statement(self.server.identity.pin, StatementVerb.REGISTER_CERTIFICATE, register)
                self.assertIsInstance(peer.ask(StateRequest, again, b"")[-1], Error)
            self.assertTrue(self.refused(second))

        return self.thread(attack)

    def test_promise_p2_monitor_reads_nothing(self) -> Deferred[None]:
        """A monitor's key gets none of what the table keeps from it, and is told so."""

        def attack() -> None:
            machine = self.server.new_machine(self.tenant)
            watch = fresh_identity("watch")
            register = encode_content(CertificateContent(watch.pin, Role.MONITOR, "watch"))
            self.server.state(self.tenant, StatementVerb.REGISTER_CERTIFICATE, register)
            asked = machine.secret.machine_id, b"x" * 32
            requests: list[tuple[Any, ...]] = [
                (FetchRequest, *asked), (RunsRequest, *asked), (BookRequest,), (StateRequest, b"statement", b""),
            ]  # fmt: skip
            for kind, *fields in requests:
                with RestorePeer(self.server.restore_port, watch) as peer:
                    codes = {self.code(item) for item in peer.ask(kind, *fields)}
                self.assertEqual(codes, {ErrorCode.NOT_ALLOWED}, kind)

        return self.thread(attack)

    def test_promise_p2_idle_connection_of_removed_key(self) -> Deferred[None]:
        """An idle connection of a removed key is closed within seconds, without a request."""

        def attack() -> None:
            second = fresh_identity("second")
            register = encode_content(CertificateContent(second.pin, Role.ADMIN, "second"))
            self.server.state(self.tenant, StatementVerb.REGISTER_CERTIFICATE, register)
            with RestorePeer(self.server.restore_port, second) as peer:
                peer.ask(WhoRequest)
                self.server.state(self.tenant, StatementVerb.REMOVE_CERTIFICATE, encode_content(PinContent(second.pin)))
                self.assertTrue(peer.closed())

        return self.thread(attack)

    def test_promise_p2_no_resumption(self) -> Deferred[None]:
        """A TLS session of a removed key is never resumed."""

        def attack() -> None:
            context = client_context(ALPN, self.tenant.identity)
            with Peer(self.server.restore_port, context) as peer:
                peer.send(WhoRequest(1))
                peer.frame()
                session = peer.socket.session
            with Peer(self.server.restore_port, context, session) as peer:
                self.assertFalse(peer.socket.session_reused)

        return self.thread(attack)


class TenantTests(ServerTestCase):
    """An admin sees its own, and of everything else that it does not exist (P6)."""

    async def two_tenants(self) -> tuple[Tenant, TinyMachine]:
        bob = Tenant("bob")
        await self.server.running.store.add_admin("bob", bob.request())
        return bob, await self.thread(lambda: self.server.new_machine(self.tenant))

    def test_promise_p6_foreign_is_unknown(self) -> Deferred[None]:
        """Every request for a foreign machine gets exactly the answer for one that does not exist."""

        async def attack() -> None:
            bob, machine = await self.two_tenants()

            def ask() -> None:
                with self.server.restore_peer(bob) as peer:
                    self.assertEqual(peer.ask(MachinesRequest), [Done(1)])
                    for request, rest in (
                        (SnapshotsRequest, (0, 10)),
                        (PairsRequest, (0, 10)),
                        (EnvelopesRequest, (b"p" * 16,)),
                        (RunsRequest, (b"r" * 32,)),
                        (FetchRequest, (b"i" * 32,)),
                    ):
                        answers: list[list[Message]] = []
                        for id in (machine.secret.machine_id, os.urandom(32)):
                            answers.append(peer.ask(request, id, *rest))
                        codes = [[self.code(item) for item in answer] for answer in answers]
                        self.assertEqual(codes, [[ErrorCode.NOT_FOUND]] * 2)
                        texts = [answer[0].text for answer in answers]  # type: ignore[attr-defined]
                        self.assertEqual(texts[0], texts[1])

            await self.thread(ask)

        return Deferred.fromCoroutine(attack())

    def test_promise_p6_foreign_statements(self) -> Deferred[None]:
        """One admin's statement does nothing to another's machines, and another's certificate cannot bring it in."""

        async def attack() -> None:
            bob, machine = await self.two_tenants()
            server = self.server.identity.pin

            def ask() -> None:
                close = encode_content(MachineContent(machine.secret.machine_id))
                theirs = bob.statement(server, StatementVerb.CLOSE_GENERATION, close)
                posing = bob.statement(server, StatementVerb.CLOSE_GENERATION, close, tenant=self.tenant.secret.tenant)
                for tenant, statement in ((bob, theirs), (self.tenant, theirs), (bob, posing), (self.tenant, posing)):
                    with self.server.restore_peer(tenant) as peer:
                        self.assertIsInstance(peer.ask(StateRequest, statement, b"")[-1], Error)
                with self.server.append_peer() as peer:
                    peer.enter(machine.secret, b"still active now")

            await self.thread(ask)

        return Deferred.fromCoroutine(attack())

    def test_promise_p6_machine_belongs_once(self) -> Deferred[None]:
        """A machine that belongs to one admin cannot be enrolled by another, who learns nothing by trying."""

        async def attack() -> None:
            bob, _ = await self.two_tenants()

            def ask() -> None:
                with self.server.restore_peer(self.tenant) as peer:
                    item = peer.ask(MachinesRequest)[0]
                assert isinstance(item, MachineItem)
                stolen = bob.statement(self.server.identity.pin, StatementVerb.ENROL, item.enrolment)
                with self.server.restore_peer(bob) as peer:
                    self.assertIsInstance(peer.ask(StateRequest, stolen, b"")[-1], Error)
                    self.assertEqual(peer.ask(MachinesRequest), [Done(2)])

            await self.thread(ask)

        return Deferred.fromCoroutine(attack())


class StatementTests(ServerTestCase):
    """Statements count once, in time, for this server, and only with the admin's own signature."""

    def answer(self, statement: bytes, attachment: bytes = b"") -> Message:
        with self.server.restore_peer(self.tenant) as peer:
            return peer.ask(StateRequest, statement, attachment)[-1]

    def test_promise_p4_replayed_expired_elsewhere(self) -> Deferred[None]:
        """Replayed, expired, altered statements and those for another server are refused."""

        def attack() -> None:
            server = self.server.identity.pin
            content = encode_content(CertificateContent(fresh_identity().pin, Role.ADMIN, "x"))
            verb = StatementVerb.REGISTER_CERTIFICATE
            good = self.tenant.statement(server, verb, content)
            self.assertIsInstance(self.answer(good), Done)
            for bad in (
                good,
                self.tenant.statement(server, verb, content, expires_ns=time.time_ns() - 1),
                self.tenant.statement(b"another server's key hash, 32 by", verb, content),
                altered(self.tenant.statement(server, verb, content)),
                Tenant("mallory").statement(server, verb, content, tenant=self.tenant.secret.tenant, counter=99),
                b"no statement",
            ):
                self.assertIsInstance(self.answer(bad), Error)

        return self.thread(attack)

    def test_promise_p5_books_follow_each_other(self) -> Deferred[None]:
        """A book is swapped only against its predecessor's hash, and the newest is what is handed out."""

        def book(version: int, previous: bytes, name: str) -> bytes:
            secret = self.tenant.secret
            machine = MachineSecret(b"m" * 32)
            keys = machine.public_key, machine.order_key.public_key, id_key_commitment(machine.id_key)
            content = BookContent((Card(name, b"h" * 16, (Generation(machine.machine_id, *keys, 1),)),))
            return make_book(
                content, secret.tenant, version, previous, secret.book_key, secret.order_key, os.urandom(16)
            )

        def work() -> None:
            one = book(1, b"", "one")
            two = book(2, record_hash(one), "two")
            fork = book(2, b"f" * 32, "fork")
            for good in (one, two):
                self.server.state(self.tenant, StatementVerb.SWAP_BOOK, record_hash(good), good)
            for bad in (one, fork, book(3, record_hash(one), "late"), book(9, record_hash(two), "gap")):
                statement = self.tenant.statement(self.server.identity.pin, StatementVerb.SWAP_BOOK, record_hash(bad))
                self.assertIsInstance(self.answer(statement, bad), Error)
            unlike = self.tenant.statement(self.server.identity.pin, StatementVerb.SWAP_BOOK, b"h" * 32)
            self.assertIsInstance(self.answer(unlike, book(3, record_hash(two), "three")), Error)
            with self.server.restore_peer(self.tenant) as peer:
                item = peer.ask(BookRequest)[0]
            assert isinstance(item, BookItem)
            self.assertEqual(item.book, two)

        return self.thread(work)


class RequestTests(ServerTestCase):
    """What a registered client may send."""

    def test_unknown_verbs(self) -> Deferred[None]:
        """A frame type that is no verb ends the connection."""

        def attack() -> None:
            for kind in sorted(set(range(256)) - set(RestoreVerb))[::8]:
                with self.server.restore_peer(self.tenant) as peer:
                    peer.send_frame(kind, b"\xa1\x00\x01")
                    self.assertEqual([self.code(item) for item in self.rest(peer)], [ErrorCode.REFUSED_VERB])

        return self.thread(attack)

    def rest(self, peer: RestorePeer) -> list[Message]:
        items = []
        while (frame := peer.frame()) is not None:
            items.append(decode_reply(*frame))
        return items

    def test_many_requests_at_once(self) -> Deferred[None]:
        """More requests than are served at once are all answered, each whole and under its own number."""

        def work() -> None:
            machine = self.server.new_machine(self.tenant)
            blobs = [machine.blob(BlobKind.CHUNK, (), os.urandom(20_000)) for _ in range(40)]
            with self.server.append_peer() as peer:
                peer.enter(machine.secret, b"r" * 16)
                machine.send_pack(peer, machine.pack(blobs))
            with self.server.restore_peer(self.tenant) as peer:
                peer.send(*(FetchRequest(n, machine.secret.machine_id, blobs[n][0]) for n in range(40)))
                got: dict[int, bytes] = {}
                done = 0
                for item in self.until(peer, 40):
                    if isinstance(item, Done):
                        done += 1
                        self.assertEqual(item.missing, b"")
                    else:
                        got[item.request] = got.get(item.request, b"") + item.data  # type: ignore[attr-defined]
            self.assertEqual(got, {n: blobs[n][2] for n in range(40)})

        return self.thread(work)

    def until(self, peer: RestorePeer, count: int) -> list[Message]:
        items: list[Message] = []
        while count:
            frame = peer.frame()
            assert frame is not None
            items.append(decode_reply(*frame))
            count -= isinstance(items[-1], Done)
        return items

    def test_missing_blobs_are_named(self) -> Deferred[None]:
        """Ids that are not here are named at the end of the answer."""

        def work() -> None:
            machine = self.server.new_machine(self.tenant)
            with self.server.restore_peer(self.tenant) as peer:
                data, done = peer.data(FetchRequest, machine.secret.machine_id, b"x" * 32)
            self.assertEqual((data, done), (b"", Done(1, b"x" * 32)))

        return self.thread(work)

    def sealed_twice(self, machine: TinyMachine, size: int) -> list[tuple[bytes, int, bytes]]:
        """A blob that the server has two sealings of, in a pack each; the newer pack has its neighbour."""
        content = os.urandom(size)
        renewed = TinyMachine(machine.secret, 2, record_hash(machine.pair_record))
        older = machine.blob(BlobKind.CHUNK, (), content)
        neighbour, newer = (renewed.blob(BlobKind.CHUNK, (), one) for one in (b"neighbour", content))
        with self.server.append_peer() as peer:
            peer.enter(machine.secret, b"r" * 16)
            machine.send_pack(peer, machine.pack([older]))
            renewed.send_pair(peer)
            renewed.send_pack(peer, renewed.pack([neighbour, newer]))
        return [older, newer, neighbour]

    def cut(self, sealed: bytes) -> None:
        """Cut the pack that has these bytes in their middle."""
        for spool in self.server.spools:
            for path in spool.glob("packs/**/*.pack"):
                at = path.read_bytes().find(sealed)
                if at >= 0:
                    os.truncate(path, at + len(sealed) // 2)
                    return
        raise AssertionError("no pack has it")

    def test_promise_p9_one_of_two_sealings_is_cut(self) -> Deferred[None]:
        """Of a blob with one sealing in a pack that was cut the other sealing comes, and so does the cut one's
        neighbour; all that is small and large."""

        def work() -> None:
            for size in (1000, 3_000_000):
                machine = self.server.new_machine(self.tenant)
                older, newer, neighbour = self.sealed_twice(machine, size)
                self.cut(newer[2])
                with self.server.restore_peer(self.tenant) as peer:
                    data, done = peer.data(FetchRequest, machine.secret.machine_id, older[0] + neighbour[0])
                self.assertEqual(data, neighbour[2] + older[2])
                self.assertEqual(done, Done(1))

        return self.thread(work)

    def test_promise_p9_cut_between_lookup_and_read(self) -> Deferred[None]:
        """A pack that is cut after its blobs were looked up costs what was in it, and is an event."""
        store = self.server.running.store
        locate = store.locate
        events: list[tuple[EventCode, str]] = []
        self.patch(store, "record", lambda code, *_, **named: events.append((code, named["detail"])))

        def work() -> None:
            machine = self.server.new_machine(self.tenant)
            older, newer, _ = self.sealed_twice(machine, 1000)

            def cut(found: Located) -> Located:
                self.cut(newer[2])
                return found

            def located(*asked: Any) -> Deferred[Located]:
                return locate(*asked).addCallback(cut)

            self.patch(store, "locate", located)
            with self.server.restore_peer(self.tenant) as peer:
                self.assertEqual(peer.data(FetchRequest, machine.secret.machine_id, older[0])[0], older[2])
            self.assertEqual([code for code, _ in events], [EventCode.PACK_LOST])
            self.assertIn("cannot be read", events[0][1])

        return self.thread(work)
