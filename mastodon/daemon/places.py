"""Places where heavy work is done, so many at a time: who waits for one is let in by turns.

Promise (P12): of units that wait each is let in once before any is let in twice, however much work a unit has.
"""

from collections.abc import Callable, Hashable
from typing import Any, TypeVar

from twisted.internet.defer import Deferred, maybeDeferred

from mastodon.catalogue.lane import Turns

T = TypeVar("T")


class Places:
    """Lives in the reactor's thread."""

    def __init__(self, count: int) -> None:
        self._free = count
        self._waiting: Turns[Callable[[], None]] = Turns()

    def run(self, unit: Hashable, work: "Callable[[], Deferred[T]]") -> "Deferred[T]":
        """Begin ``work`` for a unit when there is a place; fires with its outcome."""
        outcome: Deferred[T] = Deferred()

        def begin() -> None:
            maybeDeferred(work).addBoth(end)

        def end(result: Any) -> None:
            self._free += 1
            self._go_on()
            outcome.callback(result)  # a Failure too: then it fails

        self._waiting.put(unit, begin)
        self._go_on()
        return outcome

    def _go_on(self) -> None:
        while self._free and self._waiting:
            self._free -= 1
            self._waiting.take()()
