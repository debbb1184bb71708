"""A whole daemon in the test's own process, on loopback, with one admin; blocking peers talk to it from threads."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred, ensureDeferred
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import TestCase

from bench.blocking_peers import AppendPeer, RestorePeer, TinyMachine
from bench.tenant import Tenant
from mastodon.daemon.config import load_config
from mastodon.daemon.service import MastodonService
from mastodon.host.certificates import Identity, load_identity
from mastodon.operator.initialise import initialise
from mastodon.sealed.machine_secret import MachineSecret
from mastodon.sealed.statement import StatementVerb
from mastodon.wire.messages import Message
from mastodon.wire.restore_messages import Done, StateRequest


class RunningServer:
    """The daemon and what belongs to it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        initialise(directory, name="127.0.0.1", listen="127.0.0.1", append_port=0, restore_port=0)
        self.config = load_config(directory / "mastodon.toml")
        self.identity: Identity = load_identity(self.config.keys.server_key, self.config.keys.server_certificate)
        self.service: MastodonService | None = None

    async def start(self) -> None:
        """Start it (again)."""
        self.service = MastodonService(self.config, self.identity, reactor)
        self.service.startService()
        await self.service.started

    async def stop(self) -> None:
        """Stop it as SIGTERM does."""
        if self.service is not None:
            service, self.service = self.service, None
            await service.stopService()

    @property
    def running(self) -> MastodonService:
        assert self.service is not None
        return self.service

    @property
    def append_port(self) -> int:
        return self.running.port_number(0)

    @property
    def restore_port(self) -> int:
        return self.running.port_number(1)

    @property
    def spools(self) -> list[Path]:
        return [spool.path for spool in self.config.spools]

    def files(self) -> dict[str, bytes]:
        """Every pack, by name: to see that an attack left them alone."""
        return {
            str(file): file.read_bytes() for spool in self.spools for file in spool.glob("packs/**/*") if file.is_file()
        }

    # Blocking, for threads

    def append_peer(self) -> AppendPeer:
        return AppendPeer(self.append_port)

    def restore_peer(self, tenant: Tenant) -> RestorePeer:
        return RestorePeer(self.restore_port, tenant.identity)

    def enrol(self, tenant: Tenant, raw: bytes = b"") -> MachineSecret:
        """A new machine of the tenant's, with this secret or any."""
        secret = MachineSecret(raw or os.urandom(32))
        self.state(tenant, StatementVerb.ENROL, tenant.enrolment(self.identity.pin, secret))
        return secret

    def state(self, tenant: Tenant, verb: StatementVerb, content: bytes, attachment: bytes = b"") -> None:
        """Have a statement carried out."""
        with self.restore_peer(tenant) as peer:
            answer = peer.ask(StateRequest, tenant.statement(self.identity.pin, verb, content), attachment)
        if not isinstance(answer[-1], Done):
            raise AssertionError(f"a statement was answered by {answer}")

    def new_machine(self, tenant: Tenant) -> TinyMachine:
        """A machine that has sent its pair."""
        machine = TinyMachine(self.enrol(tenant))
        with self.append_peer() as peer:
            peer.enter(machine.secret, b"first run nonce!")
            machine.send_pair(peer)
        return machine


class ServerTestCase(TestCase):
    """Starts a daemon with one admin for each test; ``thread`` runs blocking code beside the reactor."""

    timeout = 240

    def setUp(self):
        self.server = RunningServer(Path(self.mktemp()).resolve())
        self.tenant = Tenant("alice")
        return ensureDeferred(self._start())

    async def _start(self) -> None:
        await self.server.start()
        await self.server.running.store.add_admin("alice", self.tenant.request())

    def tearDown(self):
        return ensureDeferred(self.server.stop())

    def thread(self, work: Callable[[], Any]) -> Deferred[Any]:
        """Blocking work, in a thread."""
        return deferToThread(work)

    def code(self, answer: Message | None) -> Any:
        """The code of an error message."""
        return getattr(answer, "code", answer)
