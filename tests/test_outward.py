"""Requests to URLs that others chose: what they reach, and what they do not."""

import threading
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase, TestCase

from mastodon.daemon.telling import outward
from mastodon.daemon.telling.errors import NotTaken
from mastodon.daemon.telling.outward import ANSWER_LIMIT, NAMES_WAITING, WHOLE_S, Answer, Names, Outward
from mastodon.sealed.addresses import Target, target
from tests.mail_server import LOOP, WebServer, identity, trust

OK = b"HTTP/1.1 204 No Content\r\n\r\n"


class AnswerTests(SynchronousTestCase):
    """The status is read from the first bytes."""

    def test_whole_and_bytewise(self) -> None:
        """However the answer is cut, and whatever follows."""
        for data in (OK, b"HTTP/1.0 204\r\n", b"HTTP/1.1 103 Early\r\nLink: x\r\n\r\n" + OK, OK + b"x" * 100):
            self.assertEqual(Answer().receive(data), 204)
            answer, found = Answer(), None
            for byte in data:
                found = found or answer.receive(bytes([byte]))
            self.assertEqual(found, 204)

    def test_no_http(self) -> None:
        """What is no HTTP is refused at its first line."""
        for data in (b"220 mail.example.org ESMTP\r\n", b"HTTP/2 200\r\n", b"HTTP/1.1 20 x\r\n", b"\n"):
            self.assertRaises(NotTaken, Answer().receive, data)

    def test_bounded(self) -> None:
        """Without a status within the bound it is over."""
        self.assertRaises(NotTaken, Answer().receive, b"x" * (ANSWER_LIMIT + 1))
        endless = b"HTTP/1.1 100 Continue\r\n" + b"X: y\r\n" * ANSWER_LIMIT
        self.assertRaises(NotTaken, Answer().receive, endless)


class OutwardTests(TestCase):
    """Against a server on loopback, which only `allow_private` lets it reach."""

    def setUp(self) -> None:
        self.identity = identity("hook.example")
        self.server = WebServer(self.identity)
        self.url = f"https://hook.example:{self.server.listen()}/hook?x=1"
        self.addCleanup(self.server.stop)
        self.resolved: list[str] = []

    def outward(self, addresses: list[str], *, private: bool = True, trusted: bool = True) -> Outward:
        def resolve(host: str, port: int) -> Deferred[list[str]]:
            self.resolved.append(host)
            return succeed(addresses)

        root = trust(self.identity if trusted else identity("hook.example"))
        return Outward(LOOP, private, resolve=resolve, trust=root)

    def post(self, outward: Outward | None = None) -> "Deferred[Any]":
        return (outward or self.outward(["127.0.0.1"])).post(target(self.url), [("X-One", "1")], b"body")

    async def refusal(self, outward: Outward | None = None) -> str:
        return str(await self.assertFailure(self.post(outward), NotTaken))

    async def test_taken(self) -> None:
        """A 2xx is taken; the request is whole."""
        await self.post()
        line, fields, body = self.server.requests[0]
        self.assertEqual((line, body), ("POST /hook?x=1 HTTP/1.1", b"body"))
        self.assertEqual(fields[b"X-One"], b"1")
        self.assertTrue(fields[b"Host"].startswith(b"hook.example:"))
        await self.outward(["127.0.0.1"]).get(target(self.url))
        self.assertEqual(self.server.requests[1][0], "GET /hook?x=1 HTTP/1.1")

    async def test_not_taken(self) -> None:
        """Another status is said; a redirect is not followed."""
        for answer, text in (
            (b"HTTP/1.1 500 Oh\r\n\r\n", "answered 500"),
            (b"HTTP/1.1 302 Found\r\nLocation: https://127.0.0.1/\r\n\r\n", "a redirect, which is not followed"),
            (b"nonsense\r\n", "is not HTTP"),
            (b"x" * (ANSWER_LIMIT + 1), "no status within"),
        ):
            self.server.answer = [answer].copy
            self.assertIn(text, await self.refusal())
        self.assertEqual(len(self.server.requests), 4)

    async def test_huge_body(self) -> None:
        """What comes behind the status is not waited for: the connection is cut."""
        self.server.answer = lambda: [b"HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\n", b"x" * 100_000]
        await self.post()

    async def test_promise_p4_no_request_into_this_network(self) -> None:
        """A host with an address that is not public is refused before a connection is made, and which is not said."""
        for addresses in (["127.0.0.1"], ["8.8.8.8", "10.0.0.1"], ["::ffff:169.254.169.254"], ["fe80::1"]):
            text = await self.refusal(self.outward(addresses, private=False))
            self.assertIn("not public", text)
            self.assertNotIn(addresses[-1], text)
        self.assertEqual(self.server.requests, [])
        self.assertEqual(self.server.open, [])

    async def test_resolved_once(self) -> None:
        """The address that was judged is the one that is connected to: the host is not asked again."""
        await self.post()
        self.assertEqual(self.resolved, ["hook.example"])

    async def test_wrong_certificate(self) -> None:
        """A server whose certificate does not fit hears nothing."""
        self.assertIn("TLS failed", await self.refusal(self.outward(["127.0.0.1"], trusted=False)))
        outward = self.outward(["127.0.0.1"])
        other = Target("other.example", target(self.url).port, "/")
        await self.assertFailure(outward.post(other, [], b"secret"), NotTaken)
        self.assertEqual(self.server.requests, [])

    async def test_second_address(self) -> None:
        """An address that refuses connections is passed over."""
        await self.post(self.outward(["127.0.0.2", "127.0.0.1"]))
        self.assertEqual(len(self.server.requests), 1)

    async def test_nobody_there(self) -> None:
        """Nobody listens, or the host has no address."""
        await self.server.stop()
        self.assertIn("refused", await self.refusal())
        self.assertIn("no address", await self.refusal(self.outward([])))
        self.server.listen()


class NameTests(TestCase):
    """Hosts are looked up in threads of their own."""

    async def test_known_and_unknown(self) -> None:
        """An address is itself; a name that cannot be is said in one line."""
        names = Names(LOOP)
        self.assertEqual(await names.resolve("127.0.0.1", 443), ["127.0.0.1"])
        unknown: Deferred[Any] = names.resolve("no..name", 443)
        self.assertIn("not known", str(await self.assertFailure(unknown, NotTaken)))

    async def test_promise_p12_slow_names_do_not_pile_up(self) -> None:
        """While as many as can be wait for their name servers, more are refused; afterwards they are taken again."""
        gate = threading.Event()
        self.patch(outward, "look_up", lambda host, port: gate.wait(60) and [host])
        names = Names(LOOP)
        waiting = [names.resolve("slow.example", 443) for _ in range(NAMES_WAITING)]
        refused: Deferred[Any] = names.resolve("one.more", 443)
        self.assertIn("too many names", str(await self.assertFailure(refused, NotTaken)))
        waiting[0].addErrback(lambda _: None).cancel()  # whoever gives up frees no thread
        again: Deferred[Any] = names.resolve("one.more", 443)
        await self.assertFailure(again, NotTaken)
        gate.set()
        for one in waiting[1:]:
            self.assertEqual(await one, ["slow.example"])
        self.assertEqual(await names.resolve("one.more", 443), ["one.more"])


class StallTests(SynchronousTestCase):
    """Time passes by an injected clock."""

    def test_resolver_that_never_answers(self) -> None:
        """The whole request has one deadline."""
        clock = Clock()

        def never(host: str, port: int) -> "Deferred[list[str]]":
            return Deferred()

        asked = Outward(clock, False, resolve=never).get(target("https://hook.example/"))
        clock.advance(WHOLE_S)
        self.assertIn("no answer within", str(self.failureResultOf(asked, NotTaken).value))
