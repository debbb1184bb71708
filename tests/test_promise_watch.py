"""P8: silence is noticed. Machines that are dead, hostile or half well, clocks that jump, daemons that come and go."""

import errno
from typing import Any

from mastodon.daemon.served import FILE
from mastodon.sealed.events import EventCode
from mastodon.sealed.settings import DAY, HOUR
from mastodon.sealed.snapshot import SnapshotStatus
from mastodon.sealed.statement import MachineContent, StatementVerb, encode_content
from mastodon.wire.status_messages import WatchState
from tests.store_case import SECOND, Machine
from tests.watch_case import LOOK_S, WatchCase

LATE, RECOVERED, FAILED = EventCode.LATE, EventCode.RECOVERED, EventCode.RUN_FAILED
PARTIAL_LONG, CLOCK_JUMPED = EventCode.PARTIAL_LONG, EventCode.CLOCK_JUMPED


class SilenceTests(WatchCase):
    """What a machine does, or does not."""

    def test_promise_p8_a_dead_machine_is_late(self) -> None:
        """Told once, after interval and grace; and once that it is back, when a complete snapshot is."""
        self.back_up()
        self.passes(6)
        self.assertEqual((self.told(), self.state()), ([], WatchState.OK))
        self.passes(0.5)
        self.assertEqual((self.told(), self.state()), ([LATE], WatchState.LATE))
        self.passes(24)
        self.assertEqual(self.told(), [LATE])
        self.back_up()
        self.assertEqual((self.told(), self.state()), ([LATE, RECOVERED], WatchState.OK))
        self.passes(6.5)
        self.assertEqual(self.told(), [LATE, RECOVERED, LATE])
        self.assertEqual({(one.tenant, one.machine) for one in self.rows()}, {(self.admin.tenant, self.machine.id)})

    def test_a_backup_between_two_looks(self) -> None:
        """The time that a machine is allowed counts from its snapshot, not from the look before."""
        self.back_up()
        self.look()
        self.steady += LOOK_S - 60
        self.clock.now += int((LOOK_S - 60) * SECOND)
        self.back_up()
        self.passes(6)
        self.assertEqual(self.told(), [])
        self.passes(0.5)
        self.assertEqual(self.told(), [LATE])

    def test_promise_p8_finished_without_data_resets_nothing(self) -> None:
        """Root on the machine says hourly that all is well, and sends packs; it is late all the same."""
        self.back_up()
        for number in range(13):
            self.store.machine_session(self.machine.id)
            self.epoch = self.store._epochs[self.machine.id]
            self.finish(0)
            self.send(self.machine.tree(b"rubbish %d" % number))
            self.passes(0.5)
        self.assertEqual((self.told(), self.state()), ([LATE], WatchState.LATE))

    def test_promise_p8_partial_for_ever(self) -> None:
        """Partial snapshots and checkpoints reset nothing: it is late, and after three days it is told that it has
        been partial since then."""
        self.back_up()
        self.passes(1)
        for hour in range(19):
            self.back_up(SnapshotStatus.CHECKPOINT if hour % 3 else SnapshotStatus.PARTIAL)
            self.passes(1 if hour < 2 else 4.5)
            if hour == 1:
                self.assertEqual(self.state(), WatchState.PARTIAL)
        self.assertEqual((self.told(), self.state()), ([LATE, PARTIAL_LONG], WatchState.LATE))
        self.assertIn("partial ones since", self.rows()[0].detail)
        self.back_up()
        self.assertEqual((self.told(), self.state()), ([LATE, PARTIAL_LONG, RECOVERED], WatchState.OK))
        self.assertEqual(self.status().row.partial_since_ns, 0)

    def test_promise_p8_a_failed_run(self) -> None:
        """Told once, until a complete snapshot follows; a partial one is better than none."""
        self.back_up()
        for _ in range(3):
            self.finish(2)
            self.passes(0.5)
        self.assertEqual((self.told(), self.state()), ([FAILED], WatchState.FAILED))
        self.assertIn("disk on fire", self.rows()[0].detail)
        self.back_up(SnapshotStatus.PARTIAL)
        self.assertEqual((self.told(), self.state()), ([FAILED], WatchState.PARTIAL))
        self.back_up()
        self.finish(2)
        self.assertEqual((self.told(), self.state()), ([FAILED, RECOVERED, FAILED], WatchState.FAILED))

    def test_promise_p8_never_seen_and_seeding(self) -> None:
        """A machine that never came is told after a day; a first backup that takes longer than a week, counted from
        when it came; then that it is complete."""
        late, never = Machine(2), EventCode.NEVER_SEEN
        self.enrol(late)
        self.passes(0.5)
        self.assertEqual((self.state(late), self.state()), (WatchState.NEVER_SEEN, WatchState.SEEDING))
        self.passes(24)
        self.assertEqual(self.told(), [])
        self.passes(1)
        self.back_up()
        self.assertEqual([(one.code, one.machine) for one in self.rows()], [(never, late.id)])
        self.epoch = self.store.machine_session(late.id)
        self.assertEqual(self.state(late), WatchState.SEEDING)
        for _ in range(7):
            self.passes(24)
            self.assertEqual(self.told().count(EventCode.SEEDING_LONG), 0)
        self.passes(3)
        self.assertEqual(self.told().count(EventCode.SEEDING_LONG), 1)
        self.down(1)
        self.passes(30)
        self.assertEqual(self.told().count(never), 1)
        self.wait(self.store.add_pair(late.id, late.pair_record, late.envelope, self.store.machine_session(late.id)))
        self.epoch = self.store.machine_session(late.id)
        blobs = late.tree(b"at last")
        self.send(blobs, late)
        self.commit(blobs[-1][0], late)
        self.passes(0.5)
        self.assertEqual(self.state(late), WatchState.OK)
        self.assertEqual([one.code for one in self.rows() if one.machine == late.id][-1], RECOVERED)

    def test_settings(self) -> None:
        """What is set for the machine holds at the next look; longer than usual, and shorter."""
        self.back_up()
        self.wait(self.store.set_policy(b"", self.machine.id, (("watch.interval", "86400"),)))
        self.passes(24)
        self.assertNotIn(LATE, self.told())
        self.wait(self.store.set_policy(b"", self.machine.id, (("watch.interval", "600"), ("watch.grace", "0"))))
        self.look()
        self.assertIn(LATE, self.told())

    def test_disabled(self) -> None:
        """It is not watched, and when it is enabled again it has its whole time."""
        self.back_up()
        content = encode_content(MachineContent(self.machine.id))
        self.execute(StatementVerb.DISABLE_MACHINE, content)
        self.passes(48)
        self.assertEqual((self.told(), self.state()), ([EventCode.WATCH_WEAKENED], WatchState.DISABLED))
        self.execute(StatementVerb.ENABLE_MACHINE, content)
        self.passes(6)
        self.assertNotIn(LATE, self.told())
        self.passes(0.5)
        self.assertIn(LATE, self.told())

    def test_a_run_that_is_going_on(self) -> None:
        """Excuses nothing: only what it commits in the end does."""
        self.back_up()
        self.passes(6)
        self.store.machine_session(self.machine.id)
        self.passes(0.5)
        self.assertEqual((self.told(), self.state()), ([LATE], WatchState.LATE))


class ClockTests(WatchCase):
    """The server's wall clock goes where it likes."""

    def test_promise_p8_jumps_make_nobody_late(self) -> None:
        """Forward and back by hours and by a year, while the daemon runs: a machine that comes hourly stays well, and
        the operator is told of each jump once."""
        for jump in (10 * HOUR, -10 * HOUR, 365 * DAY, -365 * DAY, -3 * DAY, 3 * DAY):
            self.back_up()
            self.passes(0.5, jump)
            self.back_up()
            self.passes(1)
            self.assertEqual(self.state(), WatchState.OK)
        self.assertEqual(self.told(), [CLOCK_JUMPED] * 6)
        self.assertEqual([one.detail.split(" s:")[0] for one in self.rows()][:2], ["+36000", "-36000"])

    def test_promise_p8_jumps_hide_nobody(self) -> None:
        """A machine that is dead is late at the same time, whatever the wall clock says."""
        self.back_up()
        for jump in (-10 * HOUR, 0, -400 * DAY, 5 * HOUR, -HOUR, -HOUR):
            self.passes(1, jump)
            self.assertNotIn(LATE, self.told())
        self.passes(0.5, -DAY)
        self.assertEqual(self.told().count(LATE), 1)
        self.passes(3, 2 * DAY)
        self.assertEqual(self.told().count(LATE), 1)

    def test_promise_p8_clock_set_back_lets_machines_commit(self) -> None:
        """Three days of hourly snapshots that now lie in the future do not count against the hour's bound."""
        for _ in range(72):
            self.commit(self.root)
            self.clock.now += HOUR * SECOND
        self.passes(0.5, -3 * DAY)
        self.back_up()
        self.assertEqual(self.state(), WatchState.OK)
        self.machine.new_pair()
        self.wait(self.store.add_pair(self.machine.id, self.machine.pair_record, self.machine.envelope, self.epoch))

    def test_promise_p8_jumps_while_the_daemon_is_down(self) -> None:
        """Nobody is late that has not had its time, and a dead machine is."""
        self.back_up()
        self.passes(1)
        self.down(2, 30 * DAY)
        self.passes(0.5)
        self.down(2, -60 * DAY, boot="another")
        self.assertEqual(self.told(), [CLOCK_JUMPED] * 2)
        self.assertEqual(self.state(), WatchState.OK)
        self.passes(6)
        self.assertEqual(self.told(), [CLOCK_JUMPED] * 2 + [LATE])


class RestartTests(WatchCase):
    """Daemons come and go."""

    def test_promise_p8_downtime_makes_nobody_late(self) -> None:
        """After a night without a server each machine has the time to come back: at the latest an interval after it
        had its last chance, and its grace besides."""
        self.back_up()
        self.passes(1)
        self.down(12)
        self.assertEqual(self.state(), WatchState.OK)
        self.passes(6)
        self.assertEqual(self.told(), [])
        self.back_up()
        self.passes(6)
        self.assertEqual(self.told(), [])

    def test_promise_p8_downtime_hides_nobody(self) -> None:
        """A machine that died before or while the server was down is told of when its time was served."""
        self.back_up()
        self.passes(1)
        self.down(72)
        self.passes(6)
        self.assertEqual(self.told(), [])
        self.passes(0.5)
        self.assertEqual(self.told(), [LATE])

    def test_promise_p8_a_crash_loop_hides_nobody(self) -> None:
        """However often the daemon dies, what it served counts, and the further interval is given once."""
        self.back_up()
        for _ in range(14):
            self.passes(0.5)
            self.down(0.25, crash=True)
        self.assertEqual(self.told(), [])
        self.passes(0.5)
        self.assertEqual(self.told(), [LATE])

    def test_promise_p8_restarts_tell_nothing_twice(self) -> None:
        """Late stays late, failed failed, whatever is lost: restart, crash, the watch's file, the catalogue."""
        self.back_up()
        self.finish(2)
        self.passes(6.5)
        self.assertEqual(self.told(), [FAILED, LATE])
        for lost in ("", FILE, "catalogue.sqlite"):
            self.down(1)
            if lost:
                self.stop()
                (self.setting.state / lost).unlink()
                self.start_again()
                self.serve()
            self.passes(1)
            self.assertEqual((self.told(), self.state()), ([FAILED, LATE], WatchState.LATE), lost)
        self.back_up()
        self.assertEqual((self.told()[2:], self.state()), ([RECOVERED], WatchState.OK))
        self.down(1)
        self.passes(1)
        self.assertEqual(len(self.told()), 3)

    def test_promise_p8_a_crash_before_recovery_was_told(self) -> None:
        """The snapshot is in the ledger, the event is not: it is told after the start."""
        self.back_up()
        self.passes(6.5)
        self.commit(self.root)
        self.down(1, crash=True)
        self.passes(0.5)
        self.assertEqual(self.told(), [LATE, RECOVERED])

    def test_promise_p8_recovery_is_told_without_the_file(self) -> None:
        """What was told stands in the ledger before the snapshot: that is enough to know that it is over."""
        self.back_up()
        self.passes(6.5)
        self.commit(self.root)
        self.stop()
        (self.setting.state / FILE).unlink()
        self.start_again()
        self.serve()
        self.passes(0.5)
        self.assertEqual(self.told(), [LATE, RECOVERED])

    def test_promise_p8_an_old_file_ends_nothing(self) -> None:
        """The state directory could not be written for a day, or was put back: who was late since is late still."""
        self.back_up()
        self.passes(0.5)
        old = (self.setting.state / FILE).read_bytes()
        self.back_up()
        self.passes(6.5)
        self.assertEqual(self.told(), [LATE])
        self.stop()
        (self.setting.state / FILE).write_bytes(old)
        self.start_again()
        self.serve()
        self.passes(12)
        self.assertEqual((self.told(), self.state()), ([LATE], WatchState.LATE))

    def test_promise_p8_a_snapshot_while_it_is_being_told(self) -> None:
        """Too late not to be told, and too early to stand behind that in the ledger: it is over all the same."""
        self.back_up()
        self.passes(6)
        record = self.store.watching._record

        async def commit_first(*event: Any) -> None:
            await self.store.commit(self.machine.id, self.machine.snapshot(self.root), self.epoch)
            await record(*event)

        self.patch(self.store.watching, "_record", commit_first)
        self.passes(0.5)
        self.patch(self.store.watching, "_record", record)
        self.assertEqual((self.told(), self.state()), ([LATE], WatchState.LATE))
        self.passes(0.5)
        self.assertEqual((self.told(), self.state()), ([LATE, RECOVERED], WatchState.OK))

    def test_promise_p8_without_its_file(self) -> None:
        """With the state directory lost each machine has its whole time again, and no more than that."""
        self.back_up()
        self.passes(5)
        self.stop()
        (self.setting.state / FILE).unlink()
        self.start_again()
        self.serve()
        self.passes(6.5)
        self.assertEqual(self.told(), [])
        self.passes(0.5)
        self.assertEqual(self.told(), [LATE])

    def test_promise_p8_a_locked_server_watches_when_it_is_let_go(self) -> None:
        """While the operator has yet to confirm the ledger nobody can come, so nobody becomes late."""
        self.back_up()
        self.passes(5)
        self.store.locked = "until the operator has looked"
        self.passes(48)
        self.store.locked = ""
        self.passes(2)
        self.assertEqual(self.told(), [])
        self.passes(0.5)
        self.assertEqual(self.told(), [LATE])

    def test_what_cannot_be_written_is_told_later(self) -> None:
        """A catalogue that fails, a state directory that is full: the next look goes on."""
        self.back_up()
        self.passes(6)

        def full(call: str, path: str) -> None:
            if call == "write" and ".tmp-" in path:
                raise OSError(errno.ENOSPC, "full")

        self.disk.before = full
        self.passes(0.5)
        self.disk.before = lambda call, path: None
        self.assertEqual(self.told(), [LATE])

    def test_looks_by_itself(self) -> None:
        """Every so often, also after a look that failed; not after the end."""
        looks: list[int] = []

        async def look() -> None:
            looks.append(1)
            raise ZeroDivisionError

        self.patch(self.store.watching, "look", look)
        for _ in range(3):
            self.reactor.advance(1800)
        self.assertEqual(len(looks), 3)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 3)
        self.do(self.store.watching.stop())
        self.reactor.advance(7200)
        self.assertEqual(len(looks), 3)
