"""Who read what, in the SQLite catalogue."""

import sqlite3

from mastodon.catalogue.interface import ReadRow
from mastodon.sealed.ledger import LedgerEntry
from mastodon.sealed.ledger_entries import Reads

MOST = (1 << 63) - 1


def note_reads(db: sqlite3.Connection, entry: LedgerEntry, body: Reads) -> None:
    """An entry: with the label and the tenant as they are now."""
    label = db.execute("SELECT label FROM certificates WHERE pin = ?", (body.pin,)).fetchone()
    owner = db.execute("SELECT tenant FROM machines WHERE machine = ?", (body.machine,)).fetchone()
    db.execute(
        "INSERT OR IGNORE INTO reads VALUES (?,?,?,?,?,?,?,?,?,?)",
        (entry.sequence, body.pin, label[0] if label else "", owner[0] if owner else b"", body.machine,
         min(body.since_ns, MOST), entry.time_ns, min(body.requests, MOST), min(body.blobs, MOST),
         min(body.content_bytes, MOST)),
    )  # fmt: skip


def reads(
    db: sqlite3.Connection, after: int, limit: int, tenant: bytes | None, machine: bytes, since_ns: int
) -> list[ReadRow]:
    """Reads behind a sequence, the oldest first."""
    rows = db.execute(
        "SELECT sequence, pin, label, tenant, machine, since_ns, time_ns, requests, blobs, bytes FROM reads "
        "WHERE sequence > ?1 AND (?2 IS NULL OR tenant = ?2) AND (?3 = x'' OR machine = ?3) AND time_ns >= ?4 "
        "ORDER BY sequence LIMIT ?5",
        (min(after, MOST), tenant, machine, min(since_ns, MOST), limit),
    )
    return [ReadRow(*row) for row in rows]


def has_fetched(db: sqlite3.Connection, pin: bytes) -> bool:
    """Whether a client key ever fetched blobs."""
    return db.execute("SELECT 1 FROM reads WHERE pin = ? AND blobs > 0 LIMIT 1", (pin,)).fetchone() is not None
