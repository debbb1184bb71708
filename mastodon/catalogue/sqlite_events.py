"""Events, conditions, settings and what the watch goes by: what is asked of the SQLite catalogue, one function each."""

import sqlite3
from collections.abc import Collection

from mastodon.catalogue.interface import Condition, EventRow, SettingRow, UntoldPair, WatchRow
from mastodon.sealed.events import EventCode
from mastodon.sealed.ledger_entries import MachineState
from mastodon.sealed.snapshot import SnapshotStatus

EVENT = "SELECT sequence, code, tenant, machine, detail, time_ns FROM events"
MOST = (1 << 63) - 1


def events(
    db: sqlite3.Connection, after: int, limit: int, tenant: bytes | None, codes: Collection[int] | None
) -> list[EventRow]:
    """Events behind a sequence, the oldest first."""
    where, values = ["sequence > ?"], list[int | bytes]([min(after, MOST)])
    if tenant is not None:
        where.append("tenant = ?")
        values.append(tenant)
    if codes is not None:
        where.append(f"code IN ({','.join('?' * len(codes))})")
        values += sorted(codes)
    rows = db.execute(f"{EVENT} WHERE {' AND '.join(where)} ORDER BY sequence LIMIT ?", (*values, limit))
    return [EventRow(*row) for row in rows]


def newest_event(db: sqlite3.Connection, code: EventCode, tenant: bytes, machine: bytes) -> EventRow | None:
    """The newest one of a code about a machine, or about a tenant."""
    whose, value = ("machine = ?", machine) if machine else ("machine = x'' AND tenant = ?", tenant)
    row = db.execute(
        f"{EVENT} WHERE {whose} AND code = ? ORDER BY sequence DESC LIMIT 1", (value, int(code))
    ).fetchone()
    return EventRow(*row) if row else None


def conditions(db: sqlite3.Connection, tenant: bytes | None, machine: bytes | None) -> list[Condition]:
    """What is open, the oldest first."""
    rows = db.execute(
        "SELECT code, tenant, machine, subject, sequence, time_ns, detail FROM conditions "
        "WHERE (?1 IS NULL OR tenant = ?1) AND (?2 IS NULL OR machine = ?2) ORDER BY sequence",
        (tenant, machine),
    )
    return [Condition(EventCode(code), *rest) for code, *rest in rows]


def untold_pairs(db: sqlite3.Connection, machine: bytes | None) -> list[UntoldPair]:
    """The newest pairs of machines with more than one, since which none was told."""
    rows = db.execute(
        "SELECT machines.tenant, machines.machine, pairs.nth, pairs.hash FROM machines "
        "JOIN pairs ON pairs.number = machines.pair JOIN envelopes ON envelopes.machine = machines.number "
        "AND envelopes.pair = pairs.pair AND envelopes.reenvelope = 0 "
        "WHERE pairs.nth > 1 AND (?1 IS NULL OR machines.machine = ?1) AND NOT EXISTS (SELECT 1 FROM events "
        "WHERE events.machine = machines.machine AND code = ?2 AND events.sequence > envelopes.sequence)",
        (machine, int(EventCode.NEW_PAIR)),
    )
    return [UntoldPair(*row) for row in rows]


def watch_rows(db: sqlite3.Connection, tenant: bytes | None, machine: bytes | None) -> list[WatchRow]:
    """The machines as the watch sees them, in the order of enrolment."""
    rows = db.execute(
        "SELECT machine, tenant, state, newest_status, added_ns, seen_ns, newest_ns, complete_ns, "
        "complete_entry, partial_since_ns FROM machines "
        "WHERE (?1 IS NULL OR tenant = ?1) AND (?2 IS NULL OR machine = ?2) ORDER BY number",
        (tenant, machine),
    )
    return [
        WatchRow(
            id, owner, MachineState(state), added, seen, newest, SnapshotStatus(status) if status else None, *complete
        )
        for id, owner, state, status, added, seen, newest, *complete in rows
    ]


def setting_rows(db: sqlite3.Connection, names: Collection[str], at: int | None) -> list[SettingRow]:
    """The values that these settings have at each place, or had at a sequence."""
    marks = ",".join("?" * len(names))
    rows = db.execute(
        f"SELECT name, tenant, machine, value FROM settings WHERE name IN ({marks}) AND sequence = (SELECT "
        "max(sequence) FROM settings AS newer WHERE newer.name = settings.name AND newer.tenant = settings.tenant "
        "AND newer.machine = settings.machine AND newer.sequence <= ?)",
        (*sorted(names), MOST if at is None else at),
    )
    return [SettingRow(*row) for row in rows]
