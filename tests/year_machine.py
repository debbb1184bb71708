"""A machine of the simulated year: when it runs, what befalls it, and what was due to be told of it.

What is due is computed here from nothing but what the machine did and when the server was up, by other code than that
which is tested.
"""

import datetime
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum
from random import Random
from zoneinfo import ZoneInfo

from mastodon.sealed.events import EventCode
from mastodon.sealed.settings import DAY, HOUR
from mastodon.sealed.snapshot import SnapshotStatus
from tests.store_case import Machine

BERLIN = ZoneInfo("Europe/Berlin")
START = datetime.datetime(2027, 3, 24, tzinfo=datetime.UTC)
"""A few days before the clocks go forward."""
LOOK_S = 1800
SLACK_S = 2 * LOOK_S
"""Between what is not late yet and what is late for certain, looks being where they are."""


class Fault(Enum):
    """What befalls a machine: how many hours it may last."""

    DEAD_SHORT = (1, 4)
    DEAD = (9, 90)
    PARTIAL_SHORT = (1, 4)
    PARTIAL = (9, 40)
    PARTIAL_LONG = (78, 100)
    FAILING = (2, 30)
    LYING = (9, 30)
    """Says that it is finished, and commits nothing."""
    CHECKPOINTS = (9, 30)
    TRAVEL = (1, 1)


class Ran(Enum):
    """What came of a run."""

    COMPLETE = "complete"
    PARTIAL = "partial"
    FAILED = "failed"
    NOTHING = "nothing"
    ENABLED = "enabled"
    """No run: from now on it is watched again."""


@dataclass(slots=True)
class Served:
    """When the server was up, in seconds of the year."""

    ups: list[tuple[float, float]] = field(default_factory=list)

    def between(self, start: float, end: float) -> float:
        """So many seconds of it."""
        return sum(max(0.0, min(end, until) - max(start, since)) for since, until in self.ups)

    def gap(self, start: float, end: float) -> bool:
        """Whether it was down in between."""
        return any(start < until < end for _, until in self.ups)


@dataclass(slots=True)
class YearMachine:
    """``interval`` and ``grace`` are the watch's; ``installed`` is when it first runs, ``seeded`` when its first backup
    is whole."""

    name: str
    machine: Machine
    minute: int
    interval: int = HOUR
    grace: int = 5 * HOUR
    installed: float = 0
    seeded: float = 0
    faults: list[tuple[float, float, Fault]] = field(default_factory=list)
    off: list[float] = field(default_factory=list)
    """When its admin is to disable it, and to enable it again."""
    switched: list[float] = field(default_factory=list)
    """When that was done."""
    runs: list[tuple[float, Ran]] = field(default_factory=list)
    heads: list[bytes] = field(default_factory=list)
    travels: int = 0

    def times(self, end: float) -> Iterator[float]:
        """When cron starts it: hourly; a daily one at half past two, local time, wherever that leads."""
        if self.interval == HOUR:
            yield from (float(hour * HOUR + self.minute * 60) for hour in range(int(end) // HOUR))
            return
        first = START.astimezone(BERLIN).date()
        for number in range(1, int(end) // DAY):
            local = datetime.datetime.combine(
                first + datetime.timedelta(number), datetime.time(2, 30), tzinfo=BERLIN
            )
            yield (local.astimezone(datetime.UTC) - START).total_seconds()

    def befall(self, random: Random, end: float, apart: float) -> None:
        """One fault after the other, with some health between."""
        kinds = list(Fault)
        random.shuffle(kinds)
        at = self.seeded + random.uniform(0.3, 1) * apart
        while at < end - DAY:
            kind = kinds.pop()
            kinds = kinds or random.sample(list(Fault), len(Fault))
            length = random.randint(*kind.value) * HOUR
            self.faults.append((at, at + length, kind))
            at += length + 9 * HOUR + random.uniform(0.5, 1.5) * apart

    def fault(self, now: float) -> Fault | None:
        """What ails it."""
        number = bisect_right(self.faults, now, key=lambda one: one[0]) - 1
        if number < 0 or now >= self.faults[number][1]:
            return None
        return self.faults[number][2]

    def due(self, served: Served, end: float) -> list[tuple[set[EventCode], set[EventCode], bool]]:
        """What was to be told: for each stretch up to a complete snapshot what must be, what may be, and whether the
        snapshot came."""
        stretches, since, first = [], 0.0, True
        stretch: list[tuple[float, Ran]] = []
        for at, ran in [*self.runs, (end, Ran.NOTHING)]:
            if ran not in (Ran.COMPLETE, Ran.ENABLED) and at < end:
                stretch.append((at, ran))
                continue
            until = self.switched[0] if ran is Ran.ENABLED else at
            must, may = self._told(served, since, until, stretch, first)
            stretches.append((must, may, ran is Ran.COMPLETE))
            since, stretch, first = at, [], first and ran is not Ran.COMPLETE
        return stretches

    def _told(
        self, served: Served, since: float, until: float, stretch: list[tuple[float, Ran]], first: bool
    ) -> tuple[set[EventCode], set[EventCode]]:
        must: set[EventCode] = set()
        may: set[EventCode] = set()

        def judge(code: EventCode, begun: float, allowed: float) -> None:
            seconds = served.between(begun, until)
            if seconds > allowed + SLACK_S:
                must.add(code)
            elif seconds > allowed - SLACK_S:
                may.add(code)

        if first and stretch:
            judge(EventCode.SEEDING_LONG, stretch[0][0], 7 * DAY)
        elif first:
            judge(EventCode.NEVER_SEEN, since, max(DAY, self.interval + self.grace))
        else:
            more = self.interval if served.gap(since, until) else 0
            judge(EventCode.LATE, since, self.interval + self.grace + more)
        partial = next((at for at, ran in stretch if ran is Ran.PARTIAL), None)
        if partial is not None:
            judge(EventCode.PARTIAL_LONG, partial, 3 * DAY)
        if any(ran is Ran.FAILED for _, ran in stretch):
            must.add(EventCode.RUN_FAILED)
        return must, may - must


STATUS = {
    Fault.PARTIAL_SHORT: SnapshotStatus.PARTIAL,
    Fault.PARTIAL: SnapshotStatus.PARTIAL,
    Fault.PARTIAL_LONG: SnapshotStatus.PARTIAL,
    Fault.CHECKPOINTS: SnapshotStatus.CHECKPOINT,
}
"""What its runs commit meanwhile; without a fault, and as it travels, a complete snapshot."""
