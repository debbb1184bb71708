"""The settings that stand in the ledger as policy: one literal table of names, what each may be, and who may set it.

protocol-spec.md §13. A value is looked for at the machine, then at its tenant, then at the server; where none is, the
usual one holds. An empty value is none.
"""

import datetime
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import Enum

from mastodon.sealed.addresses import mail_addresses, target
from mastodon.sealed.duration import parse_duration, show_duration
from mastodon.sealed.events import EventCode

MINUTE = 60
HOUR = 60 * MINUTE
DAY = 24 * HOUR
LONGEST = 366 * DAY
MOST = (1 << 63) - 1
SNOOZE_MOST_NS = 30 * DAY * 10**9

INTERVAL = "watch.interval"
GRACE = "watch.grace"
QUOTA = "quota.bytes"
MAIL = "notify.mail"
WEBHOOK = "notify.webhook"
HEARTBEAT = "heartbeat.url"
SNOOZE = "snooze.until"

_NUMBER = re.compile(r"0|[1-9]\d{0,18}", re.ASCII)


class Level(Enum):
    """Where a setting can be made."""

    SERVER = "server"
    TENANT = "tenant"
    MACHINE = "machine"


@dataclass(frozen=True, slots=True)
class SettingKind:
    """``check`` raises ValueError for a value that is none. ``weakens`` says whether the second value watches less than
    the first, and ``event`` what is then told."""

    usual: str
    check: Callable[[str], None]
    admin: frozenset[Level]
    """Where an admin may set it; the operator may everywhere."""
    weakens: Callable[[str, str], bool] = lambda before, after: False
    event: EventCode = EventCode.WATCH_WEAKENED
    ahead_ns: int = 0
    """Of a time: how far ahead of the server's clock it may lie when it is set."""


def level_of(tenant: bytes, machine: bytes) -> Level:
    """The level of a place."""
    return Level.MACHINE if machine else Level.TENANT if tenant else Level.SERVER


def number(value: str, least: int = 0, most: int = MOST) -> int:
    """The number that a value stands for. Raises ValueError."""
    if _NUMBER.fullmatch(value) is None or not least <= int(value) <= most:
        raise ValueError(f"expected a number from {least} to {most}")
    return int(value)


def _seconds(least: int) -> Callable[[str], None]:
    def check(value: str) -> None:
        number(value, least, LONGEST)

    return check


def _any_number(value: str) -> None:
    number(value)


def _url(value: str) -> None:
    target(value)


def _addresses(value: str) -> None:
    mail_addresses(value)


def _larger(before: str, after: str) -> bool:
    return int(after) > int(before)


def _other(before: str, after: str) -> bool:
    return bool(before) and before != after


def _later(before: str, after: str) -> bool:
    return int(after or 0) > int(before or 0)


ADMINS = frozenset({Level.TENANT, Level.MACHINE})

# All names that this release knows; others are refused. An admin never sets its own quota, only its machines' in it.
SETTINGS: dict[str, SettingKind] = {
    INTERVAL: SettingKind(str(HOUR), _seconds(MINUTE), ADMINS, _larger),
    GRACE: SettingKind(str(5 * HOUR), _seconds(0), ADMINS, _larger),
    QUOTA: SettingKind("", _any_number, frozenset({Level.MACHINE})),
    MAIL: SettingKind("", _addresses, ADMINS, _other, EventCode.ADDRESS_CHANGED),
    WEBHOOK: SettingKind("", _url, ADMINS, _other, EventCode.ADDRESS_CHANGED),
    HEARTBEAT: SettingKind("", _url, frozenset({Level.MACHINE}), _other, EventCode.ADDRESS_CHANGED),
    SNOOZE: SettingKind("", _any_number, ADMINS, _later, ahead_ns=SNOOZE_MOST_NS),
}


def duration_value(name: str, typed: str) -> str:
    """A setting's value in seconds, from a length of time as people type it, or `default`. Raises ValueError."""
    if typed.strip().lower() == "default":
        return ""
    seconds = str(parse_duration(typed))
    try:
        SETTINGS[name].check(seconds)
    except ValueError:
        raise ValueError(f"{name}: {typed} is too short, or longer than {LONGEST // DAY} d") from None
    return seconds


def value_text(name: str, value: str) -> str:
    """A setting's value as people read it."""
    if not value:
        return "nothing"
    if name in (INTERVAL, GRACE):
        return show_duration(int(value))
    if name == SNOOZE:
        return f"{datetime.datetime.fromtimestamp(int(value) // 10**9, datetime.UTC):%Y-%m-%d %H:%M} UTC"
    return value


class Settings:
    """The values that are set, at whatever place; ``rows`` are (name, tenant, machine, value)."""

    def __init__(self, rows: Iterable[tuple[str, bytes, bytes, str]]) -> None:
        self._values = {(name, tenant, machine): value for name, tenant, machine, value in rows}

    def at(self, name: str, tenant: bytes = b"", machine: bytes = b"") -> str:
        """What is set at just this place; empty for nothing."""
        return self._values.get((name, tenant, machine), "")

    def value(self, name: str, tenant: bytes = b"", machine: bytes = b"") -> str:
        """What holds for a machine, a tenant or the server."""
        places = dict.fromkeys(((tenant, machine), (tenant, b""), (b"", b"")))
        return next((found for place in places if (found := self.at(name, *place))), SETTINGS[name].usual)

    def number(self, name: str, tenant: bytes = b"", machine: bytes = b"") -> int:
        """What holds, as a number; 0 for nothing."""
        return int(self.value(name, tenant, machine) or 0)

    def values(self, name: str) -> Iterator[tuple[tuple[bytes, bytes], str]]:
        """What is set of one name, with the place (tenant, machine)."""
        return (((tenant, machine), value) for (one, tenant, machine), value in self._values.items() if one == name)

    def changed(self, tenant: bytes, machine: bytes, changes: Iterable[tuple[str, str]]) -> "Settings":
        """The same with other values at a place."""
        other = Settings(())
        other._values = self._values | {(name, tenant, machine): value for name, value in changes}
        return other
