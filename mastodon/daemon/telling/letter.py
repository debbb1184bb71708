"""A letter: what one mail or POST tells. Made once, kept until it was taken, the same at each attempt."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from mastodon.catalogue.interface import EventRow
from mastodon.sealed.events import CLOSES, EventCode, EventKind, Severity, kind_of, known_code, name_of, subject_of

LINES_MOST = 50
LINES_EACH = 5
"""Lines about one machine, so that a flood about it leaves room for the others."""

SINGLE = frozenset(
    {
        EventCode.CERTIFICATE_ADDED, EventCode.CERTIFICATE_GONE, EventCode.FIRST_RESTORE, EventCode.ADDRESS_CHANGED,
        EventCode.WATCH_WEAKENED, EventCode.NEW_PAIR,
    }
)  # fmt: skip
"""Each of them may be an intruder's: what differs has a line of its own, so that a later one hides none."""

_WEIGHT = {Severity.CRITICAL: 0, Severity.WARNING: 1, Severity.INFO: 2}


class LetterKind(StrEnum):
    """Why a letter is written."""

    ALERT = "alert"
    STILL = "still"
    """A snooze is over, and what goes on is told again."""
    DIGEST = "digest"
    TEST = "test"


@dataclass(frozen=True, slots=True)
class Line:
    """Events of one code about one machine and subject: how many, since when, and the newest one."""

    code: int
    tenant: bytes
    machine: bytes
    count: int
    first_ns: int
    last_ns: int
    sequence: int
    detail: str

    @property
    def kind(self) -> EventKind:
        """What it means."""
        return kind_of(self.code)

    @property
    def name(self) -> str:
        """The event's name in the list."""
        return name_of(self.code)


@dataclass(frozen=True, slots=True)
class Letter:
    """``lines`` are what happened (of an alert or digest), ``open`` what goes on; ``more`` events are in no line."""

    id: str
    kind: LetterKind
    time_ns: int
    lines: tuple[Line, ...] = ()
    open: tuple[Line, ...] = ()
    more: int = 0


def is_closing(code: int) -> bool:
    """Whether the event ends something that was told."""
    return known_code(code) in CLOSES


def lines_of(events: Iterable[EventRow]) -> tuple[tuple[Line, ...], int]:
    """Events as lines, the gravest first; and how many events found no line."""
    groups: dict[tuple[int, bytes, bytes, str], list[EventRow]] = {}
    for one in events:
        about = one.detail if one.code in SINGLE else subject_of(one.code, one.detail)
        groups.setdefault((one.code, one.tenant, one.machine, about), []).append(one)
    ordered = sorted(groups.values(), key=lambda group: (_WEIGHT[kind_of(group[0].code).severity], group[0].sequence))
    chosen, more = list[Line](), 0
    each: dict[bytes, int] = {}
    for group in ordered:
        newest, machine = group[-1], group[-1].machine
        if len(chosen) >= LINES_MOST or (machine and each.get(machine, 0) >= LINES_EACH):
            more += len(group)
            continue
        each[machine] = each.get(machine, 0) + 1
        chosen.append(
            Line(newest.code, newest.tenant, machine, len(group), min(one.time_ns for one in group), newest.time_ns,
                 newest.sequence, newest.detail)
        )  # fmt: skip
    return tuple(chosen), more


def to_plain(letter: Letter) -> dict[str, Any]:
    """The letter as JSON can keep it."""

    def rows(lines: Iterable[Line]) -> list[list[Any]]:
        return [
            [one.code, one.tenant.hex(), one.machine.hex(), one.count, one.first_ns, one.last_ns, one.sequence,
             one.detail]
            for one in lines
        ]  # fmt: skip

    return {
        "id": letter.id, "kind": letter.kind.value, "time_ns": letter.time_ns, "lines": rows(letter.lines),
        "open": rows(letter.open), "more": letter.more,
    }  # fmt: skip


def from_plain(kept: dict[str, Any]) -> Letter:
    """The letter that was kept. Raises ValueError, KeyError or TypeError for what is none."""

    def lines(rows: Any) -> tuple[Line, ...]:
        return tuple(
            Line(int(code), bytes.fromhex(tenant), bytes.fromhex(machine), int(count), int(first), int(last),
                 int(sequence), str(detail))
            for code, tenant, machine, count, first, last, sequence, detail in rows
        )  # fmt: skip

    return Letter(
        str(kept["id"]), LetterKind(kept["kind"]), int(kept["time_ns"]), lines(kept["lines"]), lines(kept["open"]),
        int(kept["more"]),
    )  # fmt: skip
