"""The watch at work: looks at all machines every minute, and tells what began and what is over as events.

Promises (P8): each thing is told once, when it begins and when it is over, whatever restarts between; what could not be
written is told at the next look. What is told already is what the ledger says, never what this process remembers.
"""

import datetime
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Protocol

from twisted.internet.defer import Deferred, DeferredLock
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from mastodon.catalogue.interface import Catalogue, Condition
from mastodon.daemon.policies import Policies
from mastodon.daemon.served import Clocks, ServedTime
from mastodon.daemon.trouble import log_trouble
from mastodon.daemon.watch import PARTIAL_DAYS, SEEDING_DAYS, Bounds, Mark, WatchStatus, follow, is_over, judge
from mastodon.host.durable import DiskError
from mastodon.sealed.duration import show_duration
from mastodon.sealed.events import EventCode
from mastodon.sealed.settings import GRACE, INTERVAL, Settings

LOOK_S = 60.0
FAILED_FROM = 2
"""An agent's exit code from which on nothing was committed."""
BOUNDS = (INTERVAL, GRACE)


class Recorder(Protocol):
    """Puts an event into the ledger; never fails."""

    def __call__(self, code: EventCode, tenant: bytes, machine: bytes, detail: str) -> "Deferred[None]": ...


class Watching:
    """Lives in the reactor's thread. ``is_running`` says whether a machine has a session now; ``seen`` whether it had
    one since the start."""

    log = Logger()

    def __init__(
        self, catalogue: Catalogue, policies: Policies, time: ServedTime, record: Recorder,
        in_thread: Callable[..., "Deferred[Any]"], seen: Callable[[bytes], bool], is_serving: Callable[[], bool],
    ) -> None:  # fmt: skip
        self._catalogue = catalogue
        self._policies = policies
        self._time = time
        self._record = record
        self._in_thread = in_thread
        self._seen = seen
        self._is_serving = is_serving
        self._lock = DeferredLock()
        self._loop: LoopingCall | None = None
        self._written = True
        self._followed: set[bytes] = set()
        """Machines whose marks are of this process: what the file says may be older than what was told since."""
        self.is_running: Callable[[bytes], bool] = lambda machine: False

    async def start(self, reactor: Any, clocks: Clocks, look_s: float = LOOK_S) -> None:
        """Machines can come from now on. A jump of the clock while nobody looked is told."""
        jump = self._time.begin(clocks, look_s)
        self._loop = LoopingCall(self._look_safely)
        self._loop.clock = reactor
        self._loop.start(look_s, now=False)
        if jump:
            await self._tell_jump(jump)

    async def stop(self) -> None:
        """Look no more; wait for the look that is going on."""
        loop, self._loop = self._loop, None
        if loop is not None:
            loop.stop()
        async with self._lock:
            pass

    async def look(self) -> None:
        """One look at all machines."""
        async with self._lock:
            if not self._is_serving():
                self._time.pause()
                return
            jump = self._time.advance()
            if jump:
                await self._tell_jump(jump)
            await self._tell_all(None)
            await self._keep()

    async def run_over(self, machine: bytes, exit_code: int, text: str) -> None:
        """The machine's agent says that a run is over. It resets nothing; that it failed is told."""
        async with self._lock:
            if self._loop is None or not self._is_serving():
                return
            jump = self._time.advance()  # else what it has just committed counts from the look before
            if jump:
                await self._tell_jump(jump)
            for status in await self._tell_all(machine):
                if exit_code >= FAILED_FROM and not status.is_open(EventCode.RUN_FAILED):
                    detail = f"exit code {exit_code}; the agent says: {text}"
                    await self._record(EventCode.RUN_FAILED, status.row.tenant, machine, detail)

    async def stand(self) -> tuple[Bounds, list[WatchStatus]]:
        """What holds where nothing is set for a machine or its admin; and all machines as of the last look."""
        settings = await self._policies.read(BOUNDS)
        return _bounds(settings, b"", b""), [status for status, _ in await self._judge(None)]

    async def _judge(self, machine: bytes | None) -> list[tuple[WatchStatus, Mark]]:
        """Each machine with the mark that it gets; those that are kept are not touched."""
        settings = await self._policies.read(BOUNDS)
        conditions: dict[bytes, list[Condition]] = {}
        for one in await self._catalogue.conditions(machine=machine):
            conditions.setdefault(one.machine, []).append(one)
        time, found = self._time, []
        for row in await self._catalogue.watch_rows(machine=machine):
            mark = follow(row, time.marks.get(row.machine), time.now, self._seen(row.machine))
            bounds = _bounds(settings, row.tenant, row.machine)
            found.append((judge(row, mark, time.now, bounds, conditions.get(row.machine, ())), mark))
        return found

    async def _tell_all(self, machine: bytes | None) -> list[WatchStatus]:
        """Move the marks on, and tell what is over and what began; of one machine, or of all."""
        statuses = []
        for status, mark in await self._judge(machine):
            row, before = status.row, self._time.marks.get(status.row.machine)
            fresh = row.machine in self._followed and before is not None and before.entry != mark.entry
            self._time.marks[row.machine] = mark
            self._followed.add(row.machine)
            if is_over(status, fresh):
                await self._record(EventCode.RECOVERED, row.tenant, row.machine, _over(status))
                status = replace(status, open=())
            for code in status.due:
                if not status.is_open(code):
                    await self._record(code, row.tenant, row.machine, DETAILS[code](status))
            statuses.append(status)
        return statuses

    async def _keep(self) -> None:
        try:
            await self._in_thread(self._time.write, self._time.encode())
            self._written = True
        except DiskError as error:
            if self._written:
                self.log.error("what the watch remembers cannot be kept: {reason}", reason=str(error))
            self._written = False

    async def _look_safely(self) -> None:
        try:
            await self.look()
        except Exception:  # whatever it was: the next look may be luckier, and without one nobody is watched
            log_trouble(self.log, "the watch could not look")

    def _tell_jump(self, jump: float) -> "Deferred[None]":
        detail = f"{jump:+.0f} s: it says {show_time(self._time.wall_ns)} now"
        return self._record(EventCode.CLOCK_JUMPED, b"", b"", detail)


def _bounds(settings: Settings, tenant: bytes, machine: bytes) -> Bounds:
    return Bounds(settings.number(INTERVAL, tenant, machine), settings.number(GRACE, tenant, machine))


def show_time(time_ns: int) -> str:
    """A time of the server's, for reading; UTC, so that no clock change makes an hour come twice."""
    if not time_ns:
        return "never"
    return f"{datetime.datetime.fromtimestamp(time_ns // 10**9, datetime.UTC):%Y-%m-%d %H:%M} UTC"


def _over(status: WatchStatus) -> str:
    begun = show_time(min(one.time_ns for one in status.open))
    return f"a complete snapshot at {show_time(status.row.complete_ns)}; in trouble since {begun}"


def _late(status: WatchStatus) -> str:
    row, bounds = status.row, status.bounds
    text = f"the last complete snapshot is of {show_time(row.complete_ns)}; one is due every "
    text += f"{show_duration(bounds.interval)}, with {show_duration(bounds.grace)} of grace"
    if row.partial_since_ns:
        return f"{text}; there are partial ones since {show_time(row.partial_since_ns)}"
    return f"{text}; last seen {show_time(max(row.seen_ns, row.newest_ns))}"


DETAILS: dict[EventCode, Callable[[WatchStatus], str]] = {
    EventCode.LATE: _late,
    EventCode.NEVER_SEEN: lambda status: f"enrolled {show_time(status.row.added_ns)}",
    EventCode.SEEDING_LONG: lambda status: (
        f"for {SEEDING_DAYS} days; enrolled {show_time(status.row.added_ns)}, "
        f"last snapshot {show_time(status.row.newest_ns)}"
    ),
    EventCode.PARTIAL_LONG: lambda status: (
        f"for {PARTIAL_DAYS} days, since {show_time(status.row.partial_since_ns)}; "
        f"the last complete one: {show_time(status.row.complete_ns)}"
    ),
}
