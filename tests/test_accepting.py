"""New connections are taken in by turns: a crowd at the door keeps nobody who is in from working (P12)."""

from typing import Any

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from mastodon.daemon.accepting import ACCEPT_COST, AT_ONCE, Acceptor
from mastodon.daemon.scheduling import TURN_BUDGET, UNAUTHENTICATED, Scheduler
from mastodon.wire.fair import Kind
from tests.test_scheduling import Pieces, turns_of


class CrowdedPort:
    """A port before which ever so many wait."""

    def __init__(self) -> None:
        self.connected, self.disconnecting = True, False
        self.reading = True
        self.numberAccepts = 100
        self.taken = 0

    def doRead(self) -> None:
        self.taken += self.numberAccepts

    def startReading(self) -> None:
        self.reading = True

    def stopReading(self) -> None:
        self.reading = False


class AcceptorTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.scheduler = Scheduler(self.clock)
        self.port = CrowdedPort()
        port: Any = self.port
        self.acceptor = Acceptor(port, self.scheduler)

    def knock(self) -> None:
        """What the reactor does while the port wants to read."""
        if self.port.reading:
            self.port.doRead()

    def test_a_few_at_a_time(self) -> None:
        """Nobody is taken in outside the turn; then a few are, and the port reads again."""
        self.knock()
        self.assertEqual((self.port.taken, self.port.reading), (0, False))
        self.clock.advance(0)
        self.assertEqual((self.port.taken, self.port.reading), (AT_ONCE, True))
        self.assertEqual(self.scheduler._queue._leaves, {})

    def test_promise_p12_a_crowd_takes_the_strangers_share(self) -> None:
        """Beside a machine with work, a crowd gets what control work is worth: half of what appends get."""
        turns = turns_of(self.scheduler)
        machine = Pieces(1000, TURN_BUDGET // 2)
        self.scheduler.add("m", Kind.APPEND, machine)
        while machine.left:
            self.knock()
            self.clock.pump([0])
        served = [piece for turn in turns for piece in turn]
        crowd = sum(piece.cost for piece in served if piece.unit == UNAUTHENTICATED)
        self.assertEqual(crowd, ACCEPT_COST * self.port.taken)
        self.assertLessEqual(crowd, 0.55 * sum(piece.cost for piece in served if piece.unit == "m"))

    def test_the_port_is_closed_meanwhile(self) -> None:
        """Whoever knocked in the last moment is not taken in."""
        self.knock()
        self.port.disconnecting = True
        self.clock.advance(0)
        self.assertEqual((self.port.taken, self.port.reading), (0, False))
