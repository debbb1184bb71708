"""Why the store refused: one class for each cause that a port answers differently.

A port turns any Refused into an ERROR message as it is: code, text and context are made to be sent. What else comes
out of the store is a fault of the server's own: the port logs it and answers INTERNAL.
"""

from typing import ClassVar

from mastodon.wire.errors import ErrorCode


class Refused(Exception):
    """The store did not do what was asked, and nothing was changed. ``context`` names ids or hashes of 32 bytes."""

    def __init__(self, code: ErrorCode, text: str, context: tuple[bytes, ...] = ()) -> None:
        super().__init__(text)
        self.code = code
        self.text = text
        self.context = context


class _Coded(Refused):
    """A cause with one code of its own."""

    CODE: ClassVar[ErrorCode]

    def __init__(self, text: str, context: tuple[bytes, ...] = ()) -> None:
        super().__init__(self.CODE, text, context)


class PackRefused(_Coded):
    """The pack is damaged, of another machine or pair, or offends against what is stored: pack anew without the ids
    in the context."""

    CODE = ErrorCode.PACK_REFUSED


class PairRefused(_Coded):
    """The pair record or its envelope does not fit the machine, each other, or the pair before."""

    CODE = ErrorCode.PAIR_REFUSED


class SnapshotRefused(_Coded):
    """The snapshot record does not follow the head, names another pair, or reaches what no snapshot may."""

    CODE = ErrorCode.SNAPSHOT_REFUSED


class SpoolFull(_Coded):
    """Every spool that is online is full up to its reserve: make room or add a spool."""

    CODE = ErrorCode.SERVER_FULL


class QuotaFull(_Coded):
    """The machine's quota is used up, or its admin's: raise it. What is stored stays."""

    CODE = ErrorCode.QUOTA


CATALOGUE_REFUSES = "the server's catalogue cannot be used: its log says why"


class Unavailable(_Coded):
    """No spool is online, the catalogue cannot be used, the store is stopping, or its credentials wait for
    ``mastodon rebuild --confirm``."""

    CODE = ErrorCode.UNAVAILABLE


class Displaced(_Coded):
    """A newer session of this machine took over; this one may write no more."""

    CODE = ErrorCode.DISPLACED


class LimitReached(_Coded):
    """More pairs, envelopes or commits than the specification allows in that time."""

    CODE = ErrorCode.LIMIT


class TooLarge(_Coded):
    """More bytes than the specification allows for one object."""

    CODE = ErrorCode.TOO_LARGE


class NotFound(_Coded):
    """Unknown, or another tenant's: one answer for both."""

    CODE = ErrorCode.NOT_FOUND


class NotAllowed(_Coded):
    """A statement or command that is not valid, or that this release does not carry out."""

    CODE = ErrorCode.NOT_ALLOWED


class Conflict(_Coded):
    """Somebody else was first: read again, then try again."""

    CODE = ErrorCode.CONFLICT


class Disabled(_Coded):
    """The machine is disabled, closed or retired: its admin can tell why."""

    CODE = ErrorCode.DISABLED


class StoreError(Exception):
    """The store cannot be opened; the text says why and what the operator can do."""
