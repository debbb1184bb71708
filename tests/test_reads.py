"""The audit log: who read what of which machine is in the ledger, however much is read; the first time is told."""

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from bench.blocking_peers import TinyMachine
from bench.tenant import Tenant
from mastodon.catalogue.interface import Certificate, ReadRow
from mastodon.daemon import reads
from mastodon.daemon.events import EventCode
from mastodon.daemon.reads import AT_ONCE, EACH, WINDOW_S
from mastodon.sealed.blob import BlobKind
from mastodon.sealed.ledger_entries import Role
from mastodon.wire.errors import ErrorCode
from mastodon.wire.read_messages import ReadItem, ReadsRequest
from mastodon.wire.restore_messages import FetchRequest, SnapshotsRequest
from tests.running_server import ServerTestCase
from tests.store_case import Admin, Machine, StoreCase


class ReadsTests(StoreCase):
    """On a real ledger and catalogue."""

    SPOOLS = 1

    def setUp(self) -> None:
        super().setUp()
        self.asker = Certificate(self.admin.pin, self.admin.tenant, Role.ADMIN, "alice")

    def fetched(self, asker: Certificate, machine: bytes, blobs: int, size: int) -> None:
        self.wait(Deferred.fromCoroutine(self.store.reads.fetch(asker, machine, blobs, size)))

    def write(self) -> None:
        self.wait(Deferred.fromCoroutine(self.store.reads.write()))

    def rows(
        self, tenant: bytes | None = None, machine: bytes = b"", after: int = 0, limit: int = 1000
    ) -> list[ReadRow]:
        return self.wait(self.store.read_rows(tenant, machine, after, 0, limit))

    def told(self) -> list[str]:
        rows = self.wait(self.store._ready().catalogue.events(0, 1000))
        return [row.detail for row in rows if row.code == EventCode.FIRST_RESTORE]

    def test_counted_together(self):
        """All that a certificate reads of a machine within a window becomes one entry: requests, blobs, bytes."""
        self.fetched(self.asker, self.machine.id, 2, 100)
        for _ in range(50):
            self.fetched(self.asker, self.machine.id, 3, 10)
            self.store.reads.note(self.asker, self.machine.id)
        first, waiting = self.rows()
        self.assertEqual((first.requests, first.blobs, first.content_bytes), (1, 2, 100))
        self.assertEqual((waiting.sequence, waiting.requests, waiting.blobs, waiting.content_bytes), (0, 100, 150, 500))
        self.write()
        again = self.rows()[1]
        self.assertTrue(again.sequence > first.sequence)
        self.assertEqual((again.requests, again.blobs, again.content_bytes), (100, 150, 500))
        self.assertEqual((again.label, again.tenant, again.machine), ("alice", self.admin.tenant, self.machine.id))
        self.assertLess(again.since_ns, again.time_ns)

    def test_first_restore_is_told_at_once(self):
        """The first blobs that a certificate ever fetches are an event before they are sent; later ones are none, also
        after a restart. Reading records is none, nor is asking for what is not there."""
        self.store.reads.note(self.asker, self.machine.id)
        self.fetched(self.asker, self.machine.id, 0, 0)
        self.assertEqual(self.told(), [])
        for _ in range(2):
            self.fetched(self.asker, self.machine.id, 1, 10)
            self.restart()
        (told,) = self.told()
        self.assertIn("alice", told)
        other = Certificate(b"o" * 32, self.admin.tenant, Role.ADMIN, "desktop")
        self.fetched(other, self.machine.id, 1, 10)
        self.assertEqual(len(self.told()), 2)

    def test_requests_at_the_same_time(self):
        """A client's first requests come several at a time: it is told once."""
        at_once = [Deferred.fromCoroutine(self.store.reads.fetch(self.asker, self.machine.id, 1, 1)) for _ in range(5)]
        for one in at_once:
            self.wait(one)
        self.assertEqual(len(self.told()), 1)

    def test_promise_p10_survives_a_restart_and_a_rebuild(self):
        """An ordinary stop writes what was counted; a catalogue made anew says the same."""
        self.fetched(self.asker, self.machine.id, 1, 10)
        self.store.reads.note(self.asker, self.machine.id)
        self.restart()
        before = self.rows()
        self.assertEqual([row.requests for row in before], [1, 1])
        self.assertTrue(all(row.sequence for row in before))
        self.stop()
        for path in self.setting.state.glob("catalogue.sqlite*"):
            path.unlink()
        self.start_again()
        self.assertEqual(self.rows(), before)

    def test_written_by_the_clock(self):
        """While the daemon runs, every window is written."""
        clock = Clock()
        self.store.reads.start(clock)
        self.store.reads.note(self.asker, self.machine.id)
        clock.advance(WINDOW_S - 1)
        self.assertEqual(self.rows()[0].sequence, 0)
        clock.advance(1)
        self.wait(self.store._ready().ledger.append(self.nothing()))
        self.assertNotEqual(self.rows()[0].sequence, 0)

    def nothing(self) -> reads.Event:
        return reads.Event(int(EventCode.CATALOGUE_REBUILT), b"", b"", "")

    def test_promise_p6_others_see_nothing(self):
        """A tenant sees reads of its own machines alone; a foreign machine is as one that nobody read."""
        bob = Admin("bob", 2)
        self.wait(self.store.add_admin(bob.name, bob.request()))
        machine = Machine(2)
        self.enrol(machine, bob)
        self.store.reads.note(Certificate(bob.pin, bob.tenant, Role.ADMIN, "bob"), machine.id)
        for _ in range(2):
            self.assertEqual(self.rows(self.admin.tenant), [])
            self.assertEqual(self.rows(self.admin.tenant, machine.id), [])
            self.assertEqual(len(self.rows(bob.tenant)), 1)
            self.write()

    def test_pages(self):
        """What is there is had page by page, what is not written yet at the end."""
        for _ in range(3):
            self.store.reads.note(self.asker, self.machine.id)
            self.write()
        self.store.reads.note(self.asker, self.machine.id)
        first = self.rows(limit=2)
        second = self.rows(after=first[-1].sequence, limit=2)
        self.assertEqual(len({row.sequence for row in first + second}), 4)
        self.assertEqual(second[-1].sequence, 0)

    def test_promise_p12_flood_is_bounded(self):
        """However many machines and certificates read, so many entries are written in a window; the rest waits, and
        nobody's reads are lost behind another's."""
        for number in range(3 * AT_ONCE):
            self.store.reads.note(self.asker, number.to_bytes(32, "big"))
        other = Certificate(b"o" * 32, self.admin.tenant, Role.ADMIN, "desktop")
        self.store.reads.note(other, self.machine.id)
        before = self.store.head.sequence
        self.write()
        self.assertEqual(self.store.head.sequence - before, EACH + 1)
        self.assertIn(other.pin, {row.pin for row in self.rows(self.admin.tenant, self.machine.id) if row.sequence})
        self.write()
        self.assertEqual(self.store.head.sequence - before, 2 * EACH + 1)

    def test_ledger_that_takes_nothing(self):
        """A spool that fails keeps nobody from restoring; what was counted is counted on."""
        def refuse(call: str, path: str) -> None:
            if call in ("write", "fsync") and "ledger" in path:
                raise OSError(28, "No space left on device")

        self.disk.before = refuse
        self.fetched(self.asker, self.machine.id, 1, 10)
        self.write()
        (waiting,) = self.rows()
        self.assertEqual((waiting.sequence, waiting.requests, waiting.blobs), (0, 1, 1))
        self.disk.before = lambda call, path: None


class OverTheWireTests(ServerTestCase):
    """A real daemon and a client that asks without end."""

    def test_promise_p12_flood_of_fetches(self) -> Deferred[None]:
        """Hundreds of requests by one certificate write two entries, the first one's event among them, at once; another
        admin's machine is not found, and leaves no trace."""

        async def attack() -> None:
            store = self.server.running.store
            other = Tenant("bob")
            await store.add_admin("bob", other.request())
            machine = await self.thread(lambda: self.server.new_machine(self.tenant))
            blob = machine.blob(BlobKind.BUNDLE, [], b"content")
            await self.thread(lambda: self.send(machine, blob))
            before = store.head.sequence
            rows = await self.thread(lambda: self.flood(other, machine, blob[0]))
            self.assertEqual(store.head.sequence - before, 2)
            self.assertEqual(([row.requests for row in rows], [row.blobs for row in rows]), ([1, 400], [1, 200]))
            self.assertEqual({row.pin for row in rows}, {self.tenant.identity.pin})
            self.assertEqual([bool(row.sequence) for row in rows], [True, False])

        return Deferred.fromCoroutine(attack())

    def send(self, machine: TinyMachine, blob: tuple[bytes, int, bytes]) -> None:
        with self.server.append_peer() as append:
            append.enter(machine.secret)
            machine.send_pack(append, machine.pack([blob]))

    def flood(self, other: Tenant, machine: TinyMachine, blob: bytes) -> list[ReadItem]:
        """Ask again and again; what READS says then."""
        id = machine.secret.machine_id
        with self.server.restore_peer(other) as peer:
            self.assertEqual(self.code(peer.ask(FetchRequest, id, blob)[-1]), ErrorCode.NOT_FOUND)
            self.assertEqual(len(peer.ask(ReadsRequest, id, 0, 0, 1000)), 1)
        with self.server.restore_peer(self.tenant) as peer:
            self.assertTrue(peer.data(FetchRequest, id, blob)[0])
            for _ in range(200):
                peer.ask(FetchRequest, id, blob)
                peer.ask(SnapshotsRequest, id, 0, 10)
            return [item for item in peer.ask(ReadsRequest, b"", 0, 0, 1000) if isinstance(item, ReadItem)]
