"""A year of a server with its machines, its crashes and its mail, in as many seconds as that takes.

Store, ledger, catalogue, watch and telling are the real ones; time, disk syncs and the mail server are not.
"""

import itertools
import shutil
from collections.abc import Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any, TypeVar
from unittest import mock

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock as Reactor

from mastodon.catalogue.interface import EventRow
from mastodon.daemon.errors import SpoolFull
from mastodon.daemon.served import Clocks
from mastodon.daemon.spool import Spool
from mastodon.daemon.store import Store
from mastodon.daemon.telling.channel import Channel, ChannelFiles, ChannelKind
from mastodon.daemon.telling.errors import NotTaken
from mastodon.daemon.telling.letter import Letter
from mastodon.daemon.telling.teller import Teller
from mastodon.daemon.telling.telling import _Ledger
from mastodon.sealed.events import EventCode
from mastodon.sealed.settings import DAY, HOUR
from mastodon.sealed.snapshot import SnapshotStatus
from mastodon.sealed.statement import MachineContent, StatementVerb, encode_content
from tests.store_case import SECOND, Machine, Setting
from tests.watch_case import QuickDisk
from tests.year_machine import LOOK_S, START, STATUS, Fault, Ran, Served, YearMachine

ALICE, OPERATOR = "alice@example.org", "ops@example.org"
T = TypeVar("T")


@dataclass(slots=True)
class Calendar:
    """What befalls the server, as parts of the year: (begin, hours)."""

    crashes: tuple[tuple[float, float], ...] = ((0.31, 3.0), (0.68, 12.0))
    full: tuple[float, float] = (0.47, 10.0)
    mail_down: tuple[float, float] = (0.55, 24.0)
    jumps: tuple[tuple[float, int], ...] = ((0.2, 2 * HOUR), (0.8, -2 * HOUR))


@dataclass
class Year:
    """Built, run once, then looked at."""

    directory: Path
    days: int
    count: int
    seed: int = 1
    calendar: Calendar = field(default_factory=Calendar)

    def __post_init__(self) -> None:
        self.random = Random(self.seed)
        self.end = float(self.days * DAY)
        self.now, self.jumped = 0.0, 0
        self.served = Served()
        self.letters: list[tuple[str, Letter]] = []
        self.setting = Setting(self.directory, 1)
        self.setting.clock = self.wall  # type: ignore[assignment]
        self.reactor = Reactor()
        self.machines = [self._machine(number) for number in range(self.count)]
        self.roots: dict[bytes, bytes] = {}
        self.is_full = False

    def _machine(self, number: int) -> YearMachine:
        one = YearMachine(f"web{number:02}", Machine(number + 1), self.random.randrange(60))
        if number == 0:
            one.installed = one.seeded = 2.5 * DAY
        elif number == 1:
            one.seeded = 8.2 * DAY
        elif number == 2:
            one.off = [0.4 * self.end, 0.4 * self.end + 2 * DAY]
        elif number % 10 == 3:
            one.interval = DAY
        if number not in (2,) and one.interval == HOUR:
            one.befall(self.random, self.end, max(DAY / 2, self.end / 20))
        return one

    # The world

    def wall(self) -> int:
        """What the server's wall clock says."""
        return int((START.timestamp() + self.now + self.jumped) * SECOND)

    def wait(self, outcome: "Deferred[T]") -> T:
        return self.setting.wait(outcome)

    def do(self, work: "Coroutine[Deferred[Any], Any, T]") -> T:
        return self.wait(Deferred.fromCoroutine(work))

    def is_at(self, when: tuple[float, float]) -> bool:
        """Whether something of the calendar goes on."""
        begin = when[0] * self.end
        return begin <= self.now < begin + when[1] * HOUR

    # The server

    def serve(self) -> None:
        """The daemon starts."""
        self.store: Store = self.setting.store(QuickDisk())
        self.wait(self.store.start())
        self.began = self.now
        clocks = Clocks(self.wall, lambda: self.now, "boot")
        self.do(self.store.watching.start(Reactor(), clocks, LOOK_S))
        parts = self.store.telling_parts()
        self.teller = Teller(
            _Ledger(parts), ChannelFiles(self.setting.state, QuickDisk()), dict.fromkeys(ChannelKind, self.carry),
            (OPERATOR,), 6, self.reactor, self.wall, lambda: 0.5, parts.in_thread,
        )  # fmt: skip
        self.do(self.teller.start())
        self.teller.stop()

    def carry(self, channel: Channel, letter: Letter) -> "Deferred[None]":
        """The mail server."""
        if self.is_at(self.calendar.mail_down):
            return fail(NotTaken("nobody there", relay=True))
        self.letters.append((channel.address, letter))
        return succeed(None)

    def stop(self) -> None:
        """The daemon stops."""
        self.do(self.store.watching.stop())
        self.wait(self.store.stop())
        self.served.ups.append((self.began, self.now))

    def crash(self, hours: float, lost: str) -> None:
        """What was not kept by the last look is gone, and ``lost`` of the state besides; hours later it starts."""
        kept = self.directory / "kept"
        shutil.copytree(self.setting.state, kept, ignore=shutil.ignore_patterns("catalogue*", "lock", "heads"))
        self.now += LOOK_S / 3
        self.stop()
        shutil.copytree(kept, self.setting.state, dirs_exist_ok=True)
        shutil.rmtree(kept)
        for path in self.setting.state.glob(lost):
            path.unlink()
        self.now += hours * HOUR
        self.serve()

    def look(self) -> None:
        """The watch looks, then the teller, until its letters are out."""
        self.do(self.store.watching.look())
        self.reactor.advance(LOOK_S)
        for _ in range(2):
            self.do(self.teller.look())
            while any(work.busy for work in self.teller._work.values()):
                self.setting.mainland._calls.get()()

    # The machines

    def set_up(self) -> None:
        """Admin, machines, their settings, and where alice wants her mail."""
        self.wait(self.store.add_admin("alice", self.setting.admin.request()))
        self.wait(self.store.set_policy(self.setting.admin.tenant, b"", (("notify.mail", ALICE),)))
        self.do(self.teller.look())
        for one in self.machines:
            self.state(StatementVerb.ENROL, one.machine.enrolment(self.setting.admin))
            if one.interval != HOUR:
                settings = (("watch.interval", str(one.interval)),)
                self.wait(self.store.set_policy(b"", one.machine.id, settings))

    def state(self, verb: StatementVerb, content: bytes) -> None:
        """The admin signs a statement."""
        admin = self.setting.admin
        self.wait(self.store.execute(admin.tenant, admin.pin, admin.statement(verb, content, self.wall()), b""))

    def switch(self, one: YearMachine, verb: StatementVerb) -> None:
        """The admin disables or enables a machine."""
        self.state(verb, encode_content(MachineContent(one.machine.id)))
        if verb is StatementVerb.ENABLE_MACHINE:
            one.runs.append((self.now, Ran.ENABLED))

    def run(self, one: YearMachine) -> None:
        """Cron starts the agent."""
        fault = one.fault(self.now)
        if self.now < one.installed or fault in (Fault.DEAD, Fault.DEAD_SHORT):
            return
        if len(one.switched) % 2:
            return  # disabled: HELLO is answered as to a stranger
        epoch = self.store.machine_session(one.machine.id)
        if fault is Fault.LYING:
            ran = Ran.NOTHING
        elif fault is Fault.FAILING or not self.has_room(one, epoch):
            ran = Ran.FAILED
        else:
            ran = self.commit(one, epoch, fault)
        one.runs.append((self.now, ran))
        if ran is not Ran.COMPLETE or one.minute % 2:
            # Of the others the last word was lost on the way.
            self.wait(self.store.run_over(one.machine.id, 2 if ran is Ran.FAILED else 0, "as it says"))

    def has_room(self, one: YearMachine, epoch: int) -> bool:
        """Whether the server takes a pack; the first one is kept."""
        machine = one.machine
        if machine.id in self.roots and not self.is_full:
            return True
        try:
            if machine.id not in self.roots:
                self.wait(self.store.add_pair(machine.id, machine.pair_record, machine.envelope, epoch))
            blobs = machine.tree(f"all of {one.name} at {self.now}".encode())
            pack, data = machine.pack(blobs)
            receiver = self.store.begin_pack(machine.id, epoch)
            receiver.write(data).addErrback(lambda _: None)
            self.wait(receiver.finish(pack))
        except SpoolFull:
            return False
        self.roots.setdefault(machine.id, blobs[-1][0])
        return True

    def commit(self, one: YearMachine, epoch: int, fault: Fault | None) -> Ran:
        """The run ends well, or as well as it can."""
        machine = one.machine
        seeding = SnapshotStatus.CHECKPOINT if self.now < one.seeded else SnapshotStatus.COMPLETE
        status = STATUS.get(fault, seeding) if fault is not None else seeding
        travels = fault is Fault.TRAVEL and len(one.heads) > 9
        remembered = one.heads[-5] if travels else machine.head
        one.travels += travels
        record = machine.snapshot(self.roots[machine.id], status=status, remembered=remembered)
        result = self.wait(self.store.commit(machine.id, record, epoch))
        assert not result.missing
        machine.sequence, machine.head = machine.sequence + 1, result.hash
        one.heads.append(result.hash)
        names = {SnapshotStatus.COMPLETE: Ran.COMPLETE, SnapshotStatus.PARTIAL: Ran.PARTIAL}
        return names.get(status, Ran.NOTHING)

    # The year

    def live(self) -> list[EventRow]:
        """From the first day to the end; gives all events of the ledger."""
        self.serve()
        self.set_up()
        crashes = [(part * self.end, hours) for part, hours in self.calendar.crashes]
        jumps = [(part * self.end, seconds) for part, seconds in self.calendar.jumps]
        runs = [sorted((at, number) for at in one.times(self.end)) for number, one in enumerate(self.machines)]
        waiting = sorted(itertools.chain.from_iterable(runs))
        waiting += [(self.end, -1)]
        position, usable = 0, Spool.usable
        with mock.patch.object(Spool, "usable", lambda spool: 0 if self.is_full else usable(spool)):
            while self.now + LOOK_S < self.end:
                until = self.now + LOOK_S
                while waiting[position][0] <= until:
                    at, number = waiting[position]
                    position += 1
                    if at >= self.now:  # while it was down they came in vain
                        self.now = at
                        self.is_full = self.is_at(self.calendar.full)
                        self.run(self.machines[number])
                self.now = until
                self._switch()
                self.look()
                if jumps and self.now >= jumps[0][0]:
                    self.jumped += jumps.pop(0)[1]
                if crashes and self.now >= crashes[0][0]:
                    self.crash(crashes.pop(0)[1], "catalogue*" if crashes else "nothing")
            events = self._events()
            self.stop()
        return events

    def _switch(self) -> None:
        for one in self.machines:
            if one.off and self.now >= one.off[0]:
                one.off.pop(0)
                one.switched.append(self.now)
                enables = len(one.switched) % 2 == 0
                self.switch(one, StatementVerb.ENABLE_MACHINE if enables else StatementVerb.DISABLE_MACHINE)

    def _events(self) -> list[EventRow]:
        found: list[EventRow] = []
        while page := self.wait(self.store._ready().catalogue.events(found[-1].sequence if found else 0, 1000)):
            found += page
        return found


def codes(events: list[EventRow], machine: bytes) -> list[EventCode]:
    """What was told of a machine, or (b"") of none."""
    return [EventCode(one.code) for one in events if one.machine == machine]
