"""Who is told what and when, over days of an injected clock; and that nothing is lost."""

import itertools
from typing import Any

from mastodon.daemon.telling.channel import Channel, ChannelFiles, ChannelKind
from mastodon.daemon.telling.errors import NotTaken
from mastodon.daemon.telling.letter import LINES_MOST, LetterKind
from mastodon.daemon.telling.teller import LEAVING_MOST
from mastodon.sealed.events import EventCode
from mastodon.sealed.settings import MAIL, WEBHOOK
from tests.telling_case import ALICE, BOB, DATABASE, DAY, HOUR, OPS, SECOND, WEB, Hasty, TellingCase

ALICES = "alice@example.org"
HOOK = "https://hook.example/"


class RoutingTests(TellingCase):
    """Whose events go where."""

    def test_audiences(self) -> None:
        """An admin's go to the admin, the operator's to the operator, and what concerns both to both."""
        self.ledger.add(EventCode.LATE)
        self.ledger.add(EventCode.SPOOL_OFFLINE, b"", b"", "00: gone")
        self.ledger.add(EventCode.QUOTA_FULL, ALICE, b"")
        self.turn(120)
        self.assertEqual(self.names(ALICES), [["LATE", "QUOTA_FULL"]])
        self.assertEqual(self.names(OPS), [["SPOOL_OFFLINE", "QUOTA_FULL"]])

    def test_promise_p6_other_admins_hear_nothing(self) -> None:
        """An admin is told of its own machines only."""
        self.ledger.set(MAIL, "bob@example.org", BOB)
        self.turn(10)
        self.ledger.add(EventCode.LATE, ALICE, WEB)
        self.ledger.add(EventCode.CERTIFICATE_ADDED, ALICE, b"")
        self.turn(2 * 86_400)
        self.assertEqual(self.names("bob@example.org"), [])

    def test_an_admin_without_addresses(self) -> None:
        """Its events go to the operator, rather than nowhere."""
        self.ledger.add(EventCode.LATE, BOB, DATABASE)
        self.turn(120)
        self.assertEqual(self.names(OPS), [["LATE"]])

    def test_several_addresses_and_a_webhook(self) -> None:
        """All are told; a machine with an address of its own has that one."""
        self.ledger.set(MAIL, "alice@example.org,second@example.org")
        self.ledger.set(WEBHOOK, HOOK)
        self.ledger.set(MAIL, "dba@example.org", machine=DATABASE)
        self.turn(300)
        self.sent.clear()
        self.ledger.add(EventCode.LATE, ALICE, WEB)
        self.ledger.add(EventCode.LATE, ALICE, DATABASE)
        self.turn(600)
        for address, machines in (
            (ALICES, {WEB}), ("second@example.org", {WEB}), (HOOK, {WEB, DATABASE}), ("dba@example.org", {DATABASE}),
        ):  # fmt: skip
            lines = [line for letter in self.letters(address) for line in letter.lines if line.name == "LATE"]
            self.assertEqual({line.machine for line in lines}, machines, address)

    def test_an_event_of_a_later_release(self) -> None:
        """It is told all the same."""
        self.ledger.add(999)  # type: ignore[arg-type]
        self.ledger.conditions = lambda tenant: self.fail("not asked")  # type: ignore[method-assign]
        self.turn(120)
        self.assertEqual(self.names(ALICES), [["EVENT_999"]])


class GatheringTests(TellingCase):
    """When a letter goes out."""

    def test_a_moment_to_gather(self) -> None:
        """Forty machines that are late in one minute are one mail."""
        for number in range(40):
            self.ledger.add(EventCode.LATE, ALICE, bytes([number]) * 32)
            self.turn(1)
        self.assertEqual(self.sent, [])
        self.turn(60)
        self.assertEqual([len(one.lines) for one in self.letters(ALICES)], [40])

    def test_everyday_events_wait_for_the_digest(self) -> None:
        """What is no alert is told at the digest's hour (06:00 UTC), once."""
        self.ledger.add(EventCode.CATALOGUE_REBUILT, b"", b"")
        self.turn(21 * 3600)
        self.assertEqual(self.sent, [])
        self.turn(2 * 3600)
        self.assertEqual([(one.kind, one.time_ns % DAY // HOUR) for one in self.letters(OPS)], [(LetterKind.DIGEST, 6)])
        self.turn(3 * 86_400)
        self.assertEqual(len(self.sent), 1)

    def test_recovery_is_told_at_once(self) -> None:
        """The end of an alert is one."""
        self.ledger.add(EventCode.LATE)
        self.turn(120)
        self.ledger.add(EventCode.RECOVERED)
        self.turn(300)
        self.assertEqual(self.names(ALICES), [["LATE"], ["RECOVERED"]])

    def test_late_again(self) -> None:
        """An alert that came, went and comes again is told each time."""
        for code in (EventCode.LATE, EventCode.RECOVERED, EventCode.LATE):
            self.ledger.add(code)
            self.turn(3600)
        self.assertEqual(self.names(ALICES), [["LATE"], ["RECOVERED"], ["LATE"]])

    def test_what_a_peer_repeats_is_told_once_a_day(self) -> None:
        """The same again is only counted, in the digest."""
        for _ in range(30):
            self.ledger.add(EventCode.PACK_REFUSED)
            self.clock.advance(600)
        alerts = [one for one in self.letters(ALICES) if one.kind is LetterKind.ALERT]
        self.assertEqual(len(alerts), 1)
        self.turn(86_400)
        digest = next(one for one in self.letters(ALICES) if one.kind is LetterKind.DIGEST)
        self.assertEqual(digest.lines[0].count, 30)
        self.ledger.add(EventCode.PACK_REFUSED)
        self.turn(600)
        self.assertEqual(self.letters(ALICES)[-1].kind, LetterKind.ALERT)

    def test_promise_p8_a_flood_is_a_few_summaries(self) -> None:
        """A hostile machine that makes events for a day causes a few mails, with counts, and bounded ones."""
        codes = [code for code in EventCode if code not in (EventCode.LATE, EventCode.RECOVERED)]
        for number in range(24 * 30):
            self.ledger.add(codes[number % len(codes)], ALICE, WEB, f"x{number}")
            self.clock.advance(120)
        alerts = [one for one in self.letters(ALICES) if one.kind is LetterKind.ALERT]
        self.assertLess(len(alerts), 30)
        self.assertLessEqual(max(len(one.lines) for one in alerts), LINES_MOST)
        told = sum(line.count for one in alerts for line in one.lines) + sum(one.more for one in alerts)
        self.assertGreater(told, 300)

    def test_promise_p12_a_flood_does_not_hold_back_a_sibling(self) -> None:
        """While one machine floods, the alert of another is told within minutes and stands in the mail."""
        codes = [EventCode.WATCH_WEAKENED, EventCode.ANOMALY, EventCode.NEW_PAIR, EventCode.FIRST_RESTORE]
        waits = []
        for number in range(4 * 60):
            self.ledger.add(codes[number % 4], ALICE, WEB, f"x{number}")
            if number % 50 == 45:
                waits.append(self.ledger.add(EventCode.LATE, ALICE, bytes([number]) * 32))
            self.clock.advance(60)
        told = {
            line.sequence: letter.time_ns - line.first_ns
            for letter in self.letters(ALICES) for line in letter.lines if line.name == "LATE"
        }  # fmt: skip
        self.assertEqual(sorted(told), waits)
        self.assertLess(max(told.values()), 9 * 60 * SECOND)

    def test_the_clock_is_put_back(self) -> None:
        """What seems to come from the future is told now."""
        self.ledger.add(EventCode.LATE)
        self.ledger.skew_ns = -2 * DAY
        self.turn(120)
        self.ledger.add(EventCode.RECOVERED)
        self.turn(300)
        alerts = [one for one in self.letters(ALICES) if one.kind is LetterKind.ALERT]
        self.assertEqual([[line.name for line in one.lines] for one in alerts], [["LATE"], ["RECOVERED"]])


class QuietTests(TellingCase):
    """Snoozes and acknowledgements."""

    def test_snooze(self) -> None:
        """What the watch says waits; what weakens it, and what smells of an attack, does not."""
        self.snooze(8)
        self.turn(300)
        self.assertEqual(self.names(ALICES), [["WATCH_WEAKENED"]])
        self.ledger.add(EventCode.LATE)
        self.turn(3600)
        self.ledger.add(EventCode.ANOMALY)
        self.turn(3600)
        self.assertEqual(self.names(ALICES), [["WATCH_WEAKENED"], ["ANOMALY"]])

    def test_promise_p8_after_a_snooze_what_goes_on_is_told(self) -> None:
        """Also when the daemon restarted meanwhile; what is over is not."""
        self.snooze(8)
        self.turn(300)
        for machine in (WEB, DATABASE):
            self.ledger.add(EventCode.LATE, ALICE, machine)
        self.turn(3600)
        self.ledger.add(EventCode.RECOVERED, ALICE, DATABASE)
        self.turn(3600)
        self.restart()
        self.turn(6 * 3600)
        self.ledger.add(EventCode.RECOVERED, ALICE, WEB)
        self.turn(600)
        self.assertEqual(self.names(ALICES), [["WATCH_WEAKENED"], ["LATE"], ["RECOVERED"]])
        self.assertEqual(self.letters(ALICES)[1].kind, LetterKind.STILL)
        self.assertEqual(self.letters(ALICES)[1].open[0].machine, WEB)

    def test_snooze_of_one_machine(self) -> None:
        """The others are told of as ever."""
        self.snooze(8, WEB)
        self.turn(300)
        for machine in (WEB, DATABASE):
            self.ledger.add(EventCode.LATE, ALICE, machine)
        self.turn(600)
        self.assertEqual([line.machine for line in self.letters(ALICES)[-1].lines], [DATABASE])

    def test_recovery_in_a_snooze(self) -> None:
        """Of what was told before it, it is told."""
        self.ledger.add(EventCode.LATE)
        self.turn(300)
        self.snooze(8)
        self.turn(600)
        self.ledger.add(EventCode.RECOVERED)
        self.turn(600)
        self.assertEqual(self.names(ALICES), [["LATE"], ["WATCH_WEAKENED"], ["RECOVERED"]])

    def test_acknowledged(self) -> None:
        """What goes on stands in each digest, until it is acknowledged."""
        event = self.ledger.add(EventCode.LATE)
        self.turn(2 * 86_400)
        digests = [one for one in self.letters(ALICES) if one.kind is LetterKind.DIGEST]
        self.assertEqual([[line.name for line in one.open] for one in digests], [["LATE"], ["LATE"]])
        self.ledger.known.add(event)
        self.turn(2 * 86_400)
        self.assertEqual(len([one for one in self.letters(ALICES) if one.kind is LetterKind.DIGEST]), 2)


class AddressTests(TellingCase):
    """Addresses change."""

    def test_promise_p8_the_previous_address_is_told(self) -> None:
        """Of the change, and of what was on its way; then it hears no more. The new one hears what comes after."""
        self.ledger.add(EventCode.LATE)
        self.ledger.set(MAIL, "mallory@example.org")
        self.turn(600)
        self.assertEqual(self.names(ALICES), [["LATE", "ADDRESS_CHANGED"]])
        self.assertEqual(self.names(OPS), [["ADDRESS_CHANGED"]])
        self.ledger.add(EventCode.ANOMALY)
        self.turn(600)
        self.assertEqual(len(self.letters(ALICES)), 1)
        self.assertEqual(self.names("mallory@example.org"), [["ANOMALY"]])

    def test_promise_p8_the_previous_address_is_told_after_days(self) -> None:
        """The mail server is down when the address is changed, and the daemon is killed."""
        self.down[ALICES] = NotTaken("down", True)
        self.ledger.set(MAIL, "")
        self.turn(600)
        self.restart()
        self.turn(2 * 86_400)
        self.down.clear()
        self.turn(7200)
        self.assertEqual(self.names(ALICES), [["ADDRESS_CHANGED"]])
        self.assertEqual([found for found in ChannelFiles(self.state).read() if found[0].address == ALICES], [])  # type: ignore[index]

    def test_promise_p8_an_address_that_other_machines_keep(self) -> None:
        """An admin's address is told when a machine gets another one, though it stays for the others."""
        self.ledger.set(MAIL, "mallory@example.org", machine=WEB)
        self.turn(600)
        self.assertEqual(self.names(ALICES), [["ADDRESS_CHANGED"]])

    def test_changed_while_the_daemon_was_down(self) -> None:
        """It is noticed at the start."""
        self.teller.stop()
        self.ledger.set(MAIL, "other@example.org")
        self.start()
        self.turn(120)
        self.assertEqual(self.names(ALICES), [["ADDRESS_CHANGED"]])

    def test_no_mail_to_ever_new_strangers(self) -> None:
        """Of addresses that are replaced in a row only so many wait to be told."""
        self.down[ChannelKind.MAIL] = NotTaken("down", True)
        for number in range(3 * LEAVING_MOST):
            self.ledger.set(MAIL, f"stranger{number}@example.org")
            self.turn(5)
        left = [found for found in ChannelFiles(self.state).read() if found[0].tenant == ALICE]  # type: ignore[index]
        self.assertLessEqual(len(left), LEAVING_MOST + 1)
        self.down.clear()
        self.turn(7200)
        self.assertEqual(self.names(ALICES), [["ADDRESS_CHANGED"]])

    def test_the_operators_addresses(self) -> None:
        """Those of the configuration are told whatever else is set."""
        self.ledger.set(MAIL, "second@example.org", b"")
        self.turn(10)
        self.ledger.add(EventCode.SPOOL_OFFLINE, b"", b"", "00: gone")
        self.turn(600)
        self.assertEqual(self.names(OPS), self.names("second@example.org"))


class FailureTests(TellingCase):
    """What is not taken, killed, or cannot be kept."""

    def test_promise_p8_a_dead_mail_server_for_days(self) -> None:
        """Everything is told when it is back: the first letter as it was, the rest in one summary."""
        self.down[ChannelKind.MAIL] = NotTaken("the relay cannot be reached", True)
        expected = []
        for number in range(72):
            expected.append(self.ledger.add(EventCode.ANOMALY, ALICE, bytes([number]) * 32))
            self.turn(3600)
        self.restart()
        self.assertEqual(self.sent, [])
        self.assertLess(len(self.attempts), 600)
        self.down.clear()
        self.turn(2 * 3600)
        alerts = [one for one in self.letters(ALICES) if one.kind is LetterKind.ALERT]
        self.assertEqual(len(alerts), 2)
        told = sum(line.count for one in alerts for line in one.lines) + sum(one.more for one in alerts)
        self.assertEqual(told, 72)

    def test_one_event_for_a_dead_relay(self) -> None:
        """After an hour of failing, once, about the relay; about an address of its own where only that fails."""
        self.down[ChannelKind.MAIL] = NotTaken("the relay cannot be reached", True)
        self.ledger.add(EventCode.QUOTA_FULL, ALICE, b"")
        self.turn(86_400)
        self.assertEqual(len(self.ledger.failures), 1)
        self.assertEqual(self.ledger.failures[0][0], b"")
        self.assertIn("the mail relay: since 2027-01-15 08:10 UTC: the relay cannot", self.ledger.failures[0][1])
        self.restart()
        self.turn(86_400)
        self.assertEqual(len(self.ledger.failures), 1)
        self.down = {ALICES: NotTaken("no such mailbox")}
        self.turn(86_400)
        self.assertEqual([tenant for tenant, _ in self.ledger.failures], [b"", ALICE])

    def test_pauses_grow(self) -> None:
        """With jitter, up to an hour."""
        self.down[ALICES] = NotTaken("down")
        self.ledger.add(EventCode.LATE)
        times = []
        for _ in range(2 * 3600 // 5):
            count = len(self.attempts)
            self.clock.advance(5)
            times += [self.clock.seconds()] * (len(self.attempts) - count)
        pauses = [later - earlier for earlier, later in itertools.pairwise(times)]
        self.assertEqual(pauses[:5], [25, 45, 90, 180, 360])
        self.assertLessEqual(max(pauses), 3600)

    def test_one_channel_does_not_wait_for_another(self) -> None:
        """A webhook that fails holds back no mail."""
        self.ledger.set(WEBHOOK, HOOK)
        self.down[HOOK] = NotTaken("answered 500")
        self.turn(10)
        self.ledger.add(EventCode.LATE)
        self.turn(120)
        self.assertEqual(self.names(ALICES), [["LATE"]])

    def test_promise_p9_killed_at_any_instant(self) -> None:
        """Whatever was on the disk when it was killed, each event is told; twice only in the same letter."""
        snapshots = []

        class Snapping(Hasty):
            def rename(disk, source: str, target: str) -> None:
                snapshots.append((self.snapshot(), len(self.sent)))
                super().rename(source, target)
                snapshots.append((self.snapshot(), len(self.sent)))

        self.restart(disk=Snapping())
        for machine in (WEB, DATABASE):
            self.ledger.add(EventCode.LATE, ALICE, machine)
            self.turn(600)
        whole = list(self.sent)
        self.assertGreater(len(snapshots), 6)
        for directory, count in snapshots:
            self.teller.stop()
            self.sent, self.state = whole[:count], directory
            self.start()
            self.turn(600)
            told = [(to, letter.id) for to, letter in self.sent]
            lines = {line.sequence for to, letter in self.sent if to == ALICES for line in letter.lines}
            self.assertEqual(len(lines), 2)
            again = len(told) - len(set(told))
            self.assertLessEqual(again, 1)

    def test_a_full_disk(self) -> None:
        """When the state cannot be kept, letters go out all the same."""

        class Full(Hasty):
            def open(self, path: str, flags: int, mode: int) -> int:
                raise OSError(28, "No space left on device")

        self.restart(disk=Full())
        self.ledger.add(EventCode.SPOOL_NEARLY_FULL, b"", b"", "00: 1 %")
        self.turn(300)
        self.assertEqual(self.names(OPS), [["SPOOL_NEARLY_FULL"]])

    def test_a_damaged_file(self) -> None:
        """It is set aside, and the last day is told again: in one letter, not once for each event."""
        self.turn(2 * 86_400)
        for _ in range(3):
            self.ledger.add(EventCode.ANOMALY)
            self.turn(20 * 3600)
        sent = len(self.sent)
        self.teller.stop()
        for file in (self.state / "telling").glob("*.json"):
            file.write_bytes(b'{"version": 1, "channel": 7}')
        self.start()
        self.turn(600)
        self.assertEqual([line.count for _, letter in self.sent[sent:] for line in letter.lines], [1])
        self.assertEqual(len(list((self.state / "telling").glob("*.damaged"))), 2)

    def test_an_error_of_our_own(self) -> None:
        """What cannot be looked up now is decided later."""
        events, self.ledger.events = self.ledger.events, self._refuse  # type: ignore[method-assign,assignment]
        self.ledger.add(EventCode.LATE)
        self.turn(60)
        self.ledger.events = events  # type: ignore[method-assign]
        self.turn(600)
        self.assertEqual(self.names(ALICES), [["LATE"]])
        self.assertTrue(self.flushLoggedErrors(RuntimeError))

    def _refuse(self, *arguments: Any) -> Any:
        raise RuntimeError("the catalogue is busy")


class ChannelTests(TellingCase):
    """Names of channels."""

    def test_ids(self) -> None:
        """Each channel's is its own, and says nothing of the address."""
        channels = [
            Channel(tenant, kind, address)
            for tenant in (b"", ALICE) for kind in ChannelKind for address in (OPS, ALICES)
        ]  # fmt: skip
        self.assertEqual(len({one.id for one in channels}), len(channels))
