"""What both ports' connections do with bytes: bounded memory, backpressure, signs of life, one turn at a time."""

from typing import Any

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from mastodon.daemon.connection import CLOSE_GRACE_S, KEEPALIVE_S, READ_AHEAD, FramedConnection
from mastodon.daemon.scheduling import Scheduler
from mastodon.wire.errors import FrameTooLong, WireError
from mastodon.wire.frame import APPEND_FRAME_LIMIT, encode_frame
from mastodon.wire.messages import Keepalive

SILENCE_S = 60.0


class FakeTransport:
    """Remembers what it was asked."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.written = b""

    def write(self, data: bytes) -> None:
        self.written += data

    def getPeer(self) -> Any:
        return type("Peer", (), {"host": "127.0.0.1", "port": 9})()

    def __getattr__(self, name: str) -> Any:
        return lambda *_: self.said.append(name)


class Recorder(FramedConnection):
    """A connection that writes down its frames."""

    def __init__(self, scheduler: Scheduler, clock: Clock) -> None:
        super().__init__(scheduler, clock, APPEND_FRAME_LIMIT, SILENCE_S)
        self.frames: list[tuple[int, bytes]] = []
        self.errors: list[WireError] = []
        self.room = True
        self.lost = False

    def frame(self, kind: int, payload: bytes) -> None:
        self.frames.append((kind, payload))

    def broken(self, error: WireError) -> None:
        self.errors.append(error)
        self.close()

    def ready_for_frames(self) -> bool:
        return self.room

    def gone(self) -> None:
        self.lost = True


class FramedConnectionTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.connection = Recorder(Scheduler(self.clock), self.clock)
        self.transport = FakeTransport()
        self.connection.makeConnection(self.transport)

    def turn(self) -> None:
        self.clock.advance(0)

    def test_frames_come_in_turn(self) -> None:
        """Frames are handed out by the scheduler, not when bytes arrive, however TCP cut them."""
        data = encode_frame(1, b"one") + encode_frame(2, b"two")
        for byte in data:
            self.connection.dataReceived(bytes([byte]))
        self.assertEqual(self.connection.frames, [])
        self.turn()
        self.assertEqual(self.connection.frames, [(1, b"one"), (2, b"two")])

    def test_promise_p12_reading_stops(self) -> None:
        """A connection without room takes bytes up to its bound, then TCP holds the peer back; later it goes on."""
        self.connection.room = False
        frame = encode_frame(2, bytes(300_000))
        sent = 0
        while "pauseProducing" not in self.transport.said:
            self.connection.dataReceived(frame)
            sent += 1
            self.turn()
            self.assertLess(sent * len(frame), 2 * READ_AHEAD)
        self.assertEqual(self.connection.frames, [])
        self.connection.room = True
        self.connection.woken()
        self.turn()
        self.assertEqual(len(self.connection.frames), sent)
        self.assertIn("resumeProducing", self.transport.said)

    def test_promise_p12_no_answers_taken(self) -> None:
        """Nothing more is done for a peer that does not take its answers."""
        self.connection.pauseProducing()
        self.connection.dataReceived(encode_frame(1, b"x"))
        self.turn()
        self.assertEqual(self.connection.frames, [])
        self.connection.resumeProducing()
        self.turn()
        self.assertEqual(len(self.connection.frames), 1)

    def test_giant_frame(self) -> None:
        """A length beyond the bound ends the connection before anything is waited for."""
        self.connection.dataReceived(b"\xff\xff\xff\xff")
        self.turn()
        self.assertIsInstance(self.connection.errors[0], FrameTooLong)
        self.assertIn("loseConnection", self.transport.said)

    def test_a_large_frame_is_read_whole(self) -> None:
        """Reading does not stop in the middle of a frame that is within the bound."""
        frame = encode_frame(2, bytes(APPEND_FRAME_LIMIT - 1))
        for at in range(0, len(frame), 65536):
            self.connection.dataReceived(frame[at : at + 65536])
            self.turn()
        self.assertEqual(len(self.connection.frames), 1)

    def test_keepalive_and_silence(self) -> None:
        """The server shows signs of life, and cuts a peer that shows none."""
        for _ in range(2):
            self.clock.advance(KEEPALIVE_S)
        self.assertEqual(self.transport.written, Keepalive().encode() * 2)
        for _ in range(4):
            self.clock.advance(KEEPALIVE_S)
        self.assertIn("abortConnection", self.transport.said)

    def test_close_is_bounded(self) -> None:
        """A peer that does not take the last words is cut after a while."""
        self.connection.close()
        self.assertIn("loseConnection", self.transport.said)
        self.clock.advance(CLOSE_GRACE_S)
        self.assertIn("abortConnection", self.transport.said)

    def test_nothing_after_the_end(self) -> None:
        """A lost connection lets go of everything and takes no more."""
        self.connection.connectionLost()
        self.assertTrue(self.connection.lost)
        self.connection.dataReceived(encode_frame(1, b"x"))
        self.turn()
        self.assertEqual(self.connection.frames, [])
        self.assertEqual(self.clock.getDelayedCalls(), [])
