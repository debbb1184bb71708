"""Mails over SMTP: one to one recipient at a time, so that what one refuses says nothing about another.

Promises: with ``starttls`` nothing but the greeting crosses the network in the clear, and the relay's certificate has
to fit its name; what a relay says never brings the password into a text; a mail counts as taken only once the relay
answered its end with 2xx. Its Message-ID is given with it, so that one told twice can be known for what it is.
"""

import datetime
from dataclasses import dataclass
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import format_datetime
from ipaddress import ip_address
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, TimeoutError
from twisted.internet.endpoints import HostnameEndpoint
from twisted.internet.protocol import Factory
from twisted.internet.ssl import optionsForClientTLS, platformTrust
from twisted.python.failure import Failure

from mastodon.daemon.config import TellingConfig
from mastodon.daemon.telling.errors import NotTaken
from mastodon.sealed.schema import clean_text

WHOLE_S = 120.0
PASSWORD_LIMIT = 1024
_POLICY = SMTP.clone(linesep="\n", cte_type="7bit")


@dataclass(frozen=True, slots=True)
class Mail:
    """A mail to one recipient. ``id`` is the left part of its Message-ID."""

    recipient: str
    subject: str
    text: str
    id: str
    time_ns: int

    def encode(self, sender: str) -> bytes:
        """The mail, with LF at the ends of lines."""
        message = EmailMessage(_POLICY)
        message["From"] = f"Mastodon backup <{sender}>"
        message["To"] = self.recipient
        message["Subject"] = clean_text(self.subject, 200)
        message["Date"] = format_datetime(datetime.datetime.fromtimestamp(self.time_ns // 10**9, datetime.UTC))
        message["Message-ID"] = f"<{self.id}@{sender.rpartition('@')[2]}>"
        # Nobody's holiday note is to answer (RFC 3834).
        message["Auto-Submitted"] = "auto-generated"
        message.set_content(self.text, charset="utf-8")
        return message.as_bytes()


class Relay:
    """The mail relay of the configuration. ``clock`` bounds how long a mail may take."""

    def __init__(
        self, reactor: Any, config: TellingConfig, name: str, *, clock: Any = None, trust: Any = None
    ) -> None:  # fmt: skip
        self._reactor = reactor
        self._config = config
        self._identity = _identity(name)
        self._clock = clock or reactor
        self._trust = trust

    def send(self, mail: Mail) -> "Deferred[None]":
        """Fires when the relay took the mail, fails with NotTaken otherwise."""
        sent = Deferred.fromCoroutine(self._send(mail))
        return sent.addTimeout(WHOLE_S, self._clock).addErrback(_plainly)

    async def _send(self, mail: Mail) -> None:
        config = self._config
        if not config.smtp_host:
            raise NotTaken("the server has no mail relay: telling.smtp_host is missing in its configuration", True)
        content = mail.encode(config.sender)
        tls = None
        if config.starttls:
            tls = optionsForClientTLS(config.smtp_host, trustRoot=self._trust or platformTrust())
        # Twisted's SMTP imports the reactor, which is chosen when the daemon starts, not when this module is imported.
        from mastodon.daemon.telling.courier import Courier

        courier = Courier(config, _password(config), tls, self._identity, mail.recipient, content)
        endpoint = HostnameEndpoint(self._reactor, config.smtp_host, config.smtp_port)
        factory = Factory.forProtocol(lambda: courier)
        factory.noisy = False
        await endpoint.connect(factory)
        await courier.outcome


def _password(config: TellingConfig) -> bytes:
    if config.password_file is None:
        return b""
    try:
        with open(config.password_file, "rb") as file:
            content = file.read(PASSWORD_LIMIT + 1)
    except OSError as error:
        raise NotTaken(f"{config.password_file}: {error.strerror}", True) from None
    password = content.removesuffix(b"\n").removesuffix(b"\r")
    if not password or len(content) > PASSWORD_LIMIT:
        raise NotTaken(f"{config.password_file}: expected one line with the password", True)
    return password


def _identity(name: str) -> bytes:
    """What EHLO says."""
    try:
        address = ip_address(name)
    except ValueError:
        return name.encode("ascii") if name.isascii() else b"localhost"
    return f"[{'IPv6:' if address.version == 6 else ''}{address}]".encode("ascii")


def _plainly(failure: Failure) -> Failure:
    """One line for whatever went wrong on the way."""
    if failure.check(NotTaken) is not None:
        return failure
    if failure.check(TimeoutError, CancelledError) is not None:
        return Failure(NotTaken(f"the relay did not take the mail within {WHOLE_S:.0f} s", True))
    return Failure(NotTaken(f"the relay cannot be reached: {failure.value}"[:300], True))
