"""The ledger: a chain in which a torn tail, which is nobody's loss, is told from damage, which is."""

from dataclasses import dataclass
from typing import ClassVar

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mastodon.sealed import cbor
from mastodon.sealed.enrolment import Role
from mastodon.sealed.errors import Forged, FormatError, Malformed, Unsupported
from mastodon.sealed.ledger import (
    ENTRY_HEAD,
    ENTRY_LIMIT,
    GENESIS,
    SEGMENT_HEAD,
    Head,
    LedgerEntry,
    SegmentReader,
    encode_entry,
    encode_segment_head,
)
from mastodon.sealed.ledger_entries import (
    ENTRY_TYPES,
    Acknowledged,
    AdminAdded,
    BookSwapped,
    CertificateAdded,
    CertificateRemoved,
    ChainStarted,
    Deleted,
    EntryBody,
    Event,
    Kept,
    LedgerEntryType,
    MachineEnrolled,
    MachineState,
    MachineStateSet,
    OrderDone,
    OrderPosted,
    PairAdded,
    Pending,
    PolicySet,
    Reads,
    SnapshotCommitted,
    SpoolChanged,
    Succeeded,
)
from mastodon.sealed.ledger_head import LedgerHeadRecord, went_on
from mastodon.sealed.purposes import Purpose, hasher
from mastodon.sealed.record import raw_public_key
from mastodon.sealed.schema import key, octets
from tests import sealed_samples as samples
from tests.hostile import accepted_flips, peak_memory, quick
from tests.long import long_test

START = Head(b"c" * 16)
EVENT = cbor.encode(Event(1, b"", b"", "").to_body())
H = b"h" * 32

BODIES: list[EntryBody] = [
    ChainStarted((samples.SERVER,), H, "1.0"),
    SpoolChanged(b"s" * 16, 1),
    AdminAdded(samples.ADMIN.tenant, "alice", samples.admin_request()),
    CertificateAdded(H, samples.ADMIN.tenant, Role.TICKET, "rescue", samples.statement(), H, H, 5),
    CertificateRemoved(H, b""),
    MachineEnrolled(samples.enrolment(), samples.statement()),
    PairAdded(H, samples.pair(), samples.ENVELOPE),
    SnapshotCommitted(samples.snapshot()),
    BookSwapped(samples.book(), samples.statement()),
    PolicySet(samples.ADMIN.tenant, b"", (("keep.daily", "7"),), b""),
    Kept(H, H, 1, H),
    OrderPosted(H, b"o" * 16, samples.sealed_order(), 0),
    OrderDone(H, b"o" * 16, 255),
    Pending(1, H, (H, b"i" * 32), 7, b""),
    Deleted(1, H, (H,)),
    Event(3, b"", H, "a replayed HELLO"),
    Reads(H, H, 12, 1 << 40),
    MachineStateSet(H, MachineState.RETIRED, samples.statement(), b"", 99),
    Succeeded(samples.succession()),
    Acknowledged(b"t" * 32, b"p" * 32, (1, 2, 1 << 40)),
]


@dataclass(frozen=True, slots=True)
class LaterEntry(EntryBody):
    """What a later release might add: critical or not."""

    ENTRY_TYPE: ClassVar = 100  # type: ignore[assignment]
    CRITICAL: ClassVar[bool] = False
    field: bytes = key(0, octets(1))


@dataclass(frozen=True, slots=True)
class LaterCritical(LaterEntry):
    CRITICAL: ClassVar[bool] = True


def segment(bodies: list[EntryBody], head: Head = START) -> tuple[bytes, list[int], Head]:
    """A segment, where each entry ends in it, and the head after it."""
    data, ends = encode_segment_head(head), []
    for number, body in enumerate(bodies):
        entry, head = encode_entry(head, body, samples.TIME_NS + number, number % 2 == 0)
        data += entry
        ends.append(len(data))
    return data, ends, head


def read(data: bytes, expected: Head | None = START) -> tuple[list[LedgerEntry], SegmentReader]:
    reader = SegmentReader(data, expected)
    return list(reader.entries()), reader


class LedgerTests(SynchronousTestCase):
    def test_every_type_round_trips(self):
        """Every entry comes back with its time and whether the clock was trusted, and the chain goes on."""
        data, _, head = segment(BODIES)
        entries, reader = read(data)
        self.assertEqual([entry.body for entry in entries], BODIES)
        self.assertEqual([entry.sequence for entry in entries], list(range(1, len(BODIES) + 1)))
        self.assertEqual(entries[3].time_ns, samples.TIME_NS + 3)
        self.assertEqual([entry.clock_trusted for entry in entries[:3]], [True, False, True])
        self.assertEqual((reader.head, reader.valid_length, reader.torn), (head, len(data), False))
        self.assertEqual({type(body) for body in BODIES}, set(ENTRY_TYPES.values()), "every type has its sample")
        self.assertEqual(set(ENTRY_TYPES), set(LedgerEntryType))

    def test_segments_follow_each_other(self):
        """A segment is taken only after the head that it names."""
        first, _, middle = segment(BODIES[:3])
        second, _, end = segment(BODIES[3:6], middle)
        self.assertEqual(read(second, read(first)[1].head)[1].head, end)
        self.assertEqual(read(second, None)[1].head, end)
        self.assertRaises(Forged, read, second, START)
        self.assertRaises(Forged, read, second, Head(START.chain, middle.sequence, H))
        self.assertRaises(Forged, read, first, Head(b"d" * 16))

    def test_empty_segment(self):
        """A head alone is a segment without entries; cut short it is Malformed."""
        data = encode_segment_head(START)
        self.assertEqual(read(data)[0], [])
        for length in range(len(data)):
            self.assertRaises(Malformed, read, data[:length])

    def test_later_types(self):
        """An entry of a later type is passed over with its hash checked, unless it is critical."""
        data, _, head = segment([LaterEntry(b"x"), BODIES[0]])
        entries, reader = read(data)
        self.assertEqual(([entry.body for entry in entries], reader.head), ([None, BODIES[0]], head))
        self.assertRaises(Unsupported, read, segment([LaterCritical(b"x")])[0])

    def test_later_heads(self):
        """Later versions, suites and critical flags are Unsupported; ignorable flags and extensions are passed over."""
        data, _, head = segment(BODIES[:2])
        for offset in (4, 5, 6, 7):
            changed = bytearray(data)
            changed[offset] ^= 0x40
            self.assertRaises(Unsupported, read, bytes(changed))
        for number, error in ((2, None), (3, Unsupported)):
            extension = cbor.encode([[number, b"x"]])
            longer = bytearray(data[: SEGMENT_HEAD.size] + extension + data[SEGMENT_HEAD.size :])
            longer[8:12] = b"\xff\xff" + len(extension).to_bytes(2, "big")
            if error:
                self.assertRaises(error, read, bytes(longer))
            else:
                self.assertEqual(read(bytes(longer))[1].head, head)

    def test_beginning(self):
        """Sequences start at 1, after no entry, and only there."""
        for sequence, before in ((0, GENESIS), (1, H), (2, GENESIS)):
            data = SEGMENT_HEAD.pack(b"MLDG", 1, 1, 0, 0, 0, START.chain, sequence, before)
            self.assertRaises(Malformed, read, data, None)

    def test_nothing_is_chained_that_no_reader_takes(self):
        """A body beyond its bounds is refused before it becomes part of the chain."""
        self.assertRaises(Malformed, encode_entry, START, Event(1, b"x", b"", ""), 0, True)
        self.assertRaises(Malformed, encode_entry, START, Event(1, b"", b"", "a\nb"), 0, True)
        objects = tuple(number.to_bytes(32, "big") for number in range((1 << 16) + 1))
        self.assertRaises(Malformed, encode_entry, START, Deleted(1, H, objects), 0, True)


class TornTests(SynchronousTestCase):
    """What a power loss leaves behind, in the segment that was being written."""

    def setUp(self):
        self.data, self.ends, self.head = segment(BODIES[:4])

    def assert_torn(self, data: bytes, count: int) -> None:
        entries, reader = read(data)
        self.assertEqual((len(entries), reader.torn), (count, True))
        self.assertEqual(reader.valid_length, self.ends[count - 1] if count else SEGMENT_HEAD.size)

    def test_cut_anywhere(self):
        """An entry cut short at the end is left out, and all before it is there."""
        for length in range(SEGMENT_HEAD.size + 1, len(self.data)):
            count = sum(end <= length for end in self.ends)
            entries, reader = read(self.data[:length])
            self.assertEqual(len(entries), count)
            self.assertEqual(reader.torn, length not in self.ends)
            self.assertEqual(reader.valid_length, self.ends[count - 1] if count else SEGMENT_HEAD.size)

    def test_zeros_at_the_end(self):
        """A file that had been made longer and not written ends in zeros: nothing is lost."""
        for length in (1, 3, ENTRY_HEAD.size, 200, 5000):
            self.assert_torn(self.data + bytes(length), 4)

    def test_entry_whose_end_was_not_written(self):
        """The same where the entry's beginning was written: from its head on, or from its hash on, it is zeros."""
        start, end = self.ends[2], self.ends[3]
        for written in (start + 2, start + ENTRY_HEAD.size - 2, start + ENTRY_HEAD.size, start + 50, end - 32):
            self.assert_torn(self.data[:written] + bytes(end - written), 3)
            self.assert_torn(self.data[:written] + bytes(end - written + 4096), 3)


class DamageTests(SynchronousTestCase):
    """What no power loss does."""

    def setUp(self):
        self.data, self.ends, self.head = segment(BODIES[:4])

    def test_every_flip(self):
        """No flip is taken, or passes for a torn tail, except that of an ignorable flag in the segment's head."""
        taken = accepted_flips(lambda one: read(one)[1].torn, self.data, FormatError, 3)
        self.assertEqual(set(taken) - {8, 9}, set())
        self.assertNotIn(True, [torn for results in taken.values() for torn in results])

    @long_test(share=False)
    def test_every_single_flip_of_all_types(self):
        """The same for every bit of a segment with all types."""
        taken = accepted_flips(lambda one: read(one)[1].torn, segment(BODIES[:-1])[0], FormatError)
        self.assertEqual(taken, {8: [False] * 8, 9: [False] * 8})

    def test_a_damaged_length_is_no_torn_tail(self):
        """A length that leads beyond the end, in an entry with others behind it, is damage: nothing may be cut off."""
        for end in (SEGMENT_HEAD.size, *self.ends[:3]):
            for byte in range(4):
                changed = bytearray(self.data)
                changed[end + byte] ^= 0x01
                self.assertRaises(Forged, read, bytes(changed))

    def test_missing_or_moved_entries(self):
        """An entry left out, doubled, or exchanged with another breaks the chain."""
        start, ends = SEGMENT_HEAD.size, self.ends
        one, two = self.data[start : ends[0]], self.data[ends[0] : ends[1]]
        head, rest = self.data[:start], self.data[ends[1] :]
        for data in (head + two + rest, head + one + rest, head + two + one + rest, head + one + one + two + rest):
            self.assertRaises(Forged, read, data)

    def test_zeros_inside(self):
        """Zeros with anything behind them are damage."""
        start, end = self.ends[1], self.ends[2]
        self.assertRaises(Forged, read, self.data[:start] + bytes(end - start) + self.data[end:])
        self.assertRaises(Forged, read, self.data[: end - 32] + bytes(32) + self.data[end:])

    def test_good_hash_over_a_bad_entry(self):
        """Whoever can write the chain can hash anything: what is inside is checked all the same."""
        for length, sequence, kind, flags, payload, error in (
            (None, 2, 16, 0, EVENT, Malformed), (None, 0, 16, 0, EVENT, Malformed),
            (None, 1, 16, 4, b"\xa0", Unsupported), (5, 1, 16, 0, b"", Malformed),
            (ENTRY_LIMIT + 1, 1, 16, 0, b"", Malformed), (None, 1, 16, 0, b"\xff", Malformed),
            (None, 1, 16, 0, b"\xa0", Malformed), (None, 1, 250, 1, b"\xa0", Unsupported),
            (0, 1, 16, 0, b"", Malformed),
        ):  # fmt: skip
            self.assertRaises(error, read, encode_segment_head(START) + hashed(length, sequence, kind, flags, payload))
        self.assertEqual(
            read(encode_segment_head(START) + hashed(None, 1, 16, 0, EVENT))[0][0].body, Event(1, b"", b"", "")
        )

    @quick
    @given(st.binary(max_size=200))
    def test_fuzz(self, data):
        """Any bytes behind a good head, and any bytes at all, give entries, a torn tail or a FormatError."""
        for candidate in (data, encode_segment_head(START) + data, self.data_until_two() + data):
            try:
                read(candidate)
            except FormatError:
                continue

    def data_until_two(self) -> bytes:
        return segment(BODIES[:2])[0]

    def test_long_declared_length_allocates_nothing(self):
        """A length of 8 MiB in a short file is not believed."""
        data = encode_segment_head(START) + hashed(ENTRY_LIMIT, 1, 16, 0, b"\xa0")
        self.assertLess(peak_memory(lambda: read(data)), 1 << 18)


def hashed(length: int | None, sequence: int, kind: int, flags: int, payload: bytes) -> bytes:
    """An entry as whoever can write the chain could make it."""
    actual = ENTRY_HEAD.size - 4 + len(payload) + 32
    bare = ENTRY_HEAD.pack(actual if length is None else length, kind, flags, 0, sequence, 0, b"")[:-4]
    check = hasher(Purpose.LEDGER_ENTRY_HEAD)
    check.update(bare)
    before = bare + check.digest(length=4) + payload
    digest = hasher(Purpose.LEDGER_ENTRY)
    digest.update(START.chain + START.hash + before)
    return before + digest.digest()


class HeadRecordTests(SynchronousTestCase):
    def test_open(self):
        """A signed head names its key; chains are ascending, each once."""
        record = LedgerHeadRecord.open(samples.ledger_head())
        self.assertEqual(record.ledger_key, samples.SUCCESSOR.order_public)
        self.assertEqual([sequence for _, sequence, _ in record.heads], [5, 9])
        for heads in ((record.heads[1], record.heads[0]), (record.heads[0],) * 2):
            changed = LedgerHeadRecord(heads, 0, samples.SUCCESSOR.order_public)
            self.assertRaises(Malformed, changed.sign, samples.SUCCESSOR.order_key)
        foreign = LedgerHeadRecord(record.heads, 0, H).sign(samples.SUCCESSOR.order_key)
        self.assertRaises(Forged, LedgerHeadRecord.open, foreign)

    def test_promise_p5_a_ledger_that_went_back(self):
        """As new as before means: the same key, no chain shorter, and none of the same length but another hash."""
        one, two = Ed25519PrivateKey.from_private_bytes(b"1" * 32), Ed25519PrivateKey.from_private_bytes(b"2" * 32)

        def head(sequence: int, hash: bytes = H, chain: bytes = b"c" * 16, key: Ed25519PrivateKey = one) -> bytes:
            return LedgerHeadRecord(((chain, sequence, hash),), sequence, raw_public_key(key)).sign(key)

        before = head(5)
        for now, good in (
            (before, True), (head(6, b"i" * 32), True), (head(4), False), (head(5, b"i" * 32), False),
            (head(6, chain=b"d" * 16), False), (head(6, key=two), False), (b"", False), (before[:-1] + b"x", False),
        ):  # fmt: skip
            self.assertEqual(went_on(before, now), good)
        self.assertEqual([went_on(b"", now) for now in (b"", before, b"rubbish")], [True, True, False])
