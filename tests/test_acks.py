"""Directory fsyncs that several packs share, with threads that the test moves on."""

from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from mastodon.daemon.acks import DirectorySyncs
from mastodon.daemon.config import SpoolConfig
from mastodon.daemon.spool import Spool
from mastodon.host.durable import DiskError

HERE, THERE = Path("packs/2027/01/15"), Path("packs/2027/01/16")


class DirectorySyncsTests(SynchronousTestCase):
    """When a request is answered."""

    def setUp(self) -> None:
        self.running: list[tuple[Path, Deferred[Any]]] = []
        self.syncs = DirectorySyncs(self.in_thread)
        self.spool = Spool(SpoolConfig(Path("spool"), 1, 0))

    def in_thread(self, _function: object, directory: Path, *_: object) -> "Deferred[Any]":
        outcome: Deferred[Any] = Deferred()
        self.running.append((directory, outcome))
        return outcome

    def sync(self, directory: Path = HERE) -> "Deferred[None]":
        return self.syncs.sync(self.spool, directory)

    def test_promise_p9_an_fsync_under_way_answers_nobody_new(self) -> None:
        """Who asks while an fsync runs waits for one that begins afterwards; all who wait share it."""
        first, second, third = self.sync(), self.sync(), self.sync()
        self.assertEqual(len(self.running), 1)
        self.running[0][1].callback(None)
        self.successResultOf(first)
        self.assertNoResult(second)
        self.assertEqual(len(self.running), 2)
        self.running[1][1].callback(None)
        self.successResultOf(second)
        self.successResultOf(third)
        self.assertEqual(len(self.running), 2)

    def test_directories_do_not_wait_for_each_other(self) -> None:
        """An fsync of another directory begins at once."""
        self.sync()
        self.sync(THERE)
        self.assertEqual([directory for directory, _ in self.running], [HERE, THERE])

    def test_promise_p9_a_failed_fsync_fails_its_own(self) -> None:
        """All who shared a failed fsync are told; who came later has one of their own."""
        first, second = self.sync(), self.sync()
        self.running[0][1].errback(DiskError("input/output error"))
        self.failureResultOf(first, DiskError)
        self.running[1][1].callback(None)
        self.successResultOf(second)
