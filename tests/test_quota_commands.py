"""Quotas as operator and admin set and see them, and what an agent is told."""

import json
import os

from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import SynchronousTestCase

from bench.blocking_peers import TinyMachine
from mastodon.host.sizes import parse_quota, parse_size, show_use
from mastodon.sealed.blob import BlobKind
from mastodon.sealed.machine_secret import MachineSecret
from mastodon.sealed.settings import QUOTA
from mastodon.sealed.url import parse_url
from mastodon.wire.errors import ErrorCode
from mastodon.wire.messages import Ack, Error, Message
from tests.running_server import ServerTestCase
from tests.store_case import Machine
from tests.test_admin_client import AdminCase, in_thread
from tests.test_operator import BackupCase


class Sizes(SynchronousTestCase):
    """What is typed and shown."""

    def test_sizes(self) -> None:
        """Numbers with a unit or without; what is none is told."""
        for text, size in (("500", 500), ("1k", 1024), ("2 GiB", 2 << 30), ("3TB", 3 << 40), ("0", 0)):
            self.assertEqual(parse_size(text), size)
        for text in ("", "G", "-1", "1.5G", "1P", "9" * 13, "١"):
            self.assertRaises(ValueError, parse_size, text)
        self.assertEqual((parse_quota("none"), parse_quota("1K")), ("", "1024"))

    def test_use(self) -> None:
        """With a quota in percent, also of one that is nothing."""
        self.assertEqual(show_use(1 << 30, 2 << 30), "1.0 GiB of 2.0 GiB, 50 %")
        self.assertEqual((show_use(0, 0), show_use(5, None)), ("0 bytes of 0 bytes", "5 bytes, no quota"))


class OperatorCommands(BackupCase):
    """``mastodon quota``, while no daemon runs."""

    def test_set_and_show(self) -> None:
        """An admin's quota and a machine's are set, shown and taken back; they outlive the command."""
        id = Machine(1).id.hex()
        self.assertIn("may keep 2.0 GiB", self.call("quota", "admin", "alice", "2G"))
        self.call("quota", "machine", id, "1M")
        (shown,) = json.loads(self.call("quota", "show", "--json"))
        self.assertEqual((shown["admin"], shown["quota_bytes"]), ("alice", 2 << 30))
        self.assertEqual(shown["machines"][0]["quota_bytes"], 1 << 20)
        self.assertGreater(shown["machines"][0]["used_bytes"], 0)
        self.assertEqual(shown["used_bytes"], shown["machines"][0]["used_bytes"])
        self.assertIn("of 2.0 GiB, 0 %", self.call("quota", "show"))
        self.call("quota", "admin", "alice", "none")
        self.call("quota", "machine", id, "none")
        self.assertIn("no quota", self.call("quota", "show", "--admin", "alice"))

    def test_mistakes(self) -> None:
        """An admin or machine that there is not, and what is no size."""
        self.assertIn("no admin", self.call("quota", "admin", "bob", "1G", code=1))
        self.assertIn("no admin 'bob'", self.call("quota", "show", "--admin", "bob", code=1))
        self.assertIn("no machine's id begins with", self.call("quota", "machine", "f" * 64, "1G", code=1))
        self.assertIn("64 hexadecimal digits", self.call("quota", "machine", "web01", "1G", code=2))
        self.assertIn("is no size", self.call("quota", "admin", "alice", "lots", code=2))


class RaceTests(ServerTestCase):
    """Many machines of one admin at once, over the wire."""

    def test_promise_p6_race_over_many_connections(self) -> Deferred[None]:
        """Eight machines send at once what only a few have room for: each pack is acknowledged or refused, never more
        is kept than the quota, and each machine may go on."""

        async def attack() -> None:
            store = self.server.running.store
            machines = [await self.thread(lambda: self.server.new_machine(self.tenant)) for _ in range(8)]
            await store.set_policy(self.tenant.secret.tenant, b"", ((QUOTA, "700000"),))

            def send(machine: TinyMachine) -> list[str]:
                with self.server.append_peer() as peer:
                    peer.enter(machine.secret)
                    packs = [machine.pack([machine.blob(BlobKind.CHUNK, (), os.urandom(90_000))]) for _ in range(3)]
                    return [type(machine.send_pack(peer, pack, Message)).__name__ for pack in packs]

            each = await gatherResults([deferToThread(send, one) for one in machines])
            answers = [answer for one in each for answer in one]
            self.assertEqual((len(answers), set(answers)), (24, {"Ack", "Error"}))
            kept = sum(len(data) for data in self.server.files().values())
            self.assertLessEqual(kept, 700_000)
            self.assertEqual(store.quotas().used(self.tenant.secret.tenant), kept)
            self.assertGreater(kept, 400_000)

        return Deferred.fromCoroutine(attack())


class AdminCommands(AdminCase):
    """``mastodon-admin quota``, and the agent's side, on a real server."""

    @in_thread
    def test_promise_p6_machine_quota(self) -> None:
        """An admin sets its machine's quota and sees it used; beyond it the agent's pack is refused, for good, with
        whom to ask; its own quota only the operator sets."""
        self.admin("machine", "add", "web01", "--out", "cards")
        machine = TinyMachine(MachineSecret(parse_url((self.top / "cards/web01.url").read_text()).secret))
        self.assertIn("may keep 100.0 KiB", self.admin("quota", "machine", "web01", "100K"))
        packs = [machine.pack([machine.blob(BlobKind.CHUNK, (), os.urandom(60_000))]) for _ in range(2)]
        with self.server.append_peer() as peer:
            peer.enter(machine.secret)
            machine.send_pair(peer)
            machine.send_pack(peer, packs[0], Ack)
            refusal: Error = machine.send_pack(peer, packs[1], Error)
            self.assertEqual((refusal.code, refusal.context), (ErrorCode.QUOTA, (packs[1][0],)))
            self.assertFalse(refusal.retryable)
            self.assertIn("ask your admin", refusal.text)
            machine.send_pack(peer, packs[0], Ack)
        rows = [json.loads(line) for line in self.admin("quota", "show", "--json").splitlines()]
        self.assertEqual([one["quota_bytes"] for one in rows], [None, 102_400])
        self.assertEqual({one["used_bytes"] for one in rows}, {len(packs[0][1])})
        self.assertIn("web01", self.admin("quota", "show"))
        self.assertIn("is no size", self.admin("quota", "machine", "web01", "lots", code=2))
