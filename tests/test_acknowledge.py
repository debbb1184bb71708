"""Events as an admin lists and acknowledges them, in store and catalogue."""

from mastodon.daemon.errors import NotAllowed, NotFound
from mastodon.daemon.opening import CATALOGUE
from mastodon.host.ledger_reader import ChainReader
from mastodon.host.spool_layout import chains, segments
from mastodon.sealed.events import EventCode
from mastodon.sealed.ledger_entries import Acknowledged
from tests.store_case import Admin, StoreCase

PIN = b"p" * 32


class AcknowledgeTests(StoreCase):
    """Over a store of its own."""

    def setUp(self) -> None:
        super().setUp()
        self.other = Admin("bob", 2)
        self.wait(self.store.add_admin(self.other.name, self.other.request()))
        for code, tenant, machine in (
            (EventCode.LATE, b"", self.machine.id), (EventCode.SPOOL_OFFLINE, b"", b""),
            (EventCode.QUOTA_FULL, self.admin.tenant, b""), (EventCode.ANOMALY, self.other.tenant, b""),
            (EventCode.CATALOGUE_REBUILT, self.admin.tenant, b""),
        ):  # fmt: skip
            self.wait(self.store.record(code, tenant, machine, "00: x"))

    def listed(self, admin: Admin | None, machine: bytes = b"", after: int = 0, since_ns: int = 0, limit: int = 100):
        tenant = None if admin is None else admin.tenant
        return self.wait(self.store.events(tenant, machine, after, since_ns, limit))

    def names(self, *arguments, **options) -> list[str]:
        return [EventCode(one.event.code).name for one in self.listed(*arguments, **options)]

    def acknowledge(self, admin: Admin, *events: int) -> None:
        self.wait(self.store.acknowledge(admin.tenant, PIN, events))

    def test_promise_p6_each_sees_its_own(self) -> None:
        """An admin its own that are for admins; the operator all that are for it."""
        self.assertEqual(self.names(self.admin), ["LATE", "QUOTA_FULL"])
        self.assertEqual(self.names(self.other), ["ANOMALY"])
        self.assertEqual(self.names(None), ["SPOOL_OFFLINE", "QUOTA_FULL", "CATALOGUE_REBUILT"])

    def test_chosen(self) -> None:
        """By machine, sequence, time and number."""
        late, full = self.listed(self.admin)
        self.assertEqual(self.names(self.admin, self.machine.id), ["LATE"])
        self.assertEqual(self.names(self.admin, after=late.event.sequence), ["QUOTA_FULL"])
        self.assertEqual(self.names(self.admin, since_ns=full.event.time_ns), ["QUOTA_FULL"])
        self.assertEqual(self.names(self.admin, limit=1), ["LATE"])
        self.assertEqual(self.names(self.admin, b"x" * 32), [])
        self.assertTrue(late.is_open)
        self.wait(self.store.record(EventCode.RECOVERED, b"", self.machine.id))
        self.assertEqual([one.is_open for one in self.listed(self.admin)], [False, True, False])

    def test_acknowledged(self) -> None:
        """It stands in the ledger once, and in the catalogue, also in one that is made anew."""
        late, full = (one.event.sequence for one in self.listed(self.admin))
        self.acknowledge(self.admin, late)
        self.acknowledge(self.admin, late, full, full)
        (chain,) = chains(self.setting.spools[0])
        entries = ChainReader(chain, segments(self.setting.spools[0], chain)).entries()
        said = [entry.body for entry, _ in entries if isinstance(entry.body, Acknowledged)]
        self.assertEqual([(one.pin, one.events) for one in said], [(PIN, (late,)), (PIN, (full,))])
        before = self.listed(self.admin)
        self.assertTrue(all(one.acknowledged_ns for one in before))
        self.stop()
        (self.setting.state / CATALOGUE).unlink()
        self.start_again()
        self.assertEqual(self.listed(self.admin), before)
        catalogue = self.store.telling_parts().catalogue
        self.assertEqual(self.wait(catalogue.known_conditions(self.admin.tenant)), {late, full})

    def test_promise_p6_foreign_is_unknown(self) -> None:
        """Another admin's event, one for the operator, and none at all: one answer, and nothing is written."""
        mine = self.listed(self.admin)[0].event.sequence
        foreign = self.listed(self.other)[0].event.sequence
        operators = self.listed(None)[0].event.sequence
        before = self.store.head
        texts = {
            self.refused(NotFound, self.acknowledge, self.admin, mine, one).text
            for one in (foreign, operators, 1, (1 << 64) - 1)
        }
        self.assertEqual(len(texts), 1)
        self.assertEqual(self.store.head, before)

    def test_without_a_daemon(self) -> None:
        """Where a command opened the store itself, nobody tells."""
        self.refused(NotAllowed, lambda: self.wait(self.store.told(b"", False)))
