"""Measures in the SQLite catalogue: one function a question, and the object that asks them in their turn."""

import sqlite3
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from twisted.internet.defer import Deferred

from mastodon.catalogue import sqlite_packs
from mastodon.catalogue.measures import BackupDay, LastOfDay, Reach
from mastodon.catalogue.sqlite_packs import in_parts, machine_number
from mastodon.sealed.blob import BlobKind
from mastodon.sealed.duration import DAY_NS
from mastodon.sealed.snapshot import SnapshotStatus

COMPLETE = int(SnapshotStatus.COMPLETE)
TURN = "measures"
"""Whose the jobs are: all machines' together have one turn."""
Ask = Callable[..., "Deferred[Any]"]


class SqliteMeasures:
    """See measures.py. ``read`` and ``write`` do a job for a unit in the lane of reader or writer."""

    def __init__(self, read: Ask, write: Ask) -> None:
        self._read = read
        self._write = write

    def unmeasured(self) -> Deferred[list[bytes]]:
        return self._read(TURN, unmeasured)

    def last_of_days(self, machine: bytes, most: int) -> Deferred[list[LastOfDay]]:
        return self._read(TURN, last_of_days, machine, most)

    def sent(self, machine: bytes, until: LastOfDay) -> Deferred[tuple[int, int]]:
        return self._read(TURN, sent, machine, until)

    def children(self, machine: bytes, ids: Sequence[bytes]) -> Deferred[dict[bytes, tuple[bytes, ...]]]:
        return self._read(TURN, sqlite_packs.references, machine, ids)

    def sizes(self, machine: bytes, ids: Sequence[bytes]) -> Deferred[dict[bytes, tuple[BlobKind, int]]]:
        return self._read(TURN, sizes, machine, ids)

    def reaches(self, machine: bytes, ids: Sequence[bytes]) -> Deferred[dict[bytes, Reach]]:
        return self._read(TURN, reaches, machine, ids)

    def note_reaches(self, machine: bytes, found: Mapping[bytes, Reach]) -> Deferred[None]:
        return self._write(TURN, note_reaches, machine, found)

    def days(self, machine: bytes, most: int) -> Deferred[list[BackupDay]]:
        return self._read(TURN, days, machine, most)

    def note_day(self, machine: bytes, day: BackupDay) -> Deferred[None]:
        return self._write(TURN, note_day, machine, day)


def unmeasured(db: sqlite3.Connection) -> list[bytes]:
    """Machines whose newest complete snapshot was not measured yet."""
    rows = db.execute(
        "SELECT machines.machine FROM machines LEFT JOIN (SELECT machine, max(sequence) AS newest FROM days "
        "GROUP BY machine) AS measured ON measured.machine = machines.number WHERE EXISTS (SELECT 1 FROM snapshots "
        "WHERE snapshots.machine = machines.number AND status = ? AND sequence > coalesce(measured.newest, 0))",
        (COMPLETE,),
    )
    return [machine for (machine,) in rows]


def last_of_days(db: sqlite3.Connection, machine: bytes, most: int) -> list[LastOfDay]:
    """The last complete snapshots of days, behind the newest measured one."""
    number = machine_number(db, machine)
    (measured,) = db.execute("SELECT coalesce(max(sequence), 0) FROM days WHERE machine = ?", (number,)).fetchone()
    rows = db.execute(
        # With max() SQLite gives the other columns of the same row.
        "SELECT max(sequence), root, time_ns FROM snapshots WHERE machine = ? AND status = ? AND sequence > ? "
        "GROUP BY time_ns / ? ORDER BY 1 DESC LIMIT ?",
        (number, COMPLETE, measured, DAY_NS, most),
    ).fetchall()
    return [LastOfDay(*row) for row in reversed(rows)]


def sent(db: sqlite3.Connection, machine: bytes, until: LastOfDay) -> tuple[int, int]:
    """Bytes and blobs in packs since the last complete snapshot of the day before."""
    number, day = machine_number(db, machine), until.time_ns // DAY_NS
    (after,) = db.execute(
        "SELECT coalesce((SELECT until_ns FROM days WHERE machine = ? AND day <> ? AND sequence < ? "
        "ORDER BY sequence DESC LIMIT 1), 0)",
        (number, day, until.sequence),
    ).fetchone()
    if after > until.time_ns:  # the clock went back: only what was sent on this day is known to be new
        after = day * DAY_NS
    between = "packs.machine = ? AND packs.received_ns > ? AND packs.received_ns <= ?"
    values = (number, after, until.time_ns)
    (size,) = db.execute(f"SELECT coalesce(sum(size), 0) FROM packs WHERE {between}", values).fetchone()
    (blobs,) = db.execute(
        f"SELECT count(*) FROM packs JOIN sealings ON sealings.pack = packs.number WHERE {between}", values
    ).fetchone()
    return size, blobs


def sizes(db: sqlite3.Connection, machine: bytes, ids: Sequence[bytes]) -> dict[bytes, tuple[BlobKind, int]]:
    """Kind and sealed size of blobs, of whichever sealing."""
    number = machine_number(db, machine)
    found: dict[bytes, tuple[BlobKind, int]] = {}
    for part, marks in in_parts(ids):
        rows = db.execute(
            "SELECT blob, kind, coalesce((SELECT size FROM sealings WHERE sealings.blob = blobs.number LIMIT 1), 0) "
            f"FROM blobs WHERE machine = ? AND blob IN ({marks})",
            (number, *part),
        )
        found.update({blob: (BlobKind(kind), size) for blob, kind, size in rows})
    return found


def reaches(db: sqlite3.Connection, machine: bytes, ids: Sequence[bytes]) -> dict[bytes, Reach]:
    """What pages and maps lead to, as far as it was measured."""
    number = machine_number(db, machine)
    found: dict[bytes, Reach] = {}
    for part, marks in in_parts(ids):
        rows = db.execute(
            "SELECT blobs.blob, reaches.blobs, reaches.bytes FROM blobs JOIN reaches ON reaches.blob = blobs.number "
            f"WHERE blobs.machine = ? AND blobs.blob IN ({marks})",
            (number, *part),
        )
        found.update({blob: Reach(blobs, size) for blob, blobs, size in rows})
    return found


def note_reaches(db: sqlite3.Connection, machine: bytes, found: Mapping[bytes, Reach]) -> None:
    """Keep what pages and maps lead to."""
    number = machine_number(db, machine)
    db.executemany(
        "INSERT OR IGNORE INTO reaches SELECT number, ?, ? FROM blobs WHERE machine = ? AND blob = ?",
        [(one.blobs, one.bytes, number, blob) for blob, one in found.items()],
    )


def days(db: sqlite3.Connection, machine: bytes, most: int) -> list[BackupDay]:
    """The newest days that were measured, oldest first."""
    rows = db.execute(
        "SELECT sequence, until_ns, sent_bytes, sent_blobs, listing_bytes, content_bytes, blobs FROM days "
        "WHERE machine = ? ORDER BY sequence DESC LIMIT ?",
        (machine_number(db, machine), most),
    ).fetchall()
    return [BackupDay(*row) for row in reversed(rows)]


def note_day(db: sqlite3.Connection, machine: bytes, day: BackupDay) -> None:
    """Keep what a day was like, in place of what it was so far."""
    db.execute(
        "INSERT OR REPLACE INTO days (machine, day, sequence, until_ns, sent_bytes, sent_blobs, listing_bytes, "
        "content_bytes, blobs) VALUES (?,?,?,?,?,?,?,?,?)",
        (machine_number(db, machine), day.day, day.sequence, day.until_ns, day.sent_bytes, day.sent_blobs,
         day.listing_bytes, day.content_bytes, day.blobs),
    )  # fmt: skip
