"""What is due of a machine: a pure function of what is known of it. `standing.py` puts what was told into a word.

Promises (P8): only a complete snapshot, which the server has verified, resets anything; neither a run that says that it
is finished nor partial snapshots nor checkpoints do. No wall clock has a part in it: time is **served time**, the
seconds for which the daemon could be reached (`served.py`), so that a clock that jumps, daylight saving and a daemon
that was down make nobody late.

    allowed = interval + grace, and another interval if the daemon was down since the last complete snapshot

With one gap a machine misses one run at most, and the next is due an interval after the daemon is back: that is the
further interval. However often the daemon restarts it is one, so that a dead machine is told all the same.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from mastodon.catalogue.interface import Condition, WatchRow
from mastodon.sealed.events import CLOSES, EventCode
from mastodon.sealed.ledger_entries import MachineState
from mastodon.sealed.settings import DAY

PARTIAL_DAYS = 3
SEEDING_DAYS = 7
NEVER_SEEN_AT_LEAST_S = DAY
"""A machine may be enrolled today and installed tomorrow."""
OF_THE_WATCH = CLOSES[EventCode.RECOVERED]
"""The conditions that a complete snapshot ends."""


@dataclass(frozen=True, slots=True)
class Mark:
    """Where a machine stands in served time. ``since`` is of its newest complete snapshot, which is the ledger's
    ``entry``; before the first one, of when it was enrolled, first seen, or enabled; ``stretch`` is the stretch of
    service in which that was. ``partial_since`` is of the first partial snapshot behind it."""

    entry: int
    since: float
    stretch: int
    seen: bool
    partial_since: float | None = None


@dataclass(frozen=True, slots=True)
class Served:
    """Now, in served time: seconds, and the number of the stretch of service that goes on."""

    seconds: float
    stretch: int


@dataclass(frozen=True, slots=True)
class Bounds:
    """What holds for a machine, in seconds."""

    interval: int
    grace: int


@dataclass(frozen=True, slots=True)
class WatchStatus:
    """A machine as it stands. ``silent_s`` is served time since its newest complete snapshot, ``allowed_s`` how long
    that may be; ``due`` are the events that hold now, ``open`` what the ledger says was told and is not over."""

    row: WatchRow
    bounds: Bounds
    silent_s: float
    allowed_s: float
    due: tuple[EventCode, ...]
    open: tuple[Condition, ...]

    def is_open(self, code: EventCode) -> bool:
        """Whether this was told and is not over."""
        return any(one.code is code for one in self.open)


def follow(row: WatchRow, mark: Mark | None, now: Served, seen: bool) -> Mark:
    """The mark, moved on by what the catalogue says now."""
    partial = now.seconds if row.partial_since_ns else None
    seen = seen or bool(row.seen_ns) or (mark is not None and mark.seen)
    if mark is None or row.state is not MachineState.ACTIVE or row.complete_entry != mark.entry:
        return Mark(row.complete_entry, now.seconds, now.stretch, seen, partial)
    if partial is not None and mark.partial_since is not None:
        partial = mark.partial_since
    if seen and not mark.seen and not mark.entry:
        return Mark(0, now.seconds, now.stretch, seen, partial)
    return replace(mark, seen=seen, partial_since=partial)


def judge(row: WatchRow, mark: Mark, now: Served, bounds: Bounds, conditions: Iterable[Condition]) -> WatchStatus:
    """What is due of the machine, and what was told."""
    silent = now.seconds - mark.since
    allowed = bounds.interval + bounds.grace + (bounds.interval if mark.stretch != now.stretch else 0)
    open_now = tuple(one for one in conditions if one.code in OF_THE_WATCH)
    due = tuple(_due(row, mark, now, silent, allowed)) if row.state is MachineState.ACTIVE else ()
    return WatchStatus(row, bounds, silent, allowed, due, open_now)


def is_over(status: WatchStatus, fresh: bool) -> bool:
    """Whether a complete snapshot has ended what is open; ``fresh``: it was not known when this was told."""
    entry = status.row.complete_entry
    return bool(status.open and entry) and (fresh or entry > max(one.sequence for one in status.open))


def _due(row: WatchRow, mark: Mark, now: Served, silent: float, allowed: float) -> Iterable[EventCode]:
    if row.complete_entry:
        if silent > allowed:
            yield EventCode.LATE
    elif not mark.seen:
        if silent > max(NEVER_SEEN_AT_LEAST_S, allowed):
            yield EventCode.NEVER_SEEN
    elif silent > SEEDING_DAYS * DAY:
        yield EventCode.SEEDING_LONG
    if mark.partial_since is not None and now.seconds - mark.partial_since > PARTIAL_DAYS * DAY:
        yield EventCode.PARTIAL_LONG
