"""What else is told: pairs, clocks, old agents, wrong credentials, expiry, full spools; once, across restarts."""

import datetime
from dataclasses import replace

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from mastodon.catalogue.interface import Certificate
from mastodon.daemon.check_ins import is_wrong, skew_text
from mastodon.daemon.expiry import Stage, Term
from mastodon.daemon.spool_room import Room, is_nearly_full, room_of, tell_rooms
from mastodon.daemon.wrong_credentials import BULK, HOSTS, WrongCredentials
from mastodon.host.certificates import pin_text
from mastodon.sealed.events import EventCode
from mastodon.sealed.ledger_entries import CertificateAdded, Role
from mastodon.wire.messages import Hello
from tests.lookout_case import DAY_NS, HOUR_NS, LookoutCase
from tests.store_case import START_NS, Machine

GIB = 1 << 30
MINUTE_NS = 60 * 10**9


def certificate(begins_ns: int, ends_ns: int) -> x509.Certificate:
    """One with these dates."""
    key, name = Ed25519PrivateKey.from_private_bytes(b"k" * 32), x509.Name([])
    begins, ends = (datetime.datetime.fromtimestamp(one // 10**9, datetime.UTC) for one in (begins_ns, ends_ns))
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1, begins, ends)
    return builder.sign(key, None)


class NewPairTests(LookoutCase):
    """A further pair of a machine."""

    def new_pair(self) -> None:
        self.machine.new_pair()
        self.wait(self.store.add_pair(self.machine.id, self.machine.pair_record, self.machine.envelope, self.epoch))

    def test_told_once(self) -> None:
        """The first is none; a further one is told, with its number, once, whatever restarts."""
        self.assertEqual(self.told(), [])
        self.new_pair()
        ((code, detail),) = self.told()
        self.assertIs(code, EventCode.NEW_PAIR)
        self.assertIn("pair 2, record", detail)
        self.restart()
        self.assertEqual(self.told(), [])

    def test_daemon_stopped_between(self) -> None:
        """One that was taken just before the daemon died is told at its next start."""
        self.wait(self.lookout.stop())
        self.store.pair_watchers.clear()
        self.new_pair()
        self.restart()
        self.assertEqual(self.codes(), [EventCode.NEW_PAIR])

    def test_flood(self) -> None:
        """All the pairs that a hostile machine may make in a day are told ten times an hour, and the newest one is."""
        for _ in range(20):
            self.new_pair()
        self.assertEqual(self.codes(), [EventCode.NEW_PAIR] * 10)
        self.pass_time(HOUR_NS)
        self.restart()
        ((_, detail),) = self.told()
        self.assertIn("pair 21,", detail)


class CheckInTests(LookoutCase):
    """Clocks and versions of agents, as HELLO tells them."""

    def come(self, ahead_ns: int = 0, version: int = 1, machine: Machine | None = None) -> list[tuple[EventCode, str]]:
        """A HELLO two hours after the one before."""
        self.pass_time(2 * HOUR_NS)
        id = (machine or self.machine).id
        hello = Hello(version, id, bytes(64), b"r" * 16, 0, b"", self.clock.now + ahead_ns, "0.9")
        (self.lookout.checked_in if version else self.lookout.too_old)(hello)
        return self.told()

    def test_clock(self) -> None:
        """Minutes off is told once, over again once it fits, and anew when it is wrong again; across restarts."""
        self.assertEqual(self.come(4 * MINUTE_NS), [])
        text = "the machine's clock is 90 minutes behind the server's"
        self.assertEqual(self.come(-90 * MINUTE_NS), [(EventCode.CLOCK_SKEW, text)])
        self.restart()
        for ahead in (-90 * MINUTE_NS, 30 * DAY_NS, 4 * MINUTE_NS):  # at the brink it does not fit yet
            self.assertEqual(self.come(ahead), [])
        self.assertEqual([code for code, _ in self.come(-MINUTE_NS)], [EventCode.CLOCK_FITS])
        self.assertEqual(self.come(), [])
        self.assertEqual([code for code, _ in self.come(6 * MINUTE_NS)], [EventCode.CLOCK_SKEW])

    def test_texts(self) -> None:
        """Seconds to days, ahead and behind."""
        self.assertIn("100 seconds behind", skew_text(-100 * 10**9))
        self.assertIn("400 days ahead of", skew_text(400 * DAY_NS))
        self.assertFalse(is_wrong(0, True))

    def test_another_machine(self) -> None:
        """One machine's clock says nothing of another's."""
        other = Machine(2)
        self.enrol(other)
        self.come(DAY_NS)
        self.assertEqual([code for code, _ in self.come(DAY_NS, machine=other)], [EventCode.CLOCK_SKEW])

    def test_old_agent(self) -> None:
        """Told once, with its version, until a newer one comes."""
        ((code, detail),) = self.come(version=0)
        self.assertEqual(
            (code, detail), (EventCode.AGENT_TOO_OLD, "agent 0.9 speaks version 0 of the protocol, and was refused")
        )
        self.restart()
        self.assertEqual(self.come(version=0), [])
        self.assertEqual([code for code, _ in self.come()], [EventCode.AGENT_UPDATED])

    def test_promise_p12_clock_that_dances(self) -> None:
        """A machine that comes every second with another clock makes two events an hour at most, and no other work."""
        self.told()
        for second in range(2 * 3600):
            self.pass_time(10**9)
            time_ns = self.clock.now + (second // 60 % 2) * DAY_NS
            self.lookout.checked_in(Hello(1, self.machine.id, bytes(64), b"r" * 16, 0, b"", time_ns, "1"))
            self.assertLessEqual(len(self.lookout._errands), 2)
            if second % 60 == 0:
                self.wait(self.lookout.settled())
        self.assertLessEqual(len(self.told()), 5)


class WrongCredentialTests(LookoutCase):
    """Attempts in bulk."""

    def attack(self, count: int, port: str = "append port", hosts: int = 1) -> list[EventCode]:
        for number in range(count):
            self.lookout.refused(port, f"192.0.2.{number % hosts}")
        return self.codes()

    def look_at_dates(self) -> None:
        self.reactor.advance(3600)

    def test_told_once(self) -> None:
        """Mistakes are not; an attack is, once, with its origin; over after a day of quiet; across restarts."""
        self.assertEqual(self.attack(BULK - 1), [])
        self.lookout.refused("append port", "192.0.2.0")
        text = "append port: 100 refused within 1 min, at least 100 of them from 192.0.2.0"
        self.assertEqual(self.told(), [(EventCode.WRONG_CREDENTIALS, text)])
        self.assertEqual(self.attack(10 * BULK), [])
        self.assertEqual(self.attack(BULK, "restore port"), [EventCode.WRONG_CREDENTIALS])
        self.restart()
        self.pass_time(20 * HOUR_NS)
        self.assertEqual(self.attack(2 * BULK), [])
        self.pass_time(20 * HOUR_NS)
        self.look_at_dates()
        self.assertEqual(self.codes(), [EventCode.CREDENTIALS_QUIET])
        self.pass_time(5 * HOUR_NS)
        self.look_at_dates()
        self.assertEqual(self.codes(), [EventCode.CREDENTIALS_QUIET])
        self.assertEqual(self.attack(BULK), [EventCode.WRONG_CREDENTIALS])

    def test_promise_p12_a_week_of_waves(self) -> None:
        """Whoever attacks in waves, an hour on and an hour off, for a week: told once, and over once."""
        for _ in range(24 * 7):
            self.attack(BULK)
            self.pass_time(HOUR_NS)
            self.look_at_dates()
        self.pass_time(DAY_NS)
        self.look_at_dates()
        self.wait(self.lookout.settled())
        rows = self.wait(self.store.catalogue.events(0, 1000))
        self.assertEqual([row.code for row in rows], [EventCode.WRONG_CREDENTIALS, EventCode.CREDENTIALS_QUIET])

    def test_promise_p12_memory(self) -> None:
        """Ever new addresses take the room of a few; the one that sends most is found all the same."""
        one = WrongCredentials()
        for number in range(20_000):
            one.refused(f"2001:db8::{number:x}", START_NS)
            self.assertLessEqual(len(one._hosts), HOSTS)
        text = ""
        one = WrongCredentials()
        for number in range(BULK):
            text = text or one.refused("192.0.2.1" if number % 2 else f"2001:db8::{number:x}", START_NS)
        self.assertIn("of them from 192.0.2.1", text)

    def test_many_addresses(self) -> None:
        """Where nobody stands out nobody is named."""
        one = WrongCredentials()
        texts = [one.refused(f"2001:db8::{number:x}", START_NS) for number in range(BULK)]
        self.assertEqual(texts[-1], "100 refused within 1 min, from many addresses")


class ExpiryTests(LookoutCase):
    """Dates, which only warn."""

    SERVER_TERM = Term(START_NS - 335 * DAY_NS, START_NS + 60 * DAY_NS)

    def test_stages(self) -> None:
        """In the last quarter of its time, at most 30 days ahead; also where the dates are nonsense."""
        year, week = Term(0, 365 * DAY_NS), Term(0, 8 * DAY_NS)
        self.assertIs(year.stage(334 * DAY_NS), Stage.GOOD)
        self.assertIs(year.stage(335 * DAY_NS), Stage.ENDING)
        self.assertIs(week.stage(5 * DAY_NS), Stage.GOOD)
        self.assertIs(week.stage(6 * DAY_NS), Stage.ENDING)
        self.assertIs(week.stage(8 * DAY_NS), Stage.OVER)
        self.assertIs(Term(9, 5).stage(4), Stage.GOOD)

    def test_server(self) -> None:
        """Told 30 days ahead, once; and that it was renewed, at the next start with the new one."""
        self.pass_time(29 * DAY_NS)
        self.reactor.advance(3600)
        self.assertEqual(self.told(), [])
        self.pass_time(2 * DAY_NS)
        self.reactor.advance(3600)
        ((code, detail),) = self.told()
        self.assertIs(code, EventCode.SERVER_KEY_EXPIRING)
        self.assertIn("the server's certificate ends 20", detail)
        self.pass_time(90 * DAY_NS)
        self.restart()
        self.assertEqual(self.told(), [])
        self.SERVER_TERM = Term(self.clock.now, self.clock.now + 365 * DAY_NS)
        self.restart()
        self.assertEqual(self.codes(), [EventCode.SERVER_KEY_RENEWED])

    def test_client(self) -> None:
        """Told when its client comes, to its admin; again quiet when it comes with a new certificate for its key."""
        shown = certificate(START_NS - 80 * DAY_NS, START_NS + 10 * DAY_NS)
        registered = Certificate(b"p" * 32, self.admin.tenant, Role.ADMIN, "laptop")
        for expected in ([EventCode.CERTIFICATE_EXPIRING], []):
            self.lookout.came(registered, shown)
            told = self.told()
            self.assertEqual([code for code, _ in told], expected)
            for _, detail in told:
                self.assertTrue(detail.startswith(f"{pin_text(b'p' * 32)}: admin laptop ends 20"), detail)
            self.restart()
        self.pass_time(HOUR_NS)
        self.lookout.came(registered, certificate(START_NS, START_NS + 90 * DAY_NS))
        self.assertEqual(self.codes(), [EventCode.CERTIFICATE_RENEWED])
        rows = self.wait(self.store.catalogue.events(0, 10))
        self.assertEqual({row.tenant for row in rows}, {self.admin.tenant})

    def test_ticket(self) -> None:
        """A day ahead, once; it is gone when its time is over, and one that was told of no more than that."""
        self.SERVER_TERM = Term(START_NS, START_NS + 36_500 * DAY_NS)
        self.restart()
        ticket = CertificateAdded(
            b"t" * 32, self.admin.tenant, Role.TICKET, "rescue", b"", self.machine.id, b"r" * 32, START_NS + 3 * DAY_NS
        )
        opened = self.store._opened
        assert opened is not None
        self.wait(opened.ledger.append(ticket))
        for expected in ([], [EventCode.CERTIFICATE_EXPIRING], [EventCode.CERTIFICATE_GONE], []):
            self.pass_time(DAY_NS + MINUTE_NS)
            self.reactor.advance(3600)
            self.assertEqual(self.codes(), expected)


class SpoolRoomTests(LookoutCase):
    """Bytes and inodes."""

    ROOM = Room(b"\1" * 16, "/srv/one", 50 * GIB, 100 * GIB, 500, 1000)

    def look(self, *rooms: Room | None) -> list[tuple[EventCode, str]]:
        self.pass_time(2 * HOUR_NS)
        self.wait(Deferred.fromCoroutine(tell_rooms(list(rooms), self.lookout._edges)))
        return self.told()

    def test_edges(self) -> None:
        """Told once when little is left, and once when there is room; in between nothing; restarts change nothing."""
        self.told()
        self.assertEqual(self.look(self.ROOM), [])
        ((code, detail),) = self.look(replace(self.ROOM, bytes_left=4 * GIB))
        self.assertIs(code, EventCode.SPOOL_NEARLY_FULL)
        self.assertEqual(detail, f"{'01' * 16}: /srv/one: 4.0 GiB of 100.0 GiB left, 500 of 1000 inodes")
        self.restart()
        self.told()
        self.assertEqual(self.look(replace(self.ROOM, bytes_left=0)), [])
        self.assertEqual(self.look(replace(self.ROOM, bytes_left=7 * GIB)), [])
        self.assertEqual([code for code, _ in self.look(self.ROOM)], [EventCode.SPOOL_HAS_ROOM])
        ((code, _),) = self.look(replace(self.ROOM, inodes_left=3))
        self.assertIs(code, EventCode.SPOOL_NEARLY_FULL)

    def test_each_spool(self) -> None:
        """One that is full says nothing of another."""
        other = replace(self.ROOM, spool=b"\2" * 16, path="/srv/two")
        full, none = replace(self.ROOM, bytes_left=1), None
        self.assertEqual([code for code, _ in self.look(full, other, none)], [EventCode.SPOOL_NEARLY_FULL])
        ((_, detail),) = self.look(full, replace(other, bytes_left=1))
        self.assertIn("/srv/two", detail)
        self.assertEqual([code for code, _ in self.look(self.ROOM)], [EventCode.SPOOL_HAS_ROOM])

    def test_file_systems(self) -> None:
        """Those that do not count inodes are judged by bytes; one no larger than its reserve is full."""
        self.assertFalse(is_nearly_full(replace(self.ROOM, inodes_left=0, inodes_all=0), False))
        self.assertTrue(is_nearly_full(replace(self.ROOM, bytes_left=0, bytes_all=0), False))

    def test_real(self) -> None:
        """What the file system says; nothing of a spool that is offline."""
        (spool,) = self.store._spools.all
        room = room_of(spool)
        assert room is not None
        self.assertGreater(room.bytes_all, room.bytes_left)
        spool.offline = "the disk failed"
        self.assertIsNone(room_of(spool))
        spool.offline = ""


class LockedTests(LookoutCase):
    """A store whose ledger waits for the operator's word."""

    def test_nothing_is_judged(self) -> None:
        """Nothing is looked at while nothing could be told of it: the next start finds it all."""
        self.wait(self.lookout.stop())
        self.store.pair_watchers.clear()
        self.machine.new_pair()
        self.wait(self.store.add_pair(self.machine.id, self.machine.pair_record, self.machine.envelope, self.epoch))
        self.store.locked = "nobody vouches for the ledger"
        self.look_out()
        self.assertEqual(self.told(), [])
        self.assertEqual(self.reactor.getDelayedCalls(), [])
        self.restart()
        self.assertEqual(self.codes(), [EventCode.NEW_PAIR])


class PureTests(SynchronousTestCase):
    """Rules alone."""

    def test_quiet_again(self) -> None:
        """An attack is over a day after its last wave, by whichever was known last."""
        one = WrongCredentials(bulk_ns=5 * DAY_NS)
        self.assertFalse(one.is_over(0, 5 * DAY_NS + 23 * HOUR_NS))
        self.assertTrue(one.is_over(0, 6 * DAY_NS))
        self.assertFalse(one.is_over(6 * DAY_NS, 6 * DAY_NS + HOUR_NS))
