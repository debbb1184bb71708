"""Events as they are listed, and which of them an admin knows of, in the SQLite catalogue."""

import sqlite3
from collections.abc import Collection, Sequence

from mastodon.catalogue.interface import EventRow, ListedEvent

MOST = (1 << 63) - 1


def listed_events(
    db: sqlite3.Connection, after: int, since_ns: int, limit: int, tenant: bytes | None, machine: bytes,
    codes: Collection[int],
) -> list[ListedEvent]:  # fmt: skip
    """Events behind a sequence and not older than a time, the oldest first."""
    rows = db.execute(
        "SELECT sequence, code, tenant, machine, detail, time_ns, "
        "coalesce((SELECT known.time_ns FROM acknowledged AS known WHERE known.sequence = events.sequence), 0), "
        "EXISTS (SELECT 1 FROM conditions WHERE conditions.tenant = events.tenant AND conditions.machine = "
        "events.machine AND conditions.code = events.code AND conditions.sequence = events.sequence) FROM events "
        f"WHERE sequence > ? AND time_ns >= ? AND {_whose(tenant)} AND (? = x'' OR machine = ?) AND {_among(codes)} "
        "ORDER BY sequence LIMIT ?",
        (min(after, MOST), min(since_ns, MOST), *_given(tenant), machine, machine, *sorted(codes), limit),
    )
    return [ListedEvent(EventRow(*event), known, bool(is_open)) for *event, known, is_open in rows]


def events_of(
    db: sqlite3.Connection, tenant: bytes, sequences: Sequence[int], codes: Collection[int]
) -> dict[int, bool]:
    """Those of the sequences that are the tenant's events, and whether they are acknowledged."""
    wanted = [one for one in sequences if one <= MOST]
    rows = db.execute(
        "SELECT sequence, EXISTS (SELECT 1 FROM acknowledged WHERE acknowledged.sequence = events.sequence) "
        f"FROM events WHERE sequence IN ({','.join('?' * len(wanted))}) AND tenant = ? AND {_among(codes)}",
        (*wanted, tenant, *sorted(codes)),
    )
    return {sequence: bool(known) for sequence, known in rows}


def known_conditions(db: sqlite3.Connection, tenant: bytes) -> frozenset[int]:
    """Sequences of the events that opened what holds, of those that are acknowledged."""
    rows = db.execute(
        "SELECT sequence FROM conditions WHERE tenant = ? AND sequence IN (SELECT sequence FROM acknowledged)",
        (tenant,),
    )
    return frozenset(sequence for (sequence,) in rows)


def _whose(tenant: bytes | None) -> str:
    return "1" if tenant is None else "tenant = ?"


def _given(tenant: bytes | None) -> tuple[bytes, ...]:
    return () if tenant is None else (tenant,)


def _among(codes: Collection[int]) -> str:
    return f"code IN ({','.join('?' * len(codes))})"
