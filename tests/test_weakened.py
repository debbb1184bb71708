"""Whatever weakens the watch reaches the operator and the previous address: statements in, mails out (P8)."""

from dataclasses import replace
from typing import Any, cast

from twisted.internet.defer import Deferred, maybeDeferred, succeed
from twisted.internet.task import Clock as ReactorClock

from mastodon.daemon.config import TellingConfig
from mastodon.daemon.telling.mail import Mail
from mastodon.daemon.telling.telling import Telling
from mastodon.sealed.settings import GRACE, HEARTBEAT, INTERVAL, MAIL, SNOOZE, WEBHOOK
from mastodon.sealed.statement import MachineContent, PolicyContent, StatementVerb, encode_content
from tests.store_case import StoreCase

OPS, ALICE, THIEF, TEAM = "ops@example.org", "alice@example.org", "thief@example.net", "team@example.org"
SECOND = 10**9


class FakeRelay:
    """Takes every mail."""

    def __init__(self) -> None:
        self.mails: list[Mail] = []

    def send(self, mail: Mail) -> "Deferred[None]":
        self.mails.append(mail)
        return succeed(None)


class FakeOutward:
    """Whatever goes to a URL arrives."""

    def get(self, *anything: Any) -> "Deferred[None]":
        return succeed(None)

    def post(self, *anything: Any) -> "Deferred[None]":
        return succeed(None)


class WeakenedTests(StoreCase):
    """An admin with an address, and a thief with the admin's secret who wants nobody to hear."""

    SPOOLS = 1

    def setUp(self) -> None:
        super().setUp()
        self.reactor = ReactorClock()
        self.relay = FakeRelay()
        self.begin_to_tell()
        self.set({MAIL: ALICE})
        self.mails()

    def begin_to_tell(self) -> None:
        relay, outward = cast(Any, self.relay), cast(Any, FakeOutward())
        config = TellingConfig(smtp_host="localhost", operator=(OPS,))
        parts = replace(self.store.telling_parts(), in_thread=maybeDeferred)
        self.telling = Telling(
            parts, config, "backup.example.org", self.reactor, lambda: 0.5, relay=relay, outward=outward
        )
        self.wait(Deferred.fromCoroutine(self.telling.start()))

    def stop(self) -> None:
        self.wait(Deferred.fromCoroutine(self.telling.stop()))
        super().stop()

    def start_again(self) -> None:
        super().start_again()
        self.begin_to_tell()

    def set(self, values: dict[str, str], machine: bytes = b"") -> None:
        """By a statement that the admin's secret signed."""
        self.execute(StatementVerb.POLICY, encode_content(PolicyContent(machine, tuple(values.items()))))

    def mails(self) -> dict[str, str]:
        """What each address was sent since this was asked last, once there was time to gather and send it."""
        for _ in range(20):
            self.reactor.advance(200)
            self.clock.now += 200 * SECOND
            for _ in range(8):  # there and back: what the teller asks of the catalogue
                self.wait(self.store.catalogue.totals())
        mails, self.relay.mails = self.relay.mails, []
        told: dict[str, str] = {}
        for mail in mails:
            told[mail.recipient] = told.get(mail.recipient, "") + mail.text
        return told

    def test_promise_p8_each_way_to_weaken(self) -> None:
        """A longer interval or grace, a snooze, a machine disabled: the operator and the admin hear of each."""
        machine = self.machine.id
        disable = encode_content(MachineContent(machine))
        for weaken, word in (
            (lambda: self.set({INTERVAL: "86400"}), "watch.interval: 1 d instead of 1 h"),
            (lambda: self.set({GRACE: "864000"}, machine), "watch.grace: 10 d instead of 5 h"),
            (lambda: self.set({SNOOZE: str(self.clock.now + 3600 * SECOND)}), " UTC instead of nothing"),
            (lambda: self.execute(StatementVerb.DISABLE_MACHINE, disable), "disabled"),
        ):
            weaken()
            told = self.mails()
            self.assertEqual(set(told), {OPS, ALICE}, word)
            for text in told.values():
                self.assertIn(word, text)

    def test_promise_p8_another_address(self) -> None:
        """The address that was replaced is told of that, and to whom it goes from now on."""
        self.set({MAIL: THIEF})
        told = self.mails()
        self.assertIn(f"notify.mail: {THIEF} instead of {ALICE}", told[ALICE])
        self.assertIn(THIEF, told[OPS])

    def test_promise_p8_no_address(self) -> None:
        """So is one that is simply taken away."""
        self.set({MAIL: ""})
        self.assertIn(f"nothing instead of {ALICE}", self.mails()[ALICE])

    def test_promise_p8_both_in_one_statement(self) -> None:
        """To weaken the watch and turn the address away in one statement hides neither, whichever comes first."""
        for values in ({MAIL: THIEF, INTERVAL: "604800"}, {INTERVAL: "2592000", MAIL: ""}):
            self.set({MAIL: ALICE})
            self.mails()
            self.set(values)
            told = self.mails()
            for address in (ALICE, OPS):
                self.assertIn("notify.mail", told[address])
                self.assertIn("watch.interval", told[address])

    def test_promise_p8_quickly_one_after_the_other(self) -> None:
        """Nor to do it within a second: what was weakened before the address was is told to the one before."""
        self.set({GRACE: "31622400"})
        self.set({MAIL: THIEF})
        self.set({MAIL: ""})
        told = self.mails()
        self.assertIn("watch.grace", told[ALICE])
        self.assertIn("notify.mail", told[ALICE])

    def test_promise_p8_killed_in_between(self) -> None:
        """Nor does a daemon that is stopped behind the statement, before anything was told."""
        self.set({MAIL: THIEF})
        self.restart()
        self.assertIn(THIEF, self.mails()[ALICE])

    def test_promise_p8_an_address_for_one_machine(self) -> None:
        """One that a machine gets for itself is told to the address that was its admin's."""
        self.set({MAIL: THIEF}, self.machine.id)
        self.assertIn(THIEF, self.mails()[ALICE])

    def test_promise_p8_the_operators_command(self) -> None:
        """What the operator does is told to the admin just so."""
        self.wait(self.store.set_policy(b"", b"", ((INTERVAL, "86400"),)))
        self.assertIn("by the operator", self.mails()[ALICE])

    def test_promise_p8_webhook_and_heartbeat(self) -> None:
        """Another webhook or heartbeat than there was is told by mail, too."""
        self.set({WEBHOOK: "https://one.example.org/"})
        self.set({HEARTBEAT: "https://one.example.org/"}, self.machine.id)
        self.mails()
        self.set({WEBHOOK: ""})
        self.set({HEARTBEAT: "https://two.example.org/"}, self.machine.id)
        told = self.mails()
        for address in (ALICE, OPS):
            self.assertIn("notify.webhook: nothing instead of https://one.example.org/", told[address])
            self.assertIn("heartbeat.url: https://two.example.org/", told[address])

    def test_stronger_is_no_news(self) -> None:
        """A shorter interval, or a further address beside the one that there is for a machine without any, is none."""
        self.set({INTERVAL: "600", GRACE: "600"})
        self.set({SNOOZE: ""})
        self.assertEqual(self.mails(), {})
