"""P7, end to end on a real store: disks that fall back, clones, and a server that was put back."""

import shutil
from itertools import count
from unittest import mock

from twisted.internet.defer import Deferred, fail

from mastodon.daemon.errors import NotFound, StoreError, Unavailable
from mastodon.daemon.events import EventCode
from mastodon.daemon.spools import SpoolMemory
from mastodon.host.durable import DiskError
from mastodon.host.spool_layout import read_marker
from mastodon.restore.errors import WentBack
from mastodon.restore.memory import Memory
from mastodon.sealed.enrolment import Enrolment
from mastodon.sealed.jump import QUIET
from mastodon.sealed.ledger import LedgerEntry
from mastodon.sealed.ledger_entries import EntryBody, SnapshotCommitted
from mastodon.sealed.machine_secret import MachineSecret
from mastodon.sealed.snapshot import Notice, SnapshotStatus
from mastodon.sealed.statement import StatementVerb
from mastodon_agent.refusals import NoConnection
from mastodon_agent.trust_memory import TrustMemory
from tests.agent_on_store import StoreAgentCase
from tests.store_case import SERVER, Admin

TRAVEL, CLONE, NEWER = EventCode.TIME_TRAVEL, EventCode.CLONE, EventCode.SERVER_STATE_NEWER_AGENT


class TimeTravelTests(StoreAgentCase):
    """The machine's disk."""

    def test_promise_p7_disk_and_state_put_back(self):
        """Disk and state are put back after five more runs: all versions stay restorable, the next run is a further
        one, and the admin is told once."""
        self.run_agent("first")
        self.copy_machine("old")
        for number in range(2, 7):
            self.run_agent(f"version {number}")
        self.put_back("old")
        self.assertEqual(self.run_agent("after the fall"), 7)
        self.assertTrue(any("went back in time" in one for one in self.heard.said), self.heard.said)
        self.assertEqual(self.told(), [TRAVEL])
        self.assertIn("remembers snapshot 1 ", self.rows()[0].detail)
        self.assertIn("2 to 6 are kept", self.rows()[0].detail)
        self.assertEqual(self.run_agent("later"), 8)
        self.assertEqual(self.told(), [TRAVEL])
        expected = ["first", *(f"version {number}" for number in range(2, 7)), "after the fall", "later"]
        session = self.look()
        self.assertEqual([self.restored(number, session) for number in range(1, 9)], expected)
        self.assertIn("snapshot 7 was made by a machine that had fallen back to snapshot 1", " ".join(self.warned))

    def test_promise_p7_told_once_across_a_restart(self):
        """What was told before a restart of the server, or a rebuild of its catalogue, is not told again."""
        self.run_agent("one")
        self.copy_machine("old")
        self.run_agent("two")
        for content in ("three", "four"):
            self.put_back("old")
            self.run_agent(content)
            self.setting.wait(self.store.stop())
            for path in self.setting.state.glob("catalogue.sqlite*"):
                path.unlink()
            self.start_again()
        self.assertEqual(self.told(), [TRAVEL])

    def test_told_once_when_the_server_dies_at_it(self):
        """A server that dies between the event and its snapshot tells it once: the agent comes again."""
        self.run_agent("one")
        self.copy_machine("old")
        self.run_agent("two")
        self.put_back("old")
        commits = self.store._ready().commits
        append = commits._ledger.append

        def dies(body: EntryBody) -> "Deferred[LedgerEntry]":
            return fail(Unavailable("killed")) if isinstance(body, SnapshotCommitted) else append(body)

        with mock.patch.object(commits._ledger, "append", dies):
            self.assertRaises(Unavailable, self.run_agent, "three")
        self.restart()
        self.assertEqual(self.run_agent("three"), 3)
        self.assertEqual(self.told(), [TRAVEL])

    def test_lost_answer(self):
        """The server committed, the agent never heard: its next run knows its own snapshot, and nobody is alarmed."""
        self.run_agent("one")
        self.assertRaises(NoConnection, self.run_agent, "two", loses_answer=True)
        self.assertEqual(self.run_agent("three"), 3)
        self.assertEqual(self.heard.said, [])
        self.assertEqual(self.told(), [])
        self.assertEqual(self.records()[2].remembered, self.records()[2].predecessor)

    def test_commit_that_never_arrived(self):
        """Nor when it was the question that was lost."""
        self.run_agent("one")
        memory = TrustMemory(str(self.state), self.secret.machine_id)
        memory.ask(b"q" * 32)
        self.run_agent("two")
        self.assertEqual((self.heard.said, self.told()), ([], []))

    def test_checkpoints(self):
        """Checkpoints of a first run are its own: each remembers the one before."""
        for number in range(1500):
            self.write(f"d{number // 100}/{number}", f"content {number}")
        ticks = count()
        with mock.patch("mastodon_agent.packing.TARGET", 20_000), mock.patch("mastodon_agent.backup.TICK_S", 0.0):
            self.run_agent("one", steady=lambda: float(next(ticks)), checkpoint_s=1200.0)
        statuses = [record.status for record in self.records()]
        self.assertIn(SnapshotStatus.CHECKPOINT, statuses)
        self.assertEqual(self.told(), [])

    def test_state_that_was_deleted_is_said(self):
        """A reinstalled machine, or a state that was deleted, is no time travel: the snapshot's notices say it."""
        self.run_agent("one")
        shutil.rmtree(self.state)
        self.state.mkdir()
        self.run_agent("two")
        self.assertEqual(self.told(), [])
        self.assertIn("new or was lost", " ".join(self.heard.said))
        self.assertTrue(self.records()[1].notices & Notice.STATE_LOST)

    def test_state_that_cannot_be_written(self):
        """A full disk lets no memory be written: the snapshot says so, and the next run travels not."""
        self.run_agent("one")
        full = mock.patch("mastodon_agent.trust_memory.write_file", side_effect=DiskError("disk full"))
        for content in ("two", "three"):
            with full:
                self.run_agent(content)
            self.assertIn("what this run learns is forgotten", " ".join(self.heard.said))
        self.run_agent("four")
        self.run_agent("five")
        self.assertEqual(self.told(), [])
        self.assertTrue(self.records()[2].notices & Notice.MEMORY_NOT_KEPT)

    def test_promise_p7_clones_in_turns(self):
        """Two copies of the machine back up in turns: told as time travel at the first sight, then as a clone, once;
        each one's versions are all there."""
        self.run_agent("common")
        self.copy_machine("a")
        self.copy_machine("b")
        for number in range(3):
            for name in "ab":
                self.put_back(name)
                self.run_agent(f"{name}{number}")
                shutil.rmtree(self.work / name)
                self.copy_machine(name)
        self.assertEqual(self.told(), [TRAVEL, CLONE])
        session = self.look()
        contents = [self.restored(number, session) for number in range(1, 8)]
        self.assertEqual(contents, ["common", "a0", "b0", "a1", "b1", "a2", "b2"])
        (condition,) = self.setting.wait(self.store._ready().catalogue.conditions())
        self.assertEqual(condition.code, CLONE)


class SplitTests(StoreAgentCase):
    """A fork is ended: one of two copies gets an identity of its own."""

    def enrol(self, secret: MachineSecret, admin: Admin, origin: bytes | None) -> None:
        record = Enrolment(
            secret.machine_id, secret.public_key, admin.tenant, (SERVER,), b"n" * 16, 0, 1, origin
        ).sign(secret.signing_key)
        said = admin.statement(StatementVerb.ENROL, record, self.setting.clock.now)
        self.setting.wait(self.store.execute(admin.tenant, admin.pin, said, b""))

    def test_promise_p7_split_ends_the_fork(self):
        """After a split each copy goes on in a history of its own, the clone's condition is over, and nothing that was
        backed up before is touched; to enrol it again tells nothing more."""
        self.run_agent("common")
        self.copy_machine("a")
        self.copy_machine("b")
        for name in ("a", "b", "a", "b"):
            self.put_back(name)
            self.run_agent(name)
            self.copy_machine(name)
        self.assertEqual(self.told(), [TRAVEL, CLONE])
        old, new = self.secret, MachineSecret(b"n" * 32)
        for _ in range(2):
            self.enrol(new, self.setting.admin, old.machine_id)
        self.assertEqual(self.told(), [TRAVEL, CLONE, EventCode.SPLIT])
        self.assertIn(new.machine_id.hex(), self.rows()[-1].detail)
        self.assertEqual(self.setting.wait(self.store._ready().catalogue.conditions()), [])
        self.put_back("b")
        self.secret = new
        self.assertEqual(self.run_agent("b alone"), 1)
        self.assertEqual(self.restored(1), "b alone")
        self.secret = old
        self.put_back("a")
        self.assertEqual(self.run_agent("a alone"), 6)
        self.assertEqual(self.run_agent("a still"), 7)
        self.assertEqual(self.told(), [TRAVEL, CLONE, EventCode.SPLIT])
        session = self.look()
        contents = [self.restored(number, session) for number in range(1, 8)]
        self.assertEqual(contents, ["common", "a", "b", "a", "b", "a alone", "a still"])

    def test_copy_that_comes_no_more(self):
        """A fork whose other side is simply gone is over after a quiet time; that is told once."""
        self.run_agent("common")
        self.copy_machine("b")
        self.run_agent("a")
        self.copy_machine("a")
        self.put_back("b")
        self.run_agent("b")
        self.put_back("a")
        self.run_agent("a again")
        self.assertEqual(self.told(), [TRAVEL, CLONE])
        for number in range(QUIET):
            self.run_agent(f"a alone {number}")
        self.assertEqual(self.told(), [TRAVEL, CLONE])
        for number in range(2):
            self.run_agent(f"a still {number}")
        self.assertEqual(self.told(), [TRAVEL, CLONE, EventCode.SPLIT])

    def test_promise_p6_foreign_origin(self):
        """To split from another admin's machine is refused as from one that does not exist, and tells nobody."""
        bob = Admin("bob", 2)
        self.setting.wait(self.store.add_admin(bob.name, bob.request()))
        refused = [
            self.assertRaises(NotFound, self.enrol, MachineSecret(b"n" * 32), bob, origin)
            for origin in (self.secret.machine_id, b"x" * 32)
        ]
        self.assertEqual(str(refused[0]), str(refused[1]))
        self.assertEqual(self.told(), [])


class ServerPutBackTests(StoreAgentCase):
    """The server's disks."""

    def copy_server(self) -> None:
        """Copy spools and state, as a backup of the server would."""
        self.setting.wait(self.store.stop())
        shutil.copytree(self.setting.directory, self.work / "copy")
        self.start_again()

    def put_server_back(self) -> None:
        """Spools and state become the copy."""
        self.setting.wait(self.store.stop())
        for path in [*self.setting.spools, self.setting.state]:
            shutil.rmtree(path)
            shutil.copytree(self.work / "copy" / path.name, path)
        self.start_again()

    def test_promise_p7_server_put_back(self):
        """The whole server is put back from an older copy: the agent warns and goes on, sends again what the server
        lacks, and operator and admin are told once; whatever is committed from then on is restorable."""
        self.run_agent("one")
        self.copy_server()
        for content in ("two", "three"):
            self.run_agent(content)
        memory = Memory(self.work / "heads.json")
        self.assertEqual(self.look(memory).history.snapshots[-1].record.sequence, 3)
        self.put_server_back()
        self.assertEqual(self.run_agent("three"), 2)
        said = " ".join(self.heard.said)
        self.assertIn("this machine remembers snapshot 3, the server's newest is 1", said)
        self.assertIn("ledger is older", said)
        self.assertTrue(self.records()[1].notices & Notice.SERVER_WENT_BACK)
        self.assertEqual(self.told(), [NEWER])
        self.assertEqual(self.run_agent("four"), 3)
        self.assertEqual(self.told(), [NEWER])
        self.assertNotIn("this machine remembers", " ".join(self.heard.said))
        session = self.look()
        self.assertEqual([self.restored(number, session) for number in (1, 2, 3)], ["one", "three", "four"])
        self.client_sees_it(memory)

    def client_sees_it(self, memory: Memory) -> None:
        """A client that saw the lost snapshots refuses, until it is told to take what there is; then it says so."""
        error = self.assertRaises(WentBack, lambda: self.look(memory).history)
        self.assertIn("another snapshot 3 is shown", str(error))
        self.assertEqual(len(self.look(memory, allow_older=True).history.snapshots), 3)
        again = self.look(Memory(self.work / "heads.json"))
        self.assertEqual(len(again.history.snapshots), 3)
        self.assertIn("snapshot 3, seen on", again.given_up)

    def test_promise_p7_spools_put_back(self):
        """The spools alone are put back: nobody is let in before the operator has said so, and confirmed the head."""
        self.run_agent("one")
        self.copy_server()
        self.run_agent("two")
        self.setting.wait(self.store.stop())
        (spool,) = self.setting.spools
        shutil.rmtree(spool)
        shutil.copytree(self.work / "copy" / spool.name, spool)
        refused = self.assertRaises(StoreError, lambda: self.setting.wait(self.setting.store().start()))
        self.assertIn("went back in time", str(refused))
        SpoolMemory(self.setting.state).forget(spool, read_marker(spool).spool)  # `mastodon spool add --again`
        self.start_again()
        self.assertIn("does not bear the head that was signed last", self.store.locked)
        self.setting.wait(self.store.confirm(self.store.head_text()))
        self.assertEqual(self.run_agent("two"), 2)
        self.assertEqual(self.told(), [NEWER])
        self.assertEqual(self.restored(2), "two")
