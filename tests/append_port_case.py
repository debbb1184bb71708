"""What tests of the append port without TLS have in common: a clock, a store that knows its machines, agents' ends."""

from typing import Any
from unittest import mock

from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from mastodon.daemon.append_connection import AppendConnection
from mastodon.daemon.append_port import AppendPort
from mastodon.daemon.followers import Followers
from mastodon.daemon.rates import RateSettings
from mastodon.daemon.scheduling import Scheduler
from mastodon.sealed.ledger_entries import MachineState
from mastodon.sealed.machine_secret import MachineSecret
from mastodon.wire.frame import RESTORE_FRAME_LIMIT, FrameReader
from mastodon.wire.hello import VERSION, sign_hello
from mastodon.wire.messages import Hello, Keepalive, Message, decode_server
from tests.test_connection import FakeTransport

SERVER = b"s" * 32


class PortStore:
    """What the port asks of any store, answered at once."""

    def __init__(self) -> None:
        self.rates = RateSettings()
        self.followers = Followers()
        self.keys: dict[bytes, bytes] = {}

    def account_of(self, machine: bytes) -> Any:
        """What the port reads of an account."""
        return mock.Mock(
            machine=machine, public_key=self.keys[machine], state=MachineState.ACTIVE, head_sequence=0,
            head_hash=b"", pair=b"", stored_blobs=0,
        )  # fmt: skip

    def standing(self, machine: bytes) -> Deferred[Any]:
        return self.account(machine)

    def account(self, machine: bytes) -> Deferred[Any]:
        return succeed(self.account_of(machine))

    def machine_session(self, machine: bytes) -> int:
        return 1

    def now_ns(self) -> int:
        return 1

    def signed_head(self) -> bytes:
        return b""


class AgentsEnd:
    """A connection of a machine that the store knows, from the agent's side."""

    def __init__(self, port: AppendPort, secret: MachineSecret) -> None:
        self.secret = secret
        self.machine = secret.machine_id
        self.connection: AppendConnection = port.buildProtocol(None)
        self.transport = FakeTransport()
        self.connection.makeConnection(self.transport)
        self._reader = FrameReader(RESTORE_FRAME_LIMIT)

    def send(self, *messages: Message) -> None:
        """Put messages before the port, which takes them in its turns."""
        for message in messages:
            self.connection.dataReceived(message.encode())

    def hello(self) -> Hello:
        """What introduces the machine."""
        signature = sign_hello(self.secret.signing_key, bytes(32), SERVER, self.machine, VERSION)
        return Hello(VERSION, self.machine, signature, b"r" * 16, 0, b"", 1, "test")

    def heard(self) -> list[Message]:
        """What has come since, without signs of life."""
        self._reader.receive(self.transport.written)
        self.transport.written = b""
        messages = []
        while (frame := self._reader.next_frame()) is not None:
            messages.append(decode_server(*frame))
        return [one for one in messages if not isinstance(one, Keepalive)]


class AppendPortCase(SynchronousTestCase):
    """An append port whose time stands still until the test moves it, on ``make_store``'s store."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.scheduler = Scheduler(self.clock)
        self.addCleanup(self.scheduler.stop)
        store: Any = self.make_store()
        self.port = AppendPort(store, self.scheduler, self.clock, lambda count: bytes(count), SERVER, 50, 50, 60.0)

    def make_store(self) -> PortStore:
        """The store that the port is to have."""
        raise NotImplementedError
