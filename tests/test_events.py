"""Events in the catalogue: whose they are, what they open and close; and settings, as they are and as they were."""

from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from mastodon.catalogue.interface import Catalogue
from mastodon.catalogue.sqlite import SqliteCatalogue
from mastodon.sealed.events import Audience, EventCode, codes_for, subject_of
from mastodon.sealed.ledger_entries import Event, PolicySet, SnapshotCommitted
from mastodon.sealed.record import record_hash
from mastodon.sealed.settings import SETTINGS, Settings
from mastodon.sealed.snapshot import SnapshotStatus
from tests.store_case import Admin
from tests.test_catalogue import CatalogueMixin


class EventTests(CatalogueMixin):
    """The suite, for each back end."""

    def event(self, code: EventCode, tenant: bytes = b"", machine: bytes = b"", detail: str = "") -> None:
        self.follow(Event(int(code), tenant, machine, detail))

    def open(self) -> list[tuple[EventCode, str]]:
        return [(one.code, one.subject) for one in self.wait(self.catalogue.conditions())]

    def test_events_of_a_tenant(self) -> None:
        """An event about a machine is its tenant's; other tenants see neither it nor the operator's."""
        self.event(EventCode.LATE, machine=self.machine.id)
        self.event(EventCode.SPOOL_OFFLINE, detail="s: broken")
        self.event(EventCode.ROLE_REFUSED, self.admin.tenant)
        found = self.wait(self.catalogue.events(0, 10, self.admin.tenant))
        self.assertEqual([one.code for one in found], [EventCode.LATE, EventCode.ROLE_REFUSED])
        self.assertEqual({one.tenant for one in found}, {self.admin.tenant})
        self.assertEqual(self.wait(self.catalogue.events(0, 10, Admin("bob", 2).tenant)), [])
        self.assertEqual([one.code for one in self.wait(self.catalogue.events(0, 10))], [17, 1, 16])

    def test_events_since(self) -> None:
        """Behind a sequence, a bounded number, of some codes."""
        for _ in range(3):
            self.event(EventCode.LATE, machine=self.machine.id)
            self.event(EventCode.SPOOL_OFFLINE)
        first, second, *_ = self.wait(self.catalogue.events(0, 100))
        self.assertEqual(self.wait(self.catalogue.events(first.sequence, 1)), [second])
        self.assertEqual(self.wait(self.catalogue.events(1 << 64, 1)), [])
        codes = codes_for(Audience.ADMIN)
        self.assertEqual({one.code for one in self.wait(self.catalogue.events(0, 100, None, codes))}, {17})
        newest = self.wait(self.catalogue.newest_event(EventCode.LATE, machine=self.machine.id))
        assert newest is not None
        self.assertEqual(newest.sequence, first.sequence + 4)
        self.assertIsNone(self.wait(self.catalogue.newest_event(EventCode.LATE, self.admin.tenant)))

    def test_conditions(self) -> None:
        """What was opened is open, since the first time, until its counterpart comes, about the same machine."""
        self.event(EventCode.LATE, machine=self.machine.id, detail="first")
        self.event(EventCode.LATE, machine=self.machine.id, detail="again")
        self.event(EventCode.RUN_FAILED, machine=self.machine.id)
        self.event(EventCode.RECOVERED, machine=b"x" * 32)
        self.event(EventCode.PACK_REFUSED, machine=self.machine.id)
        (late, failed) = self.wait(self.catalogue.conditions(self.admin.tenant, self.machine.id))
        self.assertEqual((late.detail, failed.code), ("first", EventCode.RUN_FAILED))
        self.assertEqual(self.wait(self.catalogue.conditions(Admin("bob", 2).tenant)), [])
        self.event(EventCode.RECOVERED, machine=self.machine.id)
        self.assertEqual(self.open(), [])

    def test_conditions_of_a_subject(self) -> None:
        """Of two spools that are offline one comes back."""
        for spool in ("a", "b"):
            self.event(EventCode.SPOOL_OFFLINE, detail=f"{spool}: input/output error: 5")
        self.event(EventCode.SPOOL_ONLINE, detail="a: mounted")
        self.assertEqual(self.open(), [(EventCode.SPOOL_OFFLINE, "b")])
        self.assertEqual(subject_of(EventCode.SPOOL_OFFLINE, "no subject"), "")

    def test_codes_of_later_releases(self) -> None:
        """They are kept and shown, and open nothing."""
        self.follow(Event(60000, b"", b"", "what may this be"))
        self.assertEqual([one.code for one in self.wait(self.catalogue.events(0, 10))], [60000])
        self.assertEqual(self.open(), [])

    def commit(self, status: SnapshotStatus) -> None:
        record = self.machine.snapshot(b"r" * 32, status=status)
        self.machine.sequence, self.machine.head = self.machine.sequence + 1, record_hash(record)
        self.follow(SnapshotCommitted(record))

    def test_watch_rows(self) -> None:
        """Only a complete snapshot moves what the watch goes by; partial ones are counted from the first."""
        (row,) = self.wait(self.catalogue.watch_rows())
        self.assertEqual((row.machine, row.tenant, row.complete_ns), (self.machine.id, self.admin.tenant, 0))
        self.assertIsNone(row.newest_status)
        self.assertTrue(row.added_ns)
        self.assertTrue(row.seen_ns)  # its pair is there
        for status in (SnapshotStatus.CHECKPOINT, SnapshotStatus.PARTIAL):
            self.commit(status)
        (first,) = self.wait(self.catalogue.watch_rows(self.admin.tenant))
        self.commit(SnapshotStatus.PARTIAL)
        (row,) = self.wait(self.catalogue.watch_rows(None, self.machine.id))
        self.assertEqual((row.complete_ns, row.newest_status), (0, SnapshotStatus.PARTIAL))
        self.assertEqual(row.partial_since_ns, first.newest_ns)
        self.assertGreater(row.newest_ns, row.partial_since_ns)
        self.commit(SnapshotStatus.COMPLETE)
        (row,) = self.wait(self.catalogue.watch_rows())
        self.assertEqual((row.complete_ns, row.partial_since_ns), (row.newest_ns, 0))
        self.assertEqual(row.complete_entry, self.head.sequence)
        self.assertEqual(self.wait(self.catalogue.watch_rows(Admin("bob", 2).tenant)), [])

    def test_settings_as_they_were(self) -> None:
        """The newest value holds; what held at an entry of the ledger can still be asked."""
        place = self.admin.tenant, self.machine.id
        self.follow(PolicySet(*place, (("watch.grace", "1"), ("later.release", "x")), b""))
        before = self.head.sequence
        self.follow(PolicySet(*place, (("watch.grace", "2"),), b""))

        def grace(at: int | None) -> list[str]:
            return [row.value for row in self.wait(self.catalogue.setting_rows(SETTINGS, at))]

        self.assertEqual([grace(at) for at in (None, before, before - 1)], [["2"], ["1"], []])
        self.assertEqual(self.wait(self.catalogue.settings("watch.grace", place[0])), [(place[1], "2")])


class SqliteEventTests(EventTests, SynchronousTestCase):
    """SQLite."""

    def setUp(self) -> None:
        self.path = Path(self.mktemp()).resolve()
        super().setUp()

    def make(self) -> Catalogue:
        return SqliteCatalogue(self.path, self.mainland)


class SettingsTests(SynchronousTestCase):
    """The look-up."""

    def test_levels(self) -> None:
        """Machine before tenant before server before what is usual; an empty value is none."""
        rows = [
            ("watch.grace", b"", b"", "1"), ("watch.grace", b"t", b"", "2"), ("watch.grace", b"t", b"m", "3"),
            ("watch.grace", b"t", b"n", ""), ("watch.interval", b"u", b"", "77"),
        ]  # fmt: skip
        settings = Settings(rows)
        self.assertEqual([settings.number("watch.grace", b"t", one) for one in (b"m", b"n", b"")], [3, 2, 2])
        self.assertEqual(settings.number("watch.grace", b"u", b"m"), 1)
        self.assertEqual(settings.value("watch.interval", b"t", b"m"), SETTINGS["watch.interval"].usual)
        self.assertEqual(settings.at("watch.grace", b"t", b"n"), "")
        self.assertEqual(settings.number("quota.bytes", b"t"), 0)

    def test_checks(self) -> None:
        """What each may be."""
        good = {
            "watch.interval": ("60", "31622400"), "watch.grace": ("0", "3600"), "quota.bytes": ("0", "1000000000000"),
            "notify.mail": ("a@example.org", "a.b+c@x.example, root@localhost"),
            "notify.webhook": ("https://x.example/hook?a=b",), "heartbeat.url": ("https://x.example:8000/ping/1",),
            "snooze.until": ("0", "1800000000000000000"),
        }  # fmt: skip
        bad = {
            "watch.interval": ("59", "31622401", "1h", "-60", "٦٠٠", "060", "6e3", " 60", ""), "watch.grace": ("x",),
            "quota.bytes": ("1.5", str(1 << 63)), "notify.mail": ("a", "a@b; c@d", "a@b\n", "<a@b>", "a@b,"),
            "notify.webhook": ("file:///etc/passwd", "https://a b", "https://"), "heartbeat.url": ("x", "http://x.example/"),
            "snooze.until": ("tomorrow",),
        }  # fmt: skip
        self.assertEqual(set(good), set(SETTINGS))
        for name, values in good.items():
            for value in values:
                SETTINGS[name].check(value)
        for name, values in bad.items():
            for value in values:
                self.assertRaises(ValueError, SETTINGS[name].check, value)
