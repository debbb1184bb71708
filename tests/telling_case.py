"""A ledger of events for telling, in lists; a clock that the test turns; carriers that note what they bring."""

import shutil
from bisect import bisect
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred, fail, maybeDeferred, succeed
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from mastodon.catalogue.interface import Condition, EventRow
from mastodon.daemon.telling.channel import Channel, ChannelFiles, ChannelKind
from mastodon.daemon.telling.errors import NotTaken
from mastodon.daemon.telling.letter import Letter
from mastodon.daemon.telling.teller import LOOK_S, Teller
from mastodon.host.durable import Disk, SystemDisk
from mastodon.sealed.events import CLOSES, OPENS, EventCode, subject_of
from mastodon.sealed.settings import MAIL, SNOOZE, WEBHOOK, Settings

START_NS = 1_800_000_000 * 10**9  # 08:00 UTC
SECOND, HOUR, DAY = 10**9, 3600 * 10**9, 86_400 * 10**9
ALICE, BOB = b"a" * 32, b"b" * 32
WEB, DATABASE = b"w" * 32, b"d" * 32
OPS = "ops@example.org"


@dataclass
class FakeLedger:
    """What the teller asks of the store."""

    clock: Clock
    rows: list[EventRow] = field(default_factory=list)
    history: list[tuple[int, tuple[str, bytes, bytes, str]]] = field(default_factory=list)
    known: set[int] = field(default_factory=set)
    failures: list[tuple[bytes, str]] = field(default_factory=list)
    skew_ns: int = 0
    _sequence: int = 10

    def now_ns(self) -> int:
        return START_NS + int(self.clock.seconds() * SECOND) + self.skew_ns

    def add(self, code: EventCode, tenant: bytes = ALICE, machine: bytes = WEB, detail: str = "") -> int:
        """Write an event."""
        self._sequence += 1
        self.rows.append(EventRow(self._sequence, int(code), tenant, machine, detail, self.now_ns()))
        return self._sequence

    def set(self, name: str, value: str, tenant: bytes = ALICE, machine: bytes = b"") -> None:
        """Set a value, behind the event that it makes where there was another address."""
        before = Settings(row for _, row in self.history).value(name, tenant, machine)
        if name in (MAIL, WEBHOOK) and before and before != value:
            self.add(EventCode.ADDRESS_CHANGED, tenant, machine, f"{name}: {value} instead of {before}")
        self._sequence += 1
        self.history.append((self._sequence, (name, tenant, machine, value)))

    def sequence(self) -> int:
        return self._sequence

    def settings(self, at: int | None = None) -> "Deferred[Settings]":
        return succeed(Settings(row for sequence, row in self.history if at is None or sequence <= at))

    def events(self, after: int, limit: int, tenant: bytes | None) -> "Deferred[list[EventRow]]":
        start = bisect(self.rows, after, key=lambda one: one.sequence)
        rows = [one for one in self.rows[start:] if tenant in (None, one.tenant)]
        return succeed(rows[:limit])

    def conditions(self, tenant: bytes | None) -> "Deferred[list[Condition]]":
        found: dict[tuple[int, bytes, bytes, str], Condition] = {}
        for one in self.rows:
            code, subject = EventCode(one.code), subject_of(one.code, one.detail)
            if code in OPENS:
                row = Condition(code, one.tenant, one.machine, subject, one.sequence, one.time_ns, one.detail)
                found.setdefault((one.code, one.tenant, one.machine, subject), row)
            for closed in CLOSES.get(code, ()):
                found.pop((int(closed), one.tenant, one.machine, subject), None)
        return succeed([one for one in found.values() if tenant in (None, one.tenant)])

    def acknowledged(self, tenant: bytes) -> "Deferred[frozenset[int]]":
        return succeed(frozenset(self.known))

    def failed(self, tenant: bytes, detail: str) -> None:
        self.failures.append((tenant, detail))
        self.add(EventCode.TELLING_FAILED, tenant, b"", detail)


class Hasty(SystemDisk):
    """No power is lost in these tests."""

    def fsync(self, fd: int) -> None:
        pass


class TellingCase(SynchronousTestCase):
    """Without a reactor: the test turns the clock."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.ledger = FakeLedger(self.clock)
        self.state = Path(self.mktemp())
        self.state.mkdir()
        self.sent: list[tuple[str, Letter]] = []
        """Letters that were taken, with the address."""
        self.attempts: list[tuple[str, Letter]] = []
        self.down: dict[str, NotTaken] = {}
        """Addresses, or kinds of channels, that take nothing."""
        self.ledger.set(MAIL, "alice@example.org")
        self.start()

    def start(self, disk: Disk | None = None, operator: tuple[str, ...] = (OPS,)) -> None:
        """Start, as the daemon does."""

        def carry(channel: Channel, letter: Letter) -> "Deferred[None]":
            self.attempts.append((channel.address, letter))
            error = self.down.get(channel.address) or self.down.get(channel.kind)
            if error is not None:
                return fail(error)
            self.sent.append((channel.address, letter))
            return succeed(None)

        def in_thread(function: Any, *arguments: Any) -> "Deferred[Any]":
            return maybeDeferred(function, *arguments)

        self.teller = Teller(
            self.ledger, ChannelFiles(self.state, disk or Hasty()), dict.fromkeys(ChannelKind, carry), operator, 6,
            self.clock, self.ledger.now_ns, lambda: 0.5, in_thread,
        )  # fmt: skip
        self.successResultOf(Deferred.fromCoroutine(self.teller.start()))

    def restart(self, **options: Any) -> None:
        """Kill and start again: what is in memory only is gone."""
        self.teller.stop()
        self.start(**options)

    def snapshot(self) -> Path:
        """What is on the disk now."""
        copy = Path(self.mktemp())
        shutil.copytree(self.state, copy)
        return copy

    def turn(self, seconds: float) -> None:
        """Let time pass, looking as often as the teller does, or often enough."""
        step = LOOK_S if seconds <= 600 else 60.0 if seconds < 3 * 3600 else 600.0
        while seconds > 0:
            self.clock.advance(min(step, seconds))
            seconds -= step

    def letters(self, address: str) -> list[Letter]:
        return [letter for to, letter in self.sent if to == address]

    def names(self, address: str) -> list[list[str]]:
        """The events in each letter to an address."""
        return [[line.name for line in letter.lines + letter.open] for letter in self.letters(address)]

    def snooze(self, hours: float, machine: bytes = b"") -> None:
        self.ledger.add(EventCode.WATCH_WEAKENED, ALICE, machine, "snooze.until")
        self.ledger.set(SNOOZE, str(self.ledger.now_ns() + int(hours * HOUR)), machine=machine)
