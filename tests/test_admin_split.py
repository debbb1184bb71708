"""mastodon-admin machine split, machine show and audit, as a user runs them against a real daemon."""

import json
import time
from typing import Any

from twisted.internet.defer import Deferred

from mastodon.daemon.events import EventCode
from mastodon.sealed.url import parse_url
from tests.restore_case import FILES
from tests.test_admin_client import AdminCase, in_thread


class SplitCommandTests(AdminCase):
    """The admin's commands around a fork."""

    def event_codes(self) -> Deferred[list[int]]:
        found: Deferred[Any] = self.server.running.store._ready().catalogue.events(0, 1000)
        return found.addCallback(lambda rows: [row.code for row in rows])

    def test_split(self) -> Deferred[Any]:
        """The new identity's URL and passkey are handed out once, its card names the origin, the server is told; again
        changes nothing, and a name that is taken is refused."""
        split = self.thread(self.split)
        return split.addCallback(lambda _: self.event_codes()).addCallback(
            lambda codes: self.assertEqual(codes.count(EventCode.SPLIT), 1)
        )

    def split(self) -> None:
        self.backed_up()
        said = self.admin("machine", "split", "web01", "web02", "--out", "cards")
        self.assertIn("The other copy goes on as web01", said)
        old, new = (parse_url((self.top / f"cards/{name}.url").read_text()) for name in ("web01", "web02"))
        self.assertNotEqual(old.secret, new.secret)
        self.assertTrue((self.top / "cards/web02.passkey").exists())
        self.assertIn("nothing was changed", self.admin("machine", "split", "web01", "web02"))
        self.assertIn("not split from web02", self.admin("machine", "split", "web02", "web01", code=2))
        shown = json.loads(self.admin("machine", "show", "web02", "--json").splitlines()[-1])
        self.assertIn("web01", shown["split_from"])
        self.assertEqual((shown["enrolled"], shown["snapshots"]), (True, 0))

    @in_thread
    def test_audit(self):
        """Who read what is shown, by label and pin, also what is not written yet; and machine show says how new the
        newest is, what is withheld of it by a server that went back, and then ends with 3."""
        self.backed_up()
        self.admin("restore", "web01", "--to", "out")
        self.assertEqual(self.files(), FILES | {"etc/new": b"new"})
        lines = [json.loads(line) for line in self.admin("audit", "web01", "--json").splitlines()]
        self.assertEqual({(line["name"], line["label"]) for line in lines}, {("web01", "laptop")})
        self.assertGreater(sum(line["blobs"] for line in lines), 0)
        self.assertIn("nothing was read", self.admin("audit", "--since", "2100-01-01"))
        today = time.strftime("%Y-%m-%d")
        self.assertIn("web01", self.admin("audit", "--since", today), "a date is its beginning")
        self.assertIn("web01", self.admin("audit", "--since", "2d"))
        self.assertIn("give a time such as", self.admin("audit", "--since", "soon", code=2))
        self.assertIn("newest shown: snapshot 2 of", self.admin("machine", "show", "web01"))
        heads = json.loads((self.home / "heads.json").read_text())
        for head in heads["machines"].values():
            head["sequence"] += 1
        (self.home / "heads.json").write_text(json.dumps(heads))
        said = self.admin("machine", "show", "web01", code=3)
        self.assertIn("snapshot 2 as the newest is shown, but snapshot 3 was seen", said)
