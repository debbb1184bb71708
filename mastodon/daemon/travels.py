"""What a machine's admin is told of a snapshot whose machine remembered another one than the newest (P7).

Nothing is refused for it: the snapshot is a further one. What counts as a jump is in sealed/jump.py.
"""

from mastodon.daemon.events import EventCode
from mastodon.sealed.jump import QUIET, Jump, JumpKind
from mastodon.sealed.snapshot import SnapshotRecord

CODES = {
    JumpKind.UNKNOWN: EventCode.SERVER_STATE_NEWER_AGENT,
    JumpKind.WENT_BACK: EventCode.TIME_TRAVEL,
    JumpKind.ALTERNATES: EventCode.CLONE,
}
"""What is told. A state that is new, or could not be written, is in the snapshot's notices."""

FORK_OVER = f"no second copy of the machine has come for {QUIET} snapshots"


def told(snapshot: SnapshotRecord, jump: Jump) -> str:
    """The event's detail."""
    followed = snapshot.sequence - 1
    remembered = f"snapshot {jump.reached or ''}".rstrip() + f" ({jump.remembered.hex()[:16]})"
    if jump.kind is JumpKind.UNKNOWN:
        return (
            f"snapshot {snapshot.sequence}: the machine remembers {remembered}, which this server does not have; its "
            f"newest was {followed}. The server was put back to an older state, or the machine's state is from "
            "another server"
        )
    if jump.kind is JumpKind.WENT_BACK:
        between = f"snapshot {followed} is" if jump.reached + 1 == followed else f"{jump.reached + 1} to {followed} are"
        return (
            f"snapshot {snapshot.sequence}: the machine remembers {remembered} as its newest, the server had "
            f"{followed}. Nothing is lost, {between} kept"
        )
    others = f"{jump.reached + 1} to {followed}" if jump.reached + 1 < followed else str(followed)
    return f"snapshot {snapshot.sequence}: the machine came back with {remembered}, while {others} came from elsewhere"
