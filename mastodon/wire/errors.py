"""What goes wrong on the wire, and the codes by which one end tells the other.

protocol-spec.md §16.
"""

from enum import IntEnum


class ErrorCode(IntEnum):
    """Codes in an ERROR message; each says what the receiver should do. 21-127 are reserved."""

    UNKNOWN = 0  # stands for a code of a later release; whether to retry is in the message
    MALFORMED = 1  # the message was not the format: a bug or an attack; the connection closes
    NOT_AUTHENTICATED = 2  # unknown machine, wrong signature, revoked: one answer for all
    REFUSED_VERB = 3  # not a verb of this port, or not now; the connection closes
    TOO_LARGE = 4
    BUSY = 5  # another session of this machine is alive: try again
    DISPLACED = 6  # a newer session of this machine took over
    PACK_REFUSED = 7  # the context names the blob ids that offend: pack anew without them
    PAIR_REFUSED = 8
    SNAPSHOT_REFUSED = 9
    QUOTA = 10
    SERVER_FULL = 11  # no room on the spools: try again later
    UNAVAILABLE = 12  # shutting down or not ready: try again
    VERSION = 13
    LIMIT = 14  # too many of something in a time that the specification bounds
    NOT_FOUND = 15  # unknown or foreign: one answer for both
    NOT_ALLOWED = 16
    CONFLICT = 17  # somebody else was first: read again, then try again
    DISABLED = 18
    TIMEOUT = 19
    INTERNAL = 20  # the server failed; its log says why: try again


RETRYABLE = frozenset(
    {ErrorCode.BUSY, ErrorCode.SERVER_FULL, ErrorCode.UNAVAILABLE, ErrorCode.TIMEOUT, ErrorCode.INTERNAL}
)


class WireError(Exception):
    """The peer broke the protocol; the connection is over."""

    code = ErrorCode.MALFORMED


class FrameTooLong(WireError):
    """A frame's length is zero or beyond its bound."""


class BadMessage(WireError):
    """A payload is not the message that its type says."""


class UnknownVerb(WireError):
    """A frame type that this port does not have: a security event."""

    code = ErrorCode.REFUSED_VERB


class OutOfTurn(WireError):
    """A message that may not come in this state."""

    code = ErrorCode.REFUSED_VERB


class RemoteError(Exception):
    """The other end sent an ERROR message."""

    def __init__(
        self, code: ErrorCode, text: str, retryable: bool, retry_after_s: int = 0, context: tuple[bytes, ...] = ()
    ):
        super().__init__(text)
        self.code = code
        self.text = text
        self.retryable = retryable
        self.retry_after_s = retry_after_s
        self.context = context
