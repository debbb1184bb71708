"""The append port's edge beside a store that is slow or fails: nothing hangs, nothing is left."""

from typing import Any

from twisted.internet.defer import Deferred, succeed

from bench.blocking_peers import TinyMachine
from mastodon.daemon.append_connection import HELLO_S, OFFERS_OUTSTANDING
from mastodon.daemon.connection import BYTE_COST, FRAME_COST
from mastodon.daemon.errors import Unavailable
from mastodon.sealed.machine_secret import MachineSecret
from mastodon.wire.errors import ErrorCode
from mastodon.wire.fair import QUANTUM
from mastodon.wire.messages import (
    Answer,
    Error,
    Greeting,
    Message,
    NewPair,
    Offer,
    Piece,
    Wanted,
)
from tests.append_port_case import AgentsEnd, AppendPortCase, PortStore

SECRET = MachineSecret(b"m" * 32)


class SlowStore(PortStore):
    """Answers when the test lets it."""

    def __init__(self) -> None:
        super().__init__()
        self.keys[SECRET.machine_id] = SECRET.public_key
        self.accounts: list[Deferred[Any]] = []
        self.offers: list[Deferred[set[bytes]]] = []
        self.at_once = True

    def account(self, machine: bytes) -> Deferred[Any]:
        if self.at_once:
            return super().account(machine)
        self.accounts.append(Deferred())
        return self.accounts[-1]

    def record(self, *_: Any, **__: Any) -> Deferred[None]:
        return succeed(None)

    def stored(self, machine: bytes, ids: list[bytes]) -> Deferred[set[bytes]]:
        self.offers.append(Deferred())
        return self.offers[-1]

    def add_pair(self, *_: Any) -> Deferred[bytes]:
        raise Unavailable("no spool is online")

    def begin_pack(self, machine: bytes, epoch: int) -> Any:
        raise Unavailable("no spool is online")


class AppendConnectionTests(AppendPortCase):
    def setUp(self) -> None:
        super().setUp()
        self.agent = AgentsEnd(self.port, SECRET)
        self.connection, self.heard, self.hello = self.agent.connection, self.agent.heard, self.agent.hello

    def make_store(self) -> SlowStore:
        self.store = SlowStore()
        return self.store

    def say(self, *messages: Message) -> None:
        self.agent.send(*messages)
        self.clock.advance(0)

    def enter(self) -> None:
        self.say(self.hello())
        self.assertEqual([type(one) for one in self.heard()], [Greeting, Answer])

    def test_promise_p12_gone_while_it_is_looked_up(self) -> None:
        """An agent that left before its key was found holds no session, and no turn is kept for it."""
        self.store.at_once = False
        self.say(self.hello())
        self.connection.connectionLost()
        self.store.accounts[0].callback(self.store.account_of(SECRET.machine_id))
        self.assertEqual(self.port.sessions._holders, {})
        self.assertEqual(self.scheduler._queue._leaves, {})
        self.assertEqual(self.port.connections, set())
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_no_hello(self) -> None:
        """Whoever says nothing is told, and turned away."""
        self.clock.advance(HELLO_S)
        self.assertEqual([getattr(one, "code", None) for one in self.heard()][-1], ErrorCode.TIMEOUT)
        self.assertIn("loseConnection", self.agent.transport.said)

    def test_promise_p12_offers_are_few_at_a_time(self) -> None:
        """Of offers that are sent at once, few are looked up at a time; all are answered."""
        self.enter()
        self.say(*(Offer(number, b"i" * 32) for number in range(20)))
        self.assertEqual(len(self.store.offers), OFFERS_OUTSTANDING)
        answered = 0
        while answered < len(self.store.offers):
            self.assertLessEqual(len(self.store.offers) - answered, OFFERS_OUTSTANDING)
            self.store.offers[answered].callback(set())
            answered += 1
            self.clock.advance(0)
        self.assertEqual([one.number for one in self.heard() if isinstance(one, Wanted)], list(range(20)))

    def test_promise_p12_frames_cost_what_they_make_of_work(self) -> None:
        """Pieces cost their bytes, each id of an offer many times its own, no frame more than a quantum."""
        self.enter()
        costs = []
        for message in (Offer(1, bytes(32 * 1000)), Offer(2, bytes(32 * 4096)), Piece(bytes(100_000))):
            self.connection.dataReceived(message.encode())
            costs.append(self.connection.next_cost() or 0)
            self.clock.advance(0)
        some, many, piece = costs
        self.assertApproximates(piece, 100_000 + FRAME_COST, 100)
        self.assertApproximates(some, BYTE_COST * 32_000 + FRAME_COST, 1000)
        self.assertEqual(many, QUANTUM)

    def test_a_pair_that_fails_at_once(self) -> None:
        """What comes behind a pair that the store refuses on the spot is answered all the same."""
        self.enter()
        machine = TinyMachine(SECRET)
        self.say(NewPair(machine.pair_record, machine.envelope), Offer(7, b"i" * 32))
        self.store.offers[0].callback(set())
        error, wanted = self.heard()
        self.assertEqual((getattr(error, "code", None), type(wanted)), (ErrorCode.UNAVAILABLE, Wanted))

    def test_no_pack_can_be_begun(self) -> None:
        """A store that takes no packs is told to the agent as what it is."""
        self.enter()
        self.say(Piece(b"x"))
        (error,) = self.heard()
        assert isinstance(error, Error)
        self.assertEqual(error.code, ErrorCode.UNAVAILABLE)
        self.assertTrue(error.retryable)

    def test_a_fault_of_the_store(self) -> None:
        """An internal fault is logged, and said without its details."""
        self.enter()
        self.say(Offer(1, b"i" * 32))
        self.store.offers[0].errback(RuntimeError("secret details"))
        (error,) = self.heard()
        assert isinstance(error, Error)
        self.assertEqual(error.code, ErrorCode.INTERNAL)
        self.assertNotIn("secret", error.text)
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)
