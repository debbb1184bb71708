"""The append port: what its connections share."""

from collections.abc import Callable

from twisted.internet.interfaces import IAddress, IReactorTime
from twisted.internet.protocol import ServerFactory

from mastodon.daemon.admission import Admission
from mastodon.daemon.append_connection import AppendConnection
from mastodon.daemon.bounded_log import BoundedLog
from mastodon.daemon.heard import Heard
from mastodon.daemon.rates import Allowance, Bucket
from mastodon.daemon.scheduling import Scheduler
from mastodon.daemon.sessions import MachineSessions
from mastodon.daemon.store import Store
from mastodon.sealed.ledger_entries import MachineState, MachineStateSet
from mastodon.wire.fair import Kind


class AppendPort(ServerFactory):
    """Makes the connections of the append port."""

    noisy = False

    def __init__(
        self, store: Store, scheduler: Scheduler, clock: IReactorTime, random: Callable[[int], bytes],
        server_pin: bytes, connections_limit: int, strangers_limit: int, silence_s: float,
    ) -> None:  # fmt: skip
        self.store = store
        self.scheduler = scheduler
        self.clock = clock
        self.server_pin = server_pin
        self.silence_s = silence_s
        self.sessions = MachineSessions()
        self.lines = BoundedLog(AppendConnection.log, clock)
        self.admission: Admission[AppendConnection] = Admission(connections_limit, 1, strangers_limit)
        self.heard = Heard()
        self._random = random
        self.total = Bucket(lambda: store.rates.total, clock.seconds)
        self._allowances: dict[bytes, Allowance] = {}
        scheduler.gate(Kind.APPEND, self.total.wait)
        store.rates.watchers.append(self._cap_changed)
        store.followers.add(MachineStateSet, self._state_set)

    @property
    def connections(self) -> set[AppendConnection]:
        """All that there are."""
        return self.admission.all

    def buildProtocol(self, addr: IAddress | None) -> AppendConnection:
        """A connection; the oldest stranger makes room for it."""
        connection = AppendConnection(self, self._random(32))
        self.admission.arrive(connection)
        return connection

    def allowance(self, machine: bytes) -> Allowance:
        """What a machine may send; one for all its sessions, so that to come again is no way around it."""
        if machine not in self._allowances:
            self._allowances[machine] = Allowance(lambda: self.store.rates.of(machine), self.clock.seconds)
        return self._allowances[machine]

    def _state_set(self, body: MachineStateSet) -> None:
        if body.state is not MachineState.ACTIVE:
            for connection in list(self.connections):
                connection.state_set(body.machine, body.state)

    def _cap_changed(self) -> None:
        for connection in list(self.connections):
            connection.cap_changed()
        self.scheduler.open(Kind.APPEND)

    def shut_down(self) -> None:
        """Tell every agent to come back later."""
        for connection in list(self.connections):
            connection.shut_down()
        self.lines.stop()
