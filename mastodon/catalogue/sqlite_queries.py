"""Accounts, certificates, snapshots, pairs and books: what is asked of the SQLite catalogue, one function each."""

import sqlite3
from collections.abc import Sequence

from mastodon.catalogue.interface import (
    Account,
    CatalogueDamaged,
    Certificate,
    Committed,
    ListedPair,
    MachineRow,
    PairRow,
    Standing,
    Tenant,
    Totals,
)
from mastodon.sealed.ledger_entries import MachineState, Role
from mastodon.sealed.snapshot import SnapshotStatus

CERTIFICATE = "SELECT pin, tenant, role, label, machine, root, expires_ns, added_ns FROM certificates"
OF_MACHINE = "machine = (SELECT number FROM machines WHERE machine = ?)"


def account(db: sqlite3.Connection, machine: bytes) -> Account | None:
    """The machine as the append port sees it."""
    row = db.execute(
        "SELECT machine, public_key, tenant, state, head_sequence, head_hash, pair FROM machines "
        "WHERE machine = ?",
        (machine,),
    ).fetchone()
    if row is None:
        return None
    *facts, pair = row
    record, blobs = b"", 0
    if pair is not None:
        found = db.execute(
            "SELECT envelopes.record, pairs.blobs FROM pairs JOIN envelopes "
            "ON envelopes.machine = pairs.machine AND envelopes.pair = pairs.pair AND envelopes.reenvelope = 0 "
            "WHERE pairs.number = ? ORDER BY envelopes.sequence DESC LIMIT 1",
            (pair,),
        ).fetchone()
        if found is None:
            raise CatalogueDamaged("machines: the newest pair of one has no record")
        record, blobs = found
    id, public_key, tenant, state, sequence, head = facts
    return Account(id, public_key, tenant, MachineState(state), sequence, head, record, blobs)


def standing(db: sqlite3.Connection, machine: bytes) -> Standing | None:
    """What decides whether the machine is let in."""
    row = db.execute("SELECT tenant, public_key, state FROM machines WHERE machine = ?", (machine,)).fetchone()
    return Standing(row[0], row[1], MachineState(row[2])) if row else None


def committed(
    db: sqlite3.Connection, machine: bytes, hash: bytes, since_ns: int, until_ns: int
) -> tuple[Committed | None, int]:
    """The snapshot with that record hash, and how many were committed in that time."""
    row = db.execute(
        f"SELECT hash, time_ns, status FROM snapshots WHERE {OF_MACHINE} AND hash = ? ORDER BY sequence DESC LIMIT 1",
        (machine, hash),
    ).fetchone()
    (recent,) = db.execute(
        f"SELECT count(*) FROM snapshots WHERE {OF_MACHINE} AND time_ns > ? AND time_ns <= ?",
        (machine, since_ns, until_ns),
    ).fetchone()
    return (Committed(row[0], row[1], SnapshotStatus(row[2])) if row else None), recent


def pair(db: sqlite3.Connection, machine: bytes, pair: bytes, since_ns: int, until_ns: int) -> PairRow:
    """What there is of a pair, and how many pairs the machine made in that time."""
    row = db.execute(f"SELECT public_key FROM pairs WHERE {OF_MACHINE} AND pair = ?", (machine, pair)).fetchone()
    (recent,) = db.execute(
        f"SELECT count(*) FROM pairs WHERE {OF_MACHINE} AND time_ns > ? AND time_ns <= ?",
        (machine, since_ns, until_ns),
    ).fetchone()
    return PairRow(row is not None, row[0] if row else b"", recent)


def has_envelope(db: sqlite3.Connection, machine: bytes, hash: bytes) -> bool:
    """Whether the pair record with that hash is there."""
    found = db.execute(f"SELECT 1 FROM envelopes WHERE {OF_MACHINE} AND hash = ?", (machine, hash)).fetchone()
    return found is not None


def certificate(db: sqlite3.Connection, pin: bytes) -> Certificate | None:
    """The certificate registered for a key."""
    row = db.execute(f"{CERTIFICATE} WHERE pin = ?", (pin,)).fetchone()
    return _certificate(row) if row else None


def is_removed(db: sqlite3.Connection, pin: bytes) -> bool:
    """Whether the key was removed, which is for ever."""
    return db.execute("SELECT 1 FROM removed_certificates WHERE pin = ?", (pin,)).fetchone() is not None


def tenant(db: sqlite3.Connection, tenant: bytes) -> Tenant | None:
    """An admin by id."""
    return next(iter(_tenants(db, "WHERE tenants.tenant = ?", (tenant,))), None)


def tenants(db: sqlite3.Connection) -> list[Tenant]:
    """All admins, by name."""
    return _tenants(db, "ORDER BY name", ())


def owner(db: sqlite3.Connection, machine: bytes) -> bytes | None:
    """The tenant of a machine."""
    row = db.execute("SELECT tenant FROM machines WHERE machine = ?", (machine,)).fetchone()
    return row[0] if row else None


def certificates(db: sqlite3.Connection, tenant: bytes) -> list[Certificate]:
    """A tenant's certificates, or (b"") the operator's own."""
    return list(_certificates(db, tenant))


def machines(db: sqlite3.Connection, tenant: bytes | None) -> list[MachineRow]:
    """A tenant's machines, or (None) all, in the order of enrolment."""
    which, values = ("", ()) if tenant is None else ("WHERE tenant = ?", (tenant,))
    rows = db.execute(
        f"SELECT machine, enrolment, state, seen_ns, snapshots, kept_bytes, tenant FROM machines {which} "
        "ORDER BY number",
        values,
    )
    return [
        MachineRow(machine, enrolment, MachineState(state), seen, snapshots, kept, whose)
        for machine, enrolment, state, seen, snapshots, kept, whose in rows
    ]


def snapshots(db: sqlite3.Connection, machine: bytes, first: int, limit: int) -> list[tuple[bytes, int]]:
    """Records and times of commit, from sequence ``first`` on."""
    first = min(first, (1 << 63) - 1)
    return db.execute(
        f"SELECT record, time_ns FROM snapshots WHERE {OF_MACHINE} AND sequence >= ? ORDER BY sequence LIMIT ?",
        (machine, first, limit),
    ).fetchall()


def pairs(db: sqlite3.Connection, machine: bytes, first: int, limit: int) -> list[ListedPair]:
    """The names of pairs, from the machine's number ``first`` on."""
    rows = db.execute(
        f"SELECT nth, pair, hash, time_ns FROM pairs WHERE {OF_MACHINE} AND nth >= ? ORDER BY nth LIMIT ?",
        (machine, first, limit),
    )
    return [ListedPair(*row) for row in rows]


def envelopes(
    db: sqlite3.Connection, machine: bytes, pair: bytes, reenvelopes: int
) -> list[tuple[bytes, bytes, bool]]:
    """The newest re-envelope records of a pair, then its own record, with their envelopes."""
    chosen = (
        f"SELECT record, envelope, reenvelope FROM envelopes WHERE {OF_MACHINE} AND pair = ? AND reenvelope = ? "
        "ORDER BY sequence DESC LIMIT ?"
    )
    rows = [
        *db.execute(chosen, (machine, pair, 1, reenvelopes)),
        *db.execute(chosen, (machine, pair, 0, 1)),
    ]
    return [(record, envelope, bool(again)) for record, envelope, again in rows]


def runs(db: sqlite3.Connection, machine: bytes, ids: Sequence[bytes]) -> list[bytes]:
    """Run records by id; unknown ones are left out."""
    marks = ",".join("?" * len(ids))
    rows = db.execute(f"SELECT record FROM runs WHERE {OF_MACHINE} AND run IN ({marks})", (machine, *ids))
    return [record for (record,) in rows]


def book(db: sqlite3.Connection, tenant: bytes) -> tuple[int, bytes, bytes]:
    """The newest book."""
    row = db.execute("SELECT version, hash, book FROM books WHERE tenant = ?", (tenant,)).fetchone()
    return row or (0, b"", b"")


def settings(db: sqlite3.Connection, name: str, tenant: bytes) -> list[tuple[bytes, str]]:
    """The newest values of a setting, by machine."""
    return db.execute(
        "SELECT machine, value FROM settings WHERE name = ?1 AND tenant = ?2 AND sequence = (SELECT max(sequence) "
        "FROM settings AS newer WHERE newer.name = ?1 AND newer.tenant = ?2 AND newer.machine = settings.machine)",
        (name, tenant),
    ).fetchall()


def totals(db: sqlite3.Connection) -> Totals:
    """How much there is."""
    counts = [
        db.execute(f"SELECT {what} FROM {table}").fetchone()[0]
        for what, table in (
            ("count(*)", "tenants"), ("count(*)", "machines"), ("count(*)", "snapshots"), ("count(*)", "packs"),
            ("count(*)", "blobs"), ("coalesce(sum(size), 0)", "packs"),
        )
    ]  # fmt: skip
    return Totals(*counts)


def _tenants(db: sqlite3.Connection, which: str, values: tuple[bytes, ...]) -> list[Tenant]:
    rows = db.execute(
        "SELECT tenant, name, order_key, counter, added_ns, "
        f"(SELECT count(*) FROM machines WHERE machines.tenant = tenants.tenant) FROM tenants {which}",
        values,
    ).fetchall()
    return [
        Tenant(id, name, key, counter, added, count, _certificates(db, id))
        for id, name, key, counter, added, count in rows
    ]


def _certificates(db: sqlite3.Connection, tenant: bytes) -> tuple[Certificate, ...]:
    return tuple(map(_certificate, db.execute(f"{CERTIFICATE} WHERE tenant = ? ORDER BY added_ns", (tenant,))))


def _certificate(row: tuple[bytes, bytes, int, str, bytes, bytes, int, int]) -> Certificate:
    pin, tenant, role, label, machine, root, expires, added = row
    return Certificate(pin, tenant, Role(role), label, machine, root, expires, added)
