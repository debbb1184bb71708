"""A catalogue of an earlier release is brought up to date in place, with what later releases ask for filled in."""

import sqlite3
from importlib import resources
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from mastodon.catalogue.lane import OwnMainland
from mastodon.catalogue.sqlite import APPLICATION_ID, SqliteCatalogue
from mastodon.sealed.events import EventCode
from mastodon.sealed.snapshot import SnapshotStatus

TENANT = b"t" * 32
COMPLETE, PARTIAL, CHECKPOINT = (int(status) for status in SnapshotStatus)


class UpgradeTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.path = Path(self.mktemp())
        self.db = sqlite3.connect(self.path)
        for number in (1, 2):
            script = resources.files("mastodon.catalogue") / "schema" / f"000{number}.sql"
            self.db.executescript(script.read_text("utf-8"))
        self.db.executescript(f"PRAGMA application_id={APPLICATION_ID}; PRAGMA user_version=2;")

    def machine(self, number: int, statuses: list[int]) -> None:
        """A machine that made a pair at 10, and then snapshots at 101, 102 and so on."""
        self.db.execute(
            "INSERT INTO machines (number, machine, tenant, public_key, handle, generation, enrolment, state, "
            "head_sequence) VALUES (?,?,?,x'',x'',0,x'',1,?)",
            (number, bytes([number]) * 32, TENANT, len(statuses)),
        )
        self.db.execute(
            "INSERT INTO pairs (machine, pair, nth, hash, time_ns, public_key) VALUES (?,x'01',1,x'',10,x'')", (number,)
        )
        for sequence, status in enumerate(statuses, 1):
            self.db.execute(
                "INSERT INTO snapshots VALUES (?,?,x'',?,x'',x'',?,1)", (number, sequence, status, 100 + sequence)
            )

    def test_from_schema_2(self) -> None:
        """What the watch goes by, whose events are, and settings."""
        self.machine(1, [COMPLETE, PARTIAL, COMPLETE, CHECKPOINT, PARTIAL, PARTIAL])
        self.machine(2, [])
        self.machine(3, [PARTIAL, CHECKPOINT])
        self.db.execute("INSERT INTO events VALUES (7, 9, x'', ?, 'x', 1)", (bytes([1]) * 32,))
        self.db.execute("INSERT INTO events VALUES (8, 1, x'', x'', 'y', 1)")
        self.db.execute("INSERT INTO settings VALUES ('append.rate', x'', x'', '5')")
        self.db.commit()
        self.db.close()
        mainland = OwnMainland()
        catalogue = SqliteCatalogue(self.path, mainland)
        mainland.wait(catalogue.open())
        self.addCleanup(lambda: mainland.wait(catalogue.close()))
        rows = mainland.wait(catalogue.watch_rows())
        found = [
            (row.added_ns, row.newest_ns, row.newest_status, row.complete_ns, bool(row.complete_entry),
             row.partial_since_ns)
            for row in rows
        ]  # fmt: skip
        self.assertEqual(
            found,
            [(10, 106, PARTIAL, 103, True, 105), (10, 0, None, 0, False, 0), (10, 102, CHECKPOINT, 0, False, 101)],
        )
        events = mainland.wait(catalogue.events(0, 10))
        self.assertEqual([(one.code, one.tenant) for one in events], [(9, TENANT), (EventCode.SPOOL_OFFLINE, b"")])
        self.assertEqual(mainland.wait(catalogue.settings("append.rate")), [(b"", "5")])
