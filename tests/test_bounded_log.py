"""A flood of events does not flood the log."""

from typing import Any

from twisted.internet.task import Clock
from twisted.logger import Logger, formatEvent
from twisted.trial.unittest import SynchronousTestCase

from mastodon.daemon.bounded_log import KEPT, LINES, MINUTE_S, BoundedLog


class BoundedLogTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.lines: list[str | None] = []
        self.clock = Clock()
        observer: Any = lambda event: self.lines.append(formatEvent(event))  # noqa: E731
        self.log = BoundedLog(Logger(observer=observer), self.clock)

    def test_promise_p12_a_flood_fills_no_log(self) -> None:
        """Of each so many lines a minute, then a count, whatever others do; and again in the next minute."""
        for _ in range(2):
            for number in range(1000):
                self.log.warn("hostile", "from {peer}", peer=number)
            self.log.info("honest", "checked in")
            self.assertEqual(self.lines, [*(f"from {number}" for number in range(LINES)), "checked in"])
            self.clock.advance(MINUTE_S)
            self.assertEqual(self.lines[LINES + 1 :], [f"hostile: {1000 - LINES} more lines in a minute were left out"])
            self.lines.clear()
        self.clock.advance(10 * MINUTE_S)
        self.assertEqual((self.lines, self.clock.getDelayedCalls()), ([], []))

    def test_ever_new_addresses(self) -> None:
        """Addresses without end are told apart up to a bound, and leave nothing behind."""
        for number in range(3 * KEPT):
            self.log.warn(str(number), "line")
        self.assertEqual(len(self.lines), KEPT + LINES)
        self.clock.advance(MINUTE_S)
        self.assertEqual(self.lines[-1], f"others: {2 * KEPT - LINES} more lines in a minute were left out")
        self.assertEqual(self.log._counts, {})

    def test_stop(self) -> None:
        """At the end the count is said, and no call is left in the reactor."""
        for _ in range(LINES + 5):
            self.log.warn("a", "line")
        self.log.stop()
        self.assertEqual(self.lines[-1], "a: 5 more lines in a minute were left out")
        self.log.warn("a", "last words")
        self.assertEqual(self.clock.getDelayedCalls(), [])
