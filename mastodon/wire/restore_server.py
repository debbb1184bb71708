"""The server's half of the restore port: requests in, effects out.

protocol-spec.md §17. Who may ask what stands in ``restore_verbs.ALLOWED``. The certificate is looked up for every
request anew, so that a removal takes effect at once.
"""

from dataclasses import dataclass
from enum import Enum

from mastodon.sealed.ledger_entries import Role
from mastodon.wire.effects import Close, SecurityEvent, Send
from mastodon.wire.errors import ErrorCode, WireError
from mastodon.wire.messages import Message, make_error
from mastodon.wire.restore_verbs import ALLOWED, RestoreVerb

REQUESTS_LIMIT = 16
"""Requests of one connection that are served at once; the next one is not read before one is done."""


class State(Enum):
    """Where a session stands."""

    OPEN = "open"
    CLOSED = "closed"


@dataclass(frozen=True, slots=True)
class Authorise:
    """Look the client's key up, then call ``authorised`` with this request."""

    request: Message


@dataclass(frozen=True, slots=True)
class Serve:
    """Answer this request: it is allowed for the role."""

    request: Message


Effect = Send | Authorise | Serve | SecurityEvent | Close


class RestoreSession:
    """One connection to the restore port."""

    def __init__(self) -> None:
        self.state = State.OPEN

    def receive(self, request: Message) -> list[Effect]:
        """What to do about a request."""
        return [] if self.state is State.CLOSED else [Authorise(request)]

    def authorised(self, request: Message, role: Role | None) -> list[Effect]:
        """The client's role now; None when its key is not registered, or not any more."""
        if self.state is State.CLOSED:
            return []
        if role is None:
            return self.unregistered()
        if role not in ALLOWED[RestoreVerb(request.KIND)]:
            number: int = request.request  # type: ignore[attr-defined]
            text = f"a certificate of the role {role.name.lower()} may not ask for {RestoreVerb(request.KIND).name}"
            code = ErrorCode.NOT_ALLOWED
            return [SecurityEvent(code, text), Send(make_error(code, text, request=number))]
        return [Serve(request)]

    def unregistered(self) -> list[Effect]:
        """The client's key is not registered here, or was removed."""
        text = "this client certificate is not registered with the server: ask the operator to add it"
        return self._end(ErrorCode.NOT_AUTHENTICATED, "client key that is not registered", text)

    def broken(self, error: WireError) -> list[Effect]:
        """The peer sent what is not in the protocol."""
        return self._end(error.code, str(error), "the server refused this message: see its log")

    def _end(self, code: ErrorCode, event: str, text: str) -> list[Effect]:
        if self.state is State.CLOSED:
            return []
        self.state = State.CLOSED
        return [SecurityEvent(code, event), Send(make_error(code, text)), Close()]
