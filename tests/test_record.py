"""Signed records: the signature covers every byte, and each record is of exactly one type."""

from dataclasses import dataclass
from typing import ClassVar

from twisted.trial.unittest import SynchronousTestCase

from mastodon.sealed import cbor
from mastodon.sealed.book import Book
from mastodon.sealed.enrolment import AdminRequest, Enrolment, Succession
from mastodon.sealed.errors import Forged, FormatError, Malformed, Unsupported
from mastodon.sealed.ledger_head import LedgerHeadRecord
from mastodon.sealed.order import Order
from mastodon.sealed.pair import PairRecord, ReenvelopeRecord
from mastodon.sealed.purposes import Purpose
from mastodon.sealed.record import HEAD, MAGIC, Record, RecordType, record_hash
from mastodon.sealed.run import RunRecord
from mastodon.sealed.schema import key, octets, unsigned
from mastodon.sealed.snapshot import SnapshotRecord
from mastodon.sealed.statement import Statement
from tests import sealed_samples as samples
from tests.hostile import accepted_cuts, accepted_flips, peak_memory
from tests.long import long_test

SIGNED: list[tuple[type[Record], bytes, bytes]] = [
    (PairRecord, samples.pair(), samples.MACHINE.public_key),
    (ReenvelopeRecord, samples.reenvelope(), samples.ADMIN.order_public),
    (RunRecord, samples.run(), samples.MACHINE.public_key),
    (SnapshotRecord, samples.snapshot(), samples.MACHINE.public_key),
    (Book, samples.book(), samples.ADMIN.order_public),
    (Statement, samples.statement(), samples.ADMIN.order_public),
    (Enrolment, samples.enrolment(), samples.MACHINE.public_key),
    (AdminRequest, samples.admin_request(), samples.ADMIN.order_public),
    (Succession, samples.succession(), samples.SUCCESSOR.order_public),
    (LedgerHeadRecord, samples.ledger_head(), samples.SUCCESSOR.order_public),
    (Order, samples.order_record().sign(samples.ADMIN.order_key), samples.ADMIN.order_public),
]


@dataclass(frozen=True, slots=True)
class Later(Record):
    """A snapshot record as a later release might make it, with one field more."""

    TYPE: ClassVar = RecordType.SNAPSHOT
    PURPOSE: ClassVar = Purpose.SIGN_SNAPSHOT

    field: bytes = key(20, octets(1))


def resigned(head: tuple[int, ...], body: bytes) -> bytes:
    """A snapshot record with another head or body, its signature good."""
    signed = HEAD.pack(MAGIC, *head, len(body)) + body
    return signed + samples.MACHINE.signing_key.sign(Purpose.SIGN_SNAPSHOT.prefix + signed)


class RecordTests(SynchronousTestCase):
    def test_round_trip(self):
        """Every type is read back, verified or not, and signs to the same bytes again (Ed25519 is deterministic)."""
        for kind, data, public_key in SIGNED:
            record = kind.verify(data, public_key)
            self.assertEqual(record, kind.read_unverified(data))
        self.assertEqual(samples.snapshot_record().sign(samples.MACHINE.signing_key), samples.snapshot())

    def test_no_type_passes_for_another(self):
        """A record of one type is refused as any other, before its signature is even looked at."""
        for kind, data, public_key in SIGNED:
            for other, _, _ in SIGNED:
                if other is not kind:
                    self.assertRaises(Malformed, other.verify, data, public_key)

    def test_signature_is_for_one_purpose(self):
        """A signature made for another purpose does not fit, though key and bytes are the same."""
        data = samples.snapshot()
        moved = data[:-64] + samples.MACHINE.signing_key.sign(Purpose.SIGN_PAIR.prefix + data[:-64])
        self.assertRaises(Forged, SnapshotRecord.verify, moved, samples.MACHINE.public_key)

    def test_another_key(self):
        """Another key's signature, and a key that is none, are Forged."""
        for public_key in (samples.OTHER_MACHINE.public_key, b"", bytes(31), bytes(32)):
            self.assertRaises(Forged, SnapshotRecord.verify, samples.snapshot(), public_key)

    def test_every_flip_is_noticed(self):
        """No single bit of a record can change: there is no unprotected field."""
        for kind, data, public_key in SIGNED:
            step = 1 if len(data) < 400 else 11
            taken = accepted_flips(lambda one: kind.verify(one, public_key), data, FormatError, step)  # noqa: B023
            self.assertEqual(taken, {}, kind)

    @long_test(share=False)
    def test_every_flip_is_noticed_in_long_records_too(self):
        """The same, every bit of every type."""
        for kind, data, public_key in SIGNED:
            taken = accepted_flips(lambda one: kind.verify(one, public_key), data, FormatError)  # noqa: B023
            self.assertEqual(taken, {}, kind)

    def test_flips_without_a_signature_check(self):
        """Reading unverified, a flip gives another record or a FormatError, and no other error."""
        for kind, data, _ in SIGNED:
            taken = accepted_flips(kind.read_unverified, data, FormatError, 7)
            self.assertNotIn(0, taken, "the magic")

    def test_cuts(self):
        """Cut anywhere, or with bytes behind, a record is refused."""
        for kind, data, public_key in SIGNED:
            self.assertEqual(accepted_cuts(lambda one: kind.verify(one, public_key), data, FormatError, 3), [])  # noqa: B023

    def test_versions_and_flags(self):
        """A later version or suite and an unknown critical flag are Unsupported; an ignorable flag is ignored."""
        body = cbor.encode(samples.snapshot_record().to_body())
        kind = RecordType.SNAPSHOT
        public_key = samples.MACHINE.public_key
        for head in ((kind, 2, 1, 0, 0, 0), (kind, 1, 2, 0, 0, 0), (kind, 1, 1, 0, 1, 0), (kind, 1, 1, 0, 1 << 15, 0)):
            self.assertRaises(Unsupported, SnapshotRecord.verify, resigned(head, body), public_key)
        self.assertRaises(Malformed, SnapshotRecord.verify, resigned((kind, 1, 1, 1, 0, 0), body), public_key)
        ignorable = resigned((kind, 1, 1, 0, 0, 0xFFFF), body)
        self.assertEqual(SnapshotRecord.verify(ignorable, public_key), samples.snapshot_record())
        self.assertNotEqual(record_hash(ignorable), record_hash(samples.snapshot()))

    def test_body_is_canonical(self):
        """A signed body that is not the one encoding of its value is refused."""
        good = samples.snapshot_record().to_body()
        head = (RecordType.SNAPSHOT, 1, 1, 0, 0, 0)
        public_key = samples.MACHINE.public_key
        body = cbor.encode(good)
        longer = body.replace(b"\x01\x02", b"\x01\x18\x02", 1)
        self.assertNotEqual(longer, body)
        for bad in (longer, body + b"\0", b"\x80", cbor.encode(good | {22: 0})):
            self.assertRaises(FormatError, SnapshotRecord.verify, resigned(head, bad), public_key)
        ignored, critical = cbor.encode(good | {23: [[2, b""]]}), cbor.encode(good | {23: [[3, b""]]})
        self.assertEqual(SnapshotRecord.verify(resigned(head, ignored), public_key), samples.snapshot_record())
        self.assertRaises(Unsupported, SnapshotRecord.verify, resigned(head, critical), public_key)

    def test_unknown_field(self):
        """What a later release adds as a field of its own is Unsupported, not overlooked."""
        data = Later(b"x").sign(samples.MACHINE.signing_key)
        self.assertRaises(FormatError, SnapshotRecord.verify, data, samples.MACHINE.public_key)

    def test_nothing_is_signed_that_no_reader_takes(self):
        """Fields beyond their bounds are noticed by the signer."""
        for change in ({"sequence": 1 << 64}, {"machine": b"short"}, {"predecessor": b"x"}, {"sequence": 0}):
            record = samples.snapshot_record(**change)
            self.assertRaises(Malformed, record.sign, samples.MACHINE.signing_key)

    def test_long_declared_length_allocates_nothing(self):
        """The length in the head is held against what is there."""
        data = bytearray(samples.snapshot())
        data[12:16] = b"\xff\xff\xff\xff"

        def read() -> None:
            self.assertRaises(Malformed, SnapshotRecord.read_unverified, bytes(data))

        self.assertLess(peak_memory(read), 1 << 18)

    def test_bound(self):
        """What is longer than its type's bound is refused unread."""

        @dataclass(frozen=True, slots=True)
        class Small(Record):
            """A record with a small bound."""

            TYPE: ClassVar = RecordType.SNAPSHOT
            PURPOSE: ClassVar = Purpose.SIGN_SNAPSHOT
            LIMIT: ClassVar = 90

            number: int = key(0, unsigned())

        self.assertEqual(len(Small(1).sign(samples.MACHINE.signing_key)), 83)
        self.assertRaises(Malformed, Small(1 << 63).sign, samples.MACHINE.signing_key)
        self.assertRaises(Malformed, Small.read_unverified, samples.snapshot())
