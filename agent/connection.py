"""The run's connection to the append port: takes requests from the run, sees each answered, whatever the network does.

Promises: a request is sent again on the next connection until its answer has come, in the order in which it was made;
while there is nothing else to say, a sign of life goes out; the server's pace and this machine's limit are kept;
nothing is tried for longer than ``patience`` without an answer coming. Threads: one that connects and sends, one that
receives. The run's own thread only puts requests in and takes events out.
"""

import random
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mastodon.host.socket_tls import ConnectError, ConnectionLost, TLSStream
from mastodon.sealed.record import record_hash
from mastodon.wire.append_client import AppendClient, Effect, Heard, Introduction, Over, Ready, Send
from mastodon.wire.errors import ErrorCode, OutOfTurn, RemoteError
from mastodon.wire.messages import (
    PIECE_LIMIT,
    Ack,
    Answer,
    Committed,
    Error,
    Finish,
    Message,
    Missing,
    NewPair,
    NewSnapshot,
    Offer,
    Pace,
    PackEnd,
    Piece,
    Progress,
    Wanted,
)
from mastodon_agent.outstanding import Outstanding, Request, Subject
from mastodon_agent.pace import Throttle, unlimited
from mastodon_agent.packing import SealedPack
from mastodon_agent.refusals import NoConnection, ServerRefused, final, given_up
from mastodon_agent.session import Durable, Offended, SessionEvent, SnapshotRefused, Wants

KEEPALIVE_S = 15.0
SILENCE_S = 45.0
FINISH_S = 10.0
FIRST_WAIT_S, LONGEST_WAIT_S = 1.0, 60.0


@dataclass(frozen=True, slots=True)
class Patience:
    """How long to go on without an answer, at the start and later; ``random`` spreads a fleet's attempts."""

    start_s: float = 120.0
    later_s: float = 1800.0
    random: Callable[[], float] = random.random


class Connection:
    """A session over the network (session.py).

    ``connect`` opens a TLS stream; ``clock`` gives seconds, ``limit`` the bytes a second that may be sent (0: any).
    """

    def __init__(
        self, connect: Callable[[], TLSStream], introduction: Introduction, patience: Patience,
        clock: Callable[[], float], said: Callable[[str], None], limit: Callable[[], int] = unlimited,
    ) -> None:  # fmt: skip
        self._connect = connect
        self._introduction = introduction
        self._patience = patience
        self._clock = clock
        self._said = said
        self._changed = threading.Condition()
        self._requests = Outstanding(clock)
        self._events: deque[SessionEvent] = deque()
        self._failure: Exception | None = None
        self._answer: Answer | None = None
        self._hellos = 0
        self._committed: Committed | Missing | SnapshotRefused | None = None
        self._finish: Finish | None = None
        self._is_finishing = False
        self._closing = False
        self._lost = True
        self._reason = ""
        self._client: AppendClient | None = None
        self._stream: TLSStream | None = None
        self._moved_at = clock()
        """When the server last took something from us."""
        self._said_at = clock()
        self._retry_after = 0.0
        self._progress = (0, 0)
        self._throttle = Throttle(clock, limit)
        self._thread = threading.Thread(target=self._live, name="connection", daemon=True)

    # What the run calls

    def start(self) -> None:
        """Begin to connect, and come back at once."""
        if self._thread.ident is None:
            self._thread.start()

    def open(self) -> Answer:
        """Connect and introduce; the server's answer. Raises NoConnection, ServerRefused."""
        self.start()
        with self._changed:
            self._wait_for(lambda: self._answer is not None)
        return self.answer

    @property
    def answer(self) -> Answer:
        """The newest answer to HELLO."""
        answer = self._answer
        if answer is None:
            raise NoConnection("not connected")
        return answer

    def add_pair(self, record: bytes, envelope: bytes) -> None:
        """Store a pair; returns when it is durable."""
        request = self._ask(record_hash(record), NewPair(record, envelope))
        with self._changed:
            self._wait_for(lambda: request not in self._requests)

    def offer(self, number: int, ids: Sequence[bytes]) -> None:
        """Ask which blobs are wanted."""
        self._ask(number, Offer(number, b"".join(ids)))

    def send_pack(self, pack: SealedPack) -> None:
        """Have a pack sent."""
        self._ask(pack.id, pack)

    def events(self, wait: bool) -> list[SessionEvent]:
        """What has come; with ``wait``, at least one event. What came before a failure is given before it is raised."""
        with self._changed:
            if wait:
                self._wait_for(lambda: bool(self._events))
            elif not self._events:
                self._demand_health()
            events = list(self._events)
            self._events.clear()
        return events

    def commit(self, record: bytes) -> Committed | Missing:
        """Commit a snapshot record. Raises SnapshotRefused."""
        request = self._ask(record_hash(record), NewSnapshot(record))
        with self._changed:
            self._wait_for(lambda: request not in self._requests)
            word = self._committed
        if isinstance(word, Committed | Missing):
            return word
        raise word or SnapshotRefused("no answer")

    def refresh(self) -> Answer:
        """Check in again on a new connection."""
        with self._changed:
            before = self._hellos
            self._cut()
            self._wait_for(lambda: self._hellos > before)
        return self.answer

    def progress(self, files: int, content_bytes: int) -> None:
        """What the next sign of life says."""
        self._progress = (files, content_bytes)

    def close(self, finish: Finish | None = None) -> None:
        """Say how the run ended, if the server still listens, and let go."""
        with self._changed:
            if finish is not None and self._failure is None and not self._lost:
                self._finish = finish
                self._is_finishing = True
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._lost or self._failure is not None, FINISH_S)
            self._closing = True
            self._cut()
            self._changed.notify_all()
        if self._thread.ident is not None:
            self._thread.join(FINISH_S)

    def _ask(self, key: bytes | int, subject: Subject) -> Request:
        with self._changed:
            self._demand_health()
            request = self._requests.ask(key, subject)
            self._changed.notify_all()
        return request

    def _wait_for(self, condition: Callable[[], bool]) -> None:
        """With the lock held: until it is so, or the connection has failed for good."""
        while not condition():
            self._demand_health()
            self._changed.wait()

    def _demand_health(self) -> None:
        if self._failure is not None:
            raise self._failure

    # The thread that connects and sends

    def _live(self) -> None:
        wait = FIRST_WAIT_S
        while not self._is_over():
            error = self._one_connection()
            patience = self._how_patient()
            if self._hellos and self._clock() - self._requests.good_at < wait:
                wait = FIRST_WAIT_S
            pause = max(wait, self._retry_after) * (0.75 + self._patience.random() / 2)
            self._retry_after = 0.0
            if not self._is_over() and self._clock() + pause - self._requests.good_at > patience:
                self._fail(given_up(patience, error, answered=self._hellos > 0))
            if self._is_over():
                return
            self._said(f"{error}; trying again in {pause:.0f} s")
            wait = min(2 * wait, LONGEST_WAIT_S)
            with self._changed:
                self._changed.wait_for(lambda: self._closing, pause)

    def _how_patient(self) -> float:
        return self._patience.later_s if self._answer is not None else self._patience.start_s

    def _time_left(self) -> float:
        """With the lock held: seconds until what is asked for should have been answered, or at least taken."""
        return max(self._requests.good_at, self._moved_at) + self._how_patient() - self._clock()

    def _is_over(self) -> bool:
        return self._closing or self._is_finishing or self._failure is not None

    def _one_connection(self) -> str:
        """Connect, and send until the connection is lost; why it was."""
        try:
            stream = self._connect()
        except ConnectError as error:
            if error.gravity > 1:
                self._fail(NoConnection(str(error)))
            return str(error)
        stream.settimeout(SILENCE_S)
        with self._changed:
            self._stream, self._client, self._lost = stream, AppendClient(self._introduction, stream.server_pin), False
        self._reason = ""
        hellos, self._moved_at = self._hellos, self._clock()
        receiver = threading.Thread(target=self._receive, args=(stream, self._client), name="receiver", daemon=True)
        receiver.start()
        try:
            self._send(stream, self._client, hellos)
        except (ConnectionLost, OutOfTurn) as error:
            self._because(str(error))
        with self._changed:
            self._cut()
            if self._hellos > hellos and not self._requests:
                self._requests.all_is_well()
        receiver.join()
        stream.close()
        return self._reason or "the connection was closed"

    def _because(self, text: str) -> None:
        """Why this connection ends: the first reason counts, the others follow from it."""
        self._reason = self._reason or text

    def _send(self, stream: TLSStream, client: AppendClient, hellos: int) -> None:
        """Send what is asked for, once HELLO was answered: for the first time after ``hellos`` answers.

        They were counted before the receiver began, which may hear the answer before this thread gets to run.
        """
        self._said_at = self._clock()
        while True:
            with self._changed:
                ready = self._hellos > hellos
                due = self._said_at + KEEPALIVE_S - self._clock()
                request = self._requests.next_unsent() if ready else None
                finish = self._finish if ready else None
                if self._lost or self._closing:
                    return
                left = self._time_left() if self._requests or not ready else KEEPALIVE_S
                if left <= 0:
                    raise ConnectionLost("the server answers nothing")
                if request is None and finish is None and not (ready and due <= 0):
                    self._changed.wait(max(0.05, min(left, due if ready else KEEPALIVE_S)))
                    continue
                if request is not None:
                    request.is_sent = True
            if request is not None:
                self._send_request(stream, client, request.subject)
            elif finish is not None:
                self._finish = None
                self._say(stream, client, finish)
            else:
                self._say(stream, client, Progress(*self._progress))

    def _send_request(self, stream: TLSStream, client: AppendClient, subject: Subject) -> None:
        if not isinstance(subject, SealedPack):
            self._keep_pace(stream, client, self._say(stream, client, subject))
            return
        for part in subject.parts:
            at = 0
            while at < len(part):
                length = self._throttle.slice(PIECE_LIMIT)
                piece = part if len(part) <= length else part[at : at + length]
                if self._lost:
                    return
                self._say(stream, client, Piece(piece))
                self._moved_at = self._clock()
                self._keep_pace(stream, client, len(piece))
                at += len(piece)
        self._say(stream, client, PackEnd(subject.id))

    def _say(self, stream: TLSStream, client: AppendClient, message: Message) -> int:
        """Send a message; its length."""
        with self._changed:
            data = client.say(message)
        stream.send(data)
        self._said_at = self._clock()
        return len(data)

    def _keep_pace(self, stream: TLSStream, client: AppendClient, length: int) -> None:
        """After so many bytes, send nothing but signs of life for as long as it takes."""
        pause = self._throttle.spend(length)
        while pause > 0:
            due = self._said_at + KEEPALIVE_S - self._clock()
            if due <= 0:
                self._say(stream, client, Progress(*self._progress))
                continue
            with self._changed:
                self._changed.wait_for(lambda: self._lost or self._closing, min(pause, due, self._time_left()))
                if self._lost or self._closing:
                    raise ConnectionLost(self._reason)
                if self._time_left() <= 0:
                    raise ConnectionLost("the server slows everything down to nothing")
            pause = self._throttle.spend(0)

    # The thread that receives

    def _receive(self, stream: TLSStream, client: AppendClient) -> None:
        try:
            while data := stream.receive():
                with self._changed:
                    effects = client.receive(data)
                for effect in effects:
                    self._take(effect, stream)
                if any(isinstance(effect, Over) for effect in effects):
                    break
        except ConnectionLost as error:
            self._because(str(error))
        finally:
            with self._changed:
                self._cut()
                self._changed.notify_all()

    def _take(self, effect: Effect, stream: TLSStream) -> None:
        if isinstance(effect, Send):
            stream.send(effect.data)
        elif isinstance(effect, Over):
            if effect.reason is not None:
                self._refused(effect.reason)
        else:
            with self._changed:
                if isinstance(effect, Ready):
                    self._enter(effect.answer)
                elif isinstance(effect, Heard):
                    self._hear(effect.message)
                self._changed.notify_all()

    def _enter(self, answer: Answer) -> None:
        if self._answer is None:
            self._requests.all_is_well()
        self._answer = answer
        self._hellos += 1
        self._throttle.set_rate(answer.pace)
        self._requests.say_all_again()

    def _hear(self, message: Message) -> None:
        if isinstance(message, Wanted):
            offer = self._requests.answered(message.number)
            if isinstance(offer, Offer):
                self._events.append(Wants(message.number, _bits(message.bitmap, len(offer.ids) // 32)))
        elif isinstance(message, Ack):
            if isinstance(self._requests.answered(message.id), SealedPack):
                self._events.append(Durable(message.id))
        elif isinstance(message, Committed | Missing):
            self._settle_commit(message)
        elif isinstance(message, Error):
            self._refused(message.to_exception())
        elif isinstance(message, Pace):
            self._throttle.set_rate(message.bytes_per_second)

    def _settle_commit(self, word: Committed | Missing | SnapshotRefused) -> None:
        if self._requests.settle_snapshot():
            self._committed = word

    # What is refused

    def _refused(self, reason: Exception) -> None:
        if not isinstance(reason, RemoteError):
            self._fail(ServerRefused(f"the server broke the protocol: {reason}"))
            return
        if reason.code is ErrorCode.PACK_REFUSED and reason.context and self._offend(reason.context):
            return
        if reason.code is ErrorCode.SNAPSHOT_REFUSED:
            with self._changed:
                self._settle_commit(SnapshotRefused(reason.text))
            return
        if reason.retryable or reason.code is ErrorCode.BUSY:
            with self._changed:
                self._retry_after = float(min(reason.retry_after_s, int(LONGEST_WAIT_S)))
                self._because(f"the server says: {reason.text}")
                self._cut()
            return
        self._fail(final(reason))

    def _offend(self, ids: Sequence[bytes]) -> bool:
        """The pack that was refused for these blobs, if it is one of ours."""
        with self._changed:
            pack = self._requests.refused(ids)
            if pack is not None:
                self._events.append(Offended(pack.id, tuple(ids)))
        return pack is not None

    def _fail(self, failure: Exception) -> None:
        with self._changed:
            self._failure = self._failure or failure
            self._cut()
            self._changed.notify_all()

    def _cut(self) -> None:
        """With the lock held: this connection is over."""
        self._lost = True
        if self._stream is not None:
            self._stream.abort()
        self._changed.notify_all()


def _bits(bitmap: bytes, count: int) -> tuple[bool, ...]:
    """Which of an offer's ids are wanted; what a short bitmap does not cover is."""
    bits = (bool(bitmap[n // 8] & 0x80 >> n % 8) if n // 8 < len(bitmap) else True for n in range(count))
    return tuple(bits)
