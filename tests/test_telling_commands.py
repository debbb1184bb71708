"""The admin's and the operator's commands about events and alerts, against a real daemon and a mail relay."""

import json
import os
import time
from dataclasses import replace

from mastodon.daemon.config import TellingConfig
from mastodon.sealed.events import EventCode
from tests.commands import run_command
from tests.mail_server import MailServer, identity
from tests.test_admin_client import AdminCase

DAY = 86_400 * 10**9


class TellingCommandTests(AdminCase):
    """As users run them."""

    async def _start(self) -> None:
        self.relay = MailServer(identity("localhost"), auth=False)
        telling = TellingConfig(
            smtp_host="127.0.0.1", smtp_port=self.relay.listen(), starttls=False, sender="mastodon@example.org",
            operator=("ops@example.org",),
        )  # fmt: skip
        self.addCleanup(self.relay.stop)
        self.server.config = replace(self.server.config, telling=telling)
        await super()._start()
        await self.thread(lambda: self.admin("machine", "add", "web01", "--out", self.top / "web01"))
        self.store = self.server.running.store
        self.tenant_id = next(one.tenant for one in await self.store.list_admins() if one.name == "demo")
        (self.machine,) = [one.machine for one in await self.store.machines(self.tenant_id)]

    def operator(self, *words: object, code: int = 0) -> str:
        """Run mastodon; what it said."""
        words = ("--config", self.server.config.file, *words)
        done = run_command("mastodon.operator.main", words, dict(os.environ), self.top, merge=True)
        self.assertEqual(done.returncode, code, done.stdout)
        self.assertNotIn("Traceback", done.stdout)
        return done.stdout

    async def test_notify(self):
        """Addresses are set, shown and tried; what cannot be is said with what to do."""
        await self.thread(self._notify)
        self.assertEqual(len(self.relay.mails), 1)
        self.assertIn(b"To: alice@example.org", self.relay.mails[0])
        self.assertIn(b"a test: mails arrive", self.relay.mails[0])

    def _notify(self) -> None:
        self.assertIn("nowhere", self.admin("notify", "show"))
        for words, text in (
            (("--mail", "alice@example.org\r\nBcc: x@y.org"), "is no mail address"),
            (("--webhook", "http://hook.example/"), "begins with https://"),
            (("--heartbeat", "https://hc.example/1"), "give --machine"),
            ((), "give --mail"),
            (("--mail", "a@example.org", "--machine", "nobody"), "no machine 'nobody'"),
        ):  # fmt: skip
            self.assertIn(text, self.admin("notify", "set", *words, code=2))
        self.admin("notify", "set", "--mail", "alice@example.org", "--webhook", "https://127.0.0.1:1/hook")
        self.admin("notify", "set", "--machine", "web01", "--heartbeat", "https://hc.example/1")
        shown = [json.loads(line) for line in self.admin("notify", "show", "--json").splitlines()]
        kinds = [(one["kind"], one["name"]) for one in shown]
        self.assertEqual(kinds, [("mail", ""), ("webhook", ""), ("heartbeat", "web01")])
        self.assertEqual(len(shown[1]["secret"]), 64)
        said = self.admin("notify", "test", code=1)
        self.assertIn("webhook    https://127.0.0.1:1/hook", said)
        self.assertIn("not public", said)
        self.assertIn("one test a minute", self.admin("notify", "test", code=2))
        self.assertNotIn("tries it", self.admin("notify", "set", "--webhook", "off"))
        self.assertNotIn("webhook", self.admin("notify", "show"))

    async def test_events(self):
        """Listed, chosen, acknowledged; another admin's and the operator's are not there."""
        store = self.store
        await store.record(EventCode.LATE, machine=self.machine, detail="the last is of \u202eyesterday")
        await store.record(EventCode.ANOMALY, b"x" * 32, detail="foreign")
        await store.record(EventCode.SPOOL_OFFLINE, detail="00: gone")
        await self.thread(self._events)

    def _events(self) -> None:
        late = [json.loads(line) for line in self.admin("events", "--json", "--machine", "web01").splitlines()][-1]
        self.assertEqual((late["event"], late["name"], late["open"]), ("LATE", "web01", True))
        said = self.admin("events", "--since", "1h")
        self.assertIn("no complete backup in time: the last is of ?yesterday [going on]", said)
        self.assertNotIn("foreign", said)
        self.assertNotIn("spool", said)
        self.assertEqual(self.admin("events", "--since", "2099-01-01").strip(), "no events")
        self.assertIn("give a time such as", self.admin("events", "--since", "soon", code=2))
        self.assertIn("LATE", self.admin("events", "--open", "--json"))
        self.assertIn("no such event", self.admin("ack", late["sequence"] + 1, code=2))
        self.assertIn("or --all", self.admin("ack", code=2))
        self.assertIn("1 event acknowledged", self.admin("ack", late["sequence"]))
        self.assertEqual(self.admin("events", "--open").strip(), "no events")
        self.assertIn("[acknowledged]", self.admin("events"))
        self.admin("ack", "--all")
        self.assertIn("0 events acknowledged", self.admin("ack", "--all", "--machine", "web01"))

    async def test_snooze(self):
        """For a bounded time, noted as an event, shown, and ended."""
        await self.thread(self._snooze)

    def _snooze(self) -> None:
        for words, text in (
            (("40d",), "at most 30 days ahead"), (("soon",), "give a time such as"), ((), "or --off"),
            (("6h", "--machine", "nobody"), "no machine 'nobody'"),
        ):  # fmt: skip
            self.assertIn(text, self.admin("snooze", *words, code=2))
        self.assertIn("web01: snoozed until", self.admin("snooze", "2d", "--machine", "web01"))
        shown = json.loads(self.admin("notify", "show", "--json"))
        self.assertEqual((shown["kind"], shown["name"]), ("snooze", "web01"))
        self.assertLess(abs(int(shown["address"]) - time.time_ns() - 2 * DAY), DAY)
        self.assertIn("the watch was weakened: snooze.until", self.admin("events"))
        self.admin("snooze", "--off", "--machine", "web01")
        self.assertIn("nowhere", self.admin("notify", "show"))

    async def test_the_operators(self):
        """Through the daemon, by its socket; an admin's webhook key stays the admin's."""
        await self.store.record(EventCode.SPOOL_NEARLY_FULL, detail="00: 3 % left")
        await self.thread(self._operators)
        self.assertEqual([b"To: ops@example.org" in one for one in self.relay.mails], [True])

    def _operators(self) -> None:
        self.assertIn("a spool is nearly full: 00: 3 % left [going on]", self.operator("events"))
        (shown,) = [json.loads(line) for line in self.operator("events", "--json").splitlines()]
        self.assertEqual((shown["event"], shown["open"]), ("SPOOL_NEARLY_FULL", True))
        self.assertIn("--since", self.operator("events", "--since", "x", code=2))
        self.assertIn("mail       ops@example.org", self.operator("notify", "show"))
        self.operator("notify", "test")
        self.assertIn("is no mail address", self.operator("notify", "set", "--mail", "x", code=2))
        self.assertIn("no admin of the name", self.operator("notify", "show", "--admin", "nobody", code=1))
        self.operator("notify", "set", "--admin", "demo", "--webhook", "https://hook.example/")
        said = self.operator("notify", "show", "--admin", "demo")
        self.assertIn("webhook    https://hook.example/", said)
        self.assertNotIn("signed with", said)
        self.operator("notify", "set", "--heartbeat", "https://hc.example/server")
        self.assertIn("heartbeat  https://hc.example/server", self.operator("notify", "show"))
