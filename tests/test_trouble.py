"""What the log says of work in the background that failed."""

from typing import Any

from twisted.logger import Logger, formatEvent
from twisted.trial.unittest import SynchronousTestCase

from mastodon.catalogue.interface import CatalogueError
from mastodon.daemon.errors import Unavailable
from mastodon.daemon.trouble import log_trouble
from mastodon.host.durable import DiskFull


class LogTroubleTests(SynchronousTestCase):
    """A line, or a traceback."""

    def logged(self, error: Exception) -> dict[str, Any]:
        events: list[dict[str, Any]] = []
        log = Logger(observer=events.append)  # type: ignore[arg-type]
        try:
            raise error
        except Exception:
            log_trouble(log, "not done for {name}", name="web01")
        (event,) = events
        return event

    def test_expected(self) -> None:
        """Disks and catalogues that refuse are a line that says why."""
        for error in (CatalogueError("database or disk is full"), DiskFull("no room"), Unavailable("try again")):
            event = self.logged(error)
            self.assertEqual(formatEvent(event), f"not done for web01: {error}")
            self.assertNotIn("log_failure", event)

    def test_a_bug(self) -> None:
        """Anything else has its traceback."""
        event = self.logged(KeyError("x"))
        self.assertEqual(formatEvent(event), "not done for web01")
        self.assertIs(event["log_failure"].type, KeyError)
