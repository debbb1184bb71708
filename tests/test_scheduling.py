"""The daemon's pump, and what connections do in and out of turn under attack (P12)."""

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from mastodon.daemon.connection import FRAME_COST, KEEPALIVE, KEEPALIVE_S, READ_AHEAD
from mastodon.daemon.scheduling import TURN_BUDGET, Scheduler
from mastodon.wire.fair import Kind, Served
from mastodon.wire.frame import HELLO_FRAME_LIMIT, encode_frame
from tests.test_connection import SILENCE_S, FakeTransport, Recorder


class Pieces:
    """A source with so many pieces of work."""

    def __init__(self, count: int, cost: int, fault: bool = False) -> None:
        self.left = count
        self.cost = cost
        self.fault = fault

    def next_cost(self) -> int | None:
        return self.cost if self.left else None

    def run(self) -> None:
        self.left -= 1
        if self.fault:
            raise RuntimeError("a fault")


def turns_of(scheduler: Scheduler) -> list[list[Served]]:
    """What is run from now on, turn by turn."""
    step = scheduler._queue.step
    turns: list[list[Served]] = []

    def noting(budget: int) -> list[Served]:
        turns.append(step(budget))
        return turns[-1]

    scheduler._queue.step = noting  # type: ignore[method-assign]
    return turns


class SchedulerTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.scheduler = Scheduler(self.clock)

    def test_a_turn_is_bounded(self) -> None:
        """The reactor gets its turn after a bounded amount of work, then the work goes on."""
        source = Pieces(100, TURN_BUDGET // 10 + 1)
        turns = turns_of(self.scheduler)
        self.scheduler.add("m", Kind.APPEND, source)
        self.clock.advance(0)
        self.assertEqual({len(turn) for turn in turns}, {10})
        self.assertEqual(source.left, 0)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_promise_p12_a_fault_costs_nobody_else_a_turn(self) -> None:
        """What one source does wrong does not hold the others up."""
        faulty, good = Pieces(3, 1000, fault=True), Pieces(3, 1000)
        self.scheduler.add("bad", Kind.APPEND, faulty)
        self.scheduler.add("good", Kind.APPEND, good)
        for _ in range(10):
            self.clock.advance(0)
        self.assertEqual(good.left, 0)
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 3)

    def test_nothing_after_stop(self) -> None:
        """A stopped scheduler leaves no timer, whoever wakes it."""
        source = Pieces(1, 1)
        self.scheduler.add("m", Kind.APPEND, source)
        self.scheduler.stop()
        self.scheduler.wake(source)
        self.assertEqual(self.clock.getDelayedCalls(), [])


class AttackedConnectionTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.scheduler = Scheduler(self.clock)
        self.connection = Recorder(self.scheduler, self.clock)
        self.transport = FakeTransport()
        self.connection.makeConnection(self.transport)

    def test_promise_p12_tiny_frames_have_their_price(self) -> None:
        """A turn takes a bounded number of frames, however small they are."""
        frame = encode_frame(1, b"")
        turns = turns_of(self.scheduler)
        self.connection.dataReceived(frame * (READ_AHEAD // len(frame)))
        self.clock.advance(0)
        self.assertEqual(len(self.connection.frames), READ_AHEAD // len(frame))
        self.assertLessEqual(max(map(len, turns)), TURN_BUDGET // FRAME_COST + 1)

    def test_promise_p12_strangers_cost_little(self) -> None:
        """Of a stranger whose turn does not come, little more than one small frame is taken."""
        self.connection._reader.limit = HELLO_FRAME_LIMIT
        self.connection.room = False
        self.connection.dataReceived(encode_frame(1, bytes(HELLO_FRAME_LIMIT - 1)))
        self.assertEqual(self.transport.said[-1], "pauseProducing")

    def test_larger_frames_behind_the_proof(self) -> None:
        """What a peer sent ahead is judged by the limit of when its turn comes."""
        self.connection._reader.limit = HELLO_FRAME_LIMIT
        self.connection.room = False
        self.connection.dataReceived(encode_frame(2, bytes(100_000)))
        self.clock.advance(0)
        self.connection.room = True
        self.connection.raise_limit(READ_AHEAD)
        self.clock.advance(0)
        self.assertEqual(len(self.connection.frames), 1)
        self.assertEqual(self.transport.said[-1], "resumeProducing")

    def test_promise_p12_who_takes_nothing_is_not_read(self) -> None:
        """What TLS answers by itself must not pile up either: nothing is read while the peer takes nothing."""
        self.connection.pauseProducing()
        self.assertEqual(self.transport.said[-1], "pauseProducing")
        self.clock.advance(KEEPALIVE_S)
        self.assertEqual(self.transport.written, b"")
        self.connection.resumeProducing()
        self.assertEqual(self.transport.said[-1], "resumeProducing")
        self.clock.advance(KEEPALIVE_S)
        self.assertEqual(self.transport.written, KEEPALIVE)

    def test_who_takes_nothing_for_long_is_cut(self) -> None:
        """A peer that takes no answer for the time of silence is gone."""
        self.connection.pauseProducing()
        for _ in range(int(SILENCE_S / KEEPALIVE_S) + 1):
            self.clock.advance(KEEPALIVE_S)
        self.assertIn("abortConnection", self.transport.said)

    def test_taking_is_a_sign_of_life(self) -> None:
        """A client that only takes what it asked for is not silent."""
        for _ in range(20):
            self.connection.pauseProducing()
            self.clock.advance(KEEPALIVE_S)
            self.connection.resumeProducing()
        self.assertNotIn("abortConnection", self.transport.said)

    def test_who_is_held_back_is_not_silent(self) -> None:
        """A peer that is not read because the server is behind is not cut for it."""
        self.connection.room = False
        while "pauseProducing" not in self.transport.said:
            self.connection.dataReceived(encode_frame(2, bytes(300_000)))
        for _ in range(20):
            self.clock.advance(KEEPALIVE_S)
        self.assertNotIn("abortConnection", self.transport.said)
        self.connection.room = True
        self.connection.woken()
        for _ in range(20):
            self.clock.advance(KEEPALIVE_S)
        self.assertIn("abortConnection", self.transport.said)

    def test_a_fault_ends_its_connection_alone(self) -> None:
        """An internal error cuts the connection that it befell and is logged."""

        def fault(kind: int, payload: bytes) -> None:
            raise RuntimeError("a fault")

        self.connection.frame = fault  # type: ignore[method-assign]
        other = Recorder(self.scheduler, self.clock)
        other.makeConnection(FakeTransport())
        for one in (self.connection, other):
            one.dataReceived(encode_frame(1, b"x") * 2)
        self.clock.advance(0)
        self.assertIn("abortConnection", self.transport.said)
        self.assertEqual(len(other.frames), 2)
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)

    def test_a_peer_held_back_can_close(self) -> None:
        """After the last word reading goes on, so that the peer's own closing is seen."""
        self.connection.room = False
        while "pauseProducing" not in self.transport.said:
            self.connection.dataReceived(encode_frame(2, bytes(300_000)))
        self.connection.close()
        self.assertEqual(self.transport.said[-1], "resumeProducing")
        self.connection.dataReceived(bytes(1000))
        self.assertEqual(self.connection.frames, [])
