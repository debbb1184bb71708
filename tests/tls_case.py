"""What the tests of TLS have in common: a port on loopback with an application that notes what it sees, and clients."""

import datetime
import os
import socket
import ssl
from collections.abc import Callable, Coroutine
from functools import wraps
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import deferLater
from twisted.python.failure import Failure
from twisted.trial.unittest import TestCase

from mastodon.daemon import tls
from mastodon.daemon.tls import FastTLSFactory, Limits, listen_tls, peer_pin
from mastodon.host import socket_tls
from mastodon.host.certificates import Identity, make_identity
from mastodon.host.socket_tls import TLSStream

NOW = datetime.datetime.now(datetime.UTC)
SERVER = make_identity("server", NOW, names=("localhost",))
ALICE = make_identity("alice", NOW)
MALLORY = make_identity("mallory", NOW)
APPEND, RESTORE = "mastodon/1", "mastodon-restore/1"


def awaited(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., Deferred[None]]:
    """Let trial run a coroutine."""

    @wraps(test)
    def run(self: TestCase) -> Deferred[None]:
        return Deferred.fromCoroutine(test(self))

    return run


class Echo(Protocol):
    """Notes who came and what happened, and sends back what it gets."""

    def __init__(self, seen: "Application") -> None:
        self.seen = seen

    def connectionMade(self) -> None:
        assert self.transport is not None
        self.seen.protocols.append(self)
        self.seen.pins.append(peer_pin(self.transport))
        self.transport.write(b"welcome")

    def dataReceived(self, data: bytes) -> None:
        assert self.transport is not None
        self.transport.write(data)

    def connectionLost(self, reason: Failure = Failure(ConnectionResetError())) -> None:  # noqa: B008
        self.seen.lost += 1


class Application(Factory):
    """The daemon's place, with a list of what it saw."""

    noisy = False

    def __init__(self, protocol: Callable[["Application"], Protocol] = Echo) -> None:
        self.make = protocol
        self.protocols: list[Protocol] = []
        self.pins: list[bytes | None] = []
        self.lost = 0

    def buildProtocol(self, addr: object) -> Protocol:
        return self.make(self)


class TLSCase(TestCase):
    timeout = 60

    def setUp(self) -> None:
        self.directory = self.mktemp()
        os.mkdir(self.directory)

    async def listen(
        self, context: tls.ServerContext, application: Application | None = None, limits: Limits | None = None
    ) -> None:
        self.application = application or Application()
        port = await listen_tls(reactor, ("127.0.0.1", 0), context, self.application, limits or Limits())
        self.listening(port)

    def listening(self, port: Any) -> None:
        self.address = ("127.0.0.1", port.getHost().port)
        self.addCleanup(port.stopListening)
        self.factory: FastTLSFactory = port.factory
        self.addCleanup(self.hang_up)

    async def hang_up(self) -> None:
        """The clients are gone; wait until the server has noticed, so that the reactor is clean."""
        for protocol in list(self.factory.protocols):
            protocol.abortConnection()
        await self.until(lambda: not self.factory.protocols)

    async def until(self, condition: Callable[[], object]) -> None:
        while not condition():
            await deferLater(reactor, 0.01, lambda: None)

    def files(self, identity: Identity, *more: Identity) -> tuple[str, str]:
        """Certificate (others behind it) and key in PEM files."""
        certificate = os.path.join(self.directory, "certificate")
        key = os.path.join(self.directory, "key")
        with open(certificate, "wb") as file:
            file.write(b"".join(each.certificate_pem() for each in (identity, *more)))
        with open(key, "wb") as file:
            file.write(identity.key_pem())
        return certificate, key

    def handshake(self, context: ssl.SSLContext, session: ssl.SSLSession | None = None) -> tuple[bytes, bool, Any]:
        plain = socket.create_connection(self.address, 10)
        with context.wrap_socket(plain, session=session) as wrapped:
            first = wrapped.recv(7)
            return first, bool(wrapped.session_reused), wrapped.session

    def connect(self, alpn: str = APPEND, pins: set[bytes] | None = None, **more: Any) -> TLSStream:
        return socket_tls.connect([self.address], {SERVER.pin} if pins is None else pins, alpn, **more)


def careless_client(alpn: list[str], version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.maximum_version = version
    if alpn:
        context.set_alpn_protocols(alpn)
    return context


def read_all(connection: socket.socket) -> bytes:
    """All that comes until the end, however the end looks."""
    data = b""
    try:
        while piece := connection.recv(65536):
            data += piece
    except (OSError, ssl.SSLError):
        pass
    return data
