"""Heartbeats: what a URL hears of a machine's runs and of the server, and what happens when nobody answers."""

import shutil
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred, fail, maybeDeferred, succeed
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from mastodon.catalogue.interface import WatchRow
from mastodon.daemon.telling.errors import NotTaken
from mastodon.daemon.telling.heartbeat import ATTEMPTS, KEEP_EVERY_S, SERVER_EVERY_S, Beat, Heartbeats, beat_target
from mastodon.sealed.addresses import Target
from mastodon.sealed.ledger_entries import MachineState
from mastodon.sealed.settings import HEARTBEAT, Settings
from tests.telling_case import ALICE, DATABASE, WEB, Hasty

URL = "https://hc.example/ping/1"


class HeartbeatTests(SynchronousTestCase):
    """With a clock that the test turns."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.state = Path(self.mktemp())
        self.state.mkdir()
        self.rows = {(HEARTBEAT, ALICE, WEB): URL}
        self.entries = {WEB: 0, DATABASE: 0}
        self.asked: list[str] = []
        self.answers: list[Deferred[None]] = []
        self.down = self.slow = False
        self.healthy = True
        self.start()

    def start(self) -> None:
        def get(where: Target) -> "Deferred[None]":
            self.asked.append(where.path)
            if self.slow:
                self.answers.append(Deferred())
                return self.answers[-1]
            return fail(NotTaken("answered 500")) if self.down else succeed(None)

        def rows(machine: bytes | None) -> "Deferred[list[WatchRow]]":
            return succeed(
                [
                    WatchRow(one, ALICE, MachineState.ACTIVE, 0, 0, 0, None, 0, entry, 0)
                    for one, entry in self.entries.items() if machine in (None, one)
                ]
            )  # fmt: skip

        def in_thread(function: Any, *arguments: Any) -> "Deferred[Any]":
            return maybeDeferred(function, *arguments)

        self.hearts = Heartbeats(
            self.state, get, lambda: succeed(Settings((*key, value) for key, value in self.rows.items())), rows,
            lambda: self.healthy, self.clock, in_thread, Hasty(),
        )  # fmt: skip
        self.successResultOf(Deferred.fromCoroutine(self.hearts.start()))

    def commit(self, machine: bytes = WEB) -> None:
        self.entries[machine] += 1
        self.hearts.run(machine, Beat.SUCCESS)

    def test_targets(self) -> None:
        """The word goes behind the path, before a query."""
        paths = [beat_target(url, Beat.START).path for url in (URL, f"{URL}/", "https://x.example", f"{URL}?a=b")]
        self.assertEqual(paths, ["/ping/1/start", "/ping/1/start", "/start", "/ping/1/start?a=b"])
        self.assertEqual(beat_target("https://x.example", Beat.SUCCESS).path, "/")

    def test_a_run(self) -> None:
        """Start, success, fail; of a machine without a URL nothing."""
        for beat in (Beat.START, Beat.SUCCESS, Beat.FAIL):
            self.hearts.run(WEB, beat)
            self.hearts.run(DATABASE, beat)
        self.assertEqual(self.asked, ["/ping/1/start", "/ping/1", "/ping/1/fail"])

    def test_a_machine_that_connects_all_the_time(self) -> None:
        """Its starts and failures are one a minute."""
        for _ in range(20):
            self.hearts.run(WEB, Beat.START)
            self.hearts.run(WEB, Beat.FAIL)
            self.clock.advance(1)
        self.assertEqual(len(self.asked), 2)
        self.clock.advance(60)
        self.hearts.run(WEB, Beat.START)
        self.assertEqual(len(self.asked), 3)

    def test_tried_again(self) -> None:
        """A few times, with growing pauses; then the next run is waited for."""
        self.down = True
        self.commit()
        for _ in range(100):
            self.clock.advance(10)
        self.assertEqual(len(self.asked), ATTEMPTS)
        self.down = False
        self.commit()
        self.assertEqual(len(self.asked), ATTEMPTS + 1)

    def test_newer_replaces_what_was_not_delivered(self) -> None:
        """One is on its way at a time; behind it goes the newest only."""
        self.slow = True
        self.hearts.run(WEB, Beat.START)
        self.hearts.run(WEB, Beat.FAIL)
        self.commit()
        self.assertEqual(self.asked, ["/ping/1/start"])
        self.answers[0].errback(NotTaken("timeout"))
        self.assertEqual(self.asked, ["/ping/1/start", "/ping/1"])

    def test_promise_p8_a_success_cut_off_by_a_crash(self) -> None:
        """It is pinged after the next start; one that was heard is not pinged again."""
        self.commit()
        self.clock.advance(KEEP_EVERY_S)
        kept = Path(self.mktemp())
        shutil.copytree(self.state, kept)
        self.entries[WEB] += 1  # committed, and killed before the ping
        self.state = kept
        self.start()
        self.assertEqual(self.asked, ["/ping/1", "/ping/1"])
        self.successResultOf(Deferred.fromCoroutine(self.hearts.stop()))
        self.start()
        self.assertEqual(len(self.asked), 2)

    def test_the_servers_own(self) -> None:
        """Every few minutes; /fail when it takes no backups."""
        self.rows[HEARTBEAT, b"", b""] = "https://hc.example/server"
        self.clock.advance(SERVER_EVERY_S)
        self.healthy = False
        self.clock.advance(SERVER_EVERY_S)
        self.assertEqual(self.asked, ["/server", "/server/fail"])
        self.successResultOf(Deferred.fromCoroutine(self.hearts.stop()))
        self.clock.advance(3 * SERVER_EVERY_S)
        self.assertEqual(len(self.asked), 2)

    def test_a_damaged_file(self) -> None:
        """What was told is forgotten, and nothing else."""
        (self.state / "telling").mkdir(exist_ok=True)
        (self.state / "telling" / "heartbeats").write_bytes(b"[1")
        self.start()
        self.commit()
        self.assertEqual(self.asked, ["/ping/1"])
