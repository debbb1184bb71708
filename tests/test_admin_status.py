"""``mastodon-admin status``: a table for people, lines for programs, and what only the client knows."""

import json
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from mastodon.admin.status import KEY_UNPROVEN, NO_CARD, Row, row_fields, table, tenant_fields
from mastodon.sealed.events import EventCode
from mastodon.sealed.snapshot import SnapshotStatus
from mastodon.wire.status_messages import TenantUse, WatchState
from tests.test_admin_client import AdminCase, in_thread
from tests.test_verdict import NOW, TENANT, machine, opened, server


class TableTests(SynchronousTestCase):
    """What is shown."""

    def test_table(self) -> None:
        """Columns line up; each machine has its state, ages, sizes, and what is not as it should be."""
        rows = [
            Row("web01", machine(1)),
            Row("db", machine(
                2, WatchState.LATE, 60, newest_ns=NOW - 3600 * 10**9, newest_status=SnapshotStatus.PARTIAL,
                quota_bytes=2048, conditions=opened(EventCode.LATE),
            ), [KEY_UNPROVEN]),
            Row("", machine(3, WatchState.NEVER_SEEN, complete_ns=0, newest_ns=0, snapshots=0), [NO_CARD]),
        ]  # fmt: skip
        at = server(tenants=(TenantUse(TENANT, "alice", 3, 5000, opened(EventCode.QUOTA_95), 5100),))
        lines = table(at, rows, False, headings=True)
        self.assertEqual(lines[0].split(), ["machine", "state", "complete", "newest", "snapshots", "kept"])
        self.assertEqual(len({line.index(word) for line, word in zip(lines, ("state", "ok", "late"), strict=False)}), 1)
        self.assertRegex(lines[1], r"^web01 +ok +1 h 0 min ago +1 h 0 min ago +3 +1000 bytes$")
        said = r"^db +late +2 d 12 h ago +1 h 0 min ago, partial +3 +1000 bytes of 2.0 KiB +key unproven; "
        self.assertRegex(lines[2], said + r"no complete backup in time \(since 1 h 0 min ago\)$")
        self.assertRegex(lines[3], r"^0003000300030003 +never seen +never +never +0 +1000 bytes +no card here$")
        self.assertEqual(lines[4], "alice: 3 machines, 4.9 KiB of 5.0 KiB kept; 95 % of a quota is used")
        self.assertEqual(len(table(at, rows, False, headings=False)), 3)

    def test_fields(self) -> None:
        """Programs get all figures, times in nanoseconds."""
        fields = row_fields(Row("web01", machine(1, conditions=((60000, "x", 5),)), [KEY_UNPROVEN]))
        self.assertEqual((fields["name"], fields["state"], fields["key_unproven"]), ("web01", "ok", True))
        self.assertEqual(fields["conditions"], [{"condition": "60000", "subject": "x", "since_ns": 5}])
        self.assertEqual(fields["quota_bytes"], None)
        self.assertEqual(tenant_fields(TenantUse(TENANT, "alice", 3, 5, ()))["admin"], "alice")


class CommandTests(AdminCase):
    """Against a daemon."""

    @in_thread
    def test_key_unproven(self) -> Any:
        """A machine whose envelope nobody ever opened is shown as such, until its backups were opened once; then the
        agent's own figures stand beside the server's."""
        self.backed_up()
        said = self.admin("status")
        self.assertRegex(said, r"web01 +ok .* key unproven\n")
        self.assertIn("demo: 1 machine, ", said)
        first = json.loads(self.admin("status", "--json").splitlines()[0])
        self.assertEqual((first["name"], first["key_unproven"], first["snapshots"]), ("web01", True, 2))
        read = json.loads(self.admin("status", "--json", "--content").splitlines()[0])
        self.assertFalse(read["key_unproven"])
        self.assertLessEqual({"agent_files", "agent_content_bytes"}, read.keys())
        self.assertNotIn("key unproven", self.admin("status"))
        (self.home / "cards.json").unlink()
        self.assertRegex(self.admin("status"), r"\n[0-9a-f]{16} +ok .* no card here\n")
