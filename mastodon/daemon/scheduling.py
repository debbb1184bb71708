"""Runs the fair scheduler in the reactor: a bounded share of work a turn, then everybody else's I/O.

All connections of both ports are sources of one DeficitRoundRobin (P12); nothing of a connection is done outside
its turn but taking bytes off the socket, up to a bound.
"""

from collections.abc import Callable, Hashable

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from mastodon.wire.fair import DeficitRoundRobin, Kind, Source

TURN_BUDGET = 1024 * 1024
"""Cost of the work done before the reactor looks at its sockets again."""

UNAUTHENTICATED = "unauthenticated"
"""The one unit of all connections that have not proven who they are."""


class Scheduler:
    """The daemon's one pump."""

    log = Logger()

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._queue = DeficitRoundRobin()
        self._call: IDelayedCall | None = None
        self._stopped = False
        self._openings: dict[Kind, IDelayedCall] = {}

    def add(self, unit: Hashable, kind: Kind, source: Source) -> None:
        """Let a source take part, and ask it soon."""
        self._queue.add(unit, kind, source)
        self._schedule()

    def wake(self, source: Source) -> None:
        """The source has work again."""
        self._queue.wake(source)
        self._schedule()

    def remove(self, source: Source) -> None:
        """The source is gone."""
        self._queue.remove(source)

    def move(self, unit: Hashable, kind: Kind, source: Source) -> None:
        """The source belongs to another unit from now on."""
        self._queue.remove(source)
        self.add(unit, kind, source)

    def gate(self, kind: Kind, wait: Callable[[], float]) -> None:
        """Serve nothing of a kind while ``wait()`` seconds are left; it is asked again then."""

        def closed() -> bool:
            left = wait()
            opening = self._openings.get(kind)
            if left and not self._stopped and (opening is None or not opening.active()):
                self._openings[kind] = self._clock.callLater(left, self.open, kind)
            return left > 0

        self._queue.gate(kind, closed)

    def open(self, kind: Kind) -> None:
        """The gate of a kind may be open again."""
        self._queue.open(kind)
        self._schedule()

    def stop(self) -> None:
        """No further turn."""
        self._stopped = True
        for opening in self._openings.values():
            if opening.active():
                opening.cancel()
        if self._call is not None:
            self._call.cancel()
            self._call = None

    def _schedule(self) -> None:
        if self._call is None and not self._stopped:
            self._call = self._clock.callLater(0, self._turn)

    def _turn(self) -> None:
        self._call = None
        try:
            self._queue.step(TURN_BUDGET)
        except Exception:
            # A source's own fault; the others' turns come all the same.
            self.log.failure("internal error in a turn")
        if self._queue.busy:
            self._schedule()
