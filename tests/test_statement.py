"""Statements: for one tenant, one server, once, in time."""

from dataclasses import replace

from twisted.trial.unittest import SynchronousTestCase

from mastodon.sealed.enrolment import AdminRequest, Enrolment, Role, Succession
from mastodon.sealed.errors import Forged, FormatError, Malformed, Mismatch, Unsupported
from mastodon.sealed.statement import (
    LIFE_LIMIT_NS,
    CertificateContent,
    MachineContent,
    PinContent,
    Statement,
    StatementVerb,
    check_statement,
    decode_content,
    encode_content,
)
from tests import sealed_samples as samples
from tests.sealed_samples import ADMIN, MACHINE, OTHER_MACHINE, SERVER, SUCCESSOR, TIME_NS

SERVERS = frozenset({b"u" * 32, SERVER})


def checked(data: bytes, last: int = 6, now_ns: int = TIME_NS, servers: frozenset[bytes] = SERVERS) -> Statement:
    return check_statement(data, ADMIN.order_public, ADMIN.tenant, servers, last, now_ns)


def signed(**changes: object) -> bytes:
    return samples.statement_record(**changes).sign(ADMIN.order_key)


class StatementTests(SynchronousTestCase):
    def test_taken(self):
        """A new one for this tenant and server is taken."""
        self.assertEqual(checked(samples.statement()), samples.statement_record())

    def test_replayed(self):
        """The last counter and any before are refused."""
        for last in (7, 8, 1 << 63):
            self.assertRaises(Mismatch, checked, samples.statement(), last)

    def test_expired(self):
        """At its expiry it is over; and none may be good for longer than the bound."""
        self.assertRaises(Mismatch, checked, samples.statement(), now_ns=TIME_NS + 10**9)
        self.assertTrue(checked(signed(expires_ns=TIME_NS + LIFE_LIMIT_NS)))
        self.assertRaises(Mismatch, checked, signed(expires_ns=TIME_NS + LIFE_LIMIT_NS + 1))

    def test_elsewhere(self):
        """Another server's, another tenant's, and another key's are refused."""
        self.assertRaises(Mismatch, checked, samples.statement(), servers=frozenset({b"u" * 32}))
        self.assertRaises(Mismatch, checked, signed(tenant=SUCCESSOR.tenant))
        self.assertRaises(Forged, checked, samples.statement_record().sign(SUCCESSOR.order_key))

    def test_unknown_verb(self):
        """A verb of a later release is Unsupported."""
        self.assertRaises(Unsupported, signed, verb=99)
        self.assertEqual(StatementVerb(checked(samples.statement()).verb), StatementVerb.REMOVE_CERTIFICATE)


class ContentTests(SynchronousTestCase):
    def test_round_trips(self):
        """What each verb needs comes back."""
        for content in (
            CertificateContent(b"p" * 32, Role.ADMIN, "laptop"),
            CertificateContent(b"p" * 32, Role.TICKET, "rescue", b"m" * 32, b"r" * 32, 5),
            PinContent(b"p" * 32),
            MachineContent(b"m" * 32, b"s" * 32, 9),
        ):
            self.assertEqual(decode_content(type(content), encode_content(content)), content)

    def test_tickets(self):
        """A ticket is bound to machine, root and expiry; nothing else is."""
        ticket = CertificateContent(b"p" * 32, Role.TICKET, "rescue", b"m" * 32, b"r" * 32, 5)
        for bad in (
            replace(ticket, machine=b""), replace(ticket, root=b""), replace(ticket, expires_ns=0),
            replace(ticket, role=Role.ADMIN), replace(ticket, role=Role.MONITOR),
        ):  # fmt: skip
            self.assertRaises(Malformed, decode_content, CertificateContent, encode_content(bad))

    def test_hostile(self):
        """Content that is none is a FormatError."""
        for data in (b"", b"\xff", b"\x80", bytes(70_000), b"\xa1\x00\x41x"):
            self.assertRaises(FormatError, decode_content, PinContent, data)


class EnrolmentTests(SynchronousTestCase):
    def test_open(self):
        """Enrolment, request and succession are signed by the keys that they name."""
        self.assertEqual(Enrolment.open(samples.enrolment()).machine, MACHINE.machine_id)
        self.assertEqual(AdminRequest.open(samples.admin_request()).tenant, ADMIN.tenant)
        self.assertEqual(Succession.open(samples.succession()).order_key, SUCCESSOR.order_public)

    def test_another_key(self):
        """Signed by another key each is Forged."""
        for kind, data, other in (
            (Enrolment, samples.enrolment(), OTHER_MACHINE.signing_key),
            (AdminRequest, samples.admin_request(), SUCCESSOR.order_key),
            (Succession, samples.succession(), ADMIN.order_key),
        ):
            self.assertRaises(Forged, kind.open, kind.read_unverified(data).sign(other))

    def test_machine_id_is_that_of_the_key(self):
        """A machine cannot enrol another's id with its own key."""
        record = replace(Enrolment.open(samples.enrolment()), machine=OTHER_MACHINE.machine_id)
        self.assertRaises(Mismatch, Enrolment.open, record.sign(MACHINE.signing_key))

    def test_servers(self):
        """It names at least one server."""
        record = replace(Enrolment.open(samples.enrolment()), servers=())
        self.assertRaises(Malformed, record.sign, MACHINE.signing_key)
