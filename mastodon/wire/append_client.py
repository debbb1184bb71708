"""The agent's half of the append port: bytes in, effects out; messages in, bytes out.

protocol-spec.md §15. One object is one connection. It checks what the server says and what the agent says against two
literal tables, greets and signs, and passes the answers on; retrying and remembering belong to its owner.

CONNECTED --Greeting--> GREETED --Answer--> READY <--> IN_PACK;  READY --Finish--> FINISHING --Goodbye--> CLOSED
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from mastodon.wire.errors import ErrorCode, OutOfTurn, WireError
from mastodon.wire.frame import APPEND_FRAME_LIMIT, FrameReader
from mastodon.wire.hello import VERSION, sign_hello
from mastodon.wire.messages import (
    Ack,
    Answer,
    Committed,
    Error,
    Finish,
    Goodbye,
    Greeting,
    Hello,
    Keepalive,
    Message,
    Missing,
    NewPair,
    NewSnapshot,
    Offer,
    Pace,
    PackEnd,
    Piece,
    Progress,
    Push,
    Wanted,
    decode_server,
)


class State(Enum):
    """Where a connection stands."""

    CONNECTED = "connected"
    GREETED = "greeted"
    READY = "ready"
    IN_PACK = "in pack"
    FINISHING = "finishing"
    CLOSED = "closed"


SAYS: dict[tuple[State, type[Message]], State] = {
    (State.READY, Progress): State.READY,
    (State.READY, Offer): State.READY,
    (State.READY, NewPair): State.READY,
    (State.READY, NewSnapshot): State.READY,
    (State.READY, Piece): State.IN_PACK,
    (State.READY, Finish): State.FINISHING,
    (State.IN_PACK, Piece): State.IN_PACK,
    (State.IN_PACK, PackEnd): State.READY,
    (State.IN_PACK, Progress): State.IN_PACK,
    (State.IN_PACK, Offer): State.IN_PACK,
}
"""All that the agent may say, and when; HELLO, which the greeting calls for, is said by itself."""

_ANSWERS = (Wanted, Ack, Committed, Missing, Error, Push, Pace, Keepalive)

HEARS: dict[tuple[State, type[Message]], State] = {
    (State.CONNECTED, Greeting): State.GREETED,
    (State.CONNECTED, Error): State.CLOSED,
    (State.GREETED, Answer): State.READY,
    (State.GREETED, Keepalive): State.GREETED,
    (State.GREETED, Error): State.CLOSED,
    **{(state, kind): state for state in (State.READY, State.IN_PACK, State.FINISHING) for kind in _ANSWERS},
    (State.FINISHING, Goodbye): State.CLOSED,
}
"""All that the server may say, and when; anything else ends the connection."""

ENDING = frozenset(
    {
        ErrorCode.MALFORMED, ErrorCode.NOT_AUTHENTICATED, ErrorCode.REFUSED_VERB, ErrorCode.VERSION,
        ErrorCode.DISPLACED, ErrorCode.BUSY, ErrorCode.DISABLED,
    }
)  # fmt: skip
"""Errors after which the server closes."""


@dataclass(frozen=True, slots=True)
class Send:
    """Send these bytes."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Ready:
    """HELLO was good: the agent may speak."""

    answer: Answer


@dataclass(frozen=True, slots=True)
class Heard:
    """The server said this."""

    message: Message


@dataclass(frozen=True, slots=True)
class Over:
    """The connection is of no more use. ``reason`` is a WireError, or a RemoteError that the server gave; none after
    GOODBYE."""

    reason: Exception | None


Effect = Send | Ready | Heard | Over


@dataclass(frozen=True, slots=True)
class Introduction:
    """What HELLO says besides the signature; ``clock`` gives nanoseconds since 1970."""

    machine: bytes
    signing_key: Ed25519PrivateKey
    run_nonce: bytes
    remembered_sequence: int
    remembered_hash: bytes
    agent_version: str
    clock: Callable[[], int]
    notices: int = 0


class AppendClient:
    """One connection to an append port. ``server_pin`` is the hash of the key that the TLS handshake showed."""

    def __init__(self, introduction: Introduction, server_pin: bytes) -> None:
        self._introduction = introduction
        self._server_pin = server_pin
        self._reader = FrameReader(APPEND_FRAME_LIMIT)
        self.state = State.CONNECTED

    def receive(self, data: bytes) -> list[Effect]:
        """What follows from bytes that came. After an Over, nothing does."""
        effects: list[Effect] = []
        self._reader.receive(data)
        try:
            while self.state is not State.CLOSED:
                frame = self._reader.next_frame()
                if frame is None:
                    break
                effects += self._hear(decode_server(*frame))
        except WireError as error:
            self.state = State.CLOSED
            effects.append(Over(error))
        return effects

    def say(self, message: Message) -> bytes:
        """The bytes of a message. Raises OutOfTurn when it may not be said now."""
        following = SAYS.get((self.state, type(message)))
        if following is None:
            raise OutOfTurn(f"{type(message).__name__} while {self.state.value}")
        self.state = following
        return message.encode()

    def _hear(self, message: Message) -> list[Effect]:
        following = HEARS.get((self.state, type(message)))
        if following is None:
            raise OutOfTurn(f"the server said {type(message).__name__} while {self.state.value}")
        self.state = following
        if isinstance(message, Greeting):
            return [Send(self._hello(message).encode())]
        if isinstance(message, Answer):
            return [Ready(message)]
        if isinstance(message, Error) and message.code in ENDING:
            self.state = State.CLOSED
        if self.state is State.CLOSED:
            return [Over(message.to_exception() if isinstance(message, Error) else None)]
        return [Heard(message)]

    def _hello(self, greeting: Greeting) -> Hello:
        # To a server that is too new it says HELLO all the same: once it is proven, its admin is told.
        if greeting.newest_version < VERSION:
            raise RemoteVersion(
                f"the server speaks versions {greeting.oldest_version} to {greeting.newest_version} of the protocol, "
                f"this agent {VERSION}: the server is to be updated first"
            )
        me = self._introduction
        signature = sign_hello(me.signing_key, greeting.nonce, self._server_pin, me.machine, VERSION)
        return Hello(
            VERSION, me.machine, signature, me.run_nonce, me.remembered_sequence, me.remembered_hash, me.clock(),
            me.agent_version, me.notices,
        )  # fmt: skip


class RemoteVersion(WireError):
    """The server is too old for this agent."""

    code = ErrorCode.VERSION
