"""What each type of ledger entry changes in the SQLite catalogue.

Promises: entries are followed in the order of the chain, each once and none left out; a removed certificate stays
removed and a first enrolment stays what it was, whatever the ledger says later.
"""

import sqlite3
from collections.abc import Callable, Sequence
from typing import Any

from mastodon.catalogue import sqlite_histories, sqlite_reads
from mastodon.catalogue.interface import CatalogueError
from mastodon.sealed.book import Book
from mastodon.sealed.enrolment import AdminRequest, Enrolment
from mastodon.sealed.events import OPENS, closed_by, subject_of
from mastodon.sealed.ledger import Head, LedgerEntry
from mastodon.sealed.ledger_entries import (
    Acknowledged,
    AdminAdded,
    BookSwapped,
    CertificateAdded,
    CertificateRemoved,
    EntryBody,
    Event,
    MachineEnrolled,
    MachineState,
    MachineStateSet,
    PairAdded,
    PolicySet,
    Reads,
    SnapshotCommitted,
)
from mastodon.sealed.pair import PairRecord, ReenvelopeRecord
from mastodon.sealed.record import record_hash
from mastodon.sealed.snapshot import SnapshotRecord, SnapshotStatus
from mastodon.sealed.statement import Statement

MOST = (1 << 63) - 1
"""SQLite's integers are signed; a later time than this is as good as never."""


def applied(db: sqlite3.Connection) -> Head | None:
    """The head up to which the ledger was followed."""
    row = db.execute("SELECT chain, sequence, hash FROM applied").fetchone()
    return Head(*row) if row else None


def apply(db: sqlite3.Connection, entries: Sequence[tuple[LedgerEntry, Head]]) -> None:
    """Follow the entries behind the head; the ones before it are passed over. Raises CatalogueError for a gap."""
    before = applied(db)
    reached = before.sequence if before else 0
    head = before
    for entry, after in entries:
        if entry.sequence <= reached:
            continue
        if entry.sequence != reached + 1:
            raise CatalogueError(f"ledger entry {reached + 1} was not followed yet, {entry.sequence} cannot be")
        reached = entry.sequence
        if entry.body is not None:
            _apply_one(db, entry, entry.body)
        head = after
    if head is not None and head != before:
        db.execute("INSERT OR REPLACE INTO applied VALUES (1, ?, ?, ?)", (head.chain, head.sequence, head.hash))


def _apply_one(db: sqlite3.Connection, entry: LedgerEntry, body: EntryBody) -> None:
    statement = getattr(body, "statement", b"")
    if statement:
        said = Statement.read_unverified(statement)
        db.execute("UPDATE tenants SET counter = max(counter, ?) WHERE tenant = ?", (said.counter, said.tenant))
    change = CHANGES.get(type(body))
    if change is not None:
        change(db, entry, body)


def _admin(db: sqlite3.Connection, entry: LedgerEntry, body: AdminAdded) -> None:
    request = AdminRequest.open(body.request)
    db.execute(
        "INSERT OR IGNORE INTO tenants (tenant, name, order_key, successor, request, added_ns) VALUES (?,?,?,?,?,?)",
        (body.tenant, body.name, request.order_key, request.successor, body.request, entry.time_ns),
    )


def _certificate(db: sqlite3.Connection, entry: LedgerEntry, body: CertificateAdded) -> None:
    db.execute(
        "INSERT OR IGNORE INTO certificates SELECT ?,?,?,?,?,?,?,? "
        "WHERE NOT EXISTS (SELECT 1 FROM removed_certificates WHERE pin = ?)",
        (body.pin, body.tenant, int(body.role), body.label, body.machine, body.root, min(body.expires_ns, MOST),
         entry.time_ns, body.pin),
    )  # fmt: skip


def _certificate_removed(db: sqlite3.Connection, entry: LedgerEntry, body: CertificateRemoved) -> None:
    db.execute("DELETE FROM certificates WHERE pin = ?", (body.pin,))
    db.execute("INSERT OR IGNORE INTO removed_certificates VALUES (?, ?)", (body.pin, entry.time_ns))


def _machine(db: sqlite3.Connection, entry: LedgerEntry, body: MachineEnrolled) -> None:
    said = Enrolment.open(body.enrolment)
    db.execute(
        "INSERT OR IGNORE INTO machines (machine, tenant, public_key, handle, generation, enrolment, state, added_ns) "
        "VALUES (?,?,?,?,?,?,?,?)",
        (said.machine, said.tenant, said.public_key, said.handle, said.generation, body.enrolment,
         int(MachineState.ACTIVE), entry.time_ns),
    )  # fmt: skip


def _machine_state(db: sqlite3.Connection, entry: LedgerEntry, body: MachineStateSet) -> None:
    final = (int(MachineState.CLOSED), int(MachineState.RETIRED))
    db.execute(
        "UPDATE machines SET state = ? WHERE machine = ? AND state NOT IN (?, ?)",
        (int(body.state), body.machine, *final),
    )


def _pair(db: sqlite3.Connection, entry: LedgerEntry, body: PairAdded) -> None:
    machine = _number(db, body.machine)
    if machine is None:
        return
    kind = ReenvelopeRecord if body.reenvelope else PairRecord
    said = kind.read_unverified(body.record)
    name = record_hash(body.record)
    db.execute(
        "INSERT OR IGNORE INTO envelopes VALUES (?,?,?,?,?,?,?)",
        (entry.sequence, machine, said.pair, body.reenvelope, name, body.record, body.envelope),
    )
    if isinstance(said, ReenvelopeRecord):
        db.execute("UPDATE pairs SET reenveloped = 1 WHERE machine = ? AND pair = ?", (machine, said.pair))
        return
    db.execute(
        "INSERT OR IGNORE INTO pairs (machine, pair, nth, hash, time_ns, public_key) VALUES (?,?,?,?,?,?)",
        (machine, said.pair, said.number, name, entry.time_ns, said.public_key),
    )
    # Under a new pair nothing is there yet, so nothing is closed either.
    db.execute(
        "UPDATE machines SET closure = closure + 1, seen_ns = max(seen_ns, ?), "
        "pair = (SELECT number FROM pairs WHERE machine = ? AND pair = ?) WHERE number = ?",
        (entry.time_ns, machine, said.pair, machine),
    )
    db.execute("UPDATE blobs SET closed = 0 WHERE machine = ? AND closed = 1", (machine,))


def _snapshot(db: sqlite3.Connection, entry: LedgerEntry, body: SnapshotCommitted) -> None:
    said = SnapshotRecord.read_unverified(body.record)
    machine = _number(db, said.machine)
    if machine is None:
        return
    name = record_hash(body.record)
    sqlite_histories.note_jump(db, machine, said)
    db.execute(
        "INSERT OR IGNORE INTO snapshots VALUES (?,?,?,?,?,?,?,?)",
        (machine, said.sequence, name, int(said.status), said.root, body.record, entry.time_ns, entry.clock_trusted),
    )
    db.execute(
        "UPDATE machines SET head_sequence = ?, head_hash = ?, snapshots = snapshots + 1, seen_ns = max(seen_ns, ?) "
        "WHERE number = ?",
        (said.sequence, name, entry.time_ns, machine),
    )
    _watch(db, entry, machine, said.status)


def _watch(db: sqlite3.Connection, entry: LedgerEntry, machine: int, status: SnapshotStatus) -> None:
    """What the watch goes by. Only a complete snapshot resets it; a checkpoint says nothing of what cannot be read."""
    db.execute(
        "UPDATE machines SET newest_ns = ?, newest_status = ? WHERE number = ?", (entry.time_ns, int(status), machine)
    )
    if status is SnapshotStatus.COMPLETE:
        db.execute(
            "UPDATE machines SET complete_ns = ?, complete_entry = ?, partial_since_ns = 0 WHERE number = ?",
            (entry.time_ns, entry.sequence, machine),
        )
    elif status is SnapshotStatus.PARTIAL:
        db.execute(
            "UPDATE machines SET partial_since_ns = ? WHERE number = ? AND partial_since_ns = 0",
            (entry.time_ns, machine),
        )


def _book(db: sqlite3.Connection, entry: LedgerEntry, body: BookSwapped) -> None:
    said = Book.read_unverified(body.book)
    db.execute(
        "INSERT OR REPLACE INTO books VALUES (?,?,?,?)", (said.tenant, said.version, record_hash(body.book), body.book)
    )


def _policy(db: sqlite3.Connection, entry: LedgerEntry, body: PolicySet) -> None:
    db.executemany(
        "INSERT OR REPLACE INTO settings (name, tenant, machine, sequence, value) VALUES (?,?,?,?,?)",
        [(name, body.tenant, body.machine, entry.sequence, value) for name, value in body.settings],
    )


def _event(db: sqlite3.Connection, entry: LedgerEntry, body: Event) -> None:
    tenant = body.tenant or _tenant_of(db, body.machine)
    db.execute(
        "INSERT OR IGNORE INTO events (sequence, code, tenant, machine, detail, time_ns) VALUES (?,?,?,?,?,?)",
        (entry.sequence, body.code, tenant, body.machine, body.detail, entry.time_ns),
    )
    subject = subject_of(body.code, body.detail)
    if body.code in OPENS:
        db.execute(
            "INSERT OR IGNORE INTO conditions (code, tenant, machine, subject, sequence, time_ns, detail) "
            "VALUES (?,?,?,?,?,?,?)",
            (body.code, tenant, body.machine, subject, entry.sequence, entry.time_ns, body.detail),
        )
    for closed in closed_by(body.code):
        db.execute(
            "DELETE FROM conditions WHERE code = ? AND tenant = ? AND machine = ? AND subject = ?",
            (int(closed), tenant, body.machine, subject),
        )


def _acknowledged(db: sqlite3.Connection, entry: LedgerEntry, body: Acknowledged) -> None:
    db.executemany(
        "INSERT OR IGNORE INTO acknowledged (sequence, pin, time_ns) "
        "SELECT sequence, ?, ? FROM events WHERE sequence = ? AND tenant = ?",
        [(body.pin, entry.time_ns, min(sequence, MOST), body.tenant) for sequence in body.events],
    )


def _tenant_of(db: sqlite3.Connection, machine: bytes) -> bytes:
    row = db.execute("SELECT tenant FROM machines WHERE machine = ?", (machine,)).fetchone()
    return row[0] if row else b""


def _number(db: sqlite3.Connection, machine: bytes) -> int | None:
    row = db.execute("SELECT number FROM machines WHERE machine = ?", (machine,)).fetchone()
    return row[0] if row else None


CHANGES: dict[type[EntryBody], Callable[[sqlite3.Connection, LedgerEntry, Any], None]] = {
    AdminAdded: _admin,
    CertificateAdded: _certificate,
    CertificateRemoved: _certificate_removed,
    MachineEnrolled: _machine,
    MachineStateSet: _machine_state,
    PairAdded: _pair,
    SnapshotCommitted: _snapshot,
    BookSwapped: _book,
    PolicySet: _policy,
    Event: _event,
    Reads: sqlite_reads.note_reads,
    Acknowledged: _acknowledged,
}
"""What is not here is kept by the ledger alone, until a release that asks for it."""
