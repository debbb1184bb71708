"""Quotas in bytes: what is refused, what never is, who is told, and what one machine leaves the others."""

import contextlib
import os
import sqlite3
import time
from collections.abc import Callable

from twisted.internet.defer import Deferred

from mastodon.daemon import quotas
from mastodon.daemon.errors import NotAllowed, NotFound, PackRefused, QuotaFull
from mastodon.daemon.pack_receiver import PackReceiver
from mastodon.daemon.quotas import HISTORY_DAYS, LEAST_NIGHT, usual_night
from mastodon.sealed.blob import BlobKind
from mastodon.sealed.duration import DAY_NS
from mastodon.sealed.events import EventCode
from mastodon.sealed.ledger_entries import MachineState
from mastodon.sealed.settings import QUOTA
from mastodon.sealed.statement import PolicyContent, StatementVerb, encode_content
from mastodon.wire.errors import ErrorCode
from tests.store_case import SECOND, Admin, Machine, StoreCase

HOUR = 3600 * SECOND
CODES = (EventCode.QUOTA_80, EventCode.QUOTA_95, EventCode.QUOTA_FULL, EventCode.QUOTA_HAS_ROOM)


class QuotaCase(StoreCase):
    """Alice has two machines; both have sent their pair."""

    def setUp(self) -> None:
        super().setUp()
        self.sibling = Machine(2)
        self.enrol(self.sibling)
        self.siblings_epoch = self.store.machine_session(self.sibling.id)
        self.wait(
            self.store.add_pair(self.sibling.id, self.sibling.pair_record, self.sibling.envelope, self.siblings_epoch)
        )

    def start_again(self) -> None:
        super().start_again()
        if hasattr(self, "sibling"):
            self.siblings_epoch = self.store.machine_session(self.sibling.id)

    def quota(self, size: int | None, machine: bytes = b"") -> None:
        """The operator sets alice's quota, or that of one of her machines."""
        value = "" if size is None else str(size)
        self.wait(self.store.set_policy(b"" if machine else self.admin.tenant, machine, ((QUOTA, value),)))
        self.wait(self.store.quotas().settled())

    def fill(self, size: int, machine: Machine | None = None) -> int:
        """Send one pack of about so many bytes, 2 KB at least; what it takes."""
        machine = machine or self.machine
        blob = machine.blob(BlobKind.BUNDLE, [], os.urandom(max(1, size - 2_000)))
        pack, data = machine.pack([blob])
        self.send_bytes(pack, data, machine, self.siblings_epoch if machine is self.sibling else None)
        self.wait(self.store.quotas().settled())
        return len(data)

    def used(self, machine: Machine | None = None) -> int:
        return self.store.quotas().used(self.admin.tenant, machine.id if machine else b"")

    def kept(self, machine: Machine | None = None) -> int:
        """What the catalogue says."""
        machine = machine or self.machine
        rows = {one.machine: one.kept_bytes for one in self.wait(self.store.machines(self.admin.tenant))}
        return rows[machine.id]

    def settle(self) -> None:
        """Until the catalogue has taken in all packs."""
        opened = self.store._ready()
        for one in (self.machine, self.sibling):
            self.wait(Deferred.fromCoroutine(opened.intake.settled(one.id)))

    def until(self, holds: Callable[[], bool]) -> None:
        """Wait for what comes of itself: a pack that breaks off lets go once its last write is over."""
        for _ in range(1000):
            if holds():
                return
            self.wait(self.store._in_thread(time.sleep, 0.01))
        self.fail("it did not come")

    def told(self) -> list[tuple[EventCode, bytes, str]]:
        """Quota events: code, machine, and what the detail begins with."""
        found = self.wait(self.store._ready().catalogue.events(0, 1000, codes=[int(code) for code in CODES]))
        return [(EventCode(one.code), one.machine, one.detail.split(":")[0]) for one in found]


class QuotaTests(QuotaCase):
    """What is taken and what is not."""

    def test_promise_p6_machine_quota(self):
        """Beyond its own quota a machine's pack is refused with what to do; its sibling goes on; nothing is left of
        the pack, and what was stored before is committed and restored as ever."""
        blobs = self.machine.tree(b"small")
        self.send(blobs)
        self.quota(self.used(self.machine) + 10_000, self.machine.id)
        refusal = self.refused(QuotaFull, self.fill, 50_000)
        self.assertIs(refusal.code, ErrorCode.QUOTA)
        for part in ("this machine is used up", "are taken", "ask your admin", "what is stored stays"):
            self.assertIn(part, refusal.text)
        self.fill(50_000, self.sibling)
        self.assertEqual(len(self.packs()), 2)
        self.assertEqual([one for spool in self.setting.spools for one in spool.glob("incoming/*")], [])
        self.assertFalse(self.commit(blobs[-1][0]).missing)
        self.assertEqual(self.fetch([blobs[0][0]]), blobs[0][2])
        self.fill(5_000)

    def test_promise_p6_admin_quota(self):
        """Beyond the admin's quota both machines are refused, and neither hears of the other; another admin is not."""
        bob, theirs = Admin("bob", 2), Machine(3)
        self.wait(self.store.add_admin("bob", bob.request()))
        self.enrol(theirs, bob)
        epoch = self.store.machine_session(theirs.id)
        self.wait(self.store.add_pair(theirs.id, theirs.pair_record, theirs.envelope, epoch))
        self.fill(50_000)
        self.quota(self.used() + 20_000)
        for machine in (self.machine, self.sibling):
            text = self.refused(QuotaFull, self.fill, 60_000, machine).text
            self.assertIn("no room left for this machine", text)
            for other in ("other", "KiB", str(self.used())):
                self.assertNotIn(other, text)
        self.send_bytes(*theirs.pack(theirs.tree(os.urandom(60_000))), theirs, epoch)

    def test_lowered_below_use(self):
        """A quota that is set below what is used deletes nothing: all is there, committed, and nothing more is taken,
        not even a byte, until it is raised."""
        blobs = self.machine.tree(os.urandom(50_000))
        self.send(blobs)
        self.quota(10_000, self.machine.id)
        self.refused(QuotaFull, self.fill, 1)
        self.assertFalse(self.commit(blobs[-1][0]).missing)
        self.assertEqual(len(self.packs()), 1)
        self.quota(0, self.machine.id)
        self.refused(QuotaFull, self.fill, 1)
        self.quota(None, self.machine.id)
        self.fill(50_000)

    def test_sent_again(self):
        """A pack that is stored already is acknowledged, whatever the quota says, and counts once."""
        pack, data = self.machine.pack(self.machine.tree(os.urandom(10_000)))
        self.send_bytes(pack, data)
        self.quota(len(data), self.machine.id)
        self.send_bytes(pack, data)
        self.assertEqual(self.used(self.machine), len(data))

    def test_what_is_given_up_counts_no_more(self):
        """A pack that breaks off, or is refused for what it is, gives back what it took."""
        pack, data = self.machine.pack(self.machine.tree(os.urandom(700_000)))
        receiver = self.store.begin_pack(self.machine.id, self.epoch)
        self.wait(receiver.write(data[:600_000]))
        self.assertEqual(self.used(self.machine), 600_000)
        receiver.abandon()
        self.fill(10)
        self.refused(PackRefused, self.send_bytes, pack, data[:-1] + b"?")
        self.settle()
        self.until(lambda: self.used(self.machine) == self.kept())

    def test_promise_p6_race_over_many_connections(self):
        """However many packs come in at once, no byte beyond the quota is written: each is counted before."""
        machines = [self.machine, self.sibling, *(Machine(number) for number in range(3, 12))]
        for one in machines[2:]:
            self.enrol(one)
        self.quota(2_000_000)
        receivers: list[PackReceiver] = []
        for one in machines:
            receivers.append(self.store.begin_pack(one.id, self.store.machine_session(one.id)))
        taken = 0
        for _ in range(20):
            for receiver in receivers:
                outcome = receiver.write(os.urandom(30_000))
                outcome.addErrback(lambda failure: failure.trap(QuotaFull))
                taken = max(taken, self.used())
        self.assertLessEqual(taken, 2_000_000)
        self.assertGreater(taken, 1_900_000)
        for receiver in receivers:
            receiver.abandon()
        self.epoch = self.store.machine_session(self.machine.id)
        self.fill(10)
        self.until(lambda: self.used() < 10_000)

    def test_rebuild_gives_the_same_usage(self):
        """Usage follows from the packs: counted as they come, or from the spools; with one lost, and with it back."""
        for size in (10_000, 20_000, 30_000):
            self.fill(size)
        self.fill(5_000, self.sibling)
        path = self.packs()[1]
        data = path.read_bytes()
        path.unlink()
        self.restart()
        without = self.used(), self.kept(), self.kept(self.sibling)
        self.assertEqual(without[1] + without[2], sum(one.stat().st_size for one in self.packs()))
        self.rebuild()
        self.assertEqual((self.used(), self.kept(), self.kept(self.sibling)), without)
        path.write_bytes(data)
        self.restart()
        whole = self.used(), self.kept(), self.kept(self.sibling)
        self.assertEqual(whole[0], sum(one.stat().st_size for one in self.packs()))
        self.rebuild()
        self.assertEqual((self.used(), self.kept(), self.kept(self.sibling)), whole)

    def test_copies_count_once(self):
        """A pack that lies on two spools counts as one."""
        self.fill(10_000)
        (path,) = self.packs()
        one, other = self.setting.spools
        source = one if one in path.parents else other
        copy = (other if source is one else one) / path.relative_to(source)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())
        self.restart()
        self.assertEqual(self.used(), path.stat().st_size)
        self.rebuild()
        self.assertEqual(self.used(), path.stat().st_size)

    def test_catalogue_of_an_earlier_release(self):
        """One that counted lost packs, too, is put right when it is opened."""
        self.fill(10_000)
        self.stop()
        with contextlib.closing(sqlite3.connect(self.setting.state / "catalogue.sqlite")) as db:
            db.executescript("UPDATE machines SET kept_bytes = 1; PRAGMA user_version = 7;")
        self.start_again()
        self.assertEqual(self.used(), self.packs()[0].stat().st_size)

    def rebuild(self) -> None:
        self.stop()
        for path in self.setting.state.glob("catalogue.sqlite*"):
            path.unlink()
        self.start_again()

    def test_promise_p6_who_may_set_it(self):
        """An admin sets its machines' quotas, never its own or a stranger's; what is no number is refused."""
        self.policy(self.machine.id, "1000")
        self.refused(QuotaFull, self.fill, 5_000)
        self.refused(NotAllowed, self.policy, b"", "99999999999")
        self.refused(NotFound, self.policy, Machine(9).id, "1000")
        for value in ("-1", "1e9", "ten", "01"):
            self.refused(NotAllowed, self.policy, self.machine.id, value)
        self.policy(self.machine.id, "")
        self.fill(5_000)

    def policy(self, machine: bytes, value: str) -> None:
        self.execute(StatementVerb.POLICY, encode_content(PolicyContent(machine, ((QUOTA, value),))))

    def test_a_machine_that_comes_later(self):
        """A machine that is enrolled while the daemon runs counts at once."""
        self.quota(100_000)
        late = Machine(7)
        self.enrol(late)
        epoch = self.store.machine_session(late.id)
        self.wait(self.store.add_pair(late.id, late.pair_record, late.envelope, epoch))
        pack, data = late.pack(late.tree(os.urandom(150_000)))
        self.refused(QuotaFull, self.send_bytes, pack, data, late, epoch)


class EdgeTests(QuotaCase):
    """What is told, once when it begins and once when it is over."""

    def test_marks(self):
        """80 and 95 % are told once each, of a machine and of its admin; five points below they are over."""
        self.fill(78_000)
        for machine in (b"", self.machine.id):
            self.quota(self.used() * 100 // 78, machine)
        self.assertEqual(self.told(), [])
        limit = self.used() * 100 // 78
        self.fill(limit * 83 // 100 - self.used())
        self.fill(10)
        both = (b"", self.machine.id)
        self.assertEqual(self.told(), [(EventCode.QUOTA_80, machine, "80 %") for machine in both])
        self.fill(limit * 97 // 100 - self.used())
        self.assertEqual(self.told()[2:], [(EventCode.QUOTA_95, machine, "95 %") for machine in both])
        self.clock.now += HOUR
        self.quota(self.used() * 100 // 92)
        self.assertEqual(len(self.told()), 4)
        self.quota(self.used() * 100 // 85)
        self.assertEqual(self.told()[4:], [(EventCode.QUOTA_HAS_ROOM, b"", "95 %")])
        self.quota(None)
        self.assertEqual(self.told()[5:], [(EventCode.QUOTA_HAS_ROOM, b"", "80 %")])

    def test_full(self):
        """That a quota is used up is told when something is refused, once, and that it has room again likewise; a
        restart in between tells nothing twice and forgets nothing."""
        self.quota(50_000, self.machine.id)
        for _ in range(3):
            self.refused(QuotaFull, self.fill, 100_000)
        self.wait(self.store.quotas().settled())
        self.assertEqual(self.told(), [(EventCode.QUOTA_FULL, self.machine.id, "full")])
        self.restart()
        self.refused(QuotaFull, self.fill, 100_000)
        self.wait(self.store.quotas().settled())
        self.assertEqual(len(self.told()), 1)
        self.store.quotas().look_around()
        self.wait(self.store.quotas().settled())
        self.assertEqual(len(self.told()), 1)
        self.clock.now += HOUR
        self.store.quotas().look_around()
        self.wait(self.store.quotas().settled())
        self.assertEqual(self.told()[1:], [(EventCode.QUOTA_HAS_ROOM, self.machine.id, "full")])
        self.restart()
        self.assertEqual(len(self.told()), 2)

    def test_raised_is_over_at_once(self):
        """What was told of a quota is over as soon as it is raised or taken away: whoever set it knows."""
        self.quota(50_000, self.machine.id)
        self.refused(QuotaFull, self.fill, 100_000)
        self.wait(self.store.quotas().settled())
        self.quota(10_000_000, self.machine.id)
        self.wait(self.store.quotas().settled())
        self.assertEqual(self.told()[1:], [(EventCode.QUOTA_HAS_ROOM, self.machine.id, "full")])
        self.fill(50_000)
        self.quota(self.used(self.machine), self.machine.id)
        self.wait(self.store.quotas().settled())
        self.assertEqual({one[2] for one in self.told()[2:]}, {"80 %", "95 %"})
        self.quota(None, self.machine.id)
        self.wait(self.store.quotas().settled())
        over = [one for one in self.told()[4:] if one[0] is EventCode.QUOTA_HAS_ROOM]
        self.assertEqual({one[2] for one in over}, {"80 %", "95 %"})

    def test_flapping_is_not_told(self):
        """A quota that is used up and only just lets small things through is not told anew each time."""
        self.fill(50_000)
        self.quota(self.used(self.machine) + 12_000, self.machine.id)
        for _ in range(4):
            self.clock.now += HOUR
            self.refused(QuotaFull, self.fill, 50_000)
            self.fill(1)
        self.assertEqual([one for one in self.told() if one[0] is EventCode.QUOTA_FULL][1:], [])
        self.assertNotIn(EventCode.QUOTA_HAS_ROOM, [one[0] for one in self.told()])


class SiblingTests(QuotaCase):
    """A machine that floods leaves the others what they need tonight."""

    def days(self, machine: Machine, size: int, days: int) -> None:
        """The machine stores so much on each of some days."""
        for _ in range(days):
            self.clock.now += DAY_NS
            self.fill(size, machine)

    def least(self, size: int) -> None:
        """Small nights for small tests."""
        self.patch(quotas, "LEAST_NIGHT", size)
        self.restart()

    def flood(self) -> int:
        """Send packs until one is refused; what was taken."""
        flooded = 0
        for _ in range(100):
            try:
                flooded += self.fill(20_000)
            except QuotaFull:
                self.wait(self.store.quotas().settled())
                return flooded
        raise AssertionError("nothing stopped it")

    def left(self) -> int:
        limit = self.store.quotas().limit(self.admin.tenant)
        assert limit is not None
        return limit - self.used()

    def test_promise_p6_flood_leaves_tonights_room(self):
        """A flood ends where what is left is twice what its sibling usually stores; that one's backups of tonight and
        of the next night pass, and its admin is told which machine was refused."""
        self.least(1_000)
        self.days(self.sibling, 40_000, 5)
        self.clock.now += DAY_NS
        self.quota(self.used() + 1_000_000)
        self.assertGreater(self.flood(), 850_000)
        self.assertGreaterEqual(self.left(), 80_000)
        self.assertIn((EventCode.QUOTA_FULL, self.machine.id, "full"), self.told())
        self.fill(40_000, self.sibling)
        self.refused(QuotaFull, self.fill, 20_000)
        self.clock.now += DAY_NS
        self.fill(40_000, self.sibling)
        self.refused(QuotaFull, self.fill, 20_000)

    def test_promise_p6_a_made_up_history_takes_no_room(self):
        """A machine that stored enormous amounts on the days before gets no more than its equal part of what is left,
        whoever comes first, today and on the days that follow."""
        self.least(1_000)
        for _ in range(4):
            self.days(self.machine, 300_000, 1)
            self.fill(40_000, self.sibling)
        self.clock.now += DAY_NS
        self.quota(self.used() + 200_000)
        self.assertGreater(self.flood(), 90_000)
        self.assertGreaterEqual(self.left(), 80_000)
        self.fill(40_000, self.sibling)
        self.fill(30_000, self.sibling)

    def test_rest_of_the_day_after_a_restart(self):
        """What was stored today is known again: a machine that had its part of the day does not get it twice."""
        self.least(1_000)
        self.days(self.sibling, 40_000, 3)
        self.clock.now += DAY_NS
        self.quota(self.used() + 200_000)
        self.fill(60_000, self.sibling)
        self.settle()
        before = (
            self.store.quotas().refusal(self.machine.id, 100_000),
            self.store.quotas().refusal(self.machine.id, 130_000),
        )
        self.restart()
        after = (
            self.store.quotas().refusal(self.machine.id, 100_000),
            self.store.quotas().refusal(self.machine.id, 130_000),
        )
        self.assertEqual((before[0], before[1] is None), (None, False))
        self.assertEqual(after, before)

    def test_first_backup_is_no_usual_night(self):
        """Large first days are passed over by the median, and the least is kept for whoever has little or one day."""
        large = 10 * LEAST_NIGHT
        self.assertEqual(usual_night([large]), LEAST_NIGHT)
        self.assertEqual(usual_night([large, 5]), LEAST_NIGHT)
        self.assertEqual(usual_night([large, LEAST_NIGHT, LEAST_NIGHT]), 2 * LEAST_NIGHT)

    def test_who_has_nothing_kept_free(self):
        """Machines that are disabled, or stored nothing for weeks, or nothing ever, keep no room from the others."""
        self.fill(10, self.sibling)
        self.clock.now += DAY_NS
        self.restart()
        self.quota(self.used() + LEAST_NIGHT)
        self.assertIsNotNone(self.store.quotas().refusal(self.machine.id, 40 << 20))
        self.wait(self.store.set_machine_state(self.sibling.id, MachineState.DISABLED))
        self.assertIsNone(self.store.quotas().refusal(self.machine.id, 40 << 20))
        self.wait(self.store.set_machine_state(self.sibling.id, MachineState.ACTIVE))
        self.clock.now += (HISTORY_DAYS + 1) * DAY_NS
        self.restart()
        self.assertIsNone(self.store.quotas().refusal(self.machine.id, 40 << 20))
