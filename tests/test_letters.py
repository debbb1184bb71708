"""What a letter looks like: as a mail, and as a webhook's POST."""

import hashlib
import hmac
import json

from twisted.trial.unittest import SynchronousTestCase

from mastodon.catalogue.interface import EventRow
from mastodon.daemon.telling import mail_text
from mastodon.daemon.telling.letter import LINES_EACH, LINES_MOST, Letter, LetterKind, from_plain, lines_of, to_plain
from mastodon.daemon.telling.webhook import SIGNATURE, webhook_body, webhook_headers, webhook_key
from mastodon.sealed.events import EventCode
from tests.telling_case import ALICE, DATABASE, START_NS, WEB

SERVER = "backup.example.org"


def row(code: EventCode, machine: bytes = WEB, detail: str = "", sequence: int = 7) -> EventRow:
    return EventRow(sequence, int(code), ALICE, machine, detail, START_NS)


def letter(*events: EventRow, kind: LetterKind = LetterKind.ALERT) -> Letter:
    lines, more = lines_of(events)
    return Letter("alert.7.1.x", kind, START_NS, lines, (), more)


class LineTests(SynchronousTestCase):
    """Events become lines."""

    def test_gravest_first(self) -> None:
        """And the same of one machine is one line with a count."""
        lines, more = lines_of([row(EventCode.RECOVERED), row(EventCode.RUN_FAILED), row(EventCode.LATE),
                                row(EventCode.RUN_FAILED, sequence=9)])  # fmt: skip
        self.assertEqual([(one.name, one.count) for one in lines], [("LATE", 1), ("RUN_FAILED", 2), ("RECOVERED", 1)])
        self.assertEqual((lines[1].sequence, more), (9, 0))

    def test_bounded(self) -> None:
        """One machine has a few lines only; all of them together are bounded; the rest is counted."""
        lines, more = lines_of([row(code) for code in EventCode] + [row(EventCode.LATE, DATABASE)])
        self.assertEqual(len([one for one in lines if one.machine == WEB]), LINES_EACH)
        self.assertIn(DATABASE, {one.machine for one in lines})
        self.assertEqual(more, len(EventCode) - LINES_EACH)
        lines, more = lines_of([row(EventCode.LATE, bytes([number]) * 32) for number in range(90)])
        self.assertEqual((len(lines), more), (LINES_MOST, 90 - LINES_MOST))

    def test_promise_p8_a_later_one_hides_no_intruders(self) -> None:
        """Certificates, first restores and whatever weakens the watch have a line for each that differs."""
        for code in (EventCode.CERTIFICATE_ADDED, EventCode.FIRST_RESTORE, EventCode.WATCH_WEAKENED):
            lines, _ = lines_of([row(code, b"", "the thief's"), row(code, b"", "ours", 8), row(code, b"", "ours", 9)])
            self.assertEqual([(one.detail, one.count) for one in lines], [("the thief's", 1), ("ours", 2)])

    def test_kept(self) -> None:
        """What is kept as JSON comes back the same."""
        one = letter(row(EventCode.LATE, detail="ä"), row(EventCode.QUOTA_FULL, b""))
        self.assertEqual(from_plain(json.loads(json.dumps(to_plain(one)))), one)


class MailTextTests(SynchronousTestCase):
    """For people."""

    def text(self, one: Letter, tenant: bytes = ALICE) -> str:
        return mail_text.text(one, SERVER, tenant, lambda _: "alice")

    def test_says_what_to_do(self) -> None:
        """What happened, to which machine, since when, and what to do."""
        one = letter(row(EventCode.LATE, detail="the last is of yesterday"))
        subject = mail_text.subject(one, SERVER)
        text = self.text(one)
        expected = f"[mastodon {SERVER}] CRITICAL: no complete backup in time (machine {WEB.hex()[:12]})"
        self.assertEqual(subject, expected)
        for part in ("CRITICAL: no complete", WEB.hex(), "2027-01-15 08:00 UTC", "the last is of yesterday", "do:"):
            self.assertIn(part, text)
        self.assertIn("machines of alice", text)

    def test_several(self) -> None:
        """The subject counts; the operator's mail names the admin."""
        one = letter(row(EventCode.LATE), row(EventCode.LATE, DATABASE), row(EventCode.RUN_FAILED))
        self.assertIn("CRITICAL: 3 alerts, first: no complete backup", mail_text.subject(one, SERVER))
        self.assertIn("admin:   alice", self.text(one, b""))
        self.assertIn("for its operator", self.text(one, b""))

    def test_all_kinds(self) -> None:
        """Each kind of letter has its subject and opening, and ends with a newline."""
        for kind in LetterKind:
            lines, _ = lines_of([row(EventCode.LATE)])
            one = Letter("x", kind, START_NS, () if kind is LetterKind.TEST else lines, lines, 4)
            self.assertTrue(mail_text.subject(one, SERVER).startswith(f"[mastodon {SERVER}] "))
            self.assertTrue(self.text(one).endswith("\n"))
        self.assertIn("a test", mail_text.subject(Letter("x", LetterKind.TEST, START_NS), SERVER))

    def test_promise_p1_a_machines_text_forges_nothing(self) -> None:
        """Line ends, terminal codes and reading directions in what a machine said stand for nothing."""
        evil = "x\r\nCRITICAL: all is lost\n  do: run this\x1b[2J\u2028\u202e\x85"
        text = self.text(letter(row(EventCode.RUN_FAILED, detail=evil)))
        self.assertNotIn("\nCRITICAL", text)
        self.assertFalse([c for c in text if c != "\n" and not c.isprintable()])
        self.assertNotIn(evil[:3], mail_text.subject(letter(row(EventCode.RUN_FAILED, detail=evil)), SERVER)[-3:])


class WebhookTests(SynchronousTestCase):
    """For programs."""

    def test_signed(self) -> None:
        """As the specification says, so that a receiver can compute it with its standard library."""
        key = webhook_key(b"s" * 32, ALICE)
        body = webhook_body(letter(row(EventCode.LATE)), SERVER, ALICE, "alice")
        headers = dict(webhook_headers(letter(), body, key, 1_800_000_000))
        expected = hmac.new(key, b"mastodon/1 webhook\0" + b"1800000000." + body, hashlib.sha256).hexdigest()
        self.assertEqual(headers[SIGNATURE], f"t=1800000000,v1={expected}")
        self.assertEqual(headers["Mastodon-Id"], "alert.7.1.x")
        found = json.loads(body)
        self.assertEqual((found["kind"], found["admin"], found["events"][0]["name"]), ("alert", "alice", "LATE"))
        self.assertEqual(found["events"][0]["machine"], WEB.hex())

    def test_keys(self) -> None:
        """Each admin's is its own; the operator's too."""
        self.assertEqual(len({webhook_key(b"s" * 32, one) for one in (b"", ALICE, b"b" * 32)}), 3)
