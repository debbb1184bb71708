"""The operator's commands about certificates and machines, as they are typed, while no daemon runs."""

import json

from mastodon.host.certificates import pin_text
from tests.store_case import Machine
from tests.test_operator import BackupCase

PIN = pin_text(b"p" * 32)


class TenantCommands(BackupCase):
    """On a server with one admin, one machine and one backup."""

    def test_add_certificate(self) -> None:
        """Of an admin, of its monitor, or the operator's own; all are listed, and can be removed."""
        self.assertIn("alice's admin", self.call("admin", "add-certificate", PIN, "--admin", "alice", "--label", "new"))
        own = pin_text(b"o" * 32)
        self.assertIn("your own monitor", self.call("admin", "add-certificate", own, "--monitor", "--label", "nagios"))
        said = self.call("admin", "list")
        for part in (f"  {PIN}  admin  new", "the operator's own, for every machine's status:", f"  {own}  monitor"):
            self.assertIn(part, said)
        self.assertEqual([one["name"] for one in json.loads(self.call("admin", "list", "--json"))], ["alice", ""])
        self.call("admin", "remove-certificate", own)
        self.assertNotIn(own, self.call("admin", "list"))

    def test_add_certificate_mistakes(self) -> None:
        """No pin, nobody's, an admin that there is not, a key that is somebody's already."""
        self.assertIn("no pin", self.call("admin", "add-certificate", "nonsense", "--admin", "alice", code=1))
        self.assertIn("--admin NAME", self.call("admin", "add-certificate", PIN, code=2))
        self.assertIn("no admin 'bob'", self.call("admin", "add-certificate", PIN, "--admin", "bob", code=1))
        taken = pin_text(self.admin.pin)
        self.assertIn("one key, one admin", self.call("admin", "add-certificate", taken, "--monitor", code=1))

    def test_machines(self) -> None:
        """Machines are listed by id; one is named by the beginning of its id, and disabled and enabled."""
        id = Machine(1).id.hex()
        self.assertIn(id, self.call("machine", "list"))
        self.assertIn("No machines", self.call("machine", "list", "--admin", "bob"))
        self.assertEqual(self.call("machine", "disable", id[:8]).split(":")[0], id)
        (shown,) = json.loads(self.call("machine", "list", "--admin", "alice", "--json"))
        self.assertEqual((shown["machine"], shown["state"], shown["snapshots"]), (id, "disabled", 1))
        self.call("machine", "enable", id.upper())
        self.assertEqual(json.loads(self.call("machine", "list", "--json"))[0]["state"], "active")
        self.assertIn("at least the first 8", self.call("machine", "disable", id[:7], code=2))
        self.assertIn("no machine's id begins", self.call("machine", "disable", "f" * 64, code=1))
