"""The typed list of events: what an operator or admin should know of later. They stand in the ledger.

A flood of them must not fill it: of one code and machine only so many an hour are written.
"""

from enum import IntEnum

from mastodon.wire.errors import ErrorCode

HOUR_NS = 3600 * 10**9
PER_HOUR = 10
"""Events of one code about one machine or tenant in an hour; what is more is only logged."""
KEPT = 4096


class EventCode(IntEnum):
    """Codes stay what they are: they are in every spool. 0 is never used."""

    SPOOL_OFFLINE = 1
    SPOOL_ONLINE = 2
    PACK_REFUSED = 3
    PACK_LOST = 4
    PACK_FOUND = 5
    PACK_STRANGE = 6
    PAIR_REFUSED = 7
    SNAPSHOT_REFUSED = 8
    UNKNOWN_VERB = 9
    STATEMENT_REFUSED = 10
    CATALOGUE_REBUILT = 11
    LEDGER_CONFIRMED = 12
    MALFORMED = 13
    HELLO_REFUSED = 14
    KEY_REFUSED = 15
    ROLE_REFUSED = 16


APPEND_EVENTS = {
    ErrorCode.REFUSED_VERB: EventCode.UNKNOWN_VERB,
    ErrorCode.MALFORMED: EventCode.MALFORMED,
    ErrorCode.NOT_AUTHENTICATED: EventCode.HELLO_REFUSED,
}
"""What a security event on the append port is called, by what it was answered."""
RESTORE_EVENTS = {
    ErrorCode.REFUSED_VERB: EventCode.UNKNOWN_VERB,
    ErrorCode.MALFORMED: EventCode.MALFORMED,
    ErrorCode.NOT_AUTHENTICATED: EventCode.KEY_REFUSED,
    ErrorCode.NOT_ALLOWED: EventCode.ROLE_REFUSED,
}
ORDINARY = {EventCode.HELLO_REFUSED: 20}
"""So many an hour are everyday mistakes (a machine that was closed, a wrong URL): only what is more is written."""


class EventBound:
    """Says whether one more event of a kind may be written."""

    def __init__(self) -> None:
        self._counts: dict[tuple[EventCode, bytes], tuple[int, int]] = {}

    def allows(self, code: EventCode, about: bytes, now_ns: int) -> bool:
        """Whether this one may be written; counts it."""
        begun, count = self._counts.get((code, about), (now_ns, 0))
        if not 0 <= now_ns - begun < HOUR_NS:
            begun, count = now_ns, 0
        passed_over = ORDINARY.get(code, 0)
        if count >= passed_over + PER_HOUR:
            return False
        if len(self._counts) >= KEPT:
            self._counts.pop(next(iter(self._counts)))
        self._counts[(code, about)] = (begun, count + 1)
        return count >= passed_over
