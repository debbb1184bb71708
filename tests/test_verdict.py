"""What check_mastodon makes of a status."""

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from mastodon.monitor.arguments import Arguments, Aspect
from mastodon.monitor.question import NoAnswer
from mastodon.monitor.verdict import FIGURES_LIMIT, TEXT_LIMIT, Level, Verdict, judge, one_line
from mastodon.sealed.duration import show_span
from mastodon.sealed.events import EventCode
from mastodon.sealed.ledger_entries import MachineState
from mastodon.wire.status_messages import Condition, ServerStatusItem, SpoolState, StatusItem, TenantUse, WatchState

HOUR_NS = 3600 * 10**9
NOW = 1_800_000_000 * 10**9
TENANT = b"t" * 32


def machine(number: int = 1, watch: WatchState = WatchState.OK, hours: float = 1, **changes: Any) -> StatusItem:
    """A machine whose newest complete backup was so many hours ago."""
    then = NOW - int(hours * HOUR_NS)
    values = {
        "request": 1, "machine": number.to_bytes(2, "big") * 16, "tenant": TENANT, "state": MachineState.ACTIVE,
        "watch": watch, "since_ns": then, "seen_ns": then, "complete_ns": then, "newest_ns": then,
        "partial_since_ns": 0, "interval_s": 3600, "grace_s": 18000, "snapshots": 3, "kept_bytes": 1000,
        "conditions": (),
    }  # fmt: skip
    return StatusItem(**{**values, **changes})


def server(**changes: Any) -> ServerStatusItem:
    """A server as the operator's monitor sees it."""
    values = {
        "request": 1, "time_ns": NOW, "version": "1", "head_sequence": 1, "head_hash": b"h" * 32,
        "certificate_expires_ns": 0, "waiting": 0, "waiting_since_ns": 0,
        "spools": (SpoolState("/srv/a", "", 60, 100),), "tenants": (TenantUse(TENANT, "alice", 2, 2000, ()),),
        "conditions": (),
    }  # fmt: skip
    return ServerStatusItem(**{**values, **changes})


def opened(code: EventCode, subject: str = "") -> tuple[Condition, ...]:
    return ((int(code), subject, NOW - HOUR_NS),)


def verdict(*machines: StatusItem, at: ServerStatusItem | None = None, **asked: Any) -> Verdict:
    asked["aspects"] = frozenset(asked.get("aspects", ()))
    arguments = Arguments((("host", 1),), (b"p" * 32,), *asked.pop("paths", (None, None)), **asked)
    return judge(arguments, at or server(), machines)


class MachinesTests(SynchronousTestCase):
    """Ages and states."""

    def test_all_is_well(self) -> None:
        """Machines that are in time, running, seeding or switched off are fine, and counted."""
        found = verdict(
            machine(1), machine(2, WatchState.RUNNING, 2), machine(3, WatchState.SEEDING, complete_ns=0),
            machine(4, WatchState.DISABLED, 900, state=MachineState.DISABLED),
            machine(5, WatchState.NEVER_SEEN, complete_ns=0),
        )  # fmt: skip
        self.assertEqual(found.level, Level.OK)
        said = "5 machines: 1 seeding, 1 ok, 1 running, 1 never seen, 1 disabled, oldest complete backup 2 h 0 min ago"
        self.assertEqual(found.text, f"{said}. 1 spool")
        self.assertIn("age=7200s;;;0", found.figures)
        self.assertIn("kept=5000B;;;0", found.figures)
        self.assertIn("late=0;;;0;5", found.figures)

    def test_late(self) -> None:
        """Without thresholds the machine's own watch says what is late, and every late one is critical."""
        found = verdict(machine(1), machine(2, WatchState.LATE, 50), machine(3, WatchState.LATE, 60))
        self.assertEqual(found.level, Level.CRITICAL)
        self.assertTrue(
            found.text.startswith(
                "2 late (0002000200020002, newest 2 d 2 h ago, 0003000300030003, newest 2 d 12 h ago). 3 machines"
            ),
            found.text,
        )

    def test_thresholds(self) -> None:
        """Thresholds stand in for the watch: what is older than one has its level, what is not is fine."""
        watched = machine(1, WatchState.LATE, 30)
        for warning, critical, expected in (
            (31, 40, Level.OK), (29, 40, Level.WARNING), (20, 29, Level.CRITICAL), (None, 31, Level.OK),
            (None, 29, Level.CRITICAL), (29, None, Level.WARNING), (30, 30, Level.OK),
        ):  # fmt: skip
            found = verdict(watched, warning_s=warning and warning * 3600, critical_s=critical and critical * 3600)
            self.assertEqual(found.level, expected, (warning, critical))
        self.assertIn("age=108000s;108000;108000;0", found.figures)

    def test_never_complete(self) -> None:
        """A machine without a complete backup is as old as its enrolment, for thresholds."""
        for watch in (WatchState.NEVER_SEEN, WatchState.SEEDING):
            found = verdict(machine(1, watch, 30, complete_ns=0), critical_s=29 * 3600)
            self.assertEqual(found.level, Level.CRITICAL)
            self.assertIn("none, added 30 h 0 min ago", found.text)
            self.assertEqual(verdict(machine(1, watch, 30, complete_ns=0)).level, Level.OK)

    def test_failed_and_partial(self) -> None:
        """They are warnings, with since when."""
        for watch in (WatchState.FAILED, WatchState.PARTIAL):
            found = verdict(machine(1, watch, 3))
            self.assertEqual(found.level, Level.WARNING)
            self.assertIn(f"{watch.name.lower()} (0001000100010001 for 3 h 0 min)", found.text)

    def test_disabled_is_not_watched(self) -> None:
        """Nothing about a machine that is switched off is a warning."""
        found = verdict(
            machine(1, WatchState.DISABLED, 900, state=MachineState.RETIRED, conditions=opened(EventCode.LATE)),
            critical_s=60,
        )  # fmt: skip
        self.assertEqual(found.level, Level.OK)

    def test_clock_of_the_server(self) -> None:
        """A backup in the server's future is told: its clock went back, and ages mean nothing."""
        self.assertEqual(verdict(machine(1, hours=-1)).level, Level.WARNING)
        self.assertEqual(verdict(machine(1, hours=-0.05)).level, Level.OK)
        self.assertIn("age=0s;;;0", verdict(machine(1, hours=-1)).figures)

    def test_what_is_open(self) -> None:
        """Conditions count with the severity of their event, also one of a later release; once each."""
        for code, level in ((EventCode.ANOMALY, Level.CRITICAL), (EventCode.NEW_PAIR, Level.WARNING)):
            found = verdict(machine(1, conditions=opened(code)))
            self.assertEqual(found.level, level)
        found = verdict(machine(1, conditions=((60000, "", NOW),)))
        self.assertEqual((found.level, "event 60000 of a later release" in found.text), (Level.WARNING, True))
        late = verdict(machine(1, WatchState.LATE, 9, conditions=opened(EventCode.LATE)))
        self.assertEqual(late.text.count("no complete backup in time"), 0)
        stale = verdict(machine(1, conditions=opened(EventCode.ANOMALY)), aspects=[Aspect.STALE])
        self.assertEqual(stale.level, Level.OK)
        seeding = machine(1, conditions=opened(EventCode.SEEDING_LONG))
        self.assertEqual(verdict(seeding, aspects=[Aspect.STALE]).level, Level.WARNING)

    def test_no_machines(self) -> None:
        """A check that watches nothing says so."""
        self.assertEqual(verdict().level, Level.WARNING)

    def test_five_hundred(self) -> None:
        """However many are late, the line stays one, with the first of them and how many more."""
        found = verdict(*(machine(number, WatchState.LATE, 50) for number in range(500)))
        line = one_line(found)
        self.assertIn("500 late (", line)
        self.assertIn("and 495 more", line)
        self.assertLess(len(line), 1000)


class ServerTests(SynchronousTestCase):
    """Quotas, spools, and what is open about the server."""

    def test_quotas(self) -> None:
        """A quota warns from 80 % and is critical when it is used up; one of nothing is used up at once."""
        for quota, level in (
            (2501, Level.OK), (2500, Level.WARNING), (2001, Level.WARNING), (2000, Level.CRITICAL), (0, Level.CRITICAL),
        ):  # fmt: skip
            at = server(tenants=(TenantUse(TENANT, "alice", 2, 2000, (), quota),))
            self.assertEqual(verdict(machine(), at=at, aspects=[Aspect.QUOTA]).level, level, quota)
        found = verdict(machine(quota_bytes=1100), aspects=[Aspect.QUOTA])
        self.assertEqual((found.level, found.text), (Level.WARNING, "quota of 0001000100010001: 90 % used. 1 quota"))
        self.assertEqual(found.figures, ("'quota 0001000100010001'=1000B;880;1100;0;1100",))
        self.assertEqual(verdict(machine(), aspects=[Aspect.QUOTA]).text, "no quotas are set")
        self.assertEqual(verdict(machine(quota_bytes=9999), aspects=[Aspect.QUOTA]).text, "1 quota")

    def test_quota_of_one_machine(self) -> None:
        """Asked about one machine, its admin's quota is not looked at."""
        at = server(tenants=(TenantUse(TENANT, "alice", 2, 2000, (), 2000),))
        found = verdict(machine(), at=at, machine=b"\0\1" * 16, aspects=[Aspect.QUOTA])
        self.assertEqual((found.level, found.figures), (Level.OK, ()))

    def test_spools(self) -> None:
        """A spool that is offline, full or nearly full is critical."""
        for spool, conditions, level in (
            (SpoolState("/a", "", 9, 10), (), Level.OK),
            (SpoolState("/a", "not mounted", 0, 0), opened(EventCode.SPOOL_OFFLINE, "ab"), Level.CRITICAL),
            (SpoolState("/a", "", 0, 10), (), Level.CRITICAL),
            (SpoolState("/a", "", 9, 10), opened(EventCode.SPOOL_NEARLY_FULL, "/a"), Level.CRITICAL),
        ):
            for aspects in ([Aspect.SPOOLS], []):
                found = verdict(machine(), at=server(spools=(spool,), conditions=conditions), aspects=aspects)
                self.assertEqual(found.level, level)
                self.assertLessEqual(found.text.count("offline"), 1)

    def test_spools_are_the_operators(self) -> None:
        """A certificate that sees no spools cannot check them; without being asked for they are left out."""
        self.assertRaises(NoAnswer, verdict, machine(), at=server(spools=()), aspects=[Aspect.SPOOLS])
        self.assertEqual(verdict(machine(), at=server(spools=())).level, Level.OK)

    def test_messages_that_wait(self) -> None:
        """Alerts that cannot be delivered are a warning: Nagios may be the only one to hear of it."""
        found = verdict(machine(), at=server(waiting=3, waiting_since_ns=NOW - 2 * HOUR_NS))
        self.assertEqual(found.level, Level.WARNING)
        self.assertIn("3 messages could not be delivered yet, the oldest for 2 h 0 min", found.text)

    def test_hostile_names(self) -> None:
        """No name breaks the line, its performance data or their labels."""
        spool, tenant = SpoolState("/a b|c='d'", "x|y", 0, 0), TenantUse(TENANT, "a'|\u202e=b", 1, 1, (), 1)
        at = server(spools=(spool,), tenants=(tenant,))
        line = one_line(verdict(machine(), at=at))
        self.assertEqual(line.count("|"), 1)
        self.assertIn("'spool /a b/c_''d'''=0B;;;0;0", line)
        self.assertTrue(line.isprintable())

    def test_long_lines_are_cut(self) -> None:
        """Text and figures have a bound, and no figure is cut in the middle."""
        line = one_line(Verdict(Level.OK, "x" * 9999, tuple(f"figure{number}=1" for number in range(999))))
        text, figures = line.split(" | ")
        self.assertLessEqual(len(text), TEXT_LIMIT + 20)
        self.assertLessEqual(len(figures), FIGURES_LIMIT)
        self.assertTrue(all(one.startswith("figure") and one.endswith("=1") for one in figures.split()))


class SpansTests(SynchronousTestCase):
    """Stretches of time."""

    def test_round(self) -> None:
        """What was measured is shown in two units."""
        for seconds, text in ((0, "0 s"), (59, "59 s"), (60, "1 min"), (3600, "1 h 0 min"), (172800, "2 d 0 h")):
            self.assertEqual(show_span(seconds), text)
