"""A store whose watch the test works: wall clock and steady clock are turned apart, looks happen when it says so."""

from collections.abc import Coroutine
from dataclasses import replace
from typing import Any, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock as Reactor

from mastodon.catalogue.interface import EventRow
from mastodon.daemon.served import FILE, Clocks
from mastodon.daemon.standing import standing
from mastodon.daemon.watch import WatchStatus
from mastodon.sealed.events import EventCode
from mastodon.sealed.settings import HOUR
from mastodon.sealed.snapshot import SnapshotStatus
from mastodon.wire.status_messages import WatchState
from tests.store_case import SECOND, FaultyDisk, Machine, StoreCase

LOOK_S = 1800.0
T = TypeVar("T")


class QuickDisk(FaultyDisk):
    """Durability is not what is tested here."""

    def fsync(self, fd: int) -> None:
        pass


class WatchCase(StoreCase):
    """One machine, watched; a look every half hour."""

    SPOOLS = 1
    DISK = QuickDisk

    def setUp(self) -> None:
        super().setUp()
        self.steady, self.boot = 1000.0, "boot"
        blobs = self.machine.tree(b"all there is")
        self.send(blobs)
        self.root = blobs[-1][0]
        self.serve()

    def serve(self) -> None:
        """The daemon listens."""
        clocks = Clocks(lambda: self.clock.now, lambda: self.steady, self.boot)
        self.reactor = Reactor()
        self.do(self.store.watching.start(self.reactor, clocks, LOOK_S))

    def do(self, work: "Coroutine[Deferred[Any], Any, T]") -> T:
        return self.wait(Deferred.fromCoroutine(work))

    def look(self) -> None:
        self.do(self.store.watching.look())

    def passes(self, hours: float, jump_s: float = 0) -> None:
        """Time, with a look every half hour, or two hours where it is long; the wall clock jumps at the beginning."""
        self.clock.now += int(jump_s * SECOND)
        step = LOOK_S if hours < 24 else 4 * LOOK_S
        for _ in range(round(hours * HOUR / step)):
            self.steady += step
            self.clock.now += int(step * SECOND)
            self.look()

    def down(self, hours: float, jump_s: float = 0, boot: str = "", *, crash: bool = False) -> None:
        """The daemon stops, time passes, and it starts again; after a crash with what it kept at its last look."""
        kept = (self.setting.state / FILE).read_bytes() if crash else b""
        self.stop()
        if crash:
            (self.setting.state / FILE).write_bytes(kept)
        self.steady += hours * HOUR
        self.clock.now += int((hours * HOUR + jump_s) * SECOND)
        if boot:
            self.steady, self.boot = 5.0, boot
        self.start_again()
        self.serve()

    def back_up(self, status: SnapshotStatus = SnapshotStatus.COMPLETE, machine: Machine | None = None) -> None:
        """A run that commits, and says that it is finished."""
        machine = machine or self.machine
        self.commit(self.root, machine, status=status)
        self.finish(0 if status is SnapshotStatus.COMPLETE else 1, machine)

    def finish(self, code: int, machine: Machine | None = None) -> None:
        """A run is over, as its agent says."""
        self.wait(self.store.run_over((machine or self.machine).id, code, "disk on fire"))

    def rows(self) -> list[EventRow]:
        return self.wait(self.store._ready().catalogue.events(0, 1000))

    def told(self) -> list[EventCode]:
        """All that was told so far."""
        return [EventCode(one.code) for one in self.rows()]

    def status(self, machine: Machine | None = None) -> WatchStatus:
        _, found = self.do(self.store.watching.stand())
        return next(one for one in found if one.row.machine == (machine or self.machine).id)

    def state(self, machine: Machine | None = None) -> WatchState:
        status = self.status(machine)
        seen_ns = self.store.seen_ns(status.row.machine)
        row = replace(status.row, seen_ns=max(status.row.seen_ns, seen_ns))
        state, _ = standing(row, {one.code: one.time_ns for one in status.open}, 0)
        return state
