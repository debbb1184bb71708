"""What no agent and no client does stands in the ledger, and a flood of it does not fill the spools."""

import datetime
from collections import Counter
from collections.abc import Callable

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from bench.blocking_peers import AppendPeer, RestorePeer
from mastodon.daemon.events import ORDINARY, PER_HOUR, EventBound, EventCode
from mastodon.host.certificates import make_identity
from mastodon.host.ledger_reader import ChainReader
from mastodon.host.spool_layout import chains, segments
from mastodon.sealed.duration import HOUR_NS
from mastodon.sealed.ledger_entries import Event, Role
from mastodon.sealed.machine_secret import MachineSecret
from mastodon.sealed.statement import CertificateContent, StatementVerb, encode_content
from mastodon.wire.errors import ErrorCode
from mastodon.wire.messages import Message
from mastodon.wire.restore_messages import MachinesRequest, WhoRequest
from tests.running_server import ServerTestCase

MANY = 35


class SecurityEventTests(ServerTestCase):
    """A real daemon; each attempt is a connection of its own."""

    def test_flood(self) -> Deferred[None]:
        """Of each kind, and of each machine or admin, so many an hour are written; all the rest is only logged."""

        async def attack() -> None:
            machine = await self.thread(lambda: self.server.enrol(self.tenant))
            await self.thread(lambda: self.flood(machine))
            await self.server.stop()
            written = Counter((event.code, event.machine, event.tenant) for event in self.events())
            tenant = self.tenant.secret.tenant
            expected = (
                (EventCode.UNKNOWN_VERB, b"", b""), (EventCode.UNKNOWN_VERB, machine.machine_id, b""),
                (EventCode.UNKNOWN_VERB, b"", tenant), (EventCode.MALFORMED, b"", b""),
                (EventCode.HELLO_REFUSED, b"", b""), (EventCode.KEY_REFUSED, b"", b""),
                (EventCode.ROLE_REFUSED, b"", tenant),
            )  # fmt: skip
            told = {one: count for one, count in written.items() if one not in expected}
            self.assertEqual(set(told.values()), {1}, told)  # what operator and admins are told of it, once each
            self.assertEqual({one: written[one] for one in expected}, dict.fromkeys(expected, PER_HOUR))

        return Deferred.fromCoroutine(attack())

    def flood(self, machine: MachineSecret) -> None:
        """Every kind of it, MANY times."""
        now = datetime.datetime.now(datetime.UTC)
        monitor, stranger = make_identity("monitor", now), make_identity("stranger", now)
        content = encode_content(CertificateContent(monitor.pin, Role.MONITOR, "monitor"))
        self.server.state(self.tenant, StatementVerb.REGISTER_CERTIFICATE, content)
        for _ in range(MANY):
            self.append(lambda peer: peer.send_frame(99, b""), ErrorCode.REFUSED_VERB)
            self.append(lambda peer: peer.send_raw(b"\xff" * 8), ErrorCode.MALFORMED)
            self.append(lambda peer: peer.send(peer.hello_for(MachineSecret(b"?" * 32))), ErrorCode.NOT_AUTHENTICATED)
            with self.server.append_peer() as append:
                append.enter(machine)
                append.send_frame(99, b"")
                self.assertEqual(self.code(append.message()), ErrorCode.REFUSED_VERB)
            with self.server.restore_peer(self.tenant) as peer:
                peer.send_frame(99, b"")
                self.assertTrue(peer.closed())
            with RestorePeer(self.server.restore_port, monitor) as peer:
                self.assertEqual(self.code(peer.ask(MachinesRequest)[-1]), ErrorCode.NOT_ALLOWED)
            with RestorePeer(self.server.restore_port, stranger) as peer:
                self.assertEqual(self.code(last(peer.ask(WhoRequest))), ErrorCode.NOT_AUTHENTICATED)

    def append(self, say: Callable[[AppendPeer], None], code: ErrorCode) -> None:
        """Something that the append port refuses."""
        with self.server.append_peer() as peer:
            say(peer)
            self.assertEqual(self.code(peer.message()), code)

    def events(self) -> list[Event]:
        """Those in the ledger."""
        (spool,) = self.server.spools
        (chain,) = chains(spool)
        reader = ChainReader(chain, segments(spool, chain))
        return [entry.body for entry, _ in reader.entries() if isinstance(entry.body, Event)]


class EventBoundTests(SynchronousTestCase):
    """How many of a kind are written."""

    def test_everyday_mistakes_are_not_written(self) -> None:
        """Refused HELLOs are written when they are more than mistakes, so many an hour, and in the next hour anew."""
        code = EventCode.HELLO_REFUSED
        bound = EventBound()
        for hour in range(2):
            allowed = [bound.allows(code, b"", hour * HOUR_NS) for _ in range(100)]
            first = ORDINARY[code]
            self.assertEqual(allowed, [False] * first + [True] * PER_HOUR + [False] * (100 - first - PER_HOUR))


def last(items: list[Message]) -> Message | None:
    return items[-1] if items else None
