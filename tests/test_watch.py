"""How a machine stands with the watch, and the time that it is measured in."""

from dataclasses import replace
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from mastodon.catalogue.interface import Condition, WatchRow
from mastodon.daemon.served import FILE, Clocks, ServedTime
from mastodon.daemon.watch import Bounds, Mark, Served, WatchStatus, follow, is_over, judge
from mastodon.sealed.duration import parse_duration, show_duration
from mastodon.sealed.events import EventCode
from mastodon.sealed.ledger_entries import MachineState
from mastodon.sealed.settings import DAY, HOUR
from mastodon.sealed.snapshot import SnapshotStatus

MACHINE = b"m" * 32
ROW = WatchRow(
    MACHINE, b"t" * 32, MachineState.ACTIVE, 1, 2, newest_ns=3, newest_status=SnapshotStatus.COMPLETE,
    complete_ns=3, complete_entry=50, partial_since_ns=0,
)  # fmt: skip
NEW = replace(ROW, seen_ns=0, newest_ns=0, newest_status=None, complete_ns=0, complete_entry=0)
BOUNDS = Bounds(HOUR, 5 * HOUR)
MARK = Mark(50, 1000.0, 3, True)


def condition(code: EventCode, sequence: int) -> Condition:
    return Condition(code, ROW.tenant, MACHINE, "", sequence, sequence, "")


def stands(row: WatchRow, mark: Mark, silent: float, *told: Condition, stretch: int = 3) -> WatchStatus:
    return judge(row, mark, Served(mark.since + silent, stretch), BOUNDS, told)


def at(seconds: float) -> Served:
    return Served(float(seconds), 4)


class JudgeTests(SynchronousTestCase):
    def test_due(self) -> None:
        """Each event from its time on, and not before."""
        never, seeding, partial = Mark(0, 0.0, 3, False), Mark(0, 0.0, 3, True), replace(MARK, partial_since=1000.0)
        for row, mark, at, code in (
            (ROW, MARK, 6 * HOUR, EventCode.LATE), (NEW, never, DAY, EventCode.NEVER_SEEN),
            (NEW, seeding, 7 * DAY, EventCode.SEEDING_LONG), (ROW, partial, 3 * DAY, EventCode.PARTIAL_LONG),
        ):  # fmt: skip
            self.assertNotIn(code, stands(row, mark, at).due)
            self.assertIn(code, stands(row, mark, at + 1).due)
            self.assertEqual(stands(replace(row, state=MachineState.DISABLED), mark, at + 1).due, ())

    def test_promise_p8_one_more_chance_after_a_gap(self) -> None:
        """A machine whose run fell into a gap of service has one more interval, and not one for every restart."""
        for stretch, allowed in ((3, 6 * HOUR), (4, 7 * HOUR), (99, 7 * HOUR)):
            self.assertEqual(stands(ROW, MARK, 0, stretch=stretch).allowed_s, allowed)

    def test_over(self) -> None:
        """A complete snapshot behind all that was told; or one that came while it was being told."""
        late, failed = condition(EventCode.LATE, 40), condition(EventCode.RUN_FAILED, 60)
        self.assertTrue(is_over(stands(ROW, MARK, 0, late), False))
        self.assertFalse(is_over(stands(ROW, MARK, 0, late, failed), False))
        self.assertTrue(is_over(stands(ROW, MARK, 0, late, failed), True))
        self.assertFalse(is_over(stands(ROW, MARK, 0), True))
        self.assertFalse(is_over(stands(NEW, MARK, 0, late), True))
        self.assertFalse(is_over(stands(ROW, MARK, 0, condition(EventCode.CLONE, 1)), False))


class FollowTests(SynchronousTestCase):
    def test_only_a_complete_snapshot_resets(self) -> None:
        """Another entry of a complete one does; the same one and partial ones do not."""
        self.assertEqual(follow(ROW, MARK, at(9000), False), MARK)
        moved = follow(replace(ROW, partial_since_ns=5), MARK, at(9000), False)
        self.assertEqual(moved, replace(MARK, partial_since=9000.0))
        later = follow(replace(ROW, partial_since_ns=5), moved, at(12000), False)
        self.assertEqual(later, moved)
        self.assertEqual(follow(replace(ROW, complete_entry=90), later, at(15000), False), Mark(90, 15000.0, 4, True))

    def test_complete_then_partial_between_two_looks(self) -> None:
        """The stretch of partial ones begins anew."""
        row = replace(ROW, complete_entry=90, partial_since_ns=7)
        moved = follow(row, replace(MARK, partial_since=2.0), at(9), True)
        self.assertEqual(moved, Mark(90, 9.0, 4, True, 9.0))

    def test_what_is_not_watched_has_its_whole_time_when_it_is(self) -> None:
        """While it is disabled its mark goes along."""
        disabled = replace(ROW, state=MachineState.DISABLED)
        self.assertEqual(follow(disabled, MARK, at(9000), False).since, 9000.0)

    def test_seeding_begins_when_it_is_seen(self) -> None:
        """Installed a week after it was enrolled, its first backup has its seven days all the same."""
        never = follow(NEW, None, Served(0.0, 3), False)
        self.assertEqual(never, Mark(0, 0.0, 3, False))
        self.assertEqual(follow(NEW, never, at(6 * DAY), True), Mark(0, 6.0 * DAY, 4, True))


class ServedTimeTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.state = Path(self.mktemp())
        self.state.mkdir()
        self.wall, self.steady, self.boot = 1_800_000_000.0, 77.0, "first"
        self.time = ServedTime(self.state)
        self.assertEqual(self.begin(), 0.0)

    def begin(self) -> float:
        clocks = Clocks(lambda: int(self.wall * 1e9), lambda: self.steady, self.boot)
        return self.time.begin(clocks, 60.0)

    def passes(self, seconds: float, jump: float = 0.0) -> float:
        self.wall, self.steady = self.wall + seconds + jump, self.steady + seconds
        return self.time.advance()

    def restart(self) -> None:
        self.time.write(self.time.encode())
        self.time = ServedTime(self.state)

    def test_jumps_of_the_wall_clock_do_not_count(self) -> None:
        """Neither forward nor back; they are reported, and what NTP does day by day is not."""
        self.assertEqual([self.passes(60, jump) for jump in (0, 59.0, -59.0)], [0.0] * 3)
        for jump in (-36_000.0, 36_000.0, 90.0, 400 * 86_400.0):
            self.assertAlmostEqual(self.passes(60, jump), jump, 3)
        self.assertEqual(self.time.now, Served(420.0, 1))

    def test_standing_still_is_no_service(self) -> None:
        """A system that slept, a process that was stopped: nobody could come, so it counts as a gap."""
        self.passes(60)
        self.assertEqual(self.passes(8 * HOUR), 0.0)
        self.assertEqual(self.time.now, Served(60.0, 2))
        self.passes(300)
        self.assertEqual(self.time.now, Served(360.0, 2))

    def test_restart(self) -> None:
        """What was down does not count, what was served does, and the marks are there."""
        self.passes(60)
        self.time.marks[MACHINE] = Mark(7, 12.5, 1, True, 33.0)
        self.restart()
        self.wall, self.steady, self.boot = self.wall + DAY, 5.0, "second"
        self.assertEqual(self.begin(), 0.0)
        self.assertEqual(self.time.now, Served(60.0, 2))
        self.assertEqual(self.time.marks, {MACHINE: Mark(7, 12.5, 1, True, 33.0)})

    def test_jumps_over_a_restart(self) -> None:
        """Under one boot they are seen as ever; over a boot at least what must have gone back."""
        for down, jump, boot, seen in (
            (500.0, 7200.0, "first", 7200.0), (500.0, -7200.0, "first", -7200.0), (500.0, 0.0, "first", 0.0),
            (500.0, 7200.0, "2", 0.0), (500.0, -7200.0, "3", -6700.0), (500.0, -510.0, "4", 0.0),
        ):  # fmt: skip
            self.restart()
            self.wall += down + jump
            self.steady, self.boot = (self.steady + down if boot == self.boot else 1.0), boot
            self.assertAlmostEqual(self.begin(), seen, 3)

    def test_pause(self) -> None:
        """While the server lets nobody in, nothing counts."""
        self.passes(60)
        self.steady += 120
        self.time.pause()
        self.passes(60)
        self.assertEqual(self.time.now, Served(120.0, 2))

    def test_a_damaged_file_is_none(self) -> None:
        """Garbage, another shape, numbers that are none: as if it were lost."""
        self.passes(60)
        self.time.marks[MACHINE] = MARK
        good = self.time.encode()
        for data in (
            b"", b"[]", b"{}", b"null", good[:-9], good.replace(b"60.0", b"NaN"), good.replace(b"60.0", b"Infinity"),
            good.replace(b"true", b"[]", 1).replace(b"1000.0", b"{}"), good.replace(b"6d6d", b"xx", 1),
            good.replace(b"[50,", b"[", 1), b'{"marks": 5}',
        ):  # fmt: skip
            (self.state / FILE).write_bytes(data)
            self.assertEqual((ServedTime(self.state).now, ServedTime(self.state).marks), (Served(0.0, 0), {}), data)
        (self.state / FILE).write_bytes(good)
        self.assertEqual(ServedTime(self.state).now, Served(60.0, 1))


class DurationTests(SynchronousTestCase):
    def test_there_and_back(self) -> None:
        """What is shown can be typed."""
        for text, seconds in (("90s", 90), ("15m", 900), ("6h", 21600), ("1d", 86400), (" 2 D ", 172800), ("0s", 0)):
            self.assertEqual(parse_duration(text), seconds)
            self.assertEqual(parse_duration(show_duration(seconds)), seconds)
        self.assertEqual(show_duration(3 * DAY + 7200), "3.1 d")
        for text in ("", "1", "h", "1w", "-1h", "1.5h", "1h30m", "٣h"):
            self.assertRaises(ValueError, parse_duration, text)
