"""Work that nobody waits for."""

from typing import Any

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.trial.unittest import SynchronousTestCase

from mastodon.daemon.errands import Errands


class ErrandsTests(SynchronousTestCase):
    """Begun, ended, failed, stopped."""

    def setUp(self) -> None:
        self.logged: list[dict[str, Any]] = []
        self.errands = Errands(Logger(observer=self.logged.append), "not done")  # type: ignore[arg-type]

    def test_settled(self) -> None:
        """It waits for what was begun, and for what that began."""
        first: Deferred[None] = Deferred()
        second: Deferred[None] = Deferred()
        first.addCallback(lambda _: self.errands.begin(second))
        self.errands.begin(first)
        settled = Deferred.fromCoroutine(self.errands.settled())
        first.callback(None)
        self.assertNoResult(settled)
        second.callback(None)
        self.successResultOf(settled)

    def test_failure(self) -> None:
        """One that fails is logged, and over."""

        async def fails() -> None:
            raise KeyError("x")

        self.errands.begin(fails())
        self.successResultOf(Deferred.fromCoroutine(self.errands.settled()))
        self.assertEqual([event["log_format"] for event in self.logged], ["not done"])

    def test_stopped(self) -> None:
        """Nothing is begun any more."""
        done = []

        async def work() -> None:
            done.append(1)

        self.errands.stop()
        self.errands.begin(work())
        self.assertEqual(done, [])
