"""What both ports' connections have in common: bytes in, frames in turn, bounded memory, signs of life.

A connection takes bytes off the socket up to READ_AHEAD, or up to one small frame while nobody knows whose they are,
and then stops reading, so that TCP holds the peer back; it hands out frames only when the scheduler gives it its turn,
and none while work of its own is outstanding beyond its bound. From a peer that does not take its answers nothing is
read either: what TLS itself answers (to a flood of key updates) must not pile up.
"""

from collections.abc import Hashable, Sequence
from typing import Protocol as Interface

from twisted.internet.interfaces import IDelayedCall, IPushProducer, IReactorTime, ITransport
from twisted.internet.protocol import Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from mastodon.daemon.scheduling import UNAUTHENTICATED, Scheduler
from mastodon.wire.errors import WireError
from mastodon.wire.fair import QUANTUM, Kind
from mastodon.wire.frame import LENGTH, FrameReader
from mastodon.wire.messages import Keepalive, Message

READ_AHEAD = 1024 * 1024
KEEPALIVE_S = 15.0
CLOSE_GRACE_S = 10.0
FRAME_COST = 16 * 1024
"""Added to each frame's size: what it costs to decode and answer, in the time that so many bytes take. Without it a
million tiny frames were one turn's work."""
BYTE_COST = 8
"""Of each byte of a frame that is not just written to the disk: ids, above all, that are looked up one by one."""
KEEPALIVE = Keepalive().encode()


class Transport(Interface):
    """What a connection needs of its TLS transport."""

    def write(self, data: bytes) -> None: ...
    def loseConnection(self) -> None: ...
    def abortConnection(self) -> None: ...
    def pauseProducing(self) -> None: ...
    def resumeProducing(self) -> None: ...
    def registerProducer(self, producer: object, streaming: bool) -> None: ...
    def unregisterProducer(self) -> None: ...


@implementer(IPushProducer)
class FramedConnection(Protocol):
    """Base of the two ports' protocols; made when the TLS handshake is done."""

    log = Logger()
    transport: Transport  # type: ignore[assignment]
    kind = Kind.APPEND

    def __init__(self, scheduler: Scheduler, clock: IReactorTime, frame_limit: int, silence_s: float) -> None:
        self.scheduler = scheduler
        self.clock = clock
        self.last_heard = clock.seconds()
        self.host = self.peer = ""
        self._reader = FrameReader(frame_limit)
        self._silence_s = silence_s
        self._reading = True
        self._peer_reads = True
        self._over = False
        self._timer: IDelayedCall | None = None

    # What a subclass says

    def frame(self, kind: int, payload: bytes) -> None:
        """One frame, in its turn."""
        raise NotImplementedError

    def broken(self, error: WireError) -> None:
        """The peer broke the protocol."""
        raise NotImplementedError

    def is_raw(self, head: bytes) -> bool:
        """Whether the frame that begins so holds bytes that are only passed on."""
        return False

    def ready_for_frames(self) -> bool:
        """False while work of this connection is outstanding beyond its bound."""
        raise NotImplementedError

    def waits_for_us(self) -> bool:
        """Whether the peer is silent because an answer is due to it."""
        return False

    def dismissed(self) -> None:
        """The connection was told to close, and lingers until it is gone."""

    def gone(self) -> None:
        """The connection is gone: let go of everything."""
        raise NotImplementedError

    # From Twisted

    def connectionMade(self) -> None:
        """The handshake is done."""
        peer = self.transport.getPeer()  # type: ignore[attr-defined]
        self.host, self.peer = peer.host, f"{peer.host}:{peer.port}"
        self.transport.registerProducer(self, True)
        self.scheduler.add(UNAUTHENTICATED, Kind.CONTROL, self)
        self._timer = self.clock.callLater(KEEPALIVE_S, self._tick)

    def dataReceived(self, data: bytes) -> None:
        """Bytes from the peer."""
        self.recordsReceived((data,))

    def recordsReceived(self, records: Sequence[bytes]) -> None:
        """The same, as TLS cut it."""
        if self._over:
            return
        self.last_heard = self.clock.seconds()
        for data in records:
            self._reader.receive(data)
        self._read_or_not()
        if self.next_cost() is not None:
            self.scheduler.wake(self)

    def pauseProducing(self) -> None:
        """The peer does not take what we send."""
        self._peer_reads = False
        self._read_or_not()

    def resumeProducing(self) -> None:
        """It does again, which is a sign of life."""
        self._peer_reads = True
        self.last_heard = self.clock.seconds()
        self._read_or_not()
        self.scheduler.wake(self)

    def stopProducing(self) -> None:
        """The transport is going away."""
        self._over = True

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The connection is gone."""
        self._over = True
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self.scheduler.remove(self)
        self.gone()

    # For the scheduler

    def next_cost(self) -> int | None:
        """The size of the next frame, when it may be taken."""
        if self._over or not self._peer_reads or not self.ready_for_frames():
            return None
        try:
            size = self._reader.next_frame_size()
        except WireError:
            return 1
        if size is None:
            return None
        each = 1 if self.is_raw(self._reader.next_head()) else BYTE_COST
        return min(FRAME_COST + each * size, QUANTUM)

    def run(self) -> None:
        """Take one frame. What goes wrong in it ends this connection, and nobody else's turn."""
        try:
            frame = self._reader.next_frame()
            if frame is not None:
                self.frame(*frame)
        except WireError as error:
            self.broken(error)
        except Exception:
            self.log.failure("internal error while serving {peer}", peer=self.peer)
            self.cut()
        self._read_or_not()

    # For the subclass

    @property
    def over(self) -> bool:
        """Whether nothing more is to be done for this connection."""
        return self._over

    @property
    def peer_reads(self) -> bool:
        """Whether the peer takes what is sent to it."""
        return self._peer_reads

    def belong_to(self, unit: Hashable) -> None:
        """The peer has proven who it is: its work counts as this unit's from now on."""
        self.scheduler.move(unit, self.kind, self)

    def raise_limit(self, frame_limit: int) -> None:
        """The peer is known: it may send larger frames from now on."""
        self._reader.limit = frame_limit
        self._read_or_not()
        self.woken()

    def send(self, message: Message) -> None:
        """Send a message, unless the connection is over."""
        if not self._over:
            self.transport.write(message.encode())

    def close(self) -> None:
        """Send what is left, then close; cut when the peer does not take it."""
        if self._over:
            return
        self._over = True
        self.transport.unregisterProducer()
        self.transport.loseConnection()
        if not self._reading and self._peer_reads:
            self.transport.resumeProducing()  # else the peer's own closing would not be seen
        if self._timer is not None and self._timer.active():
            self._timer.reset(CLOSE_GRACE_S)
        self.dismissed()

    def cut(self) -> None:
        """End at once, without a last word."""
        self._over = True
        self.transport.abortConnection()

    def woken(self) -> None:
        """Outstanding work is done: there may be room for the next frame."""
        if not self._over:
            self.scheduler.wake(self)

    def _has_frame(self) -> bool:
        try:
            return self._reader.next_frame_size() is not None
        except WireError:
            return True

    def _full(self) -> bool:
        buffered = self._reader.buffered
        # Past a whole frame's bound there is a frame, or an error, and no need to look: the limit may still be raised.
        if buffered >= LENGTH.size + self._reader.limit:
            return True
        return buffered >= READ_AHEAD and self._has_frame()

    def _read_or_not(self) -> None:
        wanted = self._peer_reads and not self._full()
        if wanted != self._reading and not self._over:
            self._reading = wanted
            if wanted:
                self.transport.resumeProducing()
            else:
                self.transport.pauseProducing()

    def _tick(self) -> None:
        now = self.clock.seconds()
        if self._peer_reads and (not self._reading or self.waits_for_us()):
            self.last_heard = now  # it is we who hold it up
        if self._over or now - self.last_heard > self._silence_s:
            self.cut()
            return
        if self._peer_reads:
            self.transport.write(KEEPALIVE)
        self._timer = self.clock.callLater(KEEPALIVE_S, self._tick)


def transport_of(connection: FramedConnection) -> ITransport:
    """The TLS transport, as the tls module wants it."""
    return connection.transport  # type: ignore[return-value]
