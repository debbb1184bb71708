"""P12: what the catalogue is asked for one machine costs by what was asked, not by what others keep."""

import os
import sqlite3
from collections.abc import Callable, Sized
from importlib import resources

from twisted.trial.unittest import SynchronousTestCase

from mastodon.catalogue import sqlite_events, sqlite_measures, sqlite_packs, sqlite_status
from mastodon.catalogue.measures import LastOfDay

SPOOL = b"s" * 16


def catalogue(others: int) -> tuple[sqlite3.Connection, list[bytes]]:
    """A database with one machine's eight blobs in one pack, and so many packs of others; and the blobs' ids."""
    db = sqlite3.connect(":memory:", isolation_level=None)
    for name in ("0001.sql", "0002.sql", "0007.sql"):
        db.executescript((resources.files("mastodon.catalogue") / "schema" / name).read_text("utf-8"))
    for number in (1, 2):
        db.execute(
            "INSERT INTO machines (number, machine, tenant, public_key, handle, generation, enrolment, state) "
            "VALUES (?,?,x'',x'',x'',0,x'',1)",
            (number, bytes([number])),
        )
    ids = [os.urandom(32) for _ in range(8)]
    for pack in range(1, others + 2):
        owner = 1 if pack == others // 2 + 1 else 2
        db.execute("INSERT INTO packs VALUES (?,?,?,1,1,1)", (pack, os.urandom(32), owner))
        db.execute("INSERT INTO places VALUES (?,'2027/01/15',?,0)", (SPOOL, pack))
        for offset in range(8):
            blob = ids[offset] if owner == 1 else os.urandom(32)
            (number,) = db.execute(
                "INSERT INTO blobs (machine, blob, kind) VALUES (?,?,1) RETURNING number", (owner, blob)
            ).fetchone()
            db.execute("INSERT INTO sealings VALUES (?,?,?,?,10)", (number, pack, owner, offset * 10))
    return db, ids


class QueryCostsTests(SynchronousTestCase):
    """Counts the steps of SQLite's virtual machine: the same everywhere, other than seconds."""

    def steps(self, db: sqlite3.Connection, ask: Callable[[], Sized]) -> int:
        taken = [0]

        def step() -> int:
            taken[0] += 1
            return 0

        db.set_progress_handler(step, 1)
        self.assertEqual(len(ask()), 8)
        db.close()
        return taken[0]

    def locating(self, others: int) -> int:
        db, ids = catalogue(others)
        return self.steps(db, lambda: sqlite_packs.locate(db, b"\x01", ids, [SPOOL]))

    def looking_up(self, pairs: int) -> int:
        db, ids = catalogue(4)
        for number in range(1, pairs + 1):
            db.execute(
                "INSERT INTO pairs (number, machine, pair, nth, hash, time_ns, public_key) VALUES (?,1,?,?,x'',0,x'')",
                (number, os.urandom(16), number),
            )
        db.execute("UPDATE machines SET pair = ? WHERE number = 1", (pairs,))
        return self.steps(db, lambda: sqlite_packs.blob_states(db, b"\x01", ids))

    def measuring(self, others: int) -> int:
        db, ids = catalogue(others)

        def measure() -> Sized:
            _, blobs = sqlite_measures.sent(db, b"\x01", LastOfDay(1, b"", 2))
            self.assertEqual(blobs, 8)
            return sqlite_measures.sizes(db, b"\x01", ids)

        return self.steps(db, measure)

    def test_promise_p12_measuring_costs_what_was_sent(self) -> None:
        """What a machine sent in a day, and how large its blobs are, is found at the same cost among many packs."""
        self.assertLess(self.measuring(400), 2 * self.measuring(4))

    def asking_how_all_are(self, snapshots: int) -> int:
        db = sqlite3.connect(":memory:", isolation_level=None)
        schemas = (one for one in (resources.files("mastodon.catalogue") / "schema").iterdir() if one.is_file())
        for schema in sorted(schemas, key=lambda one: one.name):
            db.executescript(schema.read_text("utf-8"))
        for number in range(1, 9):
            db.execute(
                "INSERT INTO machines (number, machine, tenant, public_key, handle, generation, enrolment, state) "
                "VALUES (?,?,x'aa',x'',x'',0,x'',1)",
                (number, bytes([number])),
            )
            db.executemany(
                "INSERT INTO snapshots (machine, sequence, hash, status, root, record, time_ns, clock_trusted) "
                "VALUES (?,?,x'',1,x'',x'',0,1)",
                [(number, sequence) for sequence in range(snapshots)],
            )
            db.executemany(
                "INSERT INTO events (code, tenant, machine, detail, time_ns) VALUES (18,x'aa',?,'',0)",
                [(bytes([number]),)] * snapshots,
            )

        def ask() -> Sized:
            sqlite_events.conditions(db, None, None)
            sqlite_status.tenant_holdings(db, None)
            self.assertEqual(len(sqlite_status.holdings(db, None, None)), 8)
            return sqlite_events.watch_rows(db, None, None)

        return self.steps(db, ask)

    def test_promise_p12_status_costs_what_was_asked_for(self) -> None:
        """How all machines are costs the same after a few snapshots and after many."""
        self.assertLess(self.asking_how_all_are(500), 2 * self.asking_how_all_are(5))

    def test_promise_p12_locating_costs_what_was_asked_for(self) -> None:
        """Blobs are found at the same cost among a few packs and among many."""
        self.assertLess(self.locating(400), 2 * self.locating(4))

    def test_promise_p12_offers_cost_what_was_asked_for(self) -> None:
        """Whether blobs are there costs the same for a machine that made a few pairs and for one that made many."""
        self.assertLess(self.looking_up(2000), 2 * self.looking_up(2))
