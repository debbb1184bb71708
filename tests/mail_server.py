"""Servers for what is told, on loopback: a mail relay that takes, refuses, stalls or drops, and an https server."""

import datetime
from collections.abc import Callable
from typing import Any

from twisted.cred.checkers import InMemoryUsernamePasswordDatabaseDontUse
from twisted.cred.portal import Portal
from twisted.internet import reactor
from twisted.internet.defer import Deferred, fail, maybeDeferred, succeed
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.ssl import (
    Certificate,
    PrivateCertificate,
    trustRootFromCertificates,
)
from twisted.mail.imap4 import PLAINCredentials
from twisted.mail.smtp import (
    ESMTP,
    IMessage,
    IMessageDelivery,
    LOGINCredentials,
    SMTPBadRcpt,
    SMTPServerError,
)
from zope.interface import implementer

from mastodon.host.certificates import Identity, make_identity

LOOP: Any = reactor
USER, PASSWORD = "mastodon", "correct horse"


def identity(name: str) -> Identity:
    """A key and a certificate for a host."""
    return make_identity(name, datetime.datetime.now(datetime.UTC), names=(name,))


def trust(one: Identity) -> Any:
    """What believes that certificate."""
    return trustRootFromCertificates([Certificate.loadPEM(one.certificate_pem())])


def server_options(one: Identity) -> Any:
    """The server's half of TLS."""
    return PrivateCertificate.loadPEM(one.key_pem() + one.certificate_pem()).options()


def cut(protocol: Any) -> None:
    """End a connection at once."""
    if protocol.transport is not None:
        protocol.transport.abortConnection()


@implementer(IMessage)
class _Message:
    def __init__(self, relay: "MailServer") -> None:
        self._relay = relay
        self._lines: list[bytes] = []

    def lineReceived(self, line: bytes) -> None:
        self._lines.append(line)

    def eomReceived(self) -> "Deferred[None]":
        if self._relay.refuse_data:
            return fail(SMTPServerError(451, "try later"))
        self._relay.mails.append(b"\n".join([*self._lines, b""]))
        return succeed(None)

    def connectionLost(self) -> None:
        pass


@implementer(IMessageDelivery)
class _Delivery:
    def __init__(self, relay: "MailServer") -> None:
        self._relay = relay

    def receivedHeader(self, helo: Any, origin: Any, recipients: Any) -> bytes:
        return b"Received: here"

    def validateFrom(self, helo: Any, origin: Any) -> Any:
        if self._relay.refuse_sender:
            raise SMTPServerError(550, "not from you")
        return origin

    def validateTo(self, user: Any) -> Callable[[], _Message]:
        if str(user.dest) in self._relay.refused:
            raise SMTPBadRcpt(user, 550, "no such mailbox here")
        return lambda: _Message(self._relay)

    def logout(self) -> None:
        pass


class _Realm:
    def __init__(self, relay: "MailServer") -> None:
        self._relay = relay

    def requestAvatar(self, avatar: Any, mind: Any, *interfaces: Any) -> Any:
        self._relay.logins += 1
        return IMessageDelivery, _Delivery(self._relay), lambda: None


class _Session(ESMTP):
    relay: "MailServer"

    def connectionMade(self) -> None:
        self.relay.connections += 1
        self.relay.sessions.append(self)
        if self.relay.silent:
            return
        super().connectionMade()

    def lineReceived(self, line: bytes) -> Any:
        self.relay.lines.append(line)
        if self.relay.drop_at and line.upper().startswith(self.relay.drop_at):
            cut(self)
            return None
        return super().lineReceived(line)

    def extensions(self) -> Any:
        found = super().extensions()
        if not self.relay.offers_tls:
            found.pop(b"STARTTLS", None)
        return found


class MailServer(Factory):
    """A relay. What it is to do wrong is set before it is asked."""

    noisy = False

    def __init__(self, one: Identity, *, auth: bool = True) -> None:
        self.mails: list[bytes] = []
        self.lines: list[bytes] = []
        self.sessions: list[Any] = []
        self.refused: set[str] = set()
        self.connections = self.logins = 0
        self.refuse_sender = self.refuse_data = self.silent = False
        self.offers_tls = True
        self.drop_at = b""
        self._auth = auth
        self._options = server_options(one)
        self._port: Any = None

    def buildProtocol(self, addr: Any) -> Any:
        challengers = {b"LOGIN": LOGINCredentials, b"PLAIN": PLAINCredentials} if self._auth else None
        session: Any = _Session(challengers, self._options)
        session.relay = self
        session.factory = self
        session.timeout = None
        if self._auth:
            checker = InMemoryUsernamePasswordDatabaseDontUse(**{USER: PASSWORD.encode()})
            realm: Any = _Realm(self)
            session.portal = Portal(realm, [checker])
        else:
            session.delivery = _Delivery(self)
        return session

    def listen(self) -> int:
        """The port's number."""
        self._port = LOOP.listenTCP(0, self, interface="127.0.0.1")
        number: int = self._port.getHost().port
        return number

    def stop(self) -> Any:
        """Close everything."""
        for session in self.sessions:
            cut(session)
        return maybeDeferred(self._port.stopListening)


class _Page(Protocol):
    factory: "WebServer"

    def __init__(self) -> None:
        self._data = b""

    def connectionMade(self) -> None:
        self.factory.open.append(self)

    def dataReceived(self, data: bytes) -> None:
        self._data += data
        head, end, body = self._data.partition(b"\r\n\r\n")
        if not end or self.transport is None:
            return
        fields = dict(line.split(b": ", 1) for line in head.split(b"\r\n")[1:])
        if len(body) < int(fields.get(b"Content-Length", b"0")):
            return
        self.factory.requests.append((head.split(b"\r\n")[0].decode(), fields, body))
        self._data = b""
        for part in self.factory.answer():
            self.transport.write(part)

    def connectionLost(self, reason: Any = None) -> None:
        self.factory.open.remove(self)
        if not self.factory.open and self.factory.idle is not None:
            idle, self.factory.idle = self.factory.idle, None
            idle.callback(None)


class WebServer(Factory):
    """An https server that answers with the bytes it is told."""

    noisy = False

    def __init__(self, one: Identity) -> None:
        self.requests: list[tuple[str, dict[bytes, bytes], bytes]] = []
        self.answer: Callable[[], Any] = lambda: [b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"]
        self.open: list[Any] = []
        self.idle: Deferred[None] | None = None
        self._options = server_options(one)
        self._port: Any = None

    def buildProtocol(self, addr: Any) -> Any:
        page = _Page()
        page.factory = self
        return page

    def listen(self) -> int:
        """The port's number."""
        self._port = LOOP.listenSSL(0, self, self._options, interface="127.0.0.1")
        number: int = self._port.getHost().port
        return number

    def stop(self) -> Any:
        """Close everything."""
        closed = maybeDeferred(self._port.stopListening)
        if self.open:
            idle = self.idle = Deferred()
            for one in self.open:
                cut(one)
            return closed.addCallback(lambda _: idle)
        return closed
