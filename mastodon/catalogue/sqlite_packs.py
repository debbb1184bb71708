"""Packs and blobs in the SQLite catalogue: what is where, and under which pair it counts.

A sealing counts when its pack is there and its run names a countable pair: the machine's newest, or one that the admin
has re-enveloped. Kind and references of an id are fixed by its first sealing, and outlive its bytes.
"""

import sqlite3
from collections.abc import Iterable, Iterator, Sequence

from mastodon.catalogue.interface import SEALINGS_EACH_WAY, BlobPlace, BlobState, DayOfPacks, StoredPack
from mastodon.sealed.blob import ID_LENGTH, LEVELS, BlobHeader, BlobKind
from mastodon.sealed.pack import Pack

ASKED_AT_ONCE = 2048
"""Ids in one SQL statement; SQLite's own bound is 32766 parameters."""
NO_PAIR = 0
"""The pair of a sealing that never counts: its header is not that of its id's first one. Readers are given it all the
same, since only they can tell which of the two the id was made for."""

COUNTABLE = (
    "SELECT pair FROM machines WHERE number = ?1 "
    "UNION ALL SELECT number FROM pairs WHERE machine = ?1 AND reenveloped = 1"
)
# Says nothing of the blob at hand, so that SQLite makes the list of pairs once for all ids that are asked for.
PRESENT = (
    "EXISTS (SELECT 1 FROM sealings JOIN packs ON packs.number = sealings.pack "
    f"WHERE sealings.blob = blobs.number AND packs.copies > 0 AND sealings.pair IN ({COUNTABLE}))"
)


def add_pack(db: sqlite3.Connection, stored: StoredPack) -> tuple[bytes, ...]:
    """Note a pack with its runs, blobs and place; gives the ids whose header is not that of their first sealing."""
    pack = stored.pack
    known = db.execute("SELECT number FROM packs WHERE pack = ?", (pack.id,)).fetchone()
    if known:
        _add_place(db, known[0], stored)
        return ()
    machine = machine_number(db, pack.machine)
    pairs = {pair: _pair(db, machine, pair) for pair in set(stored.pairs.values())}
    db.executemany(
        "INSERT OR IGNORE INTO runs VALUES (?,?,?,?)",
        [(machine, run, pairs[stored.pairs[run]], record) for run, record in pack.runs.items()],
    )
    number = db.execute(
        "INSERT INTO packs (pack, machine, size, received_ns) VALUES (?,?,?,?) RETURNING number",
        (pack.id, machine, stored.size, stored.received_ns),
    ).fetchone()[0]
    headers = {one.header.id: one.header for one in pack.blobs}
    strange = set(_other_header(db, machine, headers))
    _add_blobs(db, machine, [header for header in headers.values() if header.id not in strange])
    numbers = _numbers(db, machine, headers)
    db.executemany(
        "INSERT INTO sealings VALUES (?,?,?,?,?)",
        [
            (
                numbers[one.header.id],
                number,
                NO_PAIR if one.header.id in strange else pairs[stored.pairs[one.header.run]],
                one.offset,
                one.header.size,
            )
            for one in pack.blobs
        ],
    )
    db.execute(
        "UPDATE machines SET seen_ns = max(seen_ns, ?) WHERE number = ?", (stored.received_ns, machine)
    )
    _add_place(db, number, stored)
    return tuple(one for one in headers if one in strange)


def _add_place(db: sqlite3.Connection, pack: int, stored: StoredPack) -> None:
    db.execute("INSERT OR IGNORE INTO places VALUES (?,?,?,1)", (stored.spool, stored.day, pack))
    _set_lost(db, stored.spool, stored.day, pack, False)


def set_lost(db: sqlite3.Connection, spool: bytes, day: str, packs: Sequence[bytes], lost: bool) -> None:
    """Packs are gone from their place, or back there."""
    for pack in packs:
        row = db.execute("SELECT number FROM packs WHERE pack = ?", (pack,)).fetchone()
        if row:
            _set_lost(db, spool, day, row[0], lost)


def _set_lost(db: sqlite3.Connection, spool: bytes, day: str, pack: int, lost: bool) -> None:
    changed = db.execute(
        "UPDATE places SET lost = ? WHERE spool = ? AND day = ? AND pack = ? AND lost <> ?",
        (lost, spool, day, pack, lost),
    ).rowcount
    if not changed:
        return
    step = -1 if lost else 1
    copies, machine, size = db.execute(
        "UPDATE packs SET copies = copies + ? WHERE number = ? RETURNING copies, machine, size", (step, pack)
    ).fetchone()
    if copies != (0 if lost else 1):
        return
    db.execute("UPDATE machines SET kept_bytes = kept_bytes + ? WHERE number = ?", (step * size, machine))
    per_pair = db.execute("SELECT pair, count(*) FROM sealings WHERE pack = ? GROUP BY pair", (pack,)).fetchall()
    db.executemany("UPDATE pairs SET blobs = blobs + ? WHERE number = ?", [(step * n, pair) for pair, n in per_pair])
    if lost:
        # Which pages lead to the lost blobs would take a walk upwards; the next commit walks down anyway.
        db.execute("UPDATE blobs SET closed = 0 WHERE machine = ? AND closed = 1", (machine,))
        db.execute("UPDATE machines SET closure = closure + 1 WHERE number = ?", (machine,))


def has_pack(db: sqlite3.Connection, machine: bytes, pack: bytes) -> bool:
    """Whether this pack of the machine's is there."""
    query = "SELECT 1 FROM packs WHERE pack = ? AND machine = ? AND copies > 0"
    return db.execute(query, (pack, machine_number(db, machine))).fetchone() is not None


def offending(db: sqlite3.Connection, pack: Pack, pair: bytes) -> tuple[bytes, ...]:
    """Ids of the pack that are there already under countable pairs, or whose header is not that of the first."""
    machine = machine_number(db, pack.machine)
    headers = {one.header.id: one.header for one in pack.blobs}
    wrong = set(_other_header(db, machine, headers))
    wrong |= {id for id, state in blob_states(db, pack.machine, list(headers)).items() if state.present}
    return tuple(one for one in headers if one in wrong)


def blob_states(db: sqlite3.Connection, machine: bytes, ids: Sequence[bytes]) -> dict[bytes, BlobState]:
    """How ids stand under the countable pairs."""
    number = machine_number(db, machine)
    found = {}
    for part, marks in in_parts(ids):
        rows = db.execute(
            f"SELECT blob, kind, closed, {PRESENT} FROM blobs WHERE machine = ?1 AND blob IN ({marks})",
            (number, *part),
        )
        found.update({blob: BlobState(BlobKind(kind), bool(there), bool(closed)) for blob, kind, closed, there in rows})
    return found


def references(db: sqlite3.Connection, machine: bytes, ids: Sequence[bytes]) -> dict[bytes, tuple[bytes, ...]]:
    """What maps, pages and roots refer to; an id without references is left out."""
    return {blob: _split(packed) for blob, packed in _packed_references(db, machine_number(db, machine), ids)}


def closure(db: sqlite3.Connection, machine: bytes) -> int:
    """Grows whenever "closed" was taken back from the machine's blobs."""
    row = db.execute("SELECT closure FROM machines WHERE machine = ?", (machine,)).fetchone()
    return row[0] if row else 0


def mark_closed(db: sqlite3.Connection, machine: bytes, ids: Sequence[bytes], expected: int) -> bool:
    """All below these is there, unless something was lost since ``expected`` was read."""
    if closure(db, machine) != expected:
        return False
    number = machine_number(db, machine)
    db.executemany("UPDATE blobs SET closed = 1 WHERE machine = ? AND blob = ?", [(number, one) for one in ids])
    return True


def locate(db: sqlite3.Connection, machine: bytes, ids: Sequence[bytes], spools: Sequence[bytes]) -> list[BlobPlace]:
    """Sealings that are there on one of the spools, one place each: newest pack first, then by offset.

    Of an id that was sealed more often than that, the oldest and the newest SEALINGS_EACH_WAY.
    """
    number = machine_number(db, machine)
    on = ",".join("?" * len(spools))
    found: dict[tuple[int, int], BlobPlace] = {}
    for part, marks in in_parts(ids):
        rows = db.execute(
            "SELECT number, blob, pack, spool, day, start, size FROM ("
            "SELECT packs.number, blobs.blob, packs.pack, places.spool, places.day, sealings.start, sealings.size, "
            "dense_rank() OVER (PARTITION BY blobs.number ORDER BY packs.number) AS oldest, "
            "dense_rank() OVER (PARTITION BY blobs.number ORDER BY packs.number DESC) AS newest "
            # CROSS JOIN keeps this order: by itself SQLite would go through every pack on the spools, for each blob.
            "FROM blobs CROSS JOIN sealings ON sealings.blob = blobs.number "
            "CROSS JOIN packs ON packs.number = sealings.pack "
            "CROSS JOIN places ON places.pack = packs.number AND places.lost = 0 "
            f"WHERE blobs.machine = ? AND blobs.blob IN ({marks}) AND places.spool IN ({on})"
            ") WHERE min(oldest, newest) <= ?",
            (number, *part, *spools, SEALINGS_EACH_WAY),
        )
        for pack, *place in rows:
            found.setdefault((-pack, place[4]), BlobPlace(*place))
    return [found[key] for key in sorted(found)]


def days(db: sqlite3.Connection, spool: bytes) -> list[str]:
    """Days of which packs lie on the spool."""
    return [day for (day,) in db.execute("SELECT DISTINCT day FROM places WHERE spool = ? ORDER BY day", (spool,))]


def packs_of_day(db: sqlite3.Connection, spool: bytes, day: str) -> DayOfPacks:
    """What is known of one day on one spool."""
    rows = db.execute(
        "SELECT packs.pack, places.lost FROM places JOIN packs ON packs.number = places.pack "
        "WHERE places.spool = ? AND places.day = ?",
        (spool, day),
    ).fetchall()
    return DayOfPacks(frozenset(one for one, lost in rows if not lost), frozenset(one for one, lost in rows if lost))


def _add_blobs(db: sqlite3.Connection, machine: int, headers: Sequence[BlobHeader]) -> None:
    db.executemany(
        "INSERT OR IGNORE INTO blobs (machine, blob, kind) VALUES (?,?,?)",
        [(machine, one.id, int(one.kind)) for one in headers],
    )
    with_references = {one.id: one for one in headers if one.references}
    numbers = _numbers(db, machine, with_references)
    db.executemany(
        "INSERT OR IGNORE INTO blob_references VALUES (?,?)",
        [(numbers[id], b"".join(one.references)) for id, one in with_references.items()],
    )


def _other_header(db: sqlite3.Connection, machine: int, headers: dict[bytes, BlobHeader]) -> Iterator[bytes]:
    """Ids that are known with another kind or other references."""
    leading = []
    for part, marks in in_parts(headers):
        rows = db.execute(f"SELECT blob, kind FROM blobs WHERE machine = ? AND blob IN ({marks})", (machine, *part))
        for blob, kind in rows.fetchall():
            if kind != headers[blob].kind:
                yield blob
            elif LEVELS[headers[blob].kind]:
                leading.append(blob)
    known = dict(_packed_references(db, machine, leading))
    for blob in leading:
        if b"".join(headers[blob].references) != known.get(blob, b""):
            yield blob


def _packed_references(db: sqlite3.Connection, machine: int, ids: Iterable[bytes]) -> Iterator[tuple[bytes, bytes]]:
    for part, marks in in_parts(ids):
        yield from db.execute(
            "SELECT blobs.blob, blob_references.ids FROM blobs JOIN blob_references "
            f"ON blob_references.blob = blobs.number WHERE blobs.machine = ? AND blobs.blob IN ({marks})",
            (machine, *part),
        ).fetchall()


def _numbers(db: sqlite3.Connection, machine: int, ids: Iterable[bytes]) -> dict[bytes, int]:
    found: dict[bytes, int] = {}
    for part, marks in in_parts(ids):
        found.update(
            db.execute(f"SELECT blob, number FROM blobs WHERE machine = ? AND blob IN ({marks})", (machine, *part))
        )
    return found


def in_parts(ids: Iterable[bytes]) -> Iterator[tuple[list[bytes], str]]:
    """The ids in parts of a size that one statement takes, each with its parameter marks."""
    every = list(ids)
    for at in range(0, len(every), ASKED_AT_ONCE):
        part = every[at : at + ASKED_AT_ONCE]
        yield part, ",".join("?" * len(part))


def _split(packed: bytes) -> tuple[bytes, ...]:
    return tuple(packed[at : at + ID_LENGTH] for at in range(0, len(packed), ID_LENGTH))


def machine_number(db: sqlite3.Connection, machine: bytes) -> int:
    """The small number of a machine, 0 for one that is not known."""
    row = db.execute("SELECT number FROM machines WHERE machine = ?", (machine,)).fetchone()
    return row[0] if row else 0


def _pair(db: sqlite3.Connection, machine: int, pair: bytes) -> int:
    row = db.execute("SELECT number FROM pairs WHERE machine = ? AND pair = ?", (machine, pair)).fetchone()
    return row[0] if row else 0
