"""The teller: looks at the ledger's events every few seconds and brings letters to the channels.

Promises: nothing is lost, whatever is killed or cannot be reached, for however long: what is not taken is tried again,
with growing pauses up to an hour, and meanwhile more gathers into the next letter. One channel's trouble is not
another's. A channel that fails for an hour is itself an event, once. An address that was replaced is told what there
was up to its replacement, that included, and then forgotten.
"""

from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from twisted.internet.defer import CancelledError, Deferred, TimeoutError
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from mastodon.catalogue.interface import Condition, EventRow
from mastodon.daemon.errors import LimitReached
from mastodon.daemon.places import Places
from mastodon.daemon.telling import compose
from mastodon.daemon.telling.channel import Channel, ChannelFiles, ChannelKind, ChannelState, Place
from mastodon.daemon.telling.compose import Rules
from mastodon.daemon.telling.errors import NotTaken
from mastodon.daemon.telling.letter import Letter
from mastodon.daemon.trouble import log_trouble
from mastodon.daemon.watching import show_time
from mastodon.host.durable import DiskError
from mastodon.sealed.duration import DAY_NS, HOUR_NS
from mastodon.sealed.events import EventCode
from mastodon.sealed.settings import MAIL, SNOOZE, WEBHOOK, Settings

LOOK_S = 5.0
PAGE = 2000
SENT_AT_ONCE = 16
FIRST_PAUSE_S = 30.0
LONGEST_PAUSE_S = 3600.0
FAILING_NS = HOUR_NS
"""How long a channel fails before that is an event."""
GIVEN_UP_NS = 7 * DAY_NS
"""How long a replaced address is tried."""
LEAVING_MOST = 20
"""Replaced addresses of one admin that are still to be told; more are not, so that no stranger is mailed for fun."""
CHANGES_EACH = 20
"""Addresses of one admin that come or go at one look, each with a file; the next look goes on with the others."""
EARLIER_KEPT = 256
TESTS_APART_NS = 60 * 10**9
TEST_S = 40.0
"""How long a test is waited for: whoever asked for it waits, too."""

Carry = Callable[[Channel, Letter], "Deferred[None]"]
"""Brings a letter to its address. Fails with NotTaken."""


class Ledger(Protocol):
    """What the teller asks of the store."""

    def sequence(self) -> int:
        """The newest entry."""

    def settings(self, at: int | None = None) -> Awaitable[Settings]:
        """MAIL, WEBHOOK and SNOOZE as they are, or were at a sequence."""

    def events(self, after: int, limit: int, tenant: bytes | None) -> Awaitable[list[EventRow]]:
        """Events behind a sequence, the oldest first."""

    def conditions(self, tenant: bytes | None) -> Awaitable[list[Condition]]:
        """What is open."""

    def acknowledged(self, tenant: bytes) -> Awaitable[frozenset[int]]:
        """The sequences of open conditions' events that the tenant's admin, or (b"") the operator, knows of."""

    def failed(self, tenant: bytes, detail: str) -> None:
        """Write TELLING_FAILED."""


@dataclass(slots=True)
class _Work:
    """A channel at work: what is in memory only."""

    state: ChannelState
    busy: bool = False
    look: bool = True
    """Whether there may be something to decide."""
    due_ns: int | None = None
    attempts: int = 0
    next_try: float = 0.0
    reason: str = ""
    relay: bool = False


@dataclass(frozen=True, slots=True)
class ChannelStatus:
    """How a channel stands, for people. ``failing_ns``: since when, 0 for not; ``reason`` why."""

    kind: ChannelKind
    address: str
    failing_ns: int
    reason: str


@dataclass(slots=True)
class Teller:
    """Lives in the reactor's thread. ``random`` gives numbers from 0 to 1."""

    ledger: Ledger
    files: ChannelFiles
    carriers: Mapping[ChannelKind, Carry]
    operator: tuple[str, ...]
    digest_hour: int
    clock: Any
    now_ns: Callable[[], int]
    random: Callable[[], float]
    in_thread: Callable[..., "Deferred[Any]"]
    log: Logger = field(default_factory=Logger)
    _work: dict[Channel, _Work] = field(default_factory=dict)
    _places: Places = field(default_factory=lambda: Places(SENT_AT_ONCE))
    _rules: Rules | None = None
    _looked: int = 0
    _earlier: dict[int, Settings] = field(default_factory=dict)
    _tested: dict[bytes, int] = field(default_factory=dict)
    _call: LoopingCall | None = None
    _under_way: set["Deferred[None]"] = field(default_factory=set)

    async def start(self) -> None:
        """Take up what was left, then look every few seconds."""
        yesterday = None
        for found in await self.in_thread(lambda: list(self.files.read())):
            if isinstance(found, tuple):
                channel, state = found
                self._work[channel] = _Work(state)
            else:
                self.log.error("{path}: cannot be read and was set aside: the last day is told again", path=found)
                yesterday = self.now_ns() - DAY_NS
        self._looked = self.ledger.sequence()
        await self._follow_settings(await self._since(yesterday))
        self._call = LoopingCall(lambda: self._run(self.look()).addErrback(self._failed))
        self._call.clock = self.clock
        self._call.start(LOOK_S)

    def stop(self) -> None:
        """Look no more, and let go of what is under way: what was not taken is told after the next start."""
        if self._call is not None and self._call.running:
            self._call.stop()
        for one in list(self._under_way):
            one.cancel()

    def _run(self, work: Coroutine["Deferred[Any]", Any, None]) -> "Deferred[None]":
        """Work that a stop cancels."""
        running = Deferred.fromCoroutine(work)
        self._under_way.add(running)

        def over(outcome: Any) -> Any:
            self._under_way.discard(running)
            return outcome

        return running.addBoth(over)

    async def look(self) -> None:
        """Once: follow the settings and new events, and let every channel go on that has something to do."""
        position = self.ledger.sequence()
        await self._follow_settings(position)
        while events := await self.ledger.events(self._looked, PAGE, None):
            self._looked = events[-1].sequence
            touched = {event.tenant for event in events}
            for channel, work in self._work.items():
                work.look = work.look or not channel.tenant or channel.tenant in touched
        for channel, work in list(self._work.items()):
            if not work.busy and self._has_to_do(channel, work):
                work.busy = True
                self._go_on(channel, work)

    async def test(self, tenant: bytes) -> list[ChannelStatus]:
        """Send a test to every address of an admin, or of the operator. Raises LimitReached."""
        now_ns = self.now_ns()
        if 0 <= now_ns - self._tested.get(tenant, -DAY_NS) < TESTS_APART_NS:
            raise LimitReached("one test a minute: wait, then try again")
        self._tested[tenant] = now_ns
        await self._follow_settings(self.ledger.sequence())
        channels = self._of(tenant)
        outcomes = [self._carry(channel, compose.test_letter(channel, now_ns)) for channel in channels]
        for outcome in outcomes:
            outcome.addTimeout(TEST_S, self.clock)
        found = []
        for channel, outcome in zip(channels, outcomes, strict=True):
            try:
                reason = await outcome
            except TimeoutError:
                reason = f"not taken within {TEST_S:.0f} s"
            found.append(ChannelStatus(channel.kind, channel.address, now_ns if reason else 0, reason))
        return found

    async def status(self, tenant: bytes) -> list[ChannelStatus]:
        """How the channels of an admin, or of the operator, stand."""
        await self._follow_settings(self.ledger.sequence())
        return [
            ChannelStatus(one.kind, one.address, self._work[one].state.failing_ns, self._work[one].reason)
            for one in self._of(tenant)
        ]

    def waiting(self) -> tuple[int, int]:
        """Letters that could not be delivered yet, and since when the first of them fails (0: none does)."""
        states = [work.state for work in self._work.values()]
        failing = [one.failing_ns for one in states if one.letter is not None and one.failing_ns]
        return len(failing), min(failing, default=0)

    # Channels

    def _of(self, tenant: bytes) -> list[Channel]:
        found = (one for one, work in self._work.items() if one.tenant == tenant and not work.state.until)
        return sorted(found, key=lambda one: (one.kind, one.address))

    async def _since(self, when_ns: int | None) -> int:
        """Where new channels begin: with the next event, or with the first one since a time."""
        if when_ns is None:
            return self.ledger.sequence()
        after = 0
        while page := await self.ledger.events(after, PAGE, None):
            for event in page:
                if event.time_ns >= when_ns:
                    return event.sequence - 1
            after = page[-1].sequence
        return self.ledger.sequence()

    async def _follow_settings(self, position: int) -> None:
        """Channels come and go with the addresses that are set."""
        settings = await self.ledger.settings()
        rules = Rules(settings, self.operator, self.now_ns())
        places: set[Place] = {place for name in (MAIL, WEBHOOK) for place, _ in settings.values(name)}
        wanted = rules.channels(places)
        if self._rules is not None and rules.snoozed() != self._rules.snoozed():
            for work in self._work.values():
                work.look = True
        self._rules = rules
        changes: Counter[bytes] = Counter()
        for channel in wanted:
            known = self._work.get(channel)
            if known is None and changes[channel.tenant] < CHANGES_EACH:
                changes[channel.tenant] += 1
                fresh = ChannelState(position, position, self.now_ns(), quiet=rules.snoozed_for(channel))
                self._work[channel] = _Work(fresh)
                await self._keep(channel, fresh)
            elif known is not None and known.state.until:
                known.state = replace(known.state, until=0)
        for channel in self._work.keys() - wanted:
            known = self._work.get(channel)
            if known is None or known.busy or known.state.until or changes[channel.tenant] >= CHANGES_EACH:
                continue
            changes[channel.tenant] += 1
            await self._leave(channel, known)

    async def _leave(self, channel: Channel, work: _Work) -> None:
        leaving = sum(1 for one, other in self._work.items() if one.tenant == channel.tenant and other.state.until)
        if leaving >= LEAVING_MOST:
            await self._forget(channel)
            return
        work.state = replace(work.state, until=self.ledger.sequence())
        work.look = True
        await self._keep(channel, work.state)

    async def _forget(self, channel: Channel) -> None:
        self._work.pop(channel, None)
        try:
            await self.in_thread(self.files.remove, channel)
        except (DiskError, OSError) as error:
            self.log.error("an address that was replaced cannot be forgotten: {reason}", reason=str(error))

    async def _keep(self, channel: Channel, state: ChannelState) -> None:
        """A state that cannot be kept is still gone by: to be told twice is better than not at all."""
        try:
            await self.in_thread(self.files.write, channel, state)
        except (DiskError, OSError) as error:
            self.log.error("what was told cannot be kept: {reason}", reason=str(error))

    # One channel

    def _has_to_do(self, channel: Channel, work: _Work) -> bool:
        if work.state.letter is not None:
            return bool(self.clock.seconds() >= work.next_try)
        now_ns = self.now_ns()
        return (
            work.look or bool(work.state.until) or (work.due_ns is not None and work.due_ns <= now_ns)
            or (channel.kind is ChannelKind.MAIL and compose.digest_is_due(work.state, self.digest_hour, now_ns))
        )  # fmt: skip

    def _go_on(self, channel: Channel, work: _Work) -> None:
        def over(outcome: object) -> None:
            work.busy = False
            if isinstance(outcome, Failure):
                work.look = True
                self._failed(outcome)

        self._run(self._tell(channel, work)).addBoth(over)

    async def _tell(self, channel: Channel, work: _Work) -> None:
        letter = work.state.letter
        if letter is None:
            letter = await self._decide(channel, work)
            if letter is not None:
                await self._keep(channel, work.state)
        if letter is None:
            if work.state.until and work.state.position >= work.state.until:
                await self._forget(channel)
            return
        was_relay = work.relay
        reason = await self._carry(channel, letter, work)
        if was_relay and not work.relay:
            work.state = replace(work.state, failing_ns=0, failing_told=False)  # a trouble of its own begins
        if not reason:
            work.state, work.attempts, work.reason, work.relay = work.state.taken(), 0, "", False
            work.look = True
            await self._keep(channel, work.state)
            return
        work.attempts += 1
        pause = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2 ** min(20, work.attempts - 1))
        work.next_try = self.clock.seconds() + pause * (0.5 + self.random() / 2)
        await self._note_failure(channel, work, reason)

    async def _decide(self, channel: Channel, work: _Work) -> Letter | None:
        """Whether there is something to tell now; the position goes on."""
        rules = self._rules
        assert rules is not None
        work.look = False
        state = work.state
        whose = channel.tenant or None
        events = await self.ledger.events(state.position, PAGE, whose)
        if state.until:
            events = [event for event in events if event.sequence <= state.until]
        elif len(events) == PAGE:
            work.look = True
        rules = replace(rules, now_ns=self.now_ns(), earlier=await self._settings_before(events))
        reached = events[-1].sequence if events else state.position
        decision = compose.alert(channel, state, rules, events, max(reached, state.until))
        if decision.state.letter is None and not state.until:
            decision = await self._decide_rest(channel, rules, decision)
        work.state, work.due_ns = decision.state, decision.due_ns
        return work.state.letter

    async def _decide_rest(self, channel: Channel, rules: Rules, decision: compose.Decision) -> compose.Decision:
        """When there is no alert: what a snooze held back, then the digest."""
        whose = channel.tenant or None
        state, due_ns = decision.state, decision.due_ns
        if rules.snoozed_for(channel) != state.quiet:
            conditions = await self.ledger.conditions(whose)
            acknowledged = await self.ledger.acknowledged(channel.tenant)
            state = compose.still(channel, state, rules, conditions, acknowledged).state
            await self._keep(channel, state)
        if (
            state.letter is None and channel.kind is ChannelKind.MAIL
            and compose.digest_is_due(state, self.digest_hour, rules.now_ns)
        ):  # fmt: skip
            events = await self.ledger.events(state.digested, PAGE, whose)
            state = compose.digest(
                channel, state, rules, events, events[-1].sequence if events else state.digested,
                await self.ledger.conditions(whose), await self.ledger.acknowledged(channel.tenant),
            ).state  # fmt: skip
            await self._keep(channel, state)
        return compose.Decision(state, due_ns)

    async def _settings_before(self, events: list[EventRow]) -> dict[int, Settings]:
        """What was set before each change of address among these events."""
        found = {}
        for event in events:
            if event.code == EventCode.ADDRESS_CHANGED:
                if event.sequence not in self._earlier:
                    if len(self._earlier) >= EARLIER_KEPT:
                        self._earlier.pop(next(iter(self._earlier)))
                    self._earlier[event.sequence] = await self.ledger.settings(event.sequence)
                found[event.sequence] = self._earlier[event.sequence]
        return found

    def _carry(self, channel: Channel, letter: Letter, work: _Work | None = None) -> "Deferred[str]":
        """Fires with why it was not taken; empty when it was."""

        def refused(failure: Failure) -> "str | Failure":
            error = failure.value
            if isinstance(error, CancelledError):
                return failure
            if not isinstance(error, NotTaken):
                log_trouble(self.log, "a message could not be delivered", failure)
                return "the server failed: its log says why"
            if work is not None:
                work.relay = error.relay
            return str(error)

        sent = self._places.run(channel.tenant, lambda: self.carriers[channel.kind](channel, letter))
        return sent.addCallbacks(lambda _: "", refused)

    async def _note_failure(self, channel: Channel, work: _Work, reason: str) -> None:
        now_ns, state = self.now_ns(), work.state
        work.reason = reason
        if not state.failing_ns or state.failing_ns > now_ns:
            self.log.warn("{kind} to {to}: {reason}", kind=channel.kind.value, to=channel.address, reason=reason)
            work.state = replace(state, failing_ns=now_ns)
            await self._keep(channel, work.state)
        elif state.until and now_ns - state.failing_ns > GIVEN_UP_NS:
            await self._forget(channel)
        elif now_ns - state.failing_ns >= FAILING_NS and not state.failing_told:
            known = work.relay and any(other.relay and other.state.failing_told for other in self._work.values())
            if not known:
                what = "the mail relay" if work.relay else f"{channel.kind.value} to {channel.address}"
                tenant = b"" if work.relay else channel.tenant
                self.ledger.failed(tenant, f"{what}: since {show_time(state.failing_ns)}: {reason}")
            work.state = replace(state, failing_told=True)
            await self._keep(channel, work.state)

    def _failed(self, failure: Failure) -> None:
        if failure.check(CancelledError) is None:
            log_trouble(self.log, "what happened could not be told, it is tried again", failure)


SETTINGS_FOLLOWED = (MAIL, WEBHOOK, SNOOZE)
"""The settings that telling goes by."""
