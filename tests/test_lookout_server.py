"""What peers do to a real daemon, over real TLS, and what is told of it."""

import datetime
import time
from collections.abc import Callable
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from twisted.internet.defer import Deferred

from bench.blocking_peers import RestorePeer
from mastodon.host.certificates import Identity, pin_text
from mastodon.sealed.events import EventCode
from mastodon.sealed.machine_secret import MachineSecret
from mastodon.sealed.statement import CertificateContent, Role, StatementVerb, encode_content
from mastodon.wire.errors import ErrorCode
from mastodon.wire.hello import sign_hello
from mastodon.wire.messages import Error
from mastodon.wire.restore_messages import Done, WhoRequest
from tests.running_server import ServerTestCase

HOUR_NS = 3600 * 10**9


def ending(key: Ed25519PrivateKey, days: int) -> Identity:
    """A client certificate that ends in so many days, or ended."""
    now, name = datetime.datetime.now(datetime.UTC), x509.Name([])
    begins, ends = now - datetime.timedelta(days=90), now + datetime.timedelta(days=days)
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1, begins, ends)
    return Identity(key, builder.sign(key, None))


class LookoutServerTests(ServerTestCase):
    """One daemon for each test."""

    def told(self) -> "Deferred[list[tuple[int, bytes, bytes, str]]]":
        """Every event of the kinds that are looked out for, once all that was begun is done."""
        service = self.server.running
        assert service._lookout is not None

        def asked(_: Any) -> "Deferred[Any]":
            return service.store.catalogue.events(0, 1000)

        def shown(rows: list[Any]) -> list[tuple[int, bytes, bytes, str]]:
            kinds = range(EventCode.NEW_PAIR, EventCode.ANOMALY + 1)
            return [(row.code, row.tenant, row.machine, row.detail) for row in rows if row.code in kinds]

        return service._lookout.settled().addCallback(asked).addCallback(shown)

    def run_in_thread(self, work: Callable[[], Any]) -> "Deferred[list[tuple[int, bytes, bytes, str]]]":
        return self.thread(work).addCallback(lambda _: self.told())

    def test_agent_too_old(self) -> "Deferred[None]":
        """It is refused in words that say what to do, and its admin is told; a stranger in its name is a stranger."""
        secret = MachineSecret(b"o" * 32)

        def come(signer: MachineSecret) -> Error:
            with self.server.append_peer() as peer:
                signature = sign_hello(signer.signing_key, peer.greeting.nonce, peer.pin, secret.machine_id, 0)
                peer.send(peer.hello_for(secret, version=0, signature=signature, agent_version="0.9"))
                return peer.expect(Error)

        def attempts() -> None:
            self.server.enrol(self.tenant, b"o" * 32)
            self.assertEqual(come(MachineSecret(b"?" * 32)).code, ErrorCode.NOT_AUTHENTICATED)
            for _ in range(3):
                refused = come(secret)
                self.assertEqual(refused.code, ErrorCode.VERSION)
                self.assertIn("update the agent", refused.text)

        def check(told: list[tuple[int, bytes, bytes, str]]) -> None:
            ((code, tenant, machine, detail),) = told
            self.assertEqual((code, tenant), (EventCode.AGENT_TOO_OLD, self.tenant.secret.tenant))
            self.assertEqual(machine, secret.machine_id)
            self.assertEqual(detail, "agent 0.9 speaks version 0 of the protocol, and was refused")

        return self.run_in_thread(attempts).addCallback(check)

    def test_clock(self) -> "Deferred[None]":
        """A clock that is hours off is told; one of a machine that could not prove who it is, not."""

        def attempts() -> None:
            secret = self.server.enrol(self.tenant, b"c" * 32)
            for changes in ({"signature": bytes(64)}, {}):
                with self.server.append_peer() as peer:
                    peer.send(peer.hello_for(secret, time_ns=time.time_ns() - 3 * HOUR_NS, **changes))
                    peer.message()

        def check(told: list[tuple[int, bytes, bytes, str]]) -> None:
            ((code, _, machine, detail),) = told
            self.assertEqual((code, machine), (EventCode.CLOCK_SKEW, MachineSecret(b"c" * 32).machine_id))
            self.assertEqual(detail, "the machine's clock is 3 hours behind the server's")

        return self.run_in_thread(attempts).addCallback(check)

    def test_certificates(self) -> "Deferred[None]":
        """One that ends soon and one that ended both work, and their admin is told of each, by the key's pin."""
        keys = [Ed25519PrivateKey.generate() for _ in range(3)]
        shown = [ending(key, days) for key, days in zip(keys, (5, -5, 80), strict=True)]

        def clients() -> None:
            for identity in shown:
                content = encode_content(CertificateContent(identity.pin, Role.ADMIN, "laptop"))
                self.server.state(self.tenant, StatementVerb.REGISTER_CERTIFICATE, content)
                for _ in range(2):
                    with RestorePeer(self.server.restore_port, identity) as peer:
                        self.assertIsInstance(peer.ask(WhoRequest)[-1], Done)

        def check(told: list[tuple[int, bytes, bytes, str]]) -> None:
            self.assertEqual([code for code, *_ in told], [EventCode.CERTIFICATE_EXPIRING] * 2)
            for (_, tenant, _, detail), identity, word in zip(told, shown, ("ends", "ended"), strict=False):
                self.assertEqual(tenant, self.tenant.secret.tenant)
                self.assertTrue(detail.startswith(f"{pin_text(identity.pin)}: admin laptop {word} 20"), detail)

        return self.run_in_thread(clients).addCallback(check)

    def test_wrong_credentials(self) -> "Deferred[None]":
        """A hundred refused machines, or more, are one event, with where they come from and nothing that they said."""

        def attack() -> None:
            stranger = MachineSecret(b"?" * 32)
            for _ in range(120):
                with self.server.append_peer() as peer:
                    peer.send(peer.hello_for(stranger, agent_version="<script>"))
                    self.assertEqual(self.code(peer.message()), ErrorCode.NOT_AUTHENTICATED)

        def check(told: list[tuple[int, bytes, bytes, str]]) -> None:
            ((code, tenant, machine, detail),) = told
            self.assertEqual((code, tenant, machine), (EventCode.WRONG_CREDENTIALS, b"", b""))
            self.assertEqual(detail, "append port: 100 refused within 1 min, at least 100 of them from 127.0.0.1")

        return self.run_in_thread(attack).addCallback(check)
