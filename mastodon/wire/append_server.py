"""The server's half of the append port: messages in, effects out.

protocol-spec.md §15. A session takes what the agent says and returns what is to be done; only the edge does it, and
tells the session how it went. An Ack comes from ``durable`` alone (P9). The first error that ends a session is final.

FRESH --Hello--> AUTHENTICATING --opened--> READY <--> IN_PACK;  READY --Finish--> FINISHED;  any --error--> CLOSED
"""

from dataclasses import dataclass
from enum import Enum

from mastodon.wire.effects import Close, SecurityEvent, Send
from mastodon.wire.errors import ErrorCode, OutOfTurn, WireError
from mastodon.wire.hello import OLDEST_VERSION, VERSION, hello_fits
from mastodon.wire.messages import (
    Ack,
    Answer,
    Committed,
    Error,
    Finish,
    Goodbye,
    Greeting,
    Hello,
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
    make_error,
)

NOBODY = bytes(32)
"""Checked against for machines that are not known, so that unknown and wrong cost the same."""


UNKNOWN = "unknown machine, or wrong signature"


class State(Enum):
    """Where a session stands."""

    FRESH = "fresh"
    AUTHENTICATING = "authenticating"
    READY = "ready"
    IN_PACK = "in pack"
    FINISHED = "finished"
    CLOSED = "closed"


TRANSITIONS: dict[tuple[State, type[Message]], State] = {
    (State.FRESH, Hello): State.AUTHENTICATING,
    (State.READY, Progress): State.READY,
    (State.READY, Offer): State.READY,
    (State.READY, NewPair): State.READY,
    (State.READY, NewSnapshot): State.READY,
    (State.READY, Piece): State.IN_PACK,
    (State.READY, Finish): State.FINISHED,
    (State.IN_PACK, Piece): State.IN_PACK,
    (State.IN_PACK, PackEnd): State.READY,
    (State.IN_PACK, Progress): State.IN_PACK,
    (State.IN_PACK, Offer): State.IN_PACK,
}
"""All that a client may say, and when. What is not here is a security event and the end of the connection."""


@dataclass(frozen=True, slots=True)
class LookUp:
    """Find the machine's public key, then call ``known``."""

    machine: bytes


@dataclass(frozen=True, slots=True)
class Open:
    """The signature was good: take the machine's session over, then call ``opened`` or ``turned_away``."""

    hello: Hello


@dataclass(frozen=True, slots=True)
class Perform:
    """Carry out an Offer, Piece, PackEnd, NewPair, NewSnapshot, Progress or Finish, in order."""

    message: Message


@dataclass(frozen=True, slots=True)
class TooOld:
    """The signature was good, and the agent speaks an older version than any that this server does: tell its admin."""

    hello: Hello


Effect = Send | LookUp | Open | TooOld | Perform | SecurityEvent | Close


class AppendSession:
    """One connection to the append port. ``server_pin`` is the hash of the key that the TLS handshake used."""

    def __init__(self, nonce: bytes, server_pin: bytes, oldest: int = OLDEST_VERSION, newest: int = VERSION) -> None:
        self._nonce = nonce
        self._server_pin = server_pin
        self._oldest = oldest
        self._newest = newest
        self._hello: Hello | None = None
        self.state = State.FRESH

    def greet(self) -> list[Effect]:
        """The handshake is done."""
        return [Send(Greeting(self._nonce, self._oldest, self._newest, 0))]

    def receive(self, message: Message) -> list[Effect]:
        """What to do about a message."""
        following = TRANSITIONS.get((self.state, type(message)))
        if following is None:
            return self.broken(OutOfTurn(f"{type(message).__name__} while {self.state.value}"))
        self.state = following
        if isinstance(message, Hello):
            self._hello = message
            return [LookUp(message.machine)]
        return [Perform(message)]

    def broken(self, error: WireError) -> list[Effect]:
        """The peer sent what is not in the protocol."""
        if self.state is State.CLOSED:
            return []
        text = "the server refused this message: see its log"
        return [SecurityEvent(error.code, str(error)), *self._end(error.code, text)]

    def known(self, public_key: bytes | None) -> list[Effect]:
        """The machine's public key, or None when it is unknown or may not append: the answer is the same."""
        if self.state is not State.AUTHENTICATING or self._hello is None:
            return []
        hello = self._hello
        good = hello_fits(
            hello.signature, public_key or NOBODY, self._nonce, self._server_pin, hello.machine, hello.version
        )
        if not good or public_key is None:
            code = ErrorCode.NOT_AUTHENTICATED
            event = SecurityEvent(code, f"HELLO refused for machine {hello.machine.hex()}")
            return [event, *self._end(code, UNKNOWN)]
        return [Open(hello)] if self._oldest <= hello.version <= self._newest else self._other_version(hello)

    def _other_version(self, hello: Hello) -> list[Effect]:
        """Said to proven machines only: what is told of it is told by the machine itself."""
        text = (
            f"this server speaks versions {self._oldest} to {self._newest} of the protocol, the agent {hello.version}"
        )
        if hello.version > self._newest:
            return self._end(ErrorCode.VERSION, f"{text}: the server is to be updated first")
        return [TooOld(hello), *self._end(ErrorCode.VERSION, f"{text}: update the agent on this machine")]

    def opened(self, answer: Answer) -> list[Effect]:
        """The session is the machine's only one now."""
        if self.state is not State.AUTHENTICATING:
            return []
        self.state = State.READY
        return [Send(answer)]

    def turned_away(self, code: ErrorCode, text: str) -> list[Effect]:
        """The session cannot be had now, or is over (displaced, disabled, shutting down)."""
        return [] if self.state is State.CLOSED else self._end(code, text)

    def durable(self, id: bytes) -> list[Effect]:
        """The only source of an Ack: the pack or pair lies on disk, fsynced."""
        return self._reply(Ack(id))

    def wanted(self, number: int, ids: bytes, stored: set[bytes]) -> list[Effect]:
        """Answer an offer: what is stored is not wanted."""
        bits = "".join("0" if ids[at : at + 32] in stored else "1" for at in range(0, len(ids), 32))
        size = (len(bits) + 7) // 8
        return self._reply(Wanted(number, int(bits.ljust(8 * size, "0"), 2).to_bytes(size, "big")))

    def committed(self, committed: Committed) -> list[Effect]:
        """The snapshot record is in the ledger, fsynced."""
        return self._reply(committed)

    def missing(self, missing: Missing) -> list[Effect]:
        """The snapshot reaches what is not here."""
        return self._reply(missing)

    def paced(self, bytes_per_second: int) -> list[Effect]:
        """The machine's cap has changed. Whoever is not in yet learns it from the answer."""
        listening = self.state in (State.READY, State.IN_PACK)
        return [Send(Pace(bytes_per_second))] if listening else []

    def refused(self, error: Error) -> list[Effect]:
        """Something was refused; the session goes on."""
        return self._reply(error)

    def finished(self) -> list[Effect]:
        """All that came before FINISH is done."""
        return [*self._reply(Goodbye()), Close()]

    def _reply(self, message: Message) -> list[Effect]:
        return [] if self.state is State.CLOSED else [Send(message)]

    def _end(self, code: ErrorCode, text: str) -> list[Effect]:
        self.state = State.CLOSED
        return [Send(make_error(code, text)), Close()]
