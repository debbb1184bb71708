"""Several admins, their client keys and the operator's, and machines that are disabled: at once, everywhere."""

import os
from typing import Any

from twisted.internet.defer import Deferred

from bench.blocking_peers import RestorePeer, TinyMachine
from mastodon.daemon.errors import Conflict, Disabled, NotAllowed, NotFound
from mastodon.host.certificates import Identity, pin_text
from mastodon.sealed.blob import BlobKind
from mastodon.sealed.events import EventCode
from mastodon.sealed.ledger_entries import MachineState, Role
from mastodon.sealed.statement import CertificateContent, MachineContent, PinContent, StatementVerb, encode_content
from mastodon.wire.certificate_messages import CertificateItem, CertificatesRequest
from mastodon.wire.errors import ErrorCode
from mastodon.wire.messages import Ack, Error, Message, Piece
from mastodon.wire.restore_messages import (
    DataItem,
    Done,
    FetchRequest,
    MachinesRequest,
    WhoItem,
    WhoRequest,
    decode_reply,
)
from tests.running_server import ServerTestCase
from tests.store_case import Admin, Machine, StoreCase
from tests.test_promise_restore_port import fresh_identity

PIN = b"p" * 32
TOLD = (EventCode.CERTIFICATE_ADDED, EventCode.CERTIFICATE_GONE, EventCode.WATCH_WEAKENED)


class KeyTests(StoreCase):
    """Registered and removed, by whom, and who is told."""

    def told(self) -> list[tuple[EventCode, bytes, bytes, str]]:
        found = self.wait(self.store._ready().catalogue.events(0, 1000, codes=[int(code) for code in TOLD]))
        return [(EventCode(one.code), one.tenant, one.machine, one.detail) for one in found]

    def pins(self, tenant: bytes) -> list[tuple[bytes, Role, str]]:
        return [(one.pin, one.role, one.label) for one in self.wait(self.store.certificates(tenant))]

    def test_by_statement(self):
        """An admin's statement registers and removes its keys; each is told once, with pin, label and by what."""
        register = encode_content(CertificateContent(PIN, Role.MONITOR, "nagios"))
        self.execute(StatementVerb.REGISTER_CERTIFICATE, register)
        self.execute(StatementVerb.REGISTER_CERTIFICATE, register)
        self.assertIn((PIN, Role.MONITOR, "nagios"), self.pins(self.admin.tenant))
        self.execute(StatementVerb.REMOVE_CERTIFICATE, encode_content(PinContent(PIN)))
        self.assertEqual(self.pins(self.admin.tenant), [(self.admin.pin, Role.ADMIN, "alice")])
        added, gone = self.told()
        self.assertEqual(added[:3], (EventCode.CERTIFICATE_ADDED, self.admin.tenant, b""))
        self.assertEqual(gone[:3], (EventCode.CERTIFICATE_GONE, self.admin.tenant, b""))
        for one in (added, gone):
            self.assertTrue(one[3].startswith(f"{pin_text(PIN)}: nagios, monitor, by statement "), one[3])

    def test_by_the_operator(self):
        """The operator registers further keys of an admin, and monitors of its own; their admin is told."""
        self.wait(self.store.add_certificate("alice", PIN, Role.ADMIN, "new laptop"))
        self.wait(self.store.add_certificate("alice", PIN, Role.ADMIN, "new laptop"))
        self.wait(self.store.add_certificate("", b"o" * 32, Role.MONITOR, "nagios"))
        self.assertEqual(self.pins(b""), [(b"o" * 32, Role.MONITOR, "nagios")])
        self.wait(self.store.remove_certificate(b"o" * 32))
        self.wait(self.store.remove_certificate(b"o" * 32))
        self.assertEqual(
            [(code, tenant) for code, tenant, _, _ in self.told()],
            [
                (EventCode.CERTIFICATE_ADDED, self.admin.tenant), (EventCode.CERTIFICATE_ADDED, b""),
                (EventCode.CERTIFICATE_GONE, b""),
            ],
        )  # fmt: skip

    def test_what_is_refused(self):
        """An unknown admin, the operator as an admin, a key in two hands or two roles, a removed key."""
        self.refused(NotFound, self.store.add_certificate, "carol", PIN, Role.ADMIN, "")
        self.refused(NotAllowed, self.store.add_certificate, "", PIN, Role.ADMIN, "")
        self.refused(NotAllowed, self.store.add_certificate, "alice", PIN, Role.TICKET, "")
        self.refused(Conflict, self.store.add_certificate, "", self.admin.pin, Role.MONITOR, "")
        self.refused(Conflict, self.store.add_certificate, "alice", self.admin.pin, Role.MONITOR, "")
        self.wait(self.store.add_certificate("alice", PIN, Role.ADMIN, ""))
        self.wait(self.store.remove_certificate(PIN))
        for whose in ("alice", ""):
            self.refused(NotAllowed, self.store.add_certificate, whose, PIN, Role.MONITOR, "")
        self.assertEqual(len(self.told()), 2)

    def test_founding_key_is_not_told(self):
        """The key that comes with a new admin is no news to it; one that comes with a further request is."""
        bob = Admin("bob", 2)
        self.wait(self.store.add_admin("bob", bob.request()))
        self.assertEqual(self.told(), [])
        self.wait(self.store.add_admin("bob", bob.request(client=PIN)))
        self.assertEqual([one[:2] for one in self.told()], [(EventCode.CERTIFICATE_ADDED, bob.tenant)])

    def test_labels_are_made_fit(self):
        """A label that the operator typed stands in the ledger as plain text of at most 64 bytes."""
        self.wait(self.store.add_certificate("alice", PIN, Role.ADMIN, "a\nb" + "ü" * 80))
        self.assertEqual(self.pins(self.admin.tenant)[-1][2], "a?b" + "ü" * 30)

    def test_rebuild_knows_them(self):
        """Certificates, states and what was removed follow from the ledger alone."""
        self.wait(self.store.add_certificate("alice", PIN, Role.MONITOR, "x"))
        self.wait(self.store.add_certificate("", b"o" * 32, Role.MONITOR, "y"))
        self.wait(self.store.set_machine_state(self.machine.id, MachineState.DISABLED))
        before = self.pins(b""), self.pins(self.admin.tenant), self.wait(self.store.list_machines())
        self.stop()
        for path in self.setting.state.glob("catalogue.sqlite*"):
            path.unlink()
        self.start_again()
        after = self.pins(b""), self.pins(self.admin.tenant), self.wait(self.store.list_machines())
        self.assertEqual([one.state for one in after[2]], [MachineState.DISABLED])
        self.assertEqual(after[:2], before[:2])
        self.assertEqual([one.machine for one in after[2]], [one.machine for one in before[2]])


class StateTests(StoreCase):
    """Machines that are disabled, in the store."""

    def test_operator_disables_and_admin_enables(self):
        """Either may take back what the other did; disabling is told, to the admin too; what is stored stays."""
        blobs = self.machine.tree(b"one")
        self.send(blobs)
        self.commit(blobs[-1][0])
        self.wait(self.store.set_machine_state(self.machine.id, MachineState.DISABLED))
        self.wait(self.store.set_machine_state(self.machine.id, MachineState.DISABLED))
        self.refused(Disabled, lambda: self.send(self.machine.tree(b"two")))
        self.assertEqual(len(self.snapshots()), 1)
        self.assertEqual(self.fetch([blobs[0][0]]), blobs[0][2])
        self.execute(StatementVerb.ENABLE_MACHINE, encode_content(MachineContent(self.machine.id)))
        self.epoch = self.store.machine_session(self.machine.id)
        self.send(self.machine.tree(b"two"))
        self.assertEqual(self.events().count(EventCode.WATCH_WEAKENED), 1)

    def test_disabled_in_mid_pack(self):
        """A pack that is under way when its machine is disabled is not taken, whichever step it has reached."""
        id, data = self.machine.pack(self.machine.tree(b"one", os.urandom(2_000_000)))
        receiver = self.store.begin_pack(self.machine.id, self.epoch)
        receiver.write(data[:600_000]).addErrback(lambda _: None)
        self.wait(self.store.set_machine_state(self.machine.id, MachineState.DISABLED))
        receiver.write(data[600_000:]).addErrback(lambda _: None)
        self.refused(Disabled, receiver.finish, id)
        self.assertEqual(self.packs(), [])
        self.assertEqual([one for spool in self.setting.spools for one in spool.glob("incoming/*")], [])

    def test_disabled_after_its_pack_was_judged(self):
        """Nor is one that was found good just before: the state counts at the moment in which it would be kept."""
        catalogue = self.store._ready().catalogue
        judge = catalogue.offending

        def disabled_meanwhile(*asked):
            disabled = self.store.set_machine_state(self.machine.id, MachineState.DISABLED)
            return disabled.addCallback(lambda _: judge(*asked))

        self.patch(catalogue, "offending", disabled_meanwhile)
        self.refused(Disabled, self.send, self.machine.tree(b"one"))
        self.assertEqual(self.packs(), [])

    def test_final_states_stay(self):
        """Nobody enables a closed machine; one that is not there is not found."""
        self.execute(StatementVerb.CLOSE_GENERATION, encode_content(MachineContent(self.machine.id)))
        self.refused(NotAllowed, self.store.set_machine_state, self.machine.id, MachineState.ACTIVE)
        self.refused(NotFound, self.store.set_machine_state, Machine(9).id, MachineState.DISABLED)


class OpenConnectionTests(ServerTestCase):
    """What ends in the middle, over the wire."""

    def code_of(self, frames: list[Message]) -> list[Any]:
        return [one.code for one in frames if isinstance(one, Error)]

    def test_promise_p2_disabled_in_mid_pack(self) -> Deferred[None]:
        """A machine that is disabled while it sends a pack is told so and cut; nothing of the pack is kept, and it is
        let in no more until it is enabled."""

        def attack() -> None:
            machine = self.server.new_machine(self.tenant)
            blob = machine.blob(BlobKind.CHUNK, (), os.urandom(300_000))
            id, data = machine.pack([blob])
            content = encode_content(MachineContent(machine.secret.machine_id))
            with self.server.append_peer() as peer:
                peer.enter(machine.secret)
                peer.send(Piece(data[:100_000]))
                self.server.state(self.tenant, StatementVerb.DISABLE_MACHINE, content)
                self.assertEqual(peer.expect(Error).code, ErrorCode.DISABLED)
                self.assertTrue(peer.closed())
            self.assertEqual(self.server.files(), {})
            with self.server.append_peer() as peer:
                peer.send(peer.hello_for(machine.secret))
                refusal = peer.expect(Error)
                self.assertEqual((refusal.code, refusal.retryable), (ErrorCode.DISABLED, False))
                self.assertIn("enables it again", refusal.text)
            self.server.state(self.tenant, StatementVerb.ENABLE_MACHINE, content)
            with self.server.append_peer() as peer:
                peer.enter(machine.secret)
                machine.send_pack(peer, (id, data), Ack)

        return self.thread(attack)

    def test_promise_p2_closed_in_mid_session(self) -> Deferred[None]:
        """A session of a generation that is closed ends as if the machine were unknown."""

        def attack() -> None:
            machine = self.server.new_machine(self.tenant)
            content = encode_content(MachineContent(machine.secret.machine_id))
            with self.server.append_peer() as peer:
                peer.enter(machine.secret)
                self.server.state(self.tenant, StatementVerb.CLOSE_GENERATION, content)
                self.assertEqual(peer.expect(Error).code, ErrorCode.NOT_AUTHENTICATED)
                self.assertTrue(peer.closed())

        return self.thread(attack)

    def second_key(self, role: Role = Role.ADMIN) -> Identity:
        second = fresh_identity("second")
        content = encode_content(CertificateContent(second.pin, role, "second"))
        self.server.state(self.tenant, StatementVerb.REGISTER_CERTIFICATE, content)
        return second

    def large(self) -> tuple[TinyMachine, list[tuple[bytes, int, bytes]]]:
        """A machine with more than fits into the buffers between here and there."""
        machine = self.server.new_machine(self.tenant)
        blobs = [machine.blob(BlobKind.CHUNK, (), os.urandom(1_000_000)) for _ in range(30)]
        with self.server.append_peer() as peer:
            peer.enter(machine.secret)
            machine.send_pack(peer, machine.pack(blobs))
        return machine, blobs

    def test_promise_p2_removed_in_mid_restore(self) -> Deferred[None]:
        """A key that is removed while a restore is under way gets no more than what was on the way already, whoever
        removed it; other keys of the same admin go on."""

        def restore(identity: Identity, machine: bytes, ids: bytes, remove: Any) -> tuple[int, list[Any]]:
            """The bytes that came behind the removal, and the errors."""
            with RestorePeer(self.server.restore_port, identity) as peer:
                peer.send(FetchRequest(1, machine, ids))
                first = peer.frame()
                assert first is not None
                remove()
                later, codes = 0, []
                while (frame := peer.frame()) is not None:
                    item = decode_reply(*frame)
                    later += len(item.data) if isinstance(item, DataItem) else 0
                    codes += [item.code] if isinstance(item, Error) else []
                    if isinstance(item, Done):
                        break
                return later, codes

        def attack() -> None:
            machine, blobs = self.large()
            what = machine.secret.machine_id, b"".join(blob[0] for blob in blobs)
            second = self.second_key()
            content = encode_content(PinContent(second.pin))
            came, codes = restore(
                second, *what, lambda: self.server.state(self.tenant, StatementVerb.REMOVE_CERTIFICATE, content)
            )
            self.assertLess(came, 20_000_000)
            self.assertEqual(codes, [ErrorCode.NOT_AUTHENTICATED])
            self.assertEqual(restore(self.tenant.identity, *what, lambda: None)[1], [])

        return self.thread(attack)

    def test_promise_p2_removed_by_the_operator(self) -> Deferred[None]:
        """An idle connection of a key that the operator removes ends at once, not at the next look."""

        async def attack() -> None:
            second = await self.thread(self.second_key)
            peer = await self.thread(lambda: RestorePeer(self.server.restore_port, second))
            try:
                self.assertIsInstance((await self.thread(lambda: peer.ask(WhoRequest)))[-1], Done)
                port = self.server.running._restore
                assert port is not None
                (connection,) = [one for one in port.connections if one._pin == second.pin]
                await self.server.running.store.remove_certificate(second.pin)
                self.assertTrue(connection.over)
                self.assertTrue(await self.thread(peer.closed))
            finally:
                peer.socket.close()

        return Deferred.fromCoroutine(attack())

    def test_own_certificates(self) -> Deferred[None]:
        """An admin lists its own keys, and no other's; a monitor lists none."""

        async def work() -> None:
            store = self.server.running.store
            await store.add_certificate("", fresh_identity().pin, Role.MONITOR, "the operator's")
            watch = await self.thread(lambda: self.second_key(Role.MONITOR))

            def ask() -> None:
                with self.server.restore_peer(self.tenant) as peer:
                    items = peer.ask(CertificatesRequest)
                shown = [(one.role, one.label) for one in items if isinstance(one, CertificateItem)]
                self.assertEqual(shown, [(Role.ADMIN, "alice"), (Role.MONITOR, "second")])
                with RestorePeer(self.server.restore_port, watch) as peer:
                    self.assertEqual(self.code(peer.ask(CertificatesRequest)[-1]), ErrorCode.NOT_ALLOWED)

            await self.thread(ask)

        return Deferred.fromCoroutine(work())

    def test_operators_monitor(self) -> Deferred[None]:
        """The operator's own monitor learns who it is, and gets nothing but the status."""

        async def work() -> None:
            watch = fresh_identity("nagios")
            await self.server.running.store.add_certificate("", watch.pin, Role.MONITOR, "nagios")

            def ask() -> None:
                with RestorePeer(self.server.restore_port, watch) as peer:
                    who = peer.ask(WhoRequest)[0]
                    assert isinstance(who, WhoItem)
                    self.assertEqual((who.tenant, who.role, who.name), (b"", Role.MONITOR, ""))
                    self.assertEqual(self.code(peer.ask(MachinesRequest)[-1]), ErrorCode.NOT_ALLOWED)

            await self.thread(ask)

        return Deferred.fromCoroutine(work())
