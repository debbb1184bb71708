"""Mails over SMTP: what is taken, what is not, and what must never be sent or said."""

import email
import email.policy
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.mail.smtp import SMTPServerError
from twisted.trial.unittest import SynchronousTestCase, TestCase

from mastodon.daemon.config import TellingConfig
from mastodon.daemon.telling.errors import NotTaken
from mastodon.daemon.telling.mail import WHOLE_S, Mail, Relay
from tests.mail_server import LOOP, PASSWORD, USER, MailServer, identity, trust

SENDER = "mastodon@backup.example.org"
TIME_NS = 1_800_000_000 * 10**9


def mail(**changes: Any) -> Mail:
    values = {
        "recipient": "ops@example.org", "subject": "s", "text": "text\n", "id": "alert.1.2", "time_ns": TIME_NS,
    }  # fmt: skip
    return Mail(**{**values, **changes})


def parsed(data: bytes) -> Any:
    return email.message_from_bytes(data, policy=email.policy.default)


class MailTests(SynchronousTestCase):
    """The mail itself."""

    def test_headers(self) -> None:
        """From, To, Date, a stable Message-ID, and that no holiday note is to answer."""
        found = parsed(mail().encode(SENDER))
        self.assertEqual(found["Message-ID"], "<alert.1.2@backup.example.org>")
        self.assertEqual(found["Auto-Submitted"], "auto-generated")
        self.assertEqual(found["To"], "ops@example.org")
        self.assertIn(SENDER, found["From"])
        self.assertIn("2027", found["Date"])
        self.assertEqual(mail().encode(SENDER), mail().encode(SENDER))

    def test_header_injection(self) -> None:
        """A subject with line ends makes no header, and odd characters no broken mail."""
        found = parsed(mail(subject="x\r\nBcc: evil@example.org\n\nbody", text="\u2028 ä\n").encode(SENDER))
        self.assertNotIn("Bcc", found)
        self.assertEqual(found["Subject"], "x??Bcc: evil@example.org??body")

    def test_long_lines(self) -> None:
        """No line is longer than SMTP allows, and all is ASCII."""
        data = mail(text="ä" * 5000 + "\n" + "x" * 3000 + "\n").encode(SENDER)
        self.assertLess(max(map(len, data.split(b"\n"))), 998)
        self.assertTrue(data.isascii())


class RelayTests(TestCase):
    """Against a relay on loopback."""

    def setUp(self) -> None:
        self.identity = identity("localhost")
        self.server = MailServer(self.identity)
        self.port = self.server.listen()
        self.addCleanup(self.server.stop)
        self.password = Path(self.mktemp())
        self.password.write_text(PASSWORD + "\n")

    def relay(self, *, clock: Any = None, trusted: bool = True, **changes: Any) -> Relay:
        values = {
            "smtp_host": "localhost", "smtp_port": self.port, "user": USER, "password_file": self.password,
            "sender": SENDER,
        }  # fmt: skip
        root = trust(self.identity if trusted else identity("localhost"))
        return Relay(LOOP, TellingConfig(**{**values, **changes}), "backup.example.org", clock=clock, trust=root)

    async def refusal(self, relay: Relay | None = None, **changes: Any) -> NotTaken:
        sent: Deferred[Any] = (relay or self.relay()).send(mail(**changes))
        error = await self.assertFailure(sent, NotTaken)
        assert isinstance(error, NotTaken)
        self.assertNotIn(PASSWORD, str(error))
        self.assertNotIn("\n", str(error))
        return error

    async def test_taken(self) -> None:
        """STARTTLS, log in, and the mail arrives as it was, dots and all."""
        text = ".\n..two\nFrom here\n" + "x" * 30_000 + "\n.\nend ä\n"
        await self.relay().send(mail(text=text))
        self.assertEqual(parsed(self.server.mails[0].partition(b"\n")[2]).get_content(), text)
        self.assertEqual(self.server.logins, 1)
        words = [line.split()[0].upper() for line in self.server.lines if line]
        self.assertLess(words.index(b"STARTTLS"), words.index(b"AUTH"))

    async def test_dot_where_pieces_are_cut(self) -> None:
        """A dot at the beginning of a line is doubled wherever it stands."""
        for length in range(16370, 16385):
            await self.relay().send(mail(text="a\n" * (length // 2) + ".\nrest\n"))
            self.assertIn(b"rest", self.server.mails.pop())

    async def test_no_tls_offered(self) -> None:
        """A relay without STARTTLS hears neither password nor mail."""
        self.server.offers_tls = False
        error = await self.refusal()
        self.assertIn("does not offer STARTTLS", str(error))
        self.assertTrue(error.relay)
        self.assertFalse([line for line in self.server.lines if line.upper().startswith((b"AUTH", b"MAIL"))])

    async def test_wrong_certificate(self) -> None:
        """A relay whose certificate does not fit hears neither."""
        error = await self.refusal(self.relay(trusted=False))
        self.assertIn("TLS", str(error))
        self.assertFalse([line for line in self.server.lines if line.upper().startswith((b"AUTH", b"MAIL"))])

    async def test_wrong_password(self) -> None:
        """Said without the password."""
        self.password.write_text("wrong")
        error = await self.refusal()
        self.assertIn("refuses user and password", str(error))
        self.assertTrue(error.relay)
        self.password.unlink()
        self.assertIn("No such file", str(await self.refusal()))

    async def test_refused(self) -> None:
        """One recipient's refusal is not the relay's; the sender's is."""
        self.server.refused.add("ops@example.org")
        error = await self.refusal()
        self.assertIn("no such mailbox", str(error))
        self.assertFalse(error.relay)
        await self.relay().send(mail(recipient="other@example.org"))
        self.server.refuse_data = True
        self.assertIn("550", str(await self.refusal(recipient="other@example.org")))
        self.assertEqual(len(self.flushLoggedErrors(SMTPServerError)), 1)
        self.server.refuse_sender = True
        self.assertTrue((await self.refusal(recipient="other@example.org")).relay)
        self.assertEqual(len(self.server.mails), 1)

    async def test_dropped(self) -> None:
        """A connection that ends before the relay's last word is not taken, wherever it ends."""
        for word in (b"EHLO", b"STARTTLS", b"AUTH", b"MAIL", b"RCPT", b"DATA", b"."):
            self.server.drop_at = word
            await self.refusal()
        self.server.drop_at = b"RSET"
        await self.relay().send(mail())

    async def test_stalls(self) -> None:
        """A relay that says nothing is given up after a while, and hung up on."""
        self.server.silent = True
        clock = Clock()
        sent: Deferred[Any] = self.relay(clock=clock).send(mail())
        while not self.server.connections:
            pause: Deferred[None] = Deferred()
            LOOP.callLater(0.01, pause.callback, None)
            await pause
        clock.advance(WHOLE_S)
        error = await self.assertFailure(sent, NotTaken)
        self.assertIn("within", str(error))

    async def test_nobody_there(self) -> None:
        """No relay listens, or none is configured."""
        await self.server.stop()
        self.assertIn("cannot be reached", str(await self.refusal()))
        self.assertIn("telling.smtp_host", str(await self.refusal(self.relay(smtp_host=""))))
        self.server.listen()

    async def test_plain(self) -> None:
        """Without STARTTLS and user, as to a relay on this host."""
        server = MailServer(self.identity, auth=False)
        server.offers_tls = False
        port = server.listen()
        try:
            await self.relay(smtp_port=port, starttls=False, user="", password_file=None).send(mail())
            self.assertEqual(len(server.mails), 1)
        finally:
            await server.stop()
