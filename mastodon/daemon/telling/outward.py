"""Requests to URLs that others chose: https, to public hosts, bounded in time and bytes, and nothing is followed.

Promises: the addresses that a host resolves to are judged and then connected to, without asking again, so that a name
cannot mean one host when it is judged and another when it is used; a host with any address that is not public is
refused, unless the operator's configuration allows it; the certificate has to fit the host; a redirect is an answer
like any other that is not 2xx; of an answer at most ANSWER_LIMIT bytes are looked at, and nothing behind its status.
"""

import re
import socket
from collections.abc import Callable, Sequence
from threading import Thread
from typing import Any

from OpenSSL import SSL
from twisted.internet.defer import CancelledError, Deferred, TimeoutError, fail
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP6ClientEndpoint, wrapClientTLS
from twisted.internet.error import ConnectError, ConnectionDone, ConnectionLost
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.ssl import optionsForClientTLS, platformTrust
from twisted.internet.threads import deferToThreadPool
from twisted.python.failure import Failure
from twisted.python.threadpool import ThreadPool

from mastodon import __version__
from mastodon.daemon.telling.errors import NotTaken
from mastodon.sealed.addresses import Target, is_public

ANSWER_LIMIT = 16 * 1024
CONNECT_S = 10.0
WHOLE_S = 30.0
ADDRESSES_TRIED = 3
NAMES_AT_ONCE = 8
NAMES_WAITING = 64
_STATUS = re.compile(rb"HTTP/1\.[01] (\d{3})(?: [^\r\n]*)?\r?\n")

Resolve = Callable[[str, int], "Deferred[list[str]]"]


class Answer:
    """The status of an HTTP answer, read from its first bytes; interim answers are passed over."""

    def __init__(self) -> None:
        self._data = b""
        self._seen = 0

    def receive(self, data: bytes) -> int | None:
        """The final status once it is there. Raises NotTaken for what is no answer, or a too long one."""
        self._seen += len(data)
        self._data += data
        while b"\n" in self._data[:ANSWER_LIMIT]:
            match = _STATUS.match(self._data)
            if match is None:
                raise NotTaken("the answer is not HTTP")
            status = int(match[1])
            if status >= 200:
                return status
            _, end, rest = self._data.partition(b"\r\n\r\n")
            if not end:
                break
            self._data = rest
        if self._seen > ANSWER_LIMIT:
            raise NotTaken(f"no status within {ANSWER_LIMIT} bytes of the answer")
        return None


class Outward:
    """Sends requests out of this host. ``resolve`` gives the addresses of a host."""

    def __init__(
        self, reactor: Any, allow_private: bool, *, resolve: Resolve | None = None, trust: Any = None
    ) -> None:  # fmt: skip
        self._reactor = reactor
        self._allow_private = allow_private
        self._resolve = resolve or Names(reactor).resolve
        self._trust = trust

    def post(self, target: Target, headers: Sequence[tuple[str, str]], body: bytes) -> "Deferred[None]":
        """POST; fires when it was answered 2xx, fails with NotTaken otherwise."""
        return self._ask(target, "POST", [*headers, ("Content-Length", str(len(body)))], body)

    def get(self, target: Target) -> "Deferred[None]":
        """GET, likewise; what comes back is not looked at."""
        return self._ask(target, "GET", [], b"")

    def _ask(self, target: Target, method: str, headers: Sequence[tuple[str, str]], body: bytes) -> "Deferred[None]":
        lines = [
            f"{method} {target.path} HTTP/1.1",
            f"Host: {target.authority}",
            f"User-Agent: mastodon/{__version__}",
            "Connection: close",
            *(f"{name}: {value}" for name, value in headers),
        ]
        request = "\r\n".join([*lines, "", ""]).encode("ascii") + body
        asked = Deferred.fromCoroutine(self._converse(target, request))
        return asked.addTimeout(WHOLE_S, self._reactor).addErrback(_plainly, target.host)

    async def _converse(self, target: Target, request: bytes) -> None:
        status = await self._send(target, await self._addresses(target), request)
        if 300 <= status < 400:
            raise NotTaken(f"answered {status}, a redirect, which is not followed: give the URL that it leads to")
        if not 200 <= status < 300:
            raise NotTaken(f"answered {status}")

    async def _addresses(self, target: Target) -> list[str]:
        found = await self._resolve(target.host, target.port)
        if not found:
            raise NotTaken("the host has no address")
        if not self._allow_private and not all(is_public(one) for one in found):
            # Which address is not said: the admin is not to learn how this network's names resolve.
            raise NotTaken(
                "the host has an address that is not public: the server asks only hosts of the Internet, unless its "
                "operator sets telling.allow_private"
            )
        return list(dict.fromkeys(found))[:ADDRESSES_TRIED]

    async def _send(self, target: Target, addresses: Sequence[str], request: bytes) -> int:
        tls = optionsForClientTLS(target.host, trustRoot=self._trust or platformTrust())
        for number, address in enumerate(addresses, 1):
            kind = TCP6ClientEndpoint if ":" in address else TCP4ClientEndpoint
            endpoint = wrapClientTLS(tls, kind(self._reactor, address, target.port, CONNECT_S))
            exchange = _Exchange(request)
            factory = _Given(exchange)
            try:
                await endpoint.connect(factory)
            except ConnectError:
                if number == len(addresses):
                    raise
                continue
            return await exchange.status
        raise NotTaken("the host has no address")


class _Exchange(Protocol):
    """One request and the status of its answer."""

    def __init__(self, request: bytes) -> None:
        self._request = request
        self._answer = Answer()
        self.status: Deferred[int] = Deferred(lambda _: self._end())

    def connectionMade(self) -> None:
        """Ask."""
        self._write(self._request)

    def dataReceived(self, data: bytes) -> None:
        """Look for the status."""
        try:
            status = self._answer.receive(data)
        except NotTaken as error:
            self._finish(error)
            return
        if status is not None:
            self._finish(status)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Before there was an answer."""
        self._finish(reason)

    def _write(self, data: bytes) -> None:
        if self.transport is not None:
            self.transport.write(data)

    def _finish(self, outcome: "int | Exception | Failure") -> None:
        if not self.status.called:
            if isinstance(outcome, int):
                self.status.callback(outcome)
            else:
                self.status.errback(outcome)
        self._end()

    def _end(self) -> None:
        if self.transport is not None:
            self.transport.abortConnection()  # type: ignore[attr-defined]


class _Given(Factory):
    """Makes the one protocol that it was given."""

    noisy = False

    def __init__(self, protocol: Protocol) -> None:
        self._protocol = protocol

    def buildProtocol(self, addr: Any) -> Protocol:
        """That one."""
        return self._protocol


class Names:
    """Looks hosts up, in threads of its own: a name server that an admin chose may take its time, and nothing else of
    the daemon's is to wait for it. So many names are looked up or wait for it at a time; more are refused."""

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self._pool: ThreadPool | None = None
        self._waiting = 0

    def resolve(self, host: str, port: int) -> "Deferred[list[str]]":
        """The addresses of a host, as the system knows them. Fails with NotTaken."""
        if self._waiting >= NAMES_WAITING:
            return fail(NotTaken("too many names are being looked up: the server tries again"))
        if self._pool is None:
            self._pool = _Pool(0, NAMES_AT_ONCE, "names")
            self._pool.start()
        self._waiting += 1
        found = deferToThreadPool(self._reactor, self._pool, look_up, host, port)

        def over(outcome: Any) -> Any:
            self._waiting -= 1
            return outcome

        # Whoever waits may give up; the thread goes on until the system gives up, too.
        passed_on: Deferred[list[str]] = Deferred()
        found.addBoth(over).addCallbacks(passed_on.callback, passed_on.errback)
        return passed_on


class _Helper(Thread):
    """A thread that the end of the process does not wait for."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, daemon=True, **options)


class _Pool(ThreadPool):
    """Of such threads."""

    threadFactory = _Helper


def look_up(host: str, port: int) -> list[str]:
    """The addresses of a host; blocking. Raises NotTaken."""
    try:
        return [str(one[4][0]) for one in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
    except (OSError, UnicodeError) as error:
        raise NotTaken(f"the host is not known: {getattr(error, 'strerror', None) or error}") from None


def _plainly(failure: Failure, host: str) -> Failure:
    """One line for whatever went wrong on the way."""
    if failure.check(NotTaken) is not None:
        return failure
    if failure.check(TimeoutError, CancelledError) is not None:
        text = f"no answer within {WHOLE_S:.0f} s"
    elif failure.check(SSL.Error) is not None:
        text = f"TLS failed: {tls_reason(failure.value)}"
    elif failure.check(ConnectionDone, ConnectionLost) is not None:
        text = "the connection was closed without an answer"
    else:
        text = str(failure.value) or "the request failed"
    return Failure(NotTaken(text[:300]))


def tls_reason(error: BaseException | None) -> str:
    """What OpenSSL says, without its nested lists."""
    given = getattr(error, "args", ())
    parts = [part for entry in given for part in (entry if isinstance(entry, list | tuple) else [entry])]
    words = [part[-1] if isinstance(part, tuple) else part for part in parts]
    return "; ".join(str(word) for word in words if word) or "no reason given"
