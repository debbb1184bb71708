"""What the load tests have in common: a daemon that allows few strangers, and looks into its inside."""

import os
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from twisted.internet import reactor
from twisted.internet.threads import blockingCallFromThread

from bench.blocking_peers import TinyMachine
from mastodon.daemon.append_connection import AppendConnection
from mastodon.daemon.append_port import AppendPort
from mastodon.daemon.scheduling import Scheduler
from mastodon.sealed.blob import BlobKind
from tests.running_server import ServerTestCase

STRANGERS = 40


class LoadTestCase(ServerTestCase):
    """Few are many here. The tests' bodies run in threads."""

    timeout = 300

    async def _start(self) -> None:
        limits = replace(self.server.config.limits, handshakes=STRANGERS)
        self.server.config = replace(self.server.config, limits=limits)
        await super()._start()

    @property
    def port(self) -> AppendPort:
        """The append port's inside."""
        port = self.server.running._append
        assert port is not None
        return port

    @property
    def scheduler(self) -> Scheduler:
        """The daemon's pump."""
        scheduler = self.server.running._scheduler
        assert scheduler is not None
        return scheduler

    def inside(self, work: Callable[[], Any]) -> Any:
        """Have a look, in the reactor's thread."""
        return blockingCallFromThread(reactor, work)  # type: ignore[arg-type]

    def until(self, condition: Callable[[], object]) -> None:
        """Wait until something holds inside the daemon; trial's timeout is the bound."""
        pause = threading.Event()
        while not self.inside(condition):
            pause.wait(0.02)

    def connection_of(self, machine: TinyMachine) -> AppendConnection:
        """The connection that holds a machine's session."""

        def find() -> AppendConnection:
            return next(one for one in self.port.connections if one._machine == machine.secret.machine_id)

        found: AppendConnection = self.inside(find)
        return found

    def nothing_left(self) -> bool:
        """Whether no connection and no source of the scheduler's is left."""
        return not self.port.connections and not self.scheduler._queue._leaves

    def back_up(self, machine: TinyMachine, size: int = 1000) -> None:
        """An honest pack, acknowledged."""
        with self.server.append_peer() as peer:
            peer.enter(machine.secret, os.urandom(16))
            machine.send_pack(peer, machine.pack([machine.blob(BlobKind.CHUNK, (), os.urandom(size))]))


def unsent_bytes(connection: AppendConnection) -> int:
    """Bytes that the daemon holds for a peer that does not take them."""
    plain: Any = connection.transport.transport  # type: ignore[attr-defined]
    count: int = len(plain.dataBuffer) - plain.offset + plain._tempDataLen
    return count
