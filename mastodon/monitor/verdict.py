"""What a server's status means to whoever watches: a level, a line, and figures for graphs.

Ages are by the server's own clock, so that the clock of whoever asks does not matter.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum

from mastodon.monitor.arguments import Arguments, Aspect
from mastodon.monitor.question import NoAnswer
from mastodon.sealed.duration import show_span
from mastodon.sealed.events import EVENTS, EventCode, EventKind, Severity
from mastodon.sealed.ledger_entries import MachineState
from mastodon.wire.status_messages import ServerStatusItem, StatusItem, WatchState

SECOND_NS = 10**9
AHEAD_S = 300
"""A backup that is so far in the future shows that the server's clock went back: ages mean nothing then."""
QUOTA_WARNING = 80
NAMED = 5
"""Machines that one finding names."""
TEXT_LIMIT, FIGURES_LIMIT = 1500, 4000


class Level(IntEnum):
    """As the plugin's exit code."""

    OK = 0
    WARNING = 1
    CRITICAL = 2
    UNKNOWN = 3


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is not as it should be; ``about`` is which machine, for those that several can share."""

    level: Level
    text: str
    about: str = ""


@dataclass(frozen=True, slots=True)
class Verdict:
    """The outcome. ``figures`` are performance data."""

    level: Level
    text: str
    figures: tuple[str, ...]


LEVELS = {Severity.INFO: Level.OK, Severity.WARNING: Level.WARNING, Severity.CRITICAL: Level.CRITICAL}
# Told otherwise already: by the state, by the spool itself, by the share of the quota.
TOLD = frozenset(
    {
        EventCode.LATE, EventCode.RUN_FAILED, EventCode.SPOOL_OFFLINE, EventCode.QUOTA_80, EventCode.QUOTA_95,
        EventCode.QUOTA_FULL,
    }
)  # fmt: skip
OF_THE_AGE = frozenset({EventCode.NEVER_SEEN, EventCode.SEEDING_LONG, EventCode.PARTIAL_LONG})
OF_SPOOLS = frozenset({EventCode.SPOOL_NEARLY_FULL})


def judge(asked: Arguments, server: ServerStatusItem, machines: Sequence[StatusItem]) -> Verdict:
    """The verdict on all that was asked about. Raises NoAnswer where the certificate cannot see what was asked for."""
    findings: list[Finding] = []
    said: list[str] = []
    figures: list[str] = []
    if asked.looks_at(Aspect.STALE):
        findings += _about_machines(asked, server, machines)
        said.append(_count(server, machines))
        figures += _machine_figures(asked, server, machines)
    if asked.looks_at(Aspect.QUOTA):
        quotas = list(_quotas(asked, server, machines))
        findings += [one for name, kept, quota in quotas if (one := _about_quota(name, kept, quota))]
        figures += [_quota_figure(*one) for one in quotas]
        said += [_many(len(quotas), "quota") if quotas else "no quotas are set"] if asked.aspects else []
    if asked.looks_at(Aspect.SPOOLS) and not asked.machine:
        if Aspect.SPOOLS in asked.aspects and not server.spools:
            raise NoAnswer("this certificate sees no spools: --spools needs the operator's monitor")
        findings += _about_spools(server)
        figures += [f"{_label(f'spool {one.path}')}={one.usable_bytes}B;;;0;{one.size_bytes}" for one in server.spools]
        said += [_many(len(server.spools), "spool")] if server.spools else []
    if not asked.aspects and not asked.machine:
        findings += _about_server(server)
    level = max((one.level for one in findings), default=Level.OK)
    text = ". ".join([*_told(findings), *said])  # not ";", of which Nagios makes ":"
    return Verdict(level, text, tuple(figures))


def one_line(verdict: Verdict) -> str:
    """The line that the plugin prints."""
    figures = ""
    for figure in verdict.figures:
        if len(figures) + len(figure) < FIGURES_LIMIT:
            figures += f" {figure}"
    return f"MASTODON {verdict.level.name} - {clean(verdict.text)[:TEXT_LIMIT]}" + (f" |{figures}" if figures else "")


def clean(text: str) -> str:
    """Without what has a meaning in a plugin's output."""
    return " ".join("".join(c if c.isprintable() else " " for c in text.replace("|", "/")).split())


# Machines


def _about_machines(asked: Arguments, server: ServerStatusItem, machines: Sequence[StatusItem]) -> Iterator[Finding]:
    if not machines:
        yield Finding(Level.WARNING, "there are no machines")
    for one in machines:
        name = one.machine.hex()[:16]
        if one.state is not MachineState.ACTIVE:
            continue
        age = _age(server, one)
        if age < -AHEAD_S:
            yield Finding(Level.WARNING, "backed up in the future by the server's clock", name)
        yield from _about_age(asked, one, age, name)
        if one.watch in (WatchState.FAILED, WatchState.PARTIAL):
            since = show_span(max(0, server.time_ns - one.since_ns) // SECOND_NS)
            yield Finding(Level.WARNING, one.watch.name.lower(), f"{name} for {since}")
        for code, _, _ in one.conditions:
            if code in OF_THE_AGE or (not asked.aspects and code not in TOLD):
                yield _about_event(code, name)


def _about_age(asked: Arguments, one: StatusItem, age: int, name: str) -> Iterator[Finding]:
    """By the thresholds where there are any, else by the machine's own watch."""
    text = f"{name}, {'newest' if one.complete_ns else 'none, added'} {show_span(max(0, age))} ago"
    if asked.critical_s is not None and age > asked.critical_s:
        yield Finding(Level.CRITICAL, "without a complete backup in time", text)
    elif asked.warning_s is not None and age > asked.warning_s:
        yield Finding(Level.WARNING, "without a complete backup in time", text)
    elif asked.critical_s is None and asked.warning_s is None and one.watch is WatchState.LATE:
        yield Finding(Level.CRITICAL, "late", text)


def _age(server: ServerStatusItem, one: StatusItem) -> int:
    """Seconds since the newest complete backup, or since the machine was added."""
    return (server.time_ns - (one.complete_ns or one.since_ns)) // SECOND_NS


def _count(server: ServerStatusItem, machines: Sequence[StatusItem]) -> str:
    states = [f"{count} {state.name.lower().replace('_', ' ')}" for state, count in _by_state(machines) if count]
    ages = [_age(server, one) for one in machines if one.state is MachineState.ACTIVE and one.complete_ns]
    oldest = f", oldest complete backup {show_span(max(0, *ages, 0))} ago" if ages else ""
    return f"{_many(len(machines), 'machine')}: {', '.join(states) or 'none'}{oldest}"


def _by_state(machines: Iterable[StatusItem]) -> list[tuple[WatchState, int]]:
    counts: dict[WatchState, int] = defaultdict(int)
    for one in machines:
        counts[one.watch] += 1
    return [(state, counts[state]) for state in WatchState]


def _machine_figures(asked: Arguments, server: ServerStatusItem, machines: Sequence[StatusItem]) -> Iterator[str]:
    ages = [_age(server, one) for one in machines if one.state is MachineState.ACTIVE and one.complete_ns]
    bounds = ";".join("" if one is None else str(one) for one in (asked.warning_s, asked.critical_s))
    if ages:
        yield f"age={max(0, *ages, 0)}s;{bounds};0"
    yield f"kept={sum(one.kept_bytes for one in machines)}B;;;0"
    yield f"snapshots={sum(one.snapshots for one in machines)};;;0"
    if not asked.machine:
        yield f"machines={len(machines)};;;0"
        yield from (f"{state.name.lower()}={count};;;0;{len(machines)}" for state, count in _by_state(machines))


# Quotas, spools, the server


def _quotas(
    asked: Arguments, server: ServerStatusItem, machines: Sequence[StatusItem]
) -> Iterator[tuple[str, int, int]]:
    """Name, bytes kept, and quota, of whatever has one."""
    for tenant in server.tenants:
        if tenant.quota_bytes is not None and not asked.machine:
            yield tenant.name, tenant.kept_bytes, tenant.quota_bytes
    for one in machines:
        if one.quota_bytes is not None:
            yield one.machine.hex()[:16], one.kept_bytes, one.quota_bytes


def _about_quota(name: str, kept: int, quota: int) -> Finding | None:
    percent = 100 * kept // quota if quota else 100
    if percent < QUOTA_WARNING:
        return None
    level = Level.CRITICAL if percent >= 100 else Level.WARNING
    return Finding(level, f"quota of {name}: {percent} % used")


def _quota_figure(name: str, kept: int, quota: int) -> str:
    return f"{_label(f'quota {name}')}={kept}B;{quota * QUOTA_WARNING // 100};{quota};0;{quota}"


def _about_spools(server: ServerStatusItem) -> Iterator[Finding]:
    for one in server.spools:
        if one.offline:
            yield Finding(Level.CRITICAL, f"spool {one.path} is offline: {one.offline}")
        elif not one.usable_bytes:
            yield Finding(Level.CRITICAL, f"spool {one.path} is full up to its reserve")
    for code, subject, _ in server.conditions:
        if code in OF_SPOOLS:
            yield _about_event(code, subject)


def _about_server(server: ServerStatusItem) -> Iterator[Finding]:
    """What is open about the server, and about admins and none of their machines."""
    for conditions in (server.conditions, *(tenant.conditions for tenant in server.tenants)):
        for code, subject, _ in conditions:
            if code not in TOLD and code not in OF_SPOOLS:
                yield _about_event(code, subject)
    if server.waiting:
        since = show_span(max(0, server.time_ns - server.waiting_since_ns) // SECOND_NS)
        waiting = _many(server.waiting, "message")
        yield Finding(Level.WARNING, f"{waiting} could not be delivered yet, the oldest for {since}")


def _about_event(code: int, about: str) -> Finding:
    kind: EventKind | None = EVENTS.get(EventCode(code)) if code in set(EventCode) else None
    if kind is None:
        return Finding(Level.WARNING, f"event {code} of a later release", about)
    return Finding(LEVELS[kind.severity], kind.title, about)


# How it is told


def _told(findings: Iterable[Finding]) -> list[str]:
    """The gravest first; those that say the same are told together."""
    alike: dict[tuple[Level, str], list[str]] = defaultdict(list)
    for one in findings:
        alike[one.level, one.text].append(one.about)
    lines = []
    for (_, text), abouts in sorted(alike.items(), key=lambda item: -item[0][0]):
        named = ", ".join(filter(None, abouts[:NAMED]))
        more = f" and {len(abouts) - NAMED} more" if len(abouts) > NAMED else ""
        count = f"{len(abouts)} " if named and len(abouts) > 1 else ""
        lines.append(f"{count}{text} ({named}{more})" if named else text)
    return lines


def _many(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def _label(text: str) -> str:
    """A label of performance data."""
    return "'" + clean(text).replace("'", "''").replace("=", "_") + "'"
