"""Which event goes to whom, and when: the decisions of telling, without I/O.

Promises: what matters (a warning, something critical, or the end of what was told) is told at once, that is after a
moment in which more of it may come; everything else waits for the daily digest. The more letters an hour had, the
longer the next one gathers, up to an hour, so that a flood becomes summaries; a machine that caused letters today waits
longer than the others, so that it cannot hold back theirs for long. What a peer can cause again and again is told once
a day. A snooze holds back what the watch says of machines, never what weakens the watch or smells of an attack; when it
is over, what still goes on is told. What is acknowledged is not told again. An event always goes to the addresses of
its admin; where there are none, to the operator's. All of it follows from the ledger and the channel's state.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from mastodon.catalogue.interface import Condition, EventRow
from mastodon.daemon.telling.channel import Channel, ChannelKind, ChannelState, Place, Subject
from mastodon.daemon.telling.letter import Letter, LetterKind, Line, is_closing, lines_of
from mastodon.sealed.addresses import mail_addresses, target
from mastodon.sealed.duration import DAY_NS, HOUR_NS, SECOND_NS
from mastodon.sealed.events import CLOSES, OPENS, Audience, EventCode, Severity, kind_of, known_code
from mastodon.sealed.settings import MAIL, SNOOZE, SNOOZE_MOST_NS, WEBHOOK, Settings

GATHER_NS = {ChannelKind.MAIL: 60 * SECOND_NS, ChannelKind.WEBHOOK: 5 * SECOND_NS}
OWN_WEIGHT = 3
"""Each letter but the first that a machine caused today makes its next one wait as so many letters do."""
CAUSED_MOST = 4096
TOLD_MOST = 4096

REPEATING = frozenset(
    {
        EventCode.PACK_REFUSED, EventCode.PAIR_REFUSED, EventCode.SNAPSHOT_REFUSED, EventCode.UNKNOWN_VERB,
        EventCode.STATEMENT_REFUSED, EventCode.MALFORMED, EventCode.HELLO_REFUSED, EventCode.KEY_REFUSED,
        EventCode.ROLE_REFUSED, EventCode.PACK_STRANGE, EventCode.WRONG_CREDENTIALS, EventCode.CLOCK_SKEW,
        EventCode.AGENT_TOO_OLD, EventCode.QUOTA_80, EventCode.QUOTA_95,
    }
)  # fmt: skip
"""What a machine, a client or a stranger can cause as often as it likes: told once a day, counted in the digest."""

QUIETED = frozenset(
    {
        EventCode.LATE, EventCode.RUN_FAILED, EventCode.PARTIAL_LONG, EventCode.NEVER_SEEN,
        EventCode.SEEDING_LONG, EventCode.CLOCK_SKEW, EventCode.AGENT_TOO_OLD, EventCode.QUOTA_80, EventCode.QUOTA_95,
    }
)  # fmt: skip
"""What a snooze holds back; and the end of it, where only such things end."""


@dataclass(frozen=True, slots=True)
class Decision:
    """The channel's state from now on, with a letter to send or without; ``due_ns``: when to look again for one that is
    gathering."""

    state: ChannelState
    due_ns: int | None = None


@dataclass(frozen=True, slots=True)
class Rules:
    """What was set, as of now: addresses and snoozes. ``operator`` are the configuration's mail addresses, which
    are told whatever else is set."""

    settings: Settings
    operator: tuple[str, ...]
    now_ns: int
    earlier: Mapping[int, Settings] = field(default_factory=dict)
    """What was set as of some events, by sequence: who is told of a change of address is who was told before it."""

    def channels(self, places: Iterable[Place]) -> set[Channel]:
        """The channels of the operator, and of all places (admins and machines) that have addresses."""
        return {channel for tenant, machine in (*places, (b"", b"")) for channel in self.own(tenant, machine)}

    def own(self, tenant: bytes, machine: bytes) -> set[Channel]:
        """The channels that a machine's events go to, or a tenant's, or (b"") the operator's; without the operator's
        where the tenant has none."""
        places = dict.fromkeys(((tenant, machine), (tenant, b"")))
        found: set[Channel] = set()
        for name, kind in ((MAIL, ChannelKind.MAIL), (WEBHOOK, ChannelKind.WEBHOOK)):
            value = next((value for place in places if (value := self.settings.at(name, *place))), "")
            found |= {Channel(tenant, kind, one) for one in _addresses(kind, value)}
        if not tenant:
            found |= {Channel(b"", ChannelKind.MAIL, one) for one in self.operator}
        return found

    def recipients(self, event: "EventRow | Condition") -> set[Channel]:
        """Who is told of an event."""
        audience, tenant = kind_of(event.code).audience, event.tenant
        admins = self.own(tenant, event.machine) if tenant and audience is not Audience.OPERATOR else set()
        told = admins if admins and audience is Audience.ADMIN else admins | self.own(b"", b"")
        if event.sequence in self.earlier:
            told |= replace(self, settings=self.earlier[event.sequence], earlier={}).recipients(event)
        return told

    def snoozed(self) -> frozenset[Place]:
        """Where a snooze holds now."""
        return frozenset(
            place for place, value in self.settings.values(SNOOZE)
            if self.now_ns < int(value or 0) <= self.now_ns + SNOOZE_MOST_NS
        )  # fmt: skip

    def snoozed_for(self, channel: Channel) -> frozenset[Place]:
        """Those that concern a channel."""
        return frozenset(place for place in self.snoozed() if not channel.tenant or place[0] in (b"", channel.tenant))


def alert(channel: Channel, state: ChannelState, rules: Rules, events: Sequence[EventRow], reached: int) -> Decision:
    """What of these events is to be told, and whether now; they are all behind the position, up to ``reached``."""
    snoozed, now_ns = rules.snoozed(), rules.now_ns
    leaving = bool(state.until)
    told = dict(state.told)
    tellable = []
    for event in events:
        theirs = event.tenant == channel.tenant or not channel.tenant
        concerned = theirs if leaving else channel in rules.recipients(event)
        if concerned and _is_told_at_once(event, state.told, told, snoozed, now_ns):
            tellable.append(event)
            _note(event, told, now_ns)
    if not tellable:
        return Decision(replace(state, position=max(state.position, reached)))
    due = {event.sequence: 0 if leaving else _due(event, channel.kind, state, now_ns) for event in tellable}
    if min(due.values()) > now_ns:
        return Decision(state, min(due.values()))
    causes = {event.machine for event in tellable if event.machine and due[event.sequence] <= now_ns}
    caused = (*_recent(state.caused, now_ns), *((machine, now_ns) for machine in sorted(causes)))
    lines, more = lines_of(tellable)
    letter = _letter(channel, LetterKind.ALERT, tellable[-1].sequence, now_ns, lines=lines, more=more)
    sent = (*_recent_times(state.sent, now_ns), now_ns)
    reached = max(state.position, reached)
    return Decision(replace(state, position=reached, letter=letter, sent=sent, caused=caused, told=_bounded(told)))


def still(
    channel: Channel, state: ChannelState, rules: Rules, conditions: Iterable[Condition], acknowledged: frozenset[int]
) -> Decision:
    """A letter about what goes on where a snooze is over; the state knows where one holds now."""
    snoozed = rules.snoozed_for(channel)
    over = state.quiet - snoozed
    if snoozed == state.quiet:
        return Decision(state)
    open_ = [
        one for one in _of_channel(channel, rules, conditions, acknowledged)
        if one.code in QUIETED and _is_in(over, one) and not _is_in(snoozed, one)
    ]  # fmt: skip
    state = replace(state, quiet=snoozed)
    if not open_:
        return Decision(state)
    told = dict(state.told)
    for one in open_:
        told[_subject(one)] = rules.now_ns
    lines, more = _open_lines(open_)
    letter = _letter(channel, LetterKind.STILL, state.position, rules.now_ns, open=lines, more=more)
    return Decision(replace(state, letter=letter, told=_bounded(told)))


def digest_is_due(state: ChannelState, hour: int, now_ns: int) -> bool:
    """Whether a digest's hour lies between the last digest and now."""
    last = now_ns - (now_ns - hour * HOUR_NS) % DAY_NS
    return state.digested_ns < last or state.digested_ns > now_ns + DAY_NS


def digest(
    channel: Channel, state: ChannelState, rules: Rules, events: Iterable[EventRow], reached: int,
    conditions: Iterable[Condition], acknowledged: frozenset[int],
) -> Decision:  # fmt: skip
    """The daily letter, when there is anything in it: all since the last one, and what still goes on."""
    since = [one for one in events if channel in rules.recipients(one)]
    lines, more = lines_of(since)
    open_, more_open = _open_lines(_of_channel(channel, rules, conditions, acknowledged))
    state = replace(state, digested=max(state.digested, reached), digested_ns=rules.now_ns)
    if not lines and not open_:
        return Decision(state)
    letter = _letter(
        channel, LetterKind.DIGEST, state.digested, rules.now_ns, lines=lines, open=open_, more=more + more_open
    )
    return Decision(replace(state, letter=letter))


def test_letter(channel: Channel, now_ns: int) -> Letter:
    """What `notify test` sends."""
    return _letter(channel, LetterKind.TEST, 0, now_ns)


def _addresses(kind: ChannelKind, value: str) -> tuple[str, ...]:
    """What an older release let in and this one would not is passed over."""
    try:
        if kind is ChannelKind.MAIL:
            return mail_addresses(value)
        if value:
            target(value)
            return (value,)
    except ValueError:
        pass
    return ()


def _is_told_at_once(
    event: EventRow, before: dict[Subject, int], told: dict[Subject, int], snoozed: frozenset[Place], now_ns: int
) -> bool:
    """``before``: what earlier letters told, ``told``: with what this one does so far."""
    if kind_of(event.code).severity is Severity.INFO and not is_closing(event.code):
        return False
    if _is_in(snoozed, event):
        if event.code in QUIETED:
            return False
        # The end of what was told before the snooze is told in it, too.
        ends = _closed_by(event)
        if ends and all(code in QUIETED for code, _, _ in ends):
            return any(one in told for one in ends)
    return event.code not in REPEATING or not 0 <= now_ns - before.get(_subject(event), -DAY_NS) < DAY_NS


def _note(event: EventRow, told: dict[Subject, int], now_ns: int) -> None:
    if event.code in REPEATING or event.code in OPENS:
        told[_subject(event)] = now_ns
    for one in _closed_by(event):
        told.pop(one, None)


def _closed_by(event: EventRow) -> list[Subject]:
    code = known_code(event.code)
    codes = CLOSES.get(code, frozenset()) if code is not None else frozenset()
    return [(int(code), event.tenant, event.machine) for code in codes]


def _subject(event: EventRow | Condition) -> Subject:
    return int(event.code), event.tenant, event.machine


def _is_in(places: frozenset[Place], event: EventRow | Condition) -> bool:
    return not places.isdisjoint({(b"", b""), (event.tenant, b""), (event.tenant, event.machine)})


def _due(event: EventRow, kind: ChannelKind, state: ChannelState, now_ns: int) -> int:
    """When a letter may go out because of this event."""
    sent = _recent_times(state.sent, now_ns)
    own = sum(1 for machine, _ in _recent(state.caused, now_ns) if event.machine and machine == event.machine)
    wait = min(HOUR_NS, GATHER_NS[kind] << min(20, max(len(sent), OWN_WEIGHT * (own - 1))))
    # A clock that was put back must not make what happened "later" wait.
    since = event.time_ns if event.time_ns <= now_ns else 0
    return max(since, sent[-1] if sent else 0) + wait


def _recent_times(times: Sequence[int], now_ns: int) -> tuple[int, ...]:
    return tuple(when for when in times if 0 <= now_ns - when < HOUR_NS)


def _recent(caused: Sequence[tuple[bytes, int]], now_ns: int) -> tuple[tuple[bytes, int], ...]:
    return tuple((machine, when) for machine, when in caused[-CAUSED_MOST:] if 0 <= now_ns - when < DAY_NS)


def _bounded(told: dict[Subject, int]) -> dict[Subject, int]:
    """Only so much is remembered, the newest."""
    if len(told) <= TOLD_MOST:
        return told
    newest = sorted(told.items(), key=lambda item: item[1])[-TOLD_MOST:]
    return dict(newest)


def _of_channel(
    channel: Channel, rules: Rules, conditions: Iterable[Condition], acknowledged: frozenset[int]
) -> list[Condition]:
    return [
        one for one in conditions
        if one.sequence not in acknowledged and channel in rules.recipients(one)
    ]  # fmt: skip


def _open_lines(conditions: Iterable[Condition]) -> tuple[tuple[Line, ...], int]:
    return lines_of(
        EventRow(one.sequence, int(one.code), one.tenant, one.machine, one.detail, one.time_ns) for one in conditions
    )


def _letter(
    channel: Channel, kind: LetterKind, reached: int, now_ns: int, *, lines: tuple[Line, ...] = (),
    open: tuple[Line, ...] = (), more: int = 0,
) -> Letter:  # fmt: skip
    return Letter(f"{kind.value}.{reached}.{now_ns}.{channel.id}", kind, now_ns, lines, open, more)
