"""One agent's connection, the append port's edge: carries bytes, runs the session's effects, decides nothing."""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred, DeferredList, maybeDeferred, succeed
from twisted.internet.interfaces import IDelayedCall
from twisted.python.failure import Failure

from mastodon.catalogue.interface import Account, Standing
from mastodon.daemon.commits import CommitResult
from mastodon.daemon.connection import FramedConnection
from mastodon.daemon.errors import PackRefused, Refused
from mastodon.daemon.events import APPEND_EVENTS
from mastodon.daemon.machine_states import FINAL
from mastodon.daemon.pack_receiver import PackReceiver
from mastodon.daemon.rates import Allowance
from mastodon.sealed.ledger_entries import MachineState
from mastodon.sealed.record import record_hash
from mastodon.wire import append_server
from mastodon.wire.append_server import UNKNOWN, AppendSession, LookUp, Open, Perform, TooOld
from mastodon.wire.effects import Close, SecurityEvent, Send
from mastodon.wire.errors import ErrorCode, WireError
from mastodon.wire.fair import Kind
from mastodon.wire.frame import APPEND_FRAME_LIMIT, HEAD_SIZE, HELLO_FRAME_LIMIT, LENGTH
from mastodon.wire.messages import (
    MISSING_LIMIT,
    Answer,
    Committed,
    Finish,
    Hello,
    Message,
    Missing,
    NewPair,
    NewSnapshot,
    Offer,
    PackEnd,
    Piece,
    Progress,
    decode_client,
    make_error,
)

if TYPE_CHECKING:
    from mastodon.daemon.append_port import AppendPort

BYTES_OUTSTANDING = 1024 * 1024
"""Bytes of a connection's pieces that may wait for the disk before no more frames are taken."""
JOBS_OUTSTANDING = 32
OFFERS_OUTSTANDING = 4
"""Each may make the catalogue look thousands of ids up, and all machines' look-ups stand in one line."""
PIECE = bytes((Piece.KIND, Piece.PART))
HELLO_S = 20.0
DISABLED = "this machine is disabled: nothing is taken from it until its admin, or the operator, enables it again"
PROGRESS_LOGGED_S = 60.0


class AppendConnection(FramedConnection):
    """One agent's connection."""

    kind = Kind.APPEND

    def __init__(self, port: "AppendPort", nonce: bytes) -> None:
        super().__init__(port.scheduler, port.clock, HELLO_FRAME_LIMIT, port.silence_s)
        self._port = port
        self._store = port.store
        self._session = AppendSession(nonce, port.server_pin)
        self._is_disabled = False
        self._epoch = 0
        self.run_nonce = b""
        self._machine = b""
        self._allowance: Allowance | None = None
        self._pace = 0
        self._look_again: IDelayedCall | None = None
        self._receiver: PackReceiver | None = None
        self._bytes = 0
        self._offers = 0
        self._progress_logged = 0.0
        self._jobs: set[Deferred[Any]] = set()
        self._pairs: Deferred[Any] = succeed(None)
        self._hello_timer: IDelayedCall | None = None

    def connectionMade(self) -> None:
        """The handshake is done: greet."""
        super().connectionMade()
        self._hello_timer = self.clock.callLater(HELLO_S, self._expect_hello)
        self._run_effects(self._session.greet())

    def frame(self, kind: int, payload: bytes) -> None:
        """One frame from the agent."""
        if self._allowance is not None:
            size = len(payload) + HEAD_SIZE
            self._allowance.take(size, kind == Piece.KIND and payload[:1] == PIECE[1:])
            self._port.total.take(size)
        self._run_effects(self._session.receive(decode_client(kind, payload)))

    def is_raw(self, head: bytes) -> bool:
        """Pieces of packs are."""
        return head[LENGTH.size :] == PIECE

    def broken(self, error: WireError) -> None:
        """The agent broke the protocol."""
        self._run_effects(self._session.broken(error))

    def ready_for_frames(self) -> bool:
        """Whether there is room for more work."""
        if self._session.state is append_server.State.AUTHENTICATING:
            return False
        room = self._bytes < BYTES_OUTSTANDING and len(self._jobs) < JOBS_OUTSTANDING
        return room and self._offers < OFFERS_OUTSTANDING and not self._beyond_its_cap()

    def _beyond_its_cap(self) -> bool:
        """Whether the machine has to wait; then it is asked again in time."""
        wait = self._allowance.wait() if self._allowance is not None else 0.0
        if wait and (self._look_again is None or not self._look_again.active()):
            self._look_again = self.clock.callLater(wait, self.woken)
        return wait > 0

    def cap_changed(self) -> None:
        """The operator set a cap."""
        pace = self._store.rates.pace(self._machine)
        if self._machine and pace != self._pace:
            self._pace = pace
            self._run_effects(self._session.paced(pace))
        self.woken()

    def dismissed(self) -> None:
        """Told to close: another session may begin, and this connection makes room when room is needed."""
        self._port.admission.dismiss(self)
        if self._machine:
            self._port.sessions.release(self._machine, self)

    def gone(self) -> None:
        """Let go of the session and of an unfinished pack."""
        self._port.admission.leave(self)
        if self._hello_timer is not None and self._hello_timer.active():
            self._hello_timer.cancel()
        if self._look_again is not None and self._look_again.active():
            self._look_again.cancel()
        if self._machine:
            self._port.sessions.release(self._machine, self)
        if self._receiver is not None:
            self._receiver.abandon()
            self._receiver = None

    def displaced(self) -> None:
        """A newer session of this machine took over."""
        self._end(ErrorCode.DISPLACED, "a newer session of this machine took over")

    def state_set(self, machine: bytes, state: MachineState) -> None:
        """This machine may append no more, from now on."""
        if machine == self._machine:
            self._turn_away(machine, state)

    def shut_down(self) -> None:
        """The daemon stops: what was acknowledged is safe, the agent comes back later."""
        self._end(ErrorCode.UNAVAILABLE, "the server is shutting down: try again in a minute")

    def _end(self, code: ErrorCode, text: str) -> None:
        self._run_effects(self._session.turned_away(code, text))

    def _expect_hello(self) -> None:
        if not self._machine:
            self._end(ErrorCode.TIMEOUT, f"no HELLO within {HELLO_S:.0f} s")

    def _run_effects(self, effects: list[append_server.Effect]) -> None:
        for effect in effects:
            match effect:
                case Send(message):
                    self.send(message)
                case LookUp(machine):
                    self._job(partial(self._store.standing, machine), self._looked_up)
                case Open(hello):
                    self._open(hello)
                case TooOld(hello):
                    self._port.heard.too_old(hello)
                case Perform(message):
                    self._perform(message)
                case SecurityEvent(code, text):
                    self._port.lines.warn(
                        self.host, "append port: security event from {peer}: {text}", peer=self.peer, text=text
                    )
                    self._store.record(APPEND_EVENTS[code], machine=self._machine, detail=f"{self.peer}: {text}")
                    if code is ErrorCode.NOT_AUTHENTICATED:
                        self._port.heard.refused("append port", self.host)
                case Close():
                    self.close()

    # Authentication

    def _looked_up(self, standing: Standing | None) -> None:
        self._is_disabled = standing is not None and standing.state is MachineState.DISABLED
        ended = standing is None or standing.state in FINAL
        self._run_effects(self._session.known(None if ended or standing is None else standing.public_key))

    def _open(self, hello: Hello) -> None:
        machine = hello.machine
        if self.over:
            return  # it left while it was looked up
        if self._is_disabled:
            self._turn_away(machine, MachineState.DISABLED)
            return
        self.run_nonce = hello.run_nonce
        if not self._port.sessions.claim(machine, self, self.clock.seconds()):
            self._end(ErrorCode.BUSY, "another session of this machine is alive: is another run going on?")
            return
        self._machine = machine
        if not self._port.admission.prove(self, machine):
            self._end(ErrorCode.UNAVAILABLE, "the server has as many connections as it takes: try again in a minute")
            return
        self._epoch = self._store.machine_session(machine)
        self._port.heard.checked_in(hello)
        self._allowance = self._port.allowance(machine)
        self.belong_to(machine)
        self.raise_limit(APPEND_FRAME_LIMIT)
        # The head is read again under the new epoch: the session before may just have committed.
        self._job(lambda: self._store.account(machine), lambda fresh: self._answer(fresh, hello))

    def _turn_away(self, machine: bytes, state: MachineState) -> None:
        """Said to the machine itself only: whoever cannot prove to be it hears what strangers hear."""
        self._port.lines.info(
            machine.hex(), "machine {machine}: {state}, turned away", machine=machine.hex(), state=state.name.lower()
        )
        if state is MachineState.DISABLED:
            self._end(ErrorCode.DISABLED, DISABLED)
        else:
            self._end(ErrorCode.NOT_AUTHENTICATED, UNKNOWN)

    def _answer(self, account: Account | None, hello: Hello) -> None:
        if account is None:
            self._end(ErrorCode.NOT_AUTHENTICATED, UNKNOWN)
            return
        if account.state is not MachineState.ACTIVE:  # since a moment
            self._turn_away(account.machine, account.state)
            return
        self._port.lines.info(
            self._machine.hex(), "append port: machine {machine} checked in from {peer}, agent {version}",
            machine=account.machine.hex(), peer=self.peer, version=hello.agent_version,
        )  # fmt: skip
        self._pace = self._store.rates.pace(self._machine)
        answer = Answer(
            self._store.now_ns(), self._epoch, self._pace, account.head_sequence, account.head_hash, account.pair,
            account.stored_blobs, (), self._store.signed_head(),
        )  # fmt: skip
        self._run_effects(self._session.opened(answer))

    # Work

    def _perform(self, message: Message) -> None:
        match message:
            case Piece():
                self._take_piece(message.data)
            case PackEnd():
                self._end_pack(message.pack)
            case Offer():
                self._answer_offer(message)
            case NewPair():
                self._add_pair(message)
            case NewSnapshot():
                self._commit(message)
            case Progress():
                self._log_progress(message)
            case Finish():
                self._finish(message)

    def _log_progress(self, progress: Progress) -> None:
        now = self.clock.seconds()
        if now - self._progress_logged >= PROGRESS_LOGGED_S:
            self._progress_logged = now
            self.log.debug(
                "machine {machine}: {files} files, {bytes} bytes so far",
                machine=self._machine.hex(), files=progress.files, bytes=progress.content_bytes,
            )  # fmt: skip

    def _take_piece(self, data: bytes | memoryview) -> None:
        if self._receiver is None:
            try:
                self._receiver = self._store.begin_pack(self._machine, self._epoch)
            except Refused as refused:
                self._end(refused.code, refused.text)
                return
        self._bytes += len(data)

        def written(_: Any) -> None:
            self._bytes -= len(data)
            self.woken()

        # A failed write makes the receiver fail for good: finish() says so, with the pack's id.
        self._receiver.write(data).addBoth(written)

    def _end_pack(self, pack: bytes) -> None:
        receiver, self._receiver = self._receiver, None
        assert receiver is not None  # the session takes a PACK END only after a PIECE
        self._job(
            lambda: self._after_pairs(lambda: receiver.finish(pack)),
            lambda _: self._run_effects(self._session.durable(pack)),
            (pack,),
        )

    def _answer_offer(self, offer: Offer) -> None:
        ids = [offer.ids[at : at + 32] for at in range(0, len(offer.ids), 32)]
        self._offers += 1

        def over(result: Any) -> Any:
            self._offers -= 1
            return result

        self._job(
            lambda: self._after_pairs(lambda: self._store.stored(self._machine, ids)).addBoth(over),
            lambda stored: self._run_effects(self._session.wanted(offer.number, offer.ids, stored)),
        )

    def _add_pair(self, pair: NewPair) -> None:
        name = record_hash(pair.record)
        waiting: Deferred[Any] = Deferred()
        before, self._pairs = self._pairs, waiting

        def done(result: Any) -> Any:
            waiting.callback(None)
            return result

        def start(_: Any) -> Deferred[bytes]:
            return self._store.add_pair(self._machine, pair.record, pair.envelope, self._epoch)

        self._job(
            lambda: self._branch(before).addCallback(start).addBoth(done),
            lambda _: self._run_effects(self._session.durable(name)),
            (name,),
        )

    def _commit(self, snapshot: NewSnapshot) -> None:
        earlier = DeferredList(list(self._jobs), consumeErrors=False)
        self._job(
            lambda: earlier.addCallback(lambda _: self._store.commit(self._machine, snapshot.record, self._epoch)),
            self._committed,
            (record_hash(snapshot.record),),
        )

    def _committed(self, result: CommitResult) -> None:
        if result.missing:
            ids = b"".join(result.missing[:MISSING_LIMIT])
            self._run_effects(self._session.missing(Missing(ids, result.more)))
            return
        self._port.lines.info(
            self._machine.hex(), "machine {machine}: snapshot {hash} committed, {status}",
            machine=self._machine.hex(), hash=result.hash.hex(), status=result.status.name.lower(),
        )  # fmt: skip
        self._run_effects(self._session.committed(Committed(result.hash, result.time_ns, result.status)))

    def _finish(self, finish: Finish) -> None:
        earlier = DeferredList(list(self._jobs), consumeErrors=False)
        machine = self._machine.hex()
        self._port.lines.info(
            machine, "machine {machine}: run over, exit {code}", machine=machine, code=finish.exit_code
        )
        earlier.addCallback(lambda _: self._run_effects(self._session.finished()))
        earlier.addCallback(lambda _: self._store.run_over(self._machine, finish.exit_code, finish.text))

    # Jobs: asynchronous work whose outcome becomes effects

    def _job(self, start: Callable[[], Any], done: Callable[[Any], None], about: tuple[bytes, ...] = ()) -> None:
        finished: Deferred[None] = Deferred()
        self._jobs.add(finished)

        def end(result: Any) -> None:
            if isinstance(result, Failure):
                self.log.failure("append port: internal error", result)
                self.cut()
            self._jobs.discard(finished)
            finished.callback(None)
            self.woken()

        work = maybeDeferred(start)
        work.addCallback(done)
        work.addErrback(self._failed, about)
        work.addBoth(end)

    def _failed(self, failure: Failure, about: tuple[bytes, ...]) -> None:
        refused = failure.value
        if isinstance(refused, Refused):
            self._log_refusal(refused)
            context = about + (refused.context if isinstance(refused, PackRefused) else ())
            error = make_error(refused.code, refused.text[:1000], context[:1024])
        else:
            self.log.failure("append port: internal error", failure)
            error = make_error(ErrorCode.INTERNAL, "the server failed: its log says why", about)
        if self._session.state is append_server.State.AUTHENTICATING:
            self._end(error.code, error.text)
        else:
            self._run_effects(self._session.refused(error))

    def _log_refusal(self, refused: Refused) -> None:
        self._port.lines.warn(
            self._machine.hex() or self.host, "machine {machine}: {code}: {text}",
            machine=self._machine.hex(), code=refused.code.name, text=refused.text,
        )  # fmt: skip

    def _after_pairs(self, start: Callable[[], Any]) -> Any:
        return self._branch(self._pairs).addCallback(lambda _: start())

    @staticmethod
    def _branch(source: Deferred[Any]) -> Deferred[Any]:
        """A Deferred of its own that fires when ``source`` does."""
        branch: Deferred[Any] = Deferred()

        def fire(result: Any) -> Any:
            branch.callback(None)
            return result

        source.addBoth(fire)
        return branch
