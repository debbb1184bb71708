"""Packs: verified without a key, down to the last byte, before anything is acknowledged."""

import os

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mastodon.sealed import cbor
from mastodon.sealed.blob import BlobKind, BlobOpener
from mastodon.sealed.errors import Forged, FormatError, Malformed, Mismatch, Unsupported
from mastodon.sealed.pack import (
    CHECKSUM_LENGTH,
    HEAD,
    INDEX_ROW,
    PACK_LIMIT,
    TRAILER,
    Origin,
    Pack,
    PackWriter,
    pack_checksum,
    parse_pack,
)
from mastodon.sealed.run import run_id, verify_run
from tests import sealed_samples as samples
from tests.hostile import accepted_cuts, accepted_flips, peak_memory, quick
from tests.long import extent, long_test
from tests.sealed_samples import MACHINE, pack_of, sealed_blob, small_pack

IGNORABLE_FLAGS = range(10, 12)
"""The only bytes of a pack that nothing but its checksum covers, and that change nothing."""


def parsed(data: bytes) -> Pack:
    return parse_pack(data, MACHINE.machine_id)


def resealed(data: bytes) -> bytes:
    """``data`` with a checksum that fits: what whoever makes or keeps the pack can always do."""
    return data[:-CHECKSUM_LENGTH] + pack_checksum(data[:-CHECKSUM_LENGTH])


def read_whole(data: bytes) -> list[bytes]:
    """What a restore makes of a pack: run verified, each blob opened under the id that the listing names."""
    pack = parsed(data)
    runs = {id: verify_run(record, MACHINE.machine_id, MACHINE.public_key) for id, record in pack.runs.items()}
    opener = BlobOpener(MACHINE.machine_id, MACHINE.id_key)
    contents = []
    for number, one in enumerate(pack.blobs):
        run_key, id_key = runs[one.header.run].open(samples.PRIVATE)
        if id_key != MACHINE.id_key:
            raise Mismatch("another id_key")
        piece = data[one.offset : one.offset + one.header.size]
        contents.append(opener.open(piece, one.header, run_key, EXPECTED[number]))
    return contents


EXPECTED = [one.header.id for one in parsed(small_pack()).blobs]


class PackTests(SynchronousTestCase):
    def test_round_trip(self):
        """What was written is found, where the index says."""
        data = small_pack()
        pack = parsed(data)
        self.assertEqual((pack.id, pack.machine, pack.origin), (data[-32:], MACHINE.machine_id, Origin.AGENT))
        self.assertEqual(pack.runs, {run_id(samples.run()): samples.run()})
        self.assertEqual([one.header.kind for one in pack.blobs], [BlobKind.BUNDLE, BlobKind.PAGE])
        self.assertEqual(read_whole(data), [samples.PLAINTEXT, b"a page, as far as packs care"])
        self.assertEqual(parsed(memoryview(data)), pack)  # type: ignore[arg-type]

    @quick
    @given(st.lists(st.binary(max_size=300), min_size=1, max_size=12, unique=True))
    def test_round_trips(self, plaintexts):
        """Any blobs; the writer's length is right before each, and at the end."""
        writer = PackWriter(MACHINE.machine_id, [samples.run()])
        parts = []
        for plaintext in plaintexts:
            id, data = sealed_blob(plaintext=plaintext)
            self.assertTrue(writer.fits(len(data)))
            before = writer.length
            parts.append(writer.add(id, BlobKind.BUNDLE, data))
            self.assertEqual(writer.length, before + len(data) + INDEX_ROW.size)
        length = writer.length
        last, pack_id = writer.finish()
        whole = b"".join([*parts, last])
        self.assertEqual((len(whole), whole[-32:]), (length, pack_id))
        self.assertEqual(len(parsed(whole).blobs), len(plaintexts))

    def test_fits_up_to_the_bound(self):
        """What the writer says fits makes a pack within its bound, what it says does not would not."""
        writer = PackWriter(MACHINE.machine_id, [samples.run()])
        room = PACK_LIMIT - writer.length - INDEX_ROW.size
        self.assertEqual((writer.fits(room), writer.fits(room + 1)), (True, False))

    def test_another_machine(self):
        """A pack of another machine is a Mismatch, whatever its checksum."""
        self.assertRaises(Mismatch, parse_pack, small_pack(), samples.OTHER_MACHINE.machine_id)

    def test_foreign_run_or_blob(self):
        """A run record or a blob of another machine, or of a run that is not there, is refused."""
        foreign = samples.run_record(samples.OTHER_MACHINE).sign(samples.OTHER_MACHINE.signing_key)
        id, data = sealed_blob()
        for runs in ([foreign], [samples.run_record(nonce=b"x" * 16).sign(MACHINE.signing_key)]):
            writer = PackWriter(MACHINE.machine_id, runs)
            whole = writer.add(id, BlobKind.BUNDLE, data) + writer.finish()[0]
            self.assertRaises(Mismatch, parsed, whole)

    def test_foreign_blob_of_a_run_that_is_there(self):
        """A blob that names the run and another machine is refused."""
        id, data = sealed_blob()
        self.assertRaises(Mismatch, parsed, pack_of((BlobKind.BUNDLE, id, data[:8] + b"m" * 32 + data[40:])))

    def test_runs(self):
        """No run, the same run twice, and a run without a blob here, are refused."""
        id, data = sealed_blob()
        unused = samples.run_record(nonce=b"x" * 16).sign(MACHINE.signing_key)
        for runs in ([], [samples.run(), samples.run()], [samples.run(), unused], [b"no record"], [b"x" * 5000]):
            writer = PackWriter(MACHINE.machine_id, runs)
            whole = writer.add(id, BlobKind.BUNDLE, data) + writer.finish()[0]
            self.assertRaises(Malformed, parsed, whole)

    def test_same_blob_twice(self):
        """An agent's pack holds an id once; compaction may bring two sealings of one id together, not one twice."""
        (id, one), (_, two) = sealed_blob(salt=1), sealed_blob(salt=2)
        self.assertRaises(Malformed, pack_of_origin, Origin.AGENT, id, one, two)
        self.assertEqual(len(pack_of_origin(Origin.COMPACTION, id, one, two).blobs), 2)
        self.assertRaises(Malformed, pack_of_origin, Origin.COMPACTION, id, one, one)

    def test_empty(self):
        """A pack without blobs is refused."""
        self.assertRaises(Malformed, parsed, pack_of())


def pack_of_origin(origin: Origin, id: bytes, *datas: bytes) -> Pack:
    writer = PackWriter(MACHINE.machine_id, [samples.run()], origin)
    parts = [writer.add(id, BlobKind.BUNDLE, data) for data in datas]
    return parsed(b"".join([*parts, writer.finish()[0]]))


class LyingPackTests(SynchronousTestCase):
    """Packs whose checksum is good and whose parts contradict each other."""

    def changed(self, offset: int, value: bytes) -> bytes:
        data = bytearray(small_pack())
        offset %= len(data)
        data[offset : offset + len(value)] = value
        return resealed(bytes(data))

    def index_row(self, number: int) -> int:
        return len(small_pack()) - TRAILER.size - (2 - number) * INDEX_ROW.size

    def test_index_lies(self):
        """An index that names another id, kind, offset or size than the blobs do is refused."""
        row = self.index_row(1)
        for offset, value in ((0, b"x"), (32, b"\4"), (33, b"\1"), (36, b"\1"), (37, b"\1"), (40, b"\xff")):
            self.assertRaises(Malformed, parsed, self.changed(row + offset, value))

    def test_rows_in_another_order(self):
        """The index is in the blobs' order."""
        data = small_pack()
        one, two = self.index_row(0), self.index_row(1)
        end = two + INDEX_ROW.size
        self.assertRaises(Malformed, parsed, resealed(data[:one] + data[two:end] + data[one:two] + data[end:]))

    def test_overlap(self):
        """A blob whose sealed part runs into the next, or into the index, is refused."""
        pack = parsed(small_pack())
        for one in pack.blobs:
            for more in (1, 500, 1 << 20):
                longer = (one.header.sealed_length + more).to_bytes(4, "big")
                self.assertRaises(Malformed, parsed, self.changed(one.offset + 120, longer))

    def test_bytes_between(self):
        """Nothing may hide between runs, blobs and index, wherever the trailer says that the index is."""
        data = small_pack()
        for at in (self.index_row(0), parsed(data).blobs[0].offset, self.index_row(1), len(data) - TRAILER.size):
            self.assertRaises(FormatError, parsed, resealed(data[:at] + b"\0" * 32 + data[at:]))
        index = self.index_row(0)
        longer = bytearray(data[:index] + bytes(32) + data[index:])
        longer[-TRAILER.size + 4 : -TRAILER.size + 8] = (index + 32).to_bytes(4, "big")
        self.assertRaises(Malformed, parsed, resealed(bytes(longer)))

    def test_trailer_lies(self):
        """Counts and offsets in the trailer that do not fit, negative ones if they were signed, are refused."""
        for value in (b"\0\0\0\0", b"\x80\0\0\0", b"\xff\xff\xff\xff", b"\0\0\0\3"):
            self.assertRaises(Malformed, parsed, self.changed(-TRAILER.size + 8, value))
            self.assertRaises(Malformed, parsed, self.changed(-TRAILER.size + 4, value))

    def test_head_lies(self):
        """Later versions, suites, origins and critical flags are Unsupported; counts that do not fit Malformed."""
        for offset in (4, 5, 6, 7, 8):
            self.assertRaises(Unsupported, parsed, self.changed(offset, b"\x40"))
        for offset, value in ((44, b"\0\0"), (44, b"\xff\xff"), (46, b"\xff\xff"), (48, b"\xff\xff\xff\xff")):
            self.assertRaises(Malformed, parsed, self.changed(offset, value))

    def test_extensions(self):
        """An ignorable extension in the head is passed over, a critical one stops the reader."""
        data = small_pack()
        for number, error in ((2, Malformed), (3, Unsupported)):
            extension = cbor.encode([[number, b"x"]])
            head = data[: HEAD.size - 2] + len(extension).to_bytes(2, "big") + extension
            # Everything lies further on than the index says, so even the good one ends as Malformed: by the index.
            self.assertRaises(error, parsed, resealed(head + data[HEAD.size :]))

    def test_promise_p5_every_flip_with_the_checksum_made_good(self):
        """A server flips a bit and makes the checksum good: the reader notices, or it was an ignorable flag."""
        data = small_pack()
        good = read_whole(data)
        taken = accepted_flips(
            lambda one: read_whole(resealed(one)), data[:-CHECKSUM_LENGTH] + bytes(32), FormatError, 13
        )
        self.assertLessEqual(set(taken), {*IGNORABLE_FLAGS, *range(len(data) - 32, len(data))})
        for results in taken.values():
            self.assertEqual([one for one in results if one != good], [])

    @long_test(share=True)
    def test_every_single_flip_with_the_checksum_made_good(self):
        """The same for all bits, and the ignorable flags are really the only bytes."""
        data = small_pack()
        good = read_whole(data)
        step = extent(share=3, whole=1)
        taken = accepted_flips(lambda one: read_whole(resealed(one + bytes(32))), data[:-32], FormatError, step)
        self.assertEqual(set(taken), set(IGNORABLE_FLAGS))
        for results in taken.values():
            self.assertEqual([one for one in results if one != good], [])

    def test_every_flip_without(self):
        """With the checksum as it was, no flip anywhere is taken."""
        self.assertEqual(accepted_flips(parsed, small_pack(), FormatError), {})
        self.assertRaises(Forged, parsed, small_pack()[:-1] + bytes([small_pack()[-1] ^ 1]))

    def test_cuts(self):
        """Cut anywhere or lengthened, with the checksum as it was or made good, a pack is refused."""
        self.assertEqual(accepted_cuts(parsed, small_pack(), FormatError), [])
        self.assertEqual(accepted_cuts(lambda one: parsed(resealed(one)), small_pack(), FormatError), [])

    def test_bounds_come_first(self):
        """Too long a pack is refused unread."""
        self.assertRaises(Malformed, parsed, bytes(PACK_LIMIT + 1))
        self.assertRaises(Malformed, parsed, b"")

    @quick
    @given(st.binary(max_size=300))
    def test_fuzz(self, data):
        """Any bytes, with a checksum that fits or not, give a FormatError."""
        self.assertRaises(FormatError, parsed, data)
        head = small_pack()[: HEAD.size]
        self.assertRaises(FormatError, parsed, resealed(head + data + b"KCPM" + bytes(40)))

    def test_memory_is_bounded_by_the_pack(self):
        """Parsing a pack takes what its blobs' headers take, and no copy of their content."""
        blobs = []
        for salt in range(8):
            id, data = sealed_blob(plaintext=os.urandom(1 << 20), salt=salt)
            blobs.append((BlobKind.BUNDLE, id, data))
        whole = pack_of(*blobs)
        self.assertLess(peak_memory(lambda: parsed(whole)), 1 << 18)
