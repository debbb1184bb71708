"""The append port under attack: real TLS, a real daemon, a peer that says what it likes (P1, P2, P4, P6, P9)."""

import os
import socket
import ssl

from twisted.internet.defer import Deferred

from bench.blocking_peers import TIMEOUT_S, AppendPeer, Peer, TinyMachine, altered, client_context
from mastodon.sealed.blob import BlobKind
from mastodon.sealed.entry import Entry, EntryType, Place
from mastodon.sealed.listing import Section
from mastodon.sealed.machine_secret import MachineSecret
from mastodon.sealed.record import record_hash
from mastodon.sealed.snapshot import SnapshotStatus
from mastodon.wire.errors import ErrorCode
from mastodon.wire.messages import (
    CLIENT_MESSAGES,
    Ack,
    Committed,
    Error,
    Message,
    Missing,
    Offer,
    Wanted,
)
from mastodon.wire.restore_messages import (
    EnvelopeItem,
    EnvelopesRequest,
    FetchRequest,
    PairItem,
    PairsRequest,
    SnapshotItem,
    SnapshotsRequest,
)
from tests.running_server import ServerTestCase

ENTRY = Entry(b"file", EntryType.FILE, size=5, hash=b"h" * 32, places=(Place(0, 0, 5),))


def tree(machine: TinyMachine, content: bytes = b"hello") -> list[tuple[bytes, int, bytes]]:
    """A bundle, its page and its root."""
    bundle = machine.blob(BlobKind.BUNDLE, (), content)
    return [bundle, *machine.listing([Section((), [ENTRY])], [bundle[0]])]


class AppendPortTestCase(ServerTestCase):
    def back_up(self, machine: TinyMachine, content: bytes = b"hello") -> tuple[bytes, bytes]:
        """One good backup; root id and record hash."""
        blobs = tree(machine, content)
        with self.server.append_peer() as peer:
            answer = peer.enter(machine.secret, os.urandom(16))
            machine.send_pack(peer, machine.pack(blobs))
            record = machine.snapshot(blobs[-1][0], answer.head_sequence + 1, answer.head_hash)
            outcome = machine.commit(peer, record)
        self.assertIsInstance(outcome, Committed)
        return blobs[-1][0], record_hash(record)

    def listed(self, machine: TinyMachine) -> list[bytes]:
        """Hashes of the snapshots that the admin sees."""
        with self.server.restore_peer(self.tenant) as peer:
            items = peer.ask(SnapshotsRequest, machine.secret.machine_id, 0, 1000)
        return [record_hash(item.record) for item in items if isinstance(item, SnapshotItem)]

    def fetched(self, machine: TinyMachine, *ids: bytes) -> bytes:
        """What the admin gets for some ids."""
        with self.server.restore_peer(self.tenant) as peer:
            return peer.data(FetchRequest, machine.secret.machine_id, b"".join(ids))[0]


class VerbTests(AppendPortTestCase):
    """Two verbs, and nothing else."""

    def test_promise_p1_only_listed_verbs(self) -> Deferred[None]:
        """Every other frame type or part ends the connection and leaves the spool as it was."""

        def attack() -> None:
            machine = self.server.new_machine(self.tenant)
            _, snapshot = self.back_up(machine)
            before = self.server.files()
            verbs = {kind for kind, _ in CLIENT_MESSAGES}
            others = [(kind, b"") for kind in range(256) if kind not in verbs]
            others += [
                (kind, bytes([part]))
                for kind in verbs
                for part in range(0, 256, 17)
                if (kind, part) not in CLIENT_MESSAGES
            ]
            for number, (kind, payload) in enumerate(others):
                with self.server.append_peer() as peer:
                    if number % 8 == 0:  # also from inside a session
                        peer.enter(machine.secret)
                    peer.send_frame(kind, payload + b"anything")
                    self.assertEqual(self.code(peer.message()), ErrorCode.REFUSED_VERB)
                    self.assertTrue(peer.closed())
            self.assertEqual(self.server.files(), before)
            self.assertEqual(self.listed(machine), [snapshot])

        return self.thread(attack)

    def test_promise_p2_nothing_is_read(self) -> Deferred[None]:
        """Restore requests on the append port are no verbs: neither one's own nor others' blobs can be had."""

        def attack() -> None:
            machine = self.server.new_machine(self.tenant)
            root, _ = self.back_up(machine)
            for request in (
                FetchRequest(1, machine.secret.machine_id, root),
                PairsRequest(1, machine.secret.machine_id, 0, 10),
                SnapshotsRequest(1, machine.secret.machine_id, 0, 10),
            ):
                with self.server.append_peer() as peer:
                    peer.enter(machine.secret)
                    peer.send_raw(request.encode())
                    self.assertEqual(self.code(peer.message()), ErrorCode.REFUSED_VERB)
                    self.assertTrue(peer.closed())

        return self.thread(attack)

    def test_promise_p2_offers_tell_nothing_of_others(self) -> Deferred[None]:
        """Another machine's ids are as unknown to an offer as ids that nobody has."""

        def attack() -> None:
            one, other = self.server.new_machine(self.tenant), self.server.new_machine(self.tenant)
            root, _ = self.back_up(one)
            with self.server.append_peer() as peer:
                peer.enter(other.secret)
                peer.send(Offer(1, root + os.urandom(32)))
                self.assertEqual(peer.expect(Wanted).bitmap, bytes([0b11000000]))
            with self.server.append_peer() as peer:
                peer.enter(one.secret)
                peer.send(Offer(1, root))
                self.assertEqual(peer.expect(Wanted).bitmap, b"\0")

        return self.thread(attack)


class HelloTests(AppendPortTestCase):
    """Only the machine's own key opens its session."""

    def refused(self, peer: AppendPeer, *messages: Message) -> Message | None:
        peer.send(*messages)
        answer = peer.message()
        self.assertTrue(peer.closed())
        return answer

    def test_promise_p1_wrong_signatures(self) -> Deferred[None]:
        """Wrong, missing, replayed and relayed signatures get the one answer of unknown machines."""

        def attack() -> None:
            machine = self.server.new_machine(self.tenant)
            answers = []
            with self.server.append_peer() as peer:
                replayed = peer.hello_for(machine.secret)
                answers.append(self.refused(peer, peer.hello_for(machine.secret, signature=bytes(64))))
            with self.server.append_peer() as peer:
                answers.append(self.refused(peer, replayed))
            with self.server.append_peer() as peer:
                peer.pin = b"another server's key, relayed   "
                answers.append(self.refused(peer, peer.hello_for(machine.secret)))
            with self.server.append_peer() as peer:
                answers.append(self.refused(peer, peer.hello_for(MachineSecret(os.urandom(32)))))
            with self.server.append_peer() as peer:
                stranger = MachineSecret(os.urandom(32))
                foreign = peer.hello_for(stranger, machine=machine.secret.machine_id)
                answers.append(self.refused(peer, foreign))
            self.assertEqual(len(set(map(repr, answers))), 1)
            self.assertEqual(self.code(answers[0]), ErrorCode.NOT_AUTHENTICATED)

        return self.thread(attack)

    def test_promise_p1_nothing_before_hello(self) -> Deferred[None]:
        """No part of APPEND is taken before the machine has proven itself."""

        def attack() -> None:
            machine = self.server.new_machine(self.tenant)
            pack = machine.pack(tree(machine))
            for frame in (b"\x02\x01", b"\x02\x02", b"\x02\x03", b"\x02\x04", b"\x02\x05"):
                with self.server.append_peer() as peer:
                    peer.send_frame(frame[0], frame[1:] + pack[1])
                    self.assertIn(self.code(peer.message()), (ErrorCode.REFUSED_VERB, ErrorCode.MALFORMED))
                    self.assertTrue(peer.closed())
            self.assertEqual(self.server.files(), {})

        return self.thread(attack)

    def test_same_run_comes_back(self) -> Deferred[None]:
        """A second session of the same run takes over; one of another run is told to wait."""

        def work() -> None:
            machine = self.server.new_machine(self.tenant)
            with (
                self.server.append_peer() as first,
                self.server.append_peer() as second,
                self.server.append_peer() as third,
            ):
                first.enter(machine.secret, b"a" * 16)
                second.send(second.hello_for(machine.secret, b"b" * 16))
                self.assertEqual(self.code(second.message()), ErrorCode.BUSY)
                third.enter(machine.secret, b"a" * 16)
                self.assertEqual(self.code(first.message()), ErrorCode.DISPLACED)

        return self.thread(work)


class AdditionTests(AppendPortTestCase):
    """What a machine adds never hurts what it has (P1)."""

    def test_promise_p1_hostile_additions(self) -> Deferred[None]:
        """Foreign, dangling, looping and lying additions are refused, or leave older snapshots as they were."""

        def attack() -> None:
            machine = self.server.new_machine(self.tenant)
            other = self.server.new_machine(self.tenant)
            root, snapshot = self.back_up(machine)
            foreign_root, _ = self.back_up(other)
            original = self.fetched(machine, root)
            with self.server.append_peer() as peer:
                peer.enter(machine.secret)
                dangling = machine.blob(BlobKind.PAGE, [b"x" * 32], b"page of nothing")
                foreign = machine.blob(BlobKind.ROOT, [foreign_root], b"root over another machine's")
                machine.send_pack(peer, machine.pack([dangling, foreign]))
                head = record_hash(self.head_record(machine))
                for bad_root in (dangling[0], foreign[0], b"y" * 32, foreign_root, tree(machine)[0][0]):
                    outcome = machine.commit(peer, machine.snapshot(bad_root, 2, head))
                    self.assertIsInstance(outcome, Missing | Error, bad_root)
            self.assertEqual(self.listed(machine), [snapshot])
            self.assertEqual(self.fetched(machine, root), original)

        return self.thread(attack)

    def head_record(self, machine: TinyMachine) -> bytes:
        with self.server.restore_peer(self.tenant) as peer:
            items = peer.ask(SnapshotsRequest, machine.secret.machine_id, 0, 1000)
        return [item.record for item in items if isinstance(item, SnapshotItem)][-1]

    def test_promise_p1_ids_are_not_overwritten(self) -> Deferred[None]:
        """Another blob under an id that is stored never takes its place: what was stored is what comes back."""

        def attack() -> None:
            machine = self.server.new_machine(self.tenant)
            root, snapshot = self.back_up(machine)
            original = self.fetched(machine, root)
            rubbish = machine.sealer.seal(BlobKind.ROOT, root, [], b"rubbish under a stored id", b"s" * 16)
            bundle = machine.sealer.seal(BlobKind.BUNDLE, root, [], b"rubbish of another kind", b"t" * 16)
            with self.server.append_peer() as peer:
                peer.enter(machine.secret)
                for kind, data in ((BlobKind.ROOT, rubbish), (BlobKind.BUNDLE, bundle)):
                    refused = machine.send_pack(peer, machine.pack([(root, kind, data)]), Error)
                    self.assertEqual(refused.code, ErrorCode.PACK_REFUSED)
                    self.assertIn(root, refused.context)
            self.assertEqual(self.fetched(machine, root), original)
            self.assertEqual(self.listed(machine), [snapshot])

        return self.thread(attack)

    def test_promise_p1_lying_packs(self) -> Deferred[None]:
        """Packs that are cut, altered, of another machine, or whose index lies are refused whole."""

        def attack() -> None:
            machine, other = self.server.new_machine(self.tenant), self.server.new_machine(self.tenant)
            id, data = machine.pack(tree(machine))
            middle = len(data) // 2
            altered = data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]
            with self.server.append_peer() as peer:
                peer.enter(machine.secret)
                for bad_id, bad in (
                    (id, data[:-50]),
                    (id, altered),
                    (b"z" * 32, data),
                    other.pack(tree(other)),
                    (id, b"no pack at all"),
                    (id, data + b"more"),
                ):
                    refused = machine.send_pack(peer, (bad_id, bad), Error)
                    self.assertEqual(refused.code, ErrorCode.PACK_REFUSED)
                    self.assertEqual(refused.context[0], bad_id)
                self.assertEqual(self.server.files(), {})
                self.assertIsInstance(machine.send_pack(peer, (id, data)), Ack)

        return self.thread(attack)

    def test_promise_p1_records_in_any_order(self) -> Deferred[None]:
        """Snapshot records that do not follow the head, of another machine, backdated or future-dated, change nothing
        of what was there."""

        def attack() -> None:
            machine, other = self.server.new_machine(self.tenant), self.server.new_machine(self.tenant)
            root, first = self.back_up(machine)
            with self.server.append_peer() as peer:
                peer.enter(machine.secret)
                for record in (
                    machine.snapshot(root, 1, b"", time_ns=2),
                    machine.snapshot(root, 0, first),
                    machine.snapshot(root, 5, b""),
                    machine.snapshot(root, 2, b"p" * 32),
                    machine.snapshot(root, 2, first, pair=b"?" * 16),
                    other.snapshot(root, 2, first),
                    altered(machine.snapshot(root, 2, first)),
                ):
                    refused = machine.commit(peer, record)
                    self.assertIsInstance(refused, Error)
                for sequence, time_ns in ((2, 0), (3, 2**63)):
                    head = self.listed(machine)[-1]
                    record = machine.snapshot(root, sequence, head, time_ns=time_ns, status=SnapshotStatus.PARTIAL)
                    self.assertIsInstance(machine.commit(peer, record), Committed)
            listed = self.listed(machine)
            self.assertEqual(len(listed), 3)
            self.assertEqual(listed[0], first)

        return self.thread(attack)

    def test_promise_p1_pairs_and_envelopes(self) -> Deferred[None]:
        """However many pairs a machine makes up, older envelopes stay, in order, and there is a bound."""

        def attack() -> None:
            machine = self.server.new_machine(self.tenant)
            root, snapshot = self.back_up(machine)
            newest = machine
            codes = []
            with self.server.append_peer() as peer:
                peer.enter(machine.secret)
                for number in range(2, 60):
                    following = TinyMachine(machine.secret, number, record_hash(newest.pair_record))
                    try:
                        following.send_pair(peer)
                        newest = following
                    except AssertionError as error:
                        codes.append(str(error))
                        break
            self.assertTrue(codes, "there is no bound on pairs")
            with self.server.restore_peer(self.tenant) as peer:
                listed = peer.ask(PairsRequest, machine.secret.machine_id, 0, 1)[0]
                assert isinstance(listed, PairItem)
                found = peer.ask(EnvelopesRequest, machine.secret.machine_id, listed.pair)[0]
            assert isinstance(found, EnvelopeItem)
            self.assertEqual((found.record, found.envelope), (machine.pair_record, machine.envelope))
            self.assertEqual(self.listed(machine), [snapshot])
            self.assertTrue(self.fetched(machine, root))

        return self.thread(attack)


class DurabilityTests(AppendPortTestCase):
    """What was acknowledged is there, and is not taken twice (P9)."""

    def test_promise_p9_sent_again(self) -> Deferred[None]:
        """A pack and a commit whose acks were lost may be sent again: they are acknowledged, and stored once."""

        def work() -> None:
            machine = self.server.new_machine(self.tenant)
            blobs = tree(machine)
            pack = machine.pack(blobs)
            record = machine.snapshot(blobs[-1][0])
            for _ in range(2):
                with self.server.append_peer() as peer:
                    peer.enter(machine.secret)
                    self.assertIsInstance(machine.send_pack(peer, pack), Ack)
                    self.assertIsInstance(machine.commit(peer, record), Committed)
            self.assertEqual(len(self.server.files()), 1)
            self.assertEqual(len(self.listed(machine)), 1)

        return self.thread(work)

    def test_a_missing_blob_is_named(self) -> Deferred[None]:
        """A commit whose listing reaches what was never sent names the ids, and can be made good."""

        def work() -> None:
            machine = self.server.new_machine(self.tenant)
            bundle, page, root = tree(machine)
            with self.server.append_peer() as peer:
                peer.enter(machine.secret)
                machine.send_pack(peer, machine.pack([page, root]))
                outcome = machine.commit(peer, machine.snapshot(root[0]))
                self.assertEqual(outcome, Missing(bundle[0], False))
                machine.send_pack(peer, machine.pack([bundle]))
                self.assertIsInstance(machine.commit(peer, machine.snapshot(root[0])), Committed)

        return self.thread(work)

    def test_survives_a_restart(self) -> Deferred[None]:
        """What was committed is listed and fetched after the daemon came back."""
        return Deferred.fromCoroutine(self._restart())

    async def _restart(self) -> None:
        machine = await self.thread(lambda: self.server.new_machine(self.tenant))
        root, snapshot = await self.thread(lambda: self.back_up(machine))
        await self.server.stop()
        await self.server.start()
        self.assertEqual(await self.thread(lambda: self.listed(machine)), [snapshot])
        self.assertTrue(await self.thread(lambda: self.fetched(machine, root)))


class TransportTests(AppendPortTestCase):
    """What is not TLS 1.3 with the right protocol, or not a frame, gets nowhere."""

    def test_giant_lengths(self) -> Deferred[None]:
        """Giant, zero and 'negative' lengths end the connection at once."""

        def attack() -> None:
            for length in (b"\xff\xff\xff\xff", b"\x80\0\0\0", b"\0\0\0\0", b"\x00\x10\x00\x01"):
                with self.server.append_peer() as peer:
                    peer.send_raw(length)
                    self.assertEqual(self.code(peer.message()), ErrorCode.MALFORMED)
                    self.assertTrue(peer.closed())

        return self.thread(attack)

    def test_plain_tcp_and_old_tls(self) -> Deferred[None]:
        """Plain TCP and TLS 1.2 never see the greeting."""

        def attack() -> None:
            with socket.create_connection(("127.0.0.1", self.server.append_port), TIMEOUT_S) as plain:
                plain.sendall(b"GET / HTTP/1.0\r\n\r\n")
                self.assertNotIn(b"mastodon", plain.recv(1000))
            context = client_context(["mastodon/1"])
            context.maximum_version = ssl.TLSVersion.TLSv1_2
            self.assertRaises((ssl.SSLError, ConnectionError), Peer, self.server.append_port, context)
            for alpn in ([], ["http/1.1"], ["mastodon-restore/1"]):
                try:
                    with Peer(self.server.append_port, client_context(alpn)) as peer:
                        self.assertIsNone(peer.frame())
                except (ssl.SSLError, ConnectionError):
                    continue

        return self.thread(attack)
