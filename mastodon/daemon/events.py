"""How many events the daemon writes: of one code and machine only so many an hour, so that no flood fills the ledger.

The list of events, which clients know too, is `mastodon.sealed.events`.
"""

from mastodon.sealed.duration import HOUR_NS
from mastodon.sealed.events import EVENTS, EventCode
from mastodon.wire.errors import ErrorCode

__all__ = ["APPEND_EVENTS", "EVENTS", "ORDINARY", "PER_HOUR", "RESTORE_EVENTS", "EventBound", "EventCode"]

PER_HOUR = 10
"""Events of one code about one machine or tenant in an hour; what is more is only logged."""
KEPT = 4096


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
