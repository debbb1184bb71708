"""Settings that admins and the operator make: who may set what, and that weakening the watch is always told (P8)."""

from twisted.internet.defer import Deferred

from mastodon.catalogue.interface import EventRow
from mastodon.daemon.errors import NotAllowed, NotFound
from mastodon.daemon.events import PER_HOUR
from mastodon.host.ledger_reader import ChainReader
from mastodon.host.spool_layout import chains, segments
from mastodon.sealed.events import EventCode
from mastodon.sealed.ledger_entries import EntryBody, Event, PolicySet
from mastodon.sealed.settings import Settings
from mastodon.sealed.statement import MachineContent, PolicyContent, StatementVerb, encode_content
from tests.store_case import START_NS, Admin, Machine, StoreCase

TOLD = (EventCode.WATCH_WEAKENED, EventCode.ADDRESS_CHANGED)


class PolicyTests(StoreCase):
    def policy(self, machine: bytes, *settings: tuple[str, str], admin: Admin | None = None) -> None:
        self.execute(StatementVerb.POLICY, encode_content(PolicyContent(machine, settings)), admin=admin)

    def settings(self, at: int | None = None) -> Settings:
        authority = self.store._ready().authority
        return self.wait(Deferred.fromCoroutine(authority.policies.read(at=at)))

    def rows(self) -> list[EventRow]:
        return self.wait(self.store._ready().catalogue.events(0, 1000))

    def told(self) -> list[tuple[int, bytes, bytes, str]]:
        return [(one.code, one.tenant, one.machine, one.detail) for one in self.rows() if one.code in TOLD]

    def bodies(self) -> list[EntryBody | None]:
        """What stands in the ledger."""
        (chain,) = chains(self.setting.spools[0])
        reader = ChainReader(chain, segments(self.setting.spools[0], chain))
        return [entry.body for entry, _ in reader.entries()]

    def test_levels(self) -> None:
        """An admin's own value holds for its machines, unless one has a value of its own; the operator's for all."""
        tenant, machine = self.admin.tenant, self.machine.id
        self.wait(self.store.set_policy(b"", b"", (("watch.interval", "7200"),)))
        self.assertEqual(self.settings().number("watch.interval", tenant, machine), 7200)
        self.policy(b"", ("watch.interval", "600"))
        self.policy(machine, ("watch.interval", "60"), ("watch.grace", "0"))
        self.assertEqual(self.settings().number("watch.interval", tenant, machine), 60)
        self.assertEqual(self.settings().number("watch.interval", tenant, b"other"), 600)
        self.policy(machine, ("watch.interval", ""))
        self.restart()
        self.assertEqual(self.settings().number("watch.interval", tenant, machine), 600)
        self.assertEqual(self.settings().number("watch.grace", tenant, machine), 0)

    def test_the_newest_holds(self) -> None:
        """A machine has one value, whether its admin or the operator set it."""
        for value in ("60", "120"):
            self.policy(self.machine.id, ("watch.interval", value))
            self.wait(self.store.set_policy(b"", self.machine.id, (("watch.interval", f"{value}0"),)))
            found = self.settings().value("watch.interval", self.admin.tenant, self.machine.id)
            self.assertEqual(found, f"{value}0")

    def test_refused(self) -> None:
        """Unknown names, bad values, the same name twice, the operator's own: refused, and nothing is changed."""
        before = self.store.head
        for machine, settings in (
            (b"", (("append.rate", "0"),)), (b"", (("watch.interval", "1h"),)), (b"", (("watch.interval", "59"),)),
            (self.machine.id, (("watch.grace", "1"), ("watch.grace", "2"))), (b"", (("quota.bytes", "1"),)),
            (self.machine.id, (("watch.grace", "1"), ("nonsense", "2"))), (b"", (("notify.mail", "nobody"),)),
        ):  # fmt: skip
            self.refused(NotAllowed, self.policy, machine, *settings)
        self.refused(NotAllowed, lambda: self.execute(StatementVerb.POLICY, b"\xa1\x00\x40"))
        self.refused(NotAllowed, lambda: self.policy(b""))
        self.refused(NotAllowed, self.policy, b"", ("snooze.until", str(START_NS + 31 * 86_400 * 10**9)))
        self.assertEqual(self.store.head, before)
        self.policy(self.machine.id, ("quota.bytes", "1000"))  # inside its own quota an admin may

    def test_promise_p6_foreign_is_unknown(self) -> None:
        """Another tenant's machine and one that nobody has are refused alike, by statement; nothing is written."""
        other = Admin("bob", 2)
        self.wait(self.store.add_admin(other.name, other.request()))
        before = self.store.head
        change = ("watch.grace", "1")
        errors = [self.refused(NotFound, self.policy, one, change, admin=other) for one in (self.machine.id, b"x" * 32)]
        self.assertEqual(len({error.text for error in errors}), 1)
        self.assertEqual(self.store.head, before)
        self.refused(NotFound, lambda: self.wait(self.store.set_policy(b"", b"x" * 32, (("watch.grace", "1"),))))
        self.refused(NotFound, lambda: self.wait(self.store.set_policy(b"x" * 32, b"", (("watch.grace", "1"),))))

    def test_promise_p8_weakening_is_told_before_it_holds(self) -> None:
        """A longer interval or grace, another address, a snooze: an event each, in the ledger before the change."""
        tenant, machine = self.admin.tenant, self.machine.id
        self.policy(machine, ("notify.mail", "a@example.org"))
        self.assertEqual(self.told(), [])
        for name, value, code in (
            ("watch.interval", "7200", EventCode.WATCH_WEAKENED), ("watch.grace", "18001", EventCode.WATCH_WEAKENED),
            ("notify.mail", "b@example.org", EventCode.ADDRESS_CHANGED), ("notify.mail", "", EventCode.ADDRESS_CHANGED),
            ("snooze.until", str(START_NS + 86_400 * 10**9), EventCode.WATCH_WEAKENED),
        ):  # fmt: skip
            self.policy(machine, (name, value))
            self.assertEqual(self.told()[-1][:3], (code, tenant, machine), name)
            bodies = self.bodies()
            self.assertIsInstance(bodies[-1], PolicySet)
            self.assertIsInstance(bodies[-2], Event)
        told = len(self.told())
        self.assertEqual(told, 5)
        mail = [one.sequence for one in self.rows() if "b@example.org instead of a@" in one.detail]
        self.assertEqual(self.settings(at=mail[0]).at("notify.mail", tenant, machine), "a@example.org")
        for name, value in (("watch.interval", "60"), ("watch.grace", "0"), ("snooze.until", "0")):
            self.policy(machine, (name, value))
        self.policy(machine, ("watch.grace", "0"))
        self.assertEqual(len(self.told()), told)

    def test_promise_p8_a_flood_does_not_hide_weakening(self) -> None:
        """However often the watch was weakened in this hour, the next time is told too."""
        for number in range(PER_HOUR + 5):
            self.policy(self.machine.id, ("watch.grace", str(20_000 + number)))
        self.assertEqual(len(self.told()), PER_HOUR + 5)

    def test_promise_p8_the_operator_weakens_for_all(self) -> None:
        """Each admin is told for whom it is weaker now, and the operator."""
        other = Admin("bob", 2)
        self.wait(self.store.add_admin(other.name, other.request()))
        self.policy(b"", ("watch.interval", "600"))
        self.wait(self.store.set_policy(b"", b"", (("watch.interval", "7200"),)))
        self.assertEqual({one[1] for one in self.told()}, {b"", other.tenant})

    def test_promise_p8_disabling_is_told(self) -> None:
        """So is closing a generation; enabling is not."""
        content = encode_content(MachineContent(self.machine.id))
        for verb in (StatementVerb.DISABLE_MACHINE, StatementVerb.ENABLE_MACHINE, StatementVerb.CLOSE_GENERATION):
            self.execute(verb, content)
        self.assertEqual([one[3].split(":")[0] for one in self.told()], ["disabled", "closed"])
        self.enrol(Machine(3))

    def test_what_holds_already(self) -> None:
        """Changes nothing, and leaves no entry."""
        self.policy(b"", ("watch.grace", "100"))
        before = self.store.head
        self.policy(b"", ("watch.grace", "100"))
        self.assertEqual(self.store.head, before)
