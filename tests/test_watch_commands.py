"""``mastodon watch`` and ``mastodon-admin machine watch``."""

import json
from functools import partial

from twisted.internet.defer import Deferred

from mastodon.catalogue.lane import OwnMainland
from mastodon.daemon.config import load_config
from mastodon.daemon.store import open_store
from mastodon.sealed.statement import StatementVerb
from tests.store_case import Clock, Machine
from tests.test_admin_client import AdminCase
from tests.test_operator import CommandCase


class OperatorTests(CommandCase):
    """No daemon runs."""

    def setUp(self) -> None:
        super().setUp()
        self.call("admin", "add", "alice", "--request", self.request)
        mainland, config = OwnMainland(), load_config(self.config)
        store = open_store(config, mainland, Clock())
        mainland.wait(store.start())
        self.machine = Machine(1)
        enrolment = self.machine.enrolment(self.admin, tuple(store._servers))
        statement = self.admin.statement(StatementVerb.ENROL, enrolment, Clock().now, server=store._servers[0])
        mainland.wait(store.execute(self.admin.tenant, self.admin.pin, statement, b""))
        mainland.wait(store.stop())

    def show(self) -> list[int]:
        """What holds for all, and for the machine."""
        found = json.loads(self.call("watch", "show", "--json"))
        (one,) = found["machines"]
        self.assertEqual((one["machine"], one["admin"]), (self.machine.id.hex(), "alice"))
        self.assertEqual(one["state"], "never seen")
        return [found["interval_s"], found["grace_s"], one["interval_s"], one["grace_s"]]

    def test_levels(self) -> None:
        """The server's, an admin's, a machine's own; and back to what the level above says."""
        self.assertEqual(self.show(), [3600, 18000, 3600, 18000])
        self.call("watch", "set", "--every", "2h")
        self.assertEqual(self.show(), [7200, 18000, 7200, 18000])
        self.call("watch", "set", "--admin", "alice", "--grace", "30m", "--every", "1d")
        self.assertEqual(self.show(), [7200, 18000, 86400, 1800])
        self.call("watch", "set", "--machine", self.machine.id.hex().upper(), "--grace", "0s")
        self.assertEqual(self.show(), [7200, 18000, 86400, 0])
        self.call("watch", "set", "--admin", "alice", "--grace", "default", "--every", "DEFAULT")
        self.assertEqual(self.show(), [7200, 18000, 7200, 0])
        text = self.call("watch", "show")
        self.assertIn("every 2 h, grace 5 h", text)
        self.assertIn(f"{self.machine.id.hex()}  alice  never seen  last complete never  every 2 h, grace 0 s", text)

    def test_mistakes(self) -> None:
        """Each is said in a line that says what to type."""
        for words, said in (
            ((), "give --every or --grace"), (("--every", "1"), "90s, 15m, 6h or 2d"),
            (("--every", "59s"), "too short"), (("--grace", "367d"), "longer than 366 d"),
            (("--machine", "web01", "--every", "1h"), "64 hexadecimal digits"),
            (("--machine", "ab" * 32, "--admin", "alice", "--every", "1h"), "not both"),
        ):  # fmt: skip
            self.assertIn(said, self.call("watch", "set", *words, code=2))
        self.assertIn("known: alice", self.call("watch", "set", "--admin", "bob", "--every", "1h", code=1))
        unknown = self.call("watch", "set", "--machine", "ab" * 32, "--every", "1h", code=1)
        self.assertIn("no machine's id begins with", unknown)

    def test_the_beginning_of_an_id(self) -> None:
        """Every command that names a machine takes the first eight digits of its id."""
        beginning = self.machine.id.hex()[:8]
        self.call("watch", "set", "--machine", beginning, "--every", "2h")
        self.assertEqual(self.show(), [3600, 18000, 7200, 18000])
        self.call("quota", "machine", beginning.upper(), "1M")
        (shown,) = json.loads(self.call("quota", "show", "--json"))
        self.assertEqual(shown["machines"][0]["quota_bytes"], 1 << 20)
        self.call("limit", "machine", beginning, "1M")
        self.assertEqual(json.loads(self.call("limit", "show", "--json"))["machines"], {self.machine.id.hex(): 1 << 20})
        self.call("machine", "disable", beginning)
        self.assertIn("WATCH_WEAKENED", self.call("events", "--machine", beginning, "--json"))
        for words in (("events", "--machine", "f" * 8), ("limit", "machine", "f" * 8, "1M")):
            self.assertIn("no machine's id begins with 'ffffffff'", self.call(*words, code=1))


class AdminTests(AdminCase):
    """Against a real daemon, which watches."""

    timeout = 110

    def test_machine_watch(self) -> Deferred[None]:
        """A machine's own, all machines', back to the default; and each mistake in a line."""

        async def work() -> None:
            await self.thread(self.add_machine)
            await self.thread(lambda: self.admin("machine", "watch", "web01", "--every", "2h", "--grace", "3h"))
            await self.thread(lambda: self.admin("machine", "watch", "--all", "--grace", "2d"))
            self.assertEqual(await self.bounds(), (7200, 10800))
            await self.thread(lambda: self.admin("machine", "watch", "web01", "--grace", "default"))
            self.assertEqual(await self.bounds(), (7200, 172800))
            for words, said in (
                (("web01",), "give --every or --grace"), ((), "give a machine's name"), (("--all",), "--every"),
                (("web02", "--every", "1h"), "no machine 'web02'"), (("web01", "--every", "soon"), "such as 90s"),
                (("web01", "--all", "--every", "1h"), "or --all"), (("web01", "--every", "1s"), "too short"),
            ):  # fmt: skip
                text = await self.thread(partial(self.admin, "machine", "watch", *words, code=2))
                self.assertIn(said, text)

        return Deferred.fromCoroutine(work())

    async def bounds(self) -> tuple[int, int]:
        _, (status,) = await self.server.running.store.watching.stand()
        return status.bounds.interval, status.bounds.grace
