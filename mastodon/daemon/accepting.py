"""New connections are taken in by turns, too: a flood of them is work of the strangers' one unit (P12).

Promise: a listening port takes at most AT_ONCE connections in one turn of the daemon's scheduler, and each turn is
weighed with what everybody else wants; what is not taken waits in the kernel's queue.
"""

from twisted.internet.tcp import Port

from mastodon.daemon.scheduling import UNAUTHENTICATED, Scheduler
from mastodon.wire.fair import QUANTUM, Kind

AT_ONCE = 4
ACCEPT_COST = QUANTUM // 8
"""Of one connection: to make it, and its TLS state, takes about as long as to receive so many bytes."""


class Acceptor:
    """Stands between the reactor and a port, which it has listen when the turn comes."""

    def __init__(self, port: Port, turns: Scheduler) -> None:
        self._port = port
        self._turns = turns
        self._accept = port.doRead
        self._knocked = False
        port.doRead = self._knock  # type: ignore[method-assign]

    def next_cost(self) -> int | None:
        """For the scheduler: whether somebody waits outside."""
        return AT_ONCE * ACCEPT_COST if self._knocked else None

    def run(self) -> None:
        """For the scheduler: let them in."""
        self._knocked = False
        self._turns.remove(self)
        if self._port.connected and not self._port.disconnecting:
            self._port.numberAccepts = AT_ONCE
            self._accept()
            self._port.startReading()

    def _knock(self) -> None:
        self._port.stopReading()
        self._knocked = True
        self._turns.add(UNAUTHENTICATED, Kind.CONTROL, self)
