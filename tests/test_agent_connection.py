"""The agent on the wire: whole runs over TLS to a server that cuts, refuses, forgets and lies."""

import datetime
import os
import threading
import time
from collections.abc import Callable
from typing import Any, cast
from unittest import mock

from mastodon.host.certificates import make_identity
from mastodon.host.socket_tls import connect
from mastodon.sealed.snapshot import SnapshotStatus
from mastodon.wire.append_client import Introduction
from mastodon.wire.errors import ErrorCode
from mastodon.wire.messages import Finish, Goodbye, Greeting, Hello, NewSnapshot, Offer, PackEnd, make_error
from mastodon_agent.connection import Connection, Patience
from mastodon_agent.refusals import NoConnection, ServerRefused
from mastodon_agent.session import Session
from mastodon_agent.trust_memory import TrustMemory
from tests.agent_runs import AgentCase
from tests.fake_append_server import FakeAppendServer


class WireCase(AgentCase):
    """A server on loopback, and runs over it."""

    def setUp(self) -> None:
        super().setUp()
        identity = make_identity("server", datetime.datetime.now(datetime.UTC))
        self.server = FakeAppendServer(self.vault, identity, self.work)
        self.addCleanup(self.server.close)
        self.said: list[str] = []
        self.pins = [identity.pin]
        patcher = mock.patch("mastodon_agent.connection.FIRST_WAIT_S", 0.02)
        patcher.start()
        self.addCleanup(patcher.stop)
        for number in range(60):
            self.write(f"f{number:02}", os.urandom(40_000))

    def connection(self, start_s: float = 120.0, later_s: float = 120.0) -> Connection:
        remembered = TrustMemory(str(self.state), self.secret.machine_id).remembered
        return Connection(
            lambda: connect([("127.0.0.1", self.server.port)], self.pins, "mastodon/1", timeout=60.0),
            Introduction(
                self.secret.machine_id, self.secret.signing_key, b"n" * 16, remembered.sequence, remembered.hash,
                "test", time.time_ns,
            ),
            Patience(start_s, later_s, lambda: 0.5),
            time.monotonic,
            self.said.append,
        )  # fmt: skip

    def run_over_wire(self, later_s: float = 120.0, **options):
        """One run; its outcome."""

        def opened() -> Connection:
            connection.open()
            return connection

        connection = self.connection(later_s=later_s)
        finish = None
        try:
            # Opened only once the reader is forked: AgentCase forks before it asks for the session.
            outcome = self.back_up(session=cast(Session, LateSession(opened)), **options)
            finish = Finish(0, "complete")
            return outcome
        finally:
            connection.close(finish)


class LateSession:
    """A session that is opened when it is first asked something."""

    def __init__(self, opened: Callable[[], Session]) -> None:
        self._opened = opened
        self._session: Session | None = None

    def __getattr__(self, name: str) -> Any:
        if self._session is None:
            self._session = self._opened()
        return getattr(self._session, name)


class RunTests(WireCase):
    """What arrives."""

    def test_whole_runs(self):
        """First run, no-change run and a change over TLS; the server is told how each ended."""
        self.assertEqual(self.run_over_wire().status, SnapshotStatus.COMPLETE)
        self.assertLessEqual(self.run_over_wire().sent_blobs, 2)
        self.write("f05", b"changed")
        self.run_over_wire()
        self.assertEqual(self.content("f05"), b"changed")
        self.assertEqual(self.content("f59"), (self.tree / "f59").read_bytes())
        self.assertEqual(sum(isinstance(one, Finish) for one in self.server.heard), 3)
        hellos = [one for one in self.server.heard if isinstance(one, Hello)]
        self.assertEqual([one.remembered_sequence for one in hellos], [0, 1, 2])
        self.assertEqual(self.said, [])

    def test_answer_before_the_sender_runs(self):
        """Where the answer to HELLO comes before the sending thread gets to run, it sends all the same."""
        send = Connection._send
        connections: list[Connection] = []

        def late(connection: Connection, *arguments: Any) -> None:
            connections.append(connection)
            for _ in range(1000):
                if connection._answer is not None:
                    break
                time.sleep(0.01)
            send(connection, *arguments)

        self.patch(Connection, "_send", late)
        self.assertEqual(self.run_over_wire(later_s=60).status, SnapshotStatus.COMPLETE)
        self.assertEqual((len(connections), self.said), (1, []))

    def test_nothing_is_offered_to_an_empty_server(self):
        """A first run has nothing to ask."""
        self.run_over_wire()
        self.assertEqual([one for one in self.server.heard if isinstance(one, Offer)], [])

    def test_cut_connections_are_taken_up_again(self):
        """A connection that is cut in the middle of a pack: what was not acknowledged comes again, nothing else."""
        self.server.faults.cut_at_pack = 3
        with mock.patch("mastodon_agent.packing.TARGET", 300_000):
            outcome = self.run_over_wire()
        self.assertEqual(outcome.status, SnapshotStatus.COMPLETE)
        self.assertEqual(self.server.connections, 2)
        self.assertLess(self.vault.received, 60 * 40_000 * 1.2)
        self.assertEqual(self.content("f31"), (self.tree / "f31").read_bytes())

    def test_a_lost_answer_to_a_commit(self):
        """A snapshot that was committed, but whose answer got lost, is committed once."""
        self.server.faults.lose_commit_reply = True
        outcome = self.run_over_wire()
        self.assertEqual((outcome.sequence, len(self.vault.snapshots)), (1, 1))
        self.assertEqual(sum(isinstance(one, NewSnapshot) for one in self.server.heard), 2)

    def test_refused_pack_is_packed_anew(self):
        """Blobs that the server has in another sealing are left out, the rest comes."""
        self.run_over_wire()
        for name in os.listdir(self.state):
            os.unlink(self.state / name)
        with mock.patch("mastodon_agent.outlet.Outlet._add_to_offer", lambda outlet, blob: outlet._seal(blob)):
            self.write("new", b"new")
            outcome = self.run_over_wire()
        self.assertEqual(outcome.status, SnapshotStatus.COMPLETE)
        self.assertEqual(self.content("new"), b"new")
        self.assertGreaterEqual(sum(isinstance(one, PackEnd) for one in self.server.heard), 3)

    def test_a_full_server_is_tried_again(self):
        """SERVER_FULL may pass: the pack comes again on the next connection."""
        self.server.faults.answer_packs = [make_error(ErrorCode.SERVER_FULL, "no room")]
        with mock.patch("mastodon_agent.connection.LONGEST_WAIT_S", 0.05):
            self.assertEqual(self.run_over_wire().status, SnapshotStatus.COMPLETE)
        self.assertTrue(any("no room" in text for text in self.said))

    def test_a_busy_server_is_tried_again(self):
        """Another session of this machine may end."""
        self.server.faults.refuse_hello = [make_error(ErrorCode.BUSY, "another session")]
        with mock.patch("mastodon_agent.connection.LONGEST_WAIT_S", 0.05):
            self.assertEqual(self.run_over_wire().status, SnapshotStatus.COMPLETE)

    def test_pace_is_kept(self):
        """The server's pace is honoured."""
        self.server.faults.pace = 4_000_000
        self.assertEqual(self.run_over_wire().status, SnapshotStatus.COMPLETE)


class RefusedTests(WireCase):
    """What ends a run, and what it says."""

    def fails(self, kind: type[Exception], *words: str) -> None:
        error = self.assertRaises(kind, self.run_over_wire)
        for word in words:
            self.assertIn(word, str(error))
        self.assertEqual(self.vault.snapshots, [])

    def test_quota(self):
        """A used-up quota is final and told."""
        self.server.faults.answer_packs = [make_error(ErrorCode.QUOTA, "10 GB of 10 GB")]
        self.fails(ServerRefused, "quota", "10 GB of 10 GB")

    def test_displaced(self):
        """A clone that took the session over ends the run."""
        self.server.faults.answer_packs = [make_error(ErrorCode.DISPLACED, "newer session")]
        self.fails(ServerRefused, "clone")

    def test_unknown_machine(self):
        """A machine that the server does not know is told to get a URL."""
        from mastodon.sealed.machine_secret import MachineSecret

        self.server.vault.secret = MachineSecret(b"o" * 32)
        self.fails(NoConnection, "does not know this machine")

    def test_disabled(self):
        """A disabled machine is told so."""
        self.server.faults.refuse_hello = [make_error(ErrorCode.DISABLED, "off")]
        self.fails(NoConnection, "disabled")

    def test_promise_p5_wrong_pin_gets_not_a_byte(self):
        """A server with another key is refused at once, and hears nothing."""
        self.pins = [b"p" * 32]
        self.fails(NoConnection, "nothing was sent")
        self.assertEqual(self.server.heard, [])

    def test_rubbish_for_a_greeting(self):
        """A server that does not speak the protocol is refused."""
        self.server.faults.greeting = b"HTTP/1.1 400 Bad Request\r\n\r\n"
        self.fails(ServerRefused, "protocol")

    def test_older_server(self):
        """A server that is too old is named."""
        self.server.faults.greeting = Greeting(b"n" * 32, 0, 0, 0).encode()
        self.fails(ServerRefused, "the server is to be updated")

    def test_newer_server(self):
        """A server that takes such agents no more says what to do."""
        refusal = make_error(ErrorCode.VERSION, "update the agent on this machine")
        self.server.faults.greeting = Greeting(b"n" * 32, 2, 3, 0).encode() + refusal.encode()
        self.fails(ServerRefused, "update the agent")

    def test_messages_out_of_turn(self):
        """GOODBYE for a greeting is no protocol."""
        self.server.faults.greeting = Goodbye().encode()
        self.fails(ServerRefused, "protocol")

    def test_unreachable_for_too_long(self):
        """Nobody there: given up after the patience, and said so."""
        self.server.close()
        connection = self.connection(start_s=0.2)
        try:
            error = self.assertRaises(NoConnection, connection.open)
        finally:
            connection.close()
        self.assertIn("given up", str(error))

    def test_silent_server(self):
        """A server that accepts and says nothing is left after its time."""
        self.server.faults.silent = True
        with mock.patch("mastodon_agent.connection.SILENCE_S", 0.1):
            connection = self.connection(start_s=0.3)
            try:
                self.assertRaises(NoConnection, connection.open)
            finally:
                connection.close()

    def test_server_that_is_silent_for_ever(self):
        """However often one connects anew to a server that says nothing, there is an end."""
        self.server.faults.silent = True
        with (
            mock.patch("mastodon_agent.connection.SILENCE_S", 0.05),
            mock.patch("mastodon_agent.connection.LONGEST_WAIT_S", 0.05),
        ):
            connection = self.connection(start_s=0.5)
            try:
                error = self.assertRaises(NoConnection, connection.open)
            finally:
                connection.close()
        self.assertIn("given up", str(error))
        self.assertGreater(self.server.connections, 1)

    def test_server_that_answers_nothing(self):
        """Signs of life are no answers: after its patience the run ends, so that the next one is not locked out."""
        self.server.faults.mute = True
        error = self.assertRaises(ServerRefused, self.run_over_wire, later_s=0.5)
        self.assertIn("given up", str(error))

    def test_server_that_slows_down_to_nothing(self):
        """Nor is there an end to patience with a pace at which nothing ever gets through."""
        self.server.faults.pace = 1
        error = self.assertRaises(ServerRefused, self.run_over_wire, later_s=0.5)
        self.assertIn("given up", str(error))


class EndTests(WireCase):
    """Nothing is left behind."""

    def test_no_threads_are_left(self):
        """After a run, and after a failed one, all of its threads are gone."""
        names = {"connection", "receiver", "sealer-0"}
        self.run_over_wire()
        self.assertFalse(names & {thread.name for thread in threading.enumerate()})
        self.server.faults.answer_packs = [make_error(ErrorCode.QUOTA, "full")]
        self.write("new", os.urandom(1000))
        self.assertRaises(ServerRefused, self.run_over_wire)
        self.assertFalse(names & {thread.name for thread in threading.enumerate()})
