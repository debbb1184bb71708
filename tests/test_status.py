"""The status query: what it says of machines and server, and to whom."""

from dataclasses import fields
from types import SimpleNamespace
from typing import Any

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from bench.blocking_peers import RestorePeer
from bench.tenant import Tenant
from mastodon.catalogue.interface import Certificate, WatchRow
from mastodon.daemon.errors import NotFound
from mastodon.daemon.standing import standing
from mastodon.daemon.status import ALL, Figures, Status, scope
from mastodon.host.certificates import Identity
from mastodon.sealed.events import EventCode
from mastodon.sealed.ledger_entries import CertificateAdded, MachineState, MachineStateSet, Role
from mastodon.sealed.settings import GRACE, INTERVAL, QUOTA
from mastodon.sealed.snapshot import Reason, SnapshotStatus
from mastodon.sealed.statement import CertificateContent, StatementVerb, encode_content
from mastodon.wire.errors import ErrorCode
from mastodon.wire.messages import Message
from mastodon.wire.restore_messages import REQUESTS, Done
from mastodon.wire.restore_verbs import RestoreVerb
from mastodon.wire.status_messages import ServerStatusItem, StatusItem, StatusRequest, WatchState
from tests.running_server import ServerTestCase
from tests.store_case import Admin, Machine, StoreCase
from tests.test_promise_restore_port import fresh_identity
from tests.test_restore_messages import FROM_CLIENT as SAMPLES


def row(state: MachineState = MachineState.ACTIVE, seen: int = 0, complete: int = 0, partial: int = 0) -> WatchRow:
    """A machine that was added at 5; its newest snapshot is what was seen last."""
    status = SnapshotStatus.PARTIAL if partial else SnapshotStatus.COMPLETE if complete else None
    return WatchRow(b"m" * 32, b"t" * 32, state, 5, seen, max(complete, partial), status, complete, 7, partial)


class StandingTests(SynchronousTestCase):
    """One word for how a machine stands."""

    def test_states(self) -> None:
        """What is over wins over what goes on, and each says since when."""
        late, failed = {int(EventCode.LATE): 60}, {int(EventCode.RUN_FAILED): 50}
        for machine, opened, running, expected in (
            (row(), {}, 0, (WatchState.NEVER_SEEN, 5)),
            (row(), {int(EventCode.NEVER_SEEN): 9}, 0, (WatchState.NEVER_SEEN, 5)),
            (row(), {}, 20, (WatchState.SEEDING, 5)),
            (row(seen=20), {}, 0, (WatchState.SEEDING, 5)),
            (row(seen=20), late, 0, (WatchState.LATE, 60)),
            (row(seen=30, complete=30), {}, 0, (WatchState.OK, 30)),
            (row(seen=30, complete=30), {}, 70, (WatchState.RUNNING, 70)),
            (row(seen=30, complete=30), late, 70, (WatchState.LATE, 60)),
            (row(seen=50, complete=30), failed, 0, (WatchState.FAILED, 50)),
            (row(seen=50, complete=30), {**late, **failed}, 0, (WatchState.LATE, 60)),
            (row(seen=50, complete=30, partial=40), {}, 0, (WatchState.PARTIAL, 40)),
            (row(seen=50, complete=30, partial=40), {}, 70, (WatchState.PARTIAL, 40)),
            (row(MachineState.DISABLED, 50, 30, 40), late, 0, (WatchState.DISABLED, 50)),
            (row(MachineState.RETIRED, 50, 30), {}, 0, (WatchState.DISABLED, 50)),
        ):
            self.assertEqual(standing(machine, opened, running), expected, (machine, opened, running))


class FiguresTests(StoreCase):
    """What is read from a store."""

    def setUp(self) -> None:
        super().setUp()
        self.running: set[bytes] = set()
        self.status = Status(self.store, 9, self.running.__contains__)
        self.other = Admin("bob", 2)
        self.foreign = Machine(2)
        self.wait(self.store.add_admin("bob", self.other.request()))
        self.enrol(self.foreign, self.other)

    def read(self, tenant: bytes | None, machine: bytes = b"") -> Figures:
        return self.wait(self.status.read(tenant, machine, 3))

    def one(self) -> StatusItem:
        (item,) = self.read(self.admin.tenant, self.machine.id)[1]
        return item

    def back_up(self, **changes: Any) -> None:
        blobs = self.machine.tree(b"content %d" % self.machine.sequence)
        self.send(blobs)
        self.commit(blobs[-1][0], **changes)

    def test_life_of_a_machine(self) -> None:
        """Its state, times and sizes follow from what was committed and what is open."""
        self.back_up(status=SnapshotStatus.PARTIAL, counts=((Reason.UNREADABLE, 1),))
        seeding = self.one()
        self.assertEqual((seeding.watch, seeding.newest_status), (WatchState.SEEDING, SnapshotStatus.PARTIAL))
        self.back_up()
        whole = self.one()
        self.assertEqual((whole.watch, whole.newest_status), (WatchState.OK, SnapshotStatus.COMPLETE))
        self.assertEqual((whole.complete_ns, whole.partial_since_ns, whole.snapshots), (whole.newest_ns, 0, 2))
        self.assertGreater(whole.kept_bytes, seeding.kept_bytes)
        self.back_up(status=SnapshotStatus.PARTIAL, counts=((Reason.UNREADABLE, 1),))
        partial = self.one()
        self.assertEqual((partial.watch, partial.complete_ns), (WatchState.PARTIAL, whole.complete_ns))
        self.assertEqual(partial.since_ns, partial.partial_since_ns)
        self.assertGreater(partial.newest_ns, whole.newest_ns)
        self.wait(self.store.record(EventCode.LATE, machine=self.machine.id, detail="6 hours"))
        late = self.one()
        self.assertEqual(late.watch, WatchState.LATE)
        self.assertEqual(late.conditions, ((int(EventCode.LATE), "", late.since_ns),))
        self.back_up()
        again = self.one()
        self.assertEqual((again.watch, again.conditions), (WatchState.OK, ()))

    def test_running(self) -> None:
        """An open session shows, with the time at which it began."""
        self.back_up()
        epoch = self.clock.now
        self.store.machine_session(self.machine.id)
        self.running.add(self.machine.id)
        item = self.one()
        self.assertEqual((item.watch, item.since_ns, item.seen_ns), (WatchState.RUNNING, item.seen_ns, item.since_ns))
        self.assertGreater(item.since_ns, epoch)

    def test_settings(self) -> None:
        """Interval and grace come from the nearest place where they are set; a quota is that of just its place."""
        usual = self.one()
        self.assertEqual((usual.interval_s, usual.grace_s, usual.quota_bytes), (3600, 18000, None))
        self.wait(self.store.set_policy(b"", b"", ((GRACE, "7200"),)))
        self.wait(self.store.set_policy(self.admin.tenant, b"", ((INTERVAL, "86400"), (QUOTA, "5000"))))
        self.wait(self.store.set_policy(self.admin.tenant, self.machine.id, ((QUOTA, "0"),)))
        item = self.one()
        self.assertEqual((item.interval_s, item.grace_s, item.quota_bytes), (86400, 7200, 0))
        server, _ = self.read(self.admin.tenant)
        self.assertEqual([(one.name, one.quota_bytes, one.machines) for one in server.tenants], [("alice", 5000, 1)])

    def test_disabled(self) -> None:
        """Of a machine that is not active nothing is expected."""
        opened = self.store._ready()
        self.wait(opened.ledger.append(MachineStateSet(self.machine.id, MachineState.DISABLED, b"")))
        self.assertEqual((self.one().state, self.one().watch), (MachineState.DISABLED, WatchState.DISABLED))

    def test_promise_p6_own_machines_only(self) -> None:
        """An admin sees its own machines and use, no spools, and nothing that is open about others or the server."""
        self.wait(self.store.record(EventCode.SPOOL_OFFLINE, detail="ab: not mounted"))
        self.wait(self.store.record(EventCode.LATE, machine=self.foreign.id))
        self.wait(self.store.record(EventCode.SPOOL_OFFLINE, tenant=self.other.tenant, detail="ab: not mounted"))
        server, machines = self.read(self.admin.tenant)
        self.assertEqual([one.machine for one in machines], [self.machine.id])
        self.assertEqual([one.tenant for one in server.tenants], [self.admin.tenant])
        self.assertEqual((server.spools, server.conditions, server.tenants[0].conditions), ((), (), ()))
        self.assertEqual((machines[0].conditions, server.waiting), ((), 0))

    def test_promise_p6_foreign_is_unknown(self) -> None:
        """A foreign machine and one that does not exist are refused in the same words."""
        errors = [
            str(self.refused(NotFound, self.status.read, self.admin.tenant, machine))
            for machine in (self.foreign.id, b"x" * 32)
        ]
        self.assertEqual(len(set(errors)), 1)

    def test_operator(self) -> None:
        """The operator's monitor sees every machine, every admin, the spools, and what is open about the server."""
        self.wait(self.store.record(EventCode.SPOOL_OFFLINE, detail="ab: not mounted"))
        server, machines = self.read(ALL)
        self.assertEqual({one.machine for one in machines}, {self.machine.id, self.foreign.id})
        self.assertEqual([one.name for one in server.tenants], ["alice", "bob"])
        self.assertEqual([one.path for one in server.spools], [str(path) for path in self.setting.spools])
        self.assertTrue(all(one.size_bytes >= one.usable_bytes > 0 and not one.offline for one in server.spools))
        self.assertEqual([(code, subject) for code, subject, _ in server.conditions], [(EventCode.SPOOL_OFFLINE, "ab")])
        self.assertEqual((server.request, server.certificate_expires_ns), (3, 9))
        self.assertEqual((server.head_sequence, server.head_hash), (self.store.head.sequence, self.store.head.hash))
        self.assertEqual([one.machine for one in self.read(ALL, self.foreign.id)[1]], [self.foreign.id])

    def test_messages_that_wait(self) -> None:
        """What could not be delivered yet is the operator's to see."""
        telling = self.store.telling = SimpleNamespace(waiting=lambda: (3, 7))  # type: ignore[assignment]
        self.addCleanup(setattr, self.store, "telling", None)
        shown = [(one.waiting, one.waiting_since_ns) for one, _ in (self.read(ALL), self.read(self.admin.tenant))]
        self.assertEqual(shown, [telling.waiting(), (0, 0)])

    def test_promise_p6_scope(self) -> None:
        """Only a monitor of no admin sees all; no other certificate does, whatever it lacks."""
        for role in Role:
            for tenant in (b"", b"t" * 32):
                expected = ALL if (role, tenant) == (Role.MONITOR, b"") else tenant
                self.assertEqual(scope(Certificate(b"p" * 32, tenant, role, "")), expected)
        self.assertEqual(self.read(b"")[1], [])

    def test_answers_fit(self) -> None:
        """Whatever is read can be sent."""
        server, machines = self.read(ALL)
        for message in (server, *machines):
            self.assertTrue(message.encode())


class WireTests(ServerTestCase):
    """Over the restore port."""

    def monitor(self, tenant: Tenant | None) -> Identity:
        """A monitor's certificate, of an admin or of the operator."""
        watch = fresh_identity("watch")
        if tenant is not None:
            content = encode_content(CertificateContent(watch.pin, Role.MONITOR, "watch"))
            self.server.state(tenant, StatementVerb.REGISTER_CERTIFICATE, content)
        return watch

    def ask(self, identity: Identity, machine: bytes = b"") -> list[Message]:
        with RestorePeer(self.server.restore_port, identity) as peer:
            return peer.ask(StatusRequest, machine)

    def test_promise_p6_isolation(self) -> Deferred[None]:
        """Admin and monitor of one tenant see that tenant's machines; another's are as unknown as none at all."""

        def work(bob: Tenant) -> None:
            mine, theirs = self.server.enrol(self.tenant).machine_id, self.server.enrol(bob).machine_id
            for tenant, own, foreign in ((self.tenant, mine, theirs), (bob, theirs, mine)):
                for identity in (tenant.identity, self.monitor(tenant)):
                    server, *machines, done = self.ask(identity)
                    assert isinstance(server, ServerStatusItem) and isinstance(done, Done)
                    self.assertEqual([one.name for one in server.tenants], [tenant.name])
                    shown = [one.machine for one in machines if isinstance(one, StatusItem)]
                    self.assertEqual((shown, len(machines)), ([own], 1))
                    self.assertEqual(len(self.ask(identity, own)), 3)
                    answers = [self.ask(identity, one) for one in (foreign, b"x" * 32)]
                    self.assertEqual(answers[0], answers[1])
                    self.assertEqual([self.code(one) for one in answers[0]], [ErrorCode.NOT_FOUND])

        bob = Tenant("bob")
        added = self.server.running.store.add_admin("bob", bob.request())
        return added.addCallback(lambda _: self.thread(lambda: work(bob)))

    def test_operators_monitor(self) -> Deferred[None]:
        """It sees all, with the spools."""
        watch = fresh_identity("nagios")
        ledger = self.server.running.store._ready().ledger
        added = ledger.append(CertificateAdded(watch.pin, b"", Role.MONITOR, "nagios", b""))

        def work() -> None:
            machine = self.server.enrol(self.tenant).machine_id
            server, item, _ = self.ask(watch)
            assert isinstance(server, ServerStatusItem) and isinstance(item, StatusItem)
            self.assertEqual(item.machine, machine)
            self.assertEqual([one.path for one in server.spools], [str(path) for path in self.server.spools])
            self.assertEqual(server.certificate_expires_ns, self.server.identity.expires_ns)

        return added.addCallback(lambda _: self.thread(work))

    def test_promise_p2_monitor_asks_only_for_status(self) -> Deferred[None]:
        """A monitor is refused every request but WHO and STATUS."""

        def attack() -> None:
            watch = self.monitor(self.tenant)
            for sample in SAMPLES:
                if sample.KIND in (RestoreVerb.WHO, RestoreVerb.STATUS):
                    continue
                with RestorePeer(self.server.restore_port, watch) as peer:
                    values = [getattr(sample, one.name) for one in fields(sample)[1:]]
                    codes = [self.code(one) for one in peer.ask(type(sample), *values)]
                self.assertEqual(codes, [ErrorCode.NOT_ALLOWED], sample)
            self.assertEqual(len(SAMPLES), len(REQUESTS))

        return self.thread(attack)
