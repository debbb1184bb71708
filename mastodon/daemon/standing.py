"""How a machine stands with its watch, in one word, from what the catalogue says of it.

Whether something is due or over is not decided here but by whoever opens and closes conditions: so whatever shows the
word agrees with what was told, through jumps of the clock and restarts.
"""

from collections.abc import Mapping

from mastodon.catalogue.interface import WatchRow
from mastodon.sealed.events import EventCode
from mastodon.sealed.ledger_entries import MachineState
from mastodon.wire.status_messages import WatchState


def standing(row: WatchRow, opened_ns: Mapping[int, int], running_ns: int) -> tuple[WatchState, int]:
    """The state, and since when. ``opened_ns`` says when each open condition of the machine opened, ``running_ns``
    when the session began that is open now (0: none is)."""
    seen_ns = max(row.seen_ns, running_ns)
    if row.state is not MachineState.ACTIVE:
        return WatchState.DISABLED, seen_ns
    if EventCode.LATE in opened_ns:
        return WatchState.LATE, opened_ns[EventCode.LATE]
    if not seen_ns:
        return WatchState.NEVER_SEEN, row.added_ns
    if not row.complete_ns:
        return WatchState.SEEDING, row.added_ns
    if opened_ns.get(EventCode.RUN_FAILED, 0) > row.newest_ns:
        return WatchState.FAILED, opened_ns[EventCode.RUN_FAILED]
    if row.partial_since_ns:
        return WatchState.PARTIAL, row.partial_since_ns
    if running_ns:
        return WatchState.RUNNING, running_ns
    return WatchState.OK, row.complete_ns
