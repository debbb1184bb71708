"""The status query of the restore port: how every machine does, and the server.

protocol-spec.md §17. All figures are the server's own: times by its clock, 0 for never; sizes as it keeps them.
"""

from dataclasses import dataclass
from enum import IntEnum
from typing import ClassVar

from mastodon.sealed.ledger_entries import MachineState
from mastodon.sealed.schema import Body, array, choice, key, nested, octets, octets_or_none, row, text, unsigned
from mastodon.sealed.snapshot import SnapshotStatus
from mastodon.wire.restore_verbs import RestoreMessage, RestoreReply, RestoreVerb

CONDITIONS_LIMIT = 64
SPOOLS_LIMIT = 64
TENANTS_LIMIT = 4096

Condition = tuple[int, str, int]
"""An event that opened and none that closed since: code, subject (empty for most), since when."""
CONDITIONS = array(row(unsigned(16), text(128), unsigned()), CONDITIONS_LIMIT)


class WatchState(IntEnum):
    """How a machine stands with its watch."""

    SEEDING = 1
    OK = 2
    RUNNING = 3
    LATE = 4
    FAILED = 5
    PARTIAL = 6
    NEVER_SEEN = 7
    DISABLED = 8


@dataclass(frozen=True, slots=True)
class StatusRequest(RestoreMessage):
    """How the server is and one machine, or (empty) all that the asker may see."""

    KIND: ClassVar = RestoreVerb.STATUS

    request: int = key(0, unsigned(32))
    machine: bytes = key(1, octets_or_none(32))


@dataclass(frozen=True, slots=True)
class StatusItem(RestoreMessage):
    """How one machine does. ``since_ns`` is when ``watch`` began to be what it is, ``newest_ns`` the time of the newest
    snapshot, whatever its status, ``partial_since_ns`` of the first partial one since the last complete one."""

    KIND: ClassVar = RestoreReply.STATUS
    LIMIT: ClassVar = 16 * 1024

    request: int = key(0, unsigned(32))
    machine: bytes = key(1, octets(32))
    tenant: bytes = key(2, octets(32))
    state: MachineState = key(3, choice(MachineState))
    watch: WatchState = key(4, choice(WatchState))
    since_ns: int = key(5, unsigned())
    seen_ns: int = key(6, unsigned())
    complete_ns: int = key(7, unsigned())
    newest_ns: int = key(8, unsigned())
    partial_since_ns: int = key(9, unsigned())
    interval_s: int = key(10, unsigned())
    grace_s: int = key(11, unsigned())
    snapshots: int = key(12, unsigned())
    kept_bytes: int = key(13, unsigned())
    conditions: tuple[Condition, ...] = key(14, CONDITIONS)
    newest_status: SnapshotStatus | None = key(15, choice(SnapshotStatus), default=None)
    quota_bytes: int | None = key(16, unsigned(), default=None)


@dataclass(frozen=True, slots=True)
class SpoolState(Body):
    """A spool. ``usable_bytes`` are free beyond its reserve; ``offline`` says why it is not in use."""

    path: str = key(0, text(1024))
    offline: str = key(1, text(1024))
    usable_bytes: int = key(2, unsigned())
    size_bytes: int = key(3, unsigned())


@dataclass(frozen=True, slots=True)
class TenantUse(Body):
    """What an admin's machines keep and may keep, and what is open about the admin and no one machine."""

    tenant: bytes = key(0, octets(32))
    name: str = key(1, text(64))
    machines: int = key(2, unsigned(32))
    kept_bytes: int = key(3, unsigned())
    conditions: tuple[Condition, ...] = key(4, CONDITIONS)
    quota_bytes: int | None = key(5, unsigned(), default=None)


@dataclass(frozen=True, slots=True)
class ServerStatusItem(RestoreMessage):
    """How the server does, before the machines. ``head_sequence`` and ``head_hash`` are its ledger's; ``waiting`` are
    messages that could not be delivered yet, the oldest since ``waiting_since_ns``. The operator's monitor sees all
    spools and admins, and what is open about the server; whoever belongs to an admin sees that admin alone."""

    KIND: ClassVar = RestoreReply.SERVER_STATUS
    LIMIT: ClassVar = 4 * 1024 * 1024

    request: int = key(0, unsigned(32))
    time_ns: int = key(1, unsigned())
    version: str = key(2, text(64))
    head_sequence: int = key(3, unsigned())
    head_hash: bytes = key(4, octets(32))
    certificate_expires_ns: int = key(5, unsigned())
    waiting: int = key(6, unsigned(32))
    waiting_since_ns: int = key(7, unsigned())
    spools: tuple[SpoolState, ...] = key(8, array(nested(SpoolState), SPOOLS_LIMIT))
    tenants: tuple[TenantUse, ...] = key(9, array(nested(TenantUse), TENANTS_LIMIT))
    conditions: tuple[Condition, ...] = key(10, CONDITIONS)
