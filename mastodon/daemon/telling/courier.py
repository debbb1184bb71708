"""The SMTP session that carries one mail to one recipient, and what a relay's answers mean.

Importing this imports the reactor, as Twisted's SMTP does: it is imported when there is a mail to be sent.
"""

import io
from collections.abc import Callable
from typing import Any

from OpenSSL import SSL
from twisted.internet.defer import Deferred
from twisted.internet.protocol import connectionDone
from twisted.mail.smtp import (
    SUCCESS,
    AUTHDeclinedError,
    AUTHRequiredError,
    CramMD5ClientAuthenticator,
    ESMTPClient,
    LOGINAuthenticator,
    PLAINAuthenticator,
    SMTPClientError,
    TLSRequiredError,
)
from twisted.python.failure import Failure

from mastodon.daemon.config import TellingConfig
from mastodon.daemon.telling.errors import NotTaken
from mastodon.daemon.telling.outward import tls_reason
from mastodon.sealed.schema import clean_text


class _Whole(io.BytesIO):
    """Read in one go: the sender doubles dots at the beginning of lines inside each piece that it reads, only there."""

    def read(self, size: int | None = -1, /) -> bytes:
        return super().read()


class Courier(ESMTPClient):
    """Carries one mail. The session is not logged: it holds the password."""

    debug = False

    def __init__(
        self, config: TellingConfig, password: bytes, tls: Any, identity: bytes, recipient: str, content: bytes
    ) -> None:  # fmt: skip
        super().__init__(password, tls, identity, 0)
        user = config.user.encode("ascii")
        for kind in (CramMD5ClientAuthenticator, LOGINAuthenticator, PLAINAuthenticator):
            self.registerAuthenticator(kind(user))
        self.heloFallback = not config.starttls and not user
        self.requireTransportSecurity = config.starttls
        self.requireAuthentication = bool(user)
        self._senders = [config.sender]
        self._recipient = recipient
        self._content = content
        self.outcome: Deferred[None] = Deferred(lambda _: self._cut())

    def getMailFrom(self) -> str | None:
        """Once, then there is no more to send."""
        return self._senders.pop() if self._senders else None

    def getMailTo(self) -> list[bytes]:
        """The recipient."""
        return [self._recipient.encode("ascii")]

    def getMailData(self) -> io.BytesIO:
        """The mail."""
        return _Whole(self._content)

    def esmtpState_starttls(self, code: int, resp: bytes) -> None:
        """What came before the handshake is nobody's word: it is thrown away."""
        self.clearLineBuffer()
        super().esmtpState_starttls(code, resp)

    def sentMail(self, code: int, resp: bytes | str, numOk: int, addresses: list[Any], log: Any) -> None:
        """The relay's last word on the mail."""
        if numOk and code in SUCCESS:
            self._end(None)
        elif addresses:
            said = _said(code, resp) if numOk else _said(*addresses[0][1:])
            self._end(NotTaken(f"the relay refuses this mail, or its recipient: {said}"))
        else:
            self._end(NotTaken(f"the relay refuses the sender: {_said(code, resp)}", True))

    def sendError(self, exc: Exception) -> None:
        """It did not come to that."""
        super().sendError(exc)
        self._end(NotTaken(_reason(exc), True))

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Perhaps before the end."""
        super().connectionLost(reason)
        if reason.check(SSL.Error) is not None:
            self._end(NotTaken(f"TLS with the relay failed: {tls_reason(reason.value)}", True))
        else:
            self._end(NotTaken("the relay closed the connection before it had taken the mail", True))

    def _end(self, error: NotTaken | None) -> None:
        if self.outcome.called:
            return
        if error is None:
            self.outcome.callback(None)
        else:
            self.outcome.errback(error)

    def _cut(self) -> None:
        if self.transport is not None:
            self.transport.abortConnection()  # type: ignore[attr-defined]


REASONS: tuple[tuple[type[SMTPClientError], Callable[[str], str]], ...] = (
    (AUTHDeclinedError, lambda said: f"the relay refuses user and password: {said}"),
    (AUTHRequiredError, lambda said: "the relay offers no way to log in that this program knows"),
    (TLSRequiredError, lambda said: "the relay does not offer STARTTLS, and telling.starttls demands it"),
)


def _reason(error: Exception) -> str:
    if not isinstance(error, SMTPClientError):
        return f"the mail could not be handed over: {error}"
    said = _said(error.code, error.resp)
    for kind, text in REASONS:
        if isinstance(error, kind):
            return text(said)
    return f"the relay says: {said}"


def _said(code: int, resp: bytes | str) -> str:
    text = resp.decode("utf-8", "replace") if isinstance(resp, bytes) else resp
    return clean_text(f"{code} {text}" if code > 0 else text, 200)
