"""Why the store refused: one class for each cause that a port answers differently.

A port turns any Refused into an ERROR message as it is: code, text and context are made to be sent. What else comes
out of the store is a fault of the server's own: the port logs it and answers INTERNAL.
"""

from typing import ClassVar

from mastodon.wire.errors import ErrorCode


class Refused(Exception):
    """The store did not do what was asked, and nothing was changed. ``context`` names ids or hashes of 32 bytes."""

    code: ClassVar[ErrorCode] = ErrorCode.INTERNAL

    def __init__(self, text: str, context: tuple[bytes, ...] = ()) -> None:
        super().__init__(text)
        self.text = text
        self.context = context


class PackRefused(Refused):
    """The pack is damaged, of another machine or pair, or offends against what is stored: pack anew without the ids
    in the context."""

    code = ErrorCode.PACK_REFUSED


class PairRefused(Refused):
    """The pair record or its envelope does not fit the machine, each other, or the pair before."""

    code = ErrorCode.PAIR_REFUSED


class SnapshotRefused(Refused):
    """The snapshot record does not follow the head, names another pair, or reaches what no snapshot may."""

    code = ErrorCode.SNAPSHOT_REFUSED


class SpoolFull(Refused):
    """Every spool that is online is full up to its reserve: make room or add a spool."""

    code = ErrorCode.SERVER_FULL


class Unavailable(Refused):
    """No spool is online, the store is stopping, or its credentials wait for ``mastodon rebuild --confirm``."""

    code = ErrorCode.UNAVAILABLE


class Displaced(Refused):
    """A newer session of this machine took over; this one may write no more."""

    code = ErrorCode.DISPLACED


class LimitReached(Refused):
    """More pairs, envelopes or commits than the specification allows in that time."""

    code = ErrorCode.LIMIT


class TooLarge(Refused):
    """More bytes than the specification allows for one object."""

    code = ErrorCode.TOO_LARGE


class NotFound(Refused):
    """Unknown, or another tenant's: one answer for both."""

    code = ErrorCode.NOT_FOUND


class NotAllowed(Refused):
    """A statement or command that is not valid, or that this release does not carry out."""

    code = ErrorCode.NOT_ALLOWED


class Conflict(Refused):
    """Somebody else was first: read again, then try again."""

    code = ErrorCode.CONFLICT


class Disabled(Refused):
    """The machine is disabled, closed or retired: its admin can tell why."""

    code = ErrorCode.DISABLED


class StoreError(Exception):
    """The store cannot be opened; the text says why and what the operator can do."""
