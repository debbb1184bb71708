"""Blobs: nothing comes out before the full id was recomputed, and no length that is told is believed."""

import hashlib
import os
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mastodon.sealed import cbor
from mastodon.sealed.blob import (
    HEAD,
    INNER,
    PLAINTEXT_LIMIT,
    REFERENCES_LIMIT,
    SEALED_LIMIT,
    STORED,
    ZSTD,
    BlobKind,
    BlobOpener,
    BlobSealer,
    blob_id,
    padded_length,
    parse_header,
)
from mastodon.sealed.errors import Forged, FormatError, Malformed, Mismatch, Unsupported
from mastodon.sealed.run import run_id
from tests import sealed_samples as samples
from tests.hostile import accepted_cuts, accepted_flips, peak_memory, quick
from tests.sealed_samples import blob_inside, padded, sealed_blob, zstd_run

MACHINE = samples.MACHINE
OPENER = BlobOpener(MACHINE.machine_id, MACHINE.id_key)
SEALER = BlobSealer(MACHINE.machine_id, run_id(samples.run()), samples.RUN_KEY)
KINDS_WITH_REFERENCES = (BlobKind.ROOT, BlobKind.PAGE, BlobKind.MAP)


def opened(data: bytes, expected: bytes, run_key: bytes = samples.RUN_KEY) -> bytes:
    return OPENER.open(data, parse_header(data), run_key, expected)


class SealTests(SynchronousTestCase):
    @quick
    @given(st.binary(max_size=5000), st.integers(0, 200), st.sampled_from(list(BlobKind)), st.integers(0, 4))
    def test_round_trip(self, plaintext, repeated, kind, count):
        """Whatever was sealed comes out again, of every kind, compressible or not."""
        plaintext += b"again and " * repeated
        references = [bytes([number]) * 32 for number in range(count if kind in KINDS_WITH_REFERENCES else 0)]
        id = blob_id(MACHINE.id_key, kind, references, plaintext)
        data = SEALER.seal(kind, id, references, plaintext, b"s" * 16)
        header = parse_header(data)
        self.assertEqual((header.kind, header.references, header.size), (kind, tuple(references), len(data)))
        self.assertEqual(opened(data, id), plaintext)

    def test_views_and_offsets(self):
        """Sealer and opener take memoryviews, and a header is found at any offset."""
        id, data = sealed_blob()
        self.assertEqual(sealed_blob(plaintext=memoryview(samples.PLAINTEXT))[1], data)  # type: ignore[arg-type]
        view = memoryview(b"before" + data + b"behind")
        header = parse_header(view, 6)
        self.assertEqual(OPENER.open(view[6 : 6 + header.size], header, samples.RUN_KEY, id), samples.PLAINTEXT)

    def test_id_is_of_kind_references_and_plaintext(self):
        """Another kind, reference, order, plaintext or key gives another id; another salt or run does not."""
        one, two = b"1" * 32, b"2" * 32
        ids = {
            blob_id(bytes(32), BlobKind.PAGE, [one, two], b"text"),
            blob_id(bytes(32), BlobKind.PAGE, [two, one], b"text"),
            blob_id(bytes(32), BlobKind.PAGE, [one], two + b"text"),
            blob_id(bytes(32), BlobKind.MAP, [one, two], b"text"),
            blob_id(bytes(32), BlobKind.PAGE, [one, two], b"texts"),
            blob_id(b"\1" * 32, BlobKind.PAGE, [one, two], b"text"),
        }
        self.assertEqual(len(ids), 6)
        self.assertNotEqual(sealed_blob(salt=1)[1], sealed_blob(salt=2)[1])
        self.assertEqual(sealed_blob(salt=1)[0], sealed_blob(salt=2)[0])

    def test_sizes_are_hidden(self):
        """Sealed lengths are Padmé lengths: plaintexts of near lengths cannot be told apart."""
        lengths = {len(sealed_blob(plaintext=os.urandom(length))[1]) for length in range(1000, 1009)}
        self.assertEqual(len(lengths), 1)

    def test_bounds(self):
        """Too long a plaintext or too many references are refused before anything is sealed."""
        self.assertRaises(Malformed, sealed_blob, plaintext=bytes(PLAINTEXT_LIMIT + 1))
        self.assertRaises(
            Malformed, SEALER.seal, BlobKind.MAP, bytes(32), [b""] * (REFERENCES_LIMIT + 1), b"", b"s" * 16
        )

    def test_largest(self):
        """The longest plaintext that is allowed fits, compressible or not."""
        for plaintext in (bytes(PLAINTEXT_LIMIT), hashlib.shake_256(b"x").digest(PLAINTEXT_LIMIT)):
            id, data = sealed_blob(plaintext=plaintext)
            self.assertLessEqual(parse_header(data).sealed_length, SEALED_LIMIT)
            self.assertEqual(opened(data, id), plaintext)


class PadmeTests(SynchronousTestCase):
    def test_values_of_the_paper(self):
        """What the algorithm of Nikitin et al. (Reducing Metadata Leakage, PETS 2019) gives, worked out by hand."""
        for length, expected in (
            (0, 0), (1, 1), (2, 2), (7, 7), (8, 8), (9, 10), (10, 10), (11, 12), (15, 16), (16, 16), (17, 18),
            (31, 32), (33, 36), (100, 104), (1000, 1024), (1025, 1088), (1 << 20, 1 << 20), ((1 << 20) + 1, 0x108000),
        ):  # fmt: skip
            self.assertEqual(padded_length(length), expected, length)

    @quick
    @given(st.integers(1, 1 << 40))
    def test_at_most_twelve_percent(self, length):
        """Padding never exceeds an eighth, and a padded length is its own."""
        longer = padded_length(length)
        self.assertTrue(length <= longer <= length * 1.12 or longer - length <= 1)
        self.assertEqual(padded_length(longer), longer)


class OpenTests(SynchronousTestCase):
    def test_every_flip_is_noticed(self):
        """No bit of header or sealed part can change, in no field: all are associated data or sealed."""
        id, data = sealed_blob(BlobKind.PAGE, b"short", [b"1" * 32, b"2" * 32])
        self.assertEqual(accepted_flips(lambda one: opened(one, id), data, FormatError), {})

    def test_cuts(self):
        """Cut anywhere, or with bytes behind, nothing opens."""
        id, data = sealed_blob(BlobKind.PAGE, b"short", [b"1" * 32, b"2" * 32])
        self.assertEqual(accepted_cuts(lambda one: opened(one, id), data, FormatError), [])

    def test_wrong_run_key(self):
        """Another run's key does not open it."""
        id, data = sealed_blob()
        self.assertRaises(Forged, opened, data, id, bytes(32))

    def test_wrong_id(self):
        """A good blob in place of another is a Mismatch: the listing names the id, the header never does."""
        _, data = sealed_blob()
        self.assertRaises(Mismatch, opened, data, b"i" * 32)

    def test_wrong_machine(self):
        """A blob of another machine is refused, though the key fits."""
        id, data = sealed_blob()
        opener = BlobOpener(samples.OTHER_MACHINE.machine_id, MACHINE.id_key)
        self.assertRaises(Mismatch, opener.open, data, parse_header(data), samples.RUN_KEY, id)

    def test_promise_p5_content_sealed_under_a_blobs_own_key(self):
        """Whoever was handed a blob's key can seal other content under its id; it opens, and is still refused."""
        id, data = blob_inside(padded(STORED, 4, b"evil"), b"good")
        self.assertRaises(Forged, opened, data, id)
        self.assertEqual(opened(blob_inside(padded(STORED, 4, b"good"), b"good")[1], id), b"good")

    def test_references_are_part_of_the_id(self):
        """A header with another reference, sealed again under the same key and id, is refused."""
        page_id = blob_id(MACHINE.id_key, BlobKind.PAGE, [b"1" * 32], b"page")
        data = SEALER.seal(BlobKind.PAGE, page_id, [b"2" * 32], b"page", b"s" * 16)
        self.assertRaises(Forged, opened, data, page_id)
        data = SEALER.seal(BlobKind.MAP, page_id, [b"1" * 32], b"page", b"s" * 16)
        self.assertRaises(Forged, opened, data, page_id)


class InsideTests(SynchronousTestCase):
    """What somebody who has the run's key may have put inside."""

    def refused(self, inner: bytes, plaintext: bytes = b"x", error: type[Exception] = Malformed) -> None:
        id, data = blob_inside(inner, plaintext)
        self.assertRaises(error, opened, data, id)

    def test_padding(self):
        """Padding is zero, and just to the Padmé length."""
        inner = padded(STORED, 91, b"x" * 91)
        self.assertEqual((len(inner), padded_length(100)), (104, 104))
        self.assertEqual(opened(*reversed(blob_inside(inner, b"x" * 91))), b"x" * 91)
        self.refused(inner[:-1] + b"\1", b"x" * 91)
        self.refused(inner + bytes(8), b"x" * 91)
        self.refused(inner[:-1], b"x" * 91)
        self.refused(inner[:100], b"x" * 91)

    def test_lying_lengths(self):
        """Lengths inside that do not fit are Malformed."""
        for method, length, body_length in (
            (STORED, 2, 1), (STORED, 1, 2), (STORED, 1, 200), (STORED, 0xFFFFFFFF, 1), (STORED, 1, 0xFFFFFFFF),
            (ZSTD, 0xFFFFFFFF, 1), (ZSTD, 1, 1), (ZSTD, 0, 0), (ZSTD, 0, 1),
        ):  # fmt: skip
            inner = INNER.pack(method, length, body_length) + b"x"
            self.refused(inner)

    def test_unknown_method(self):
        """A later method is Unsupported."""
        self.refused(padded(2, 1, b"x"), error=Unsupported)

    def test_shortest(self):
        """An empty plaintext is stored; anything shorter than its frame is refused in the header."""
        id, data = blob_inside(padded(STORED, 0, b""), b"")
        self.assertEqual(opened(data, id), b"")
        self.refused(bytes(8))

    def test_zstd_by_hand(self):
        """A frame of one run of a byte, made without the library, opens."""
        id, data = blob_inside(padded(ZSTD, 3000, zstd_run(65, 3000)), b"A" * 3000)
        self.assertEqual(opened(data, id), b"A" * 3000)

    def test_zip_bombs(self):
        """A frame that holds more, or less, than was stated is refused, and takes no more memory than was stated."""
        bombs = [
            (100, zstd_run(0, 1 << 24, 100)),
            (100, zstd_run(0, 1 << 24)),
            (1 << 20, zstd_run(0, 1 << 19, 1 << 20)),
            (100, zstd_run(0, 100) + zstd_run(0, 1 << 24)),
            (PLAINTEXT_LIMIT + 1, zstd_run(0, PLAINTEXT_LIMIT + 1)),
            (0xFFFFFFFF, zstd_run(0, 1 << 26, 0xFFFFFFFF)),
        ]
        for length, body in bombs:
            id, data = blob_inside(padded(ZSTD, length, body), b"x")
            peak = peak_memory(lambda: self.assertRaises(FormatError, opened, data, id))  # noqa: B023
            self.assertLess(peak, (2 << 20) + 4 * len(body))

    def test_frames_of_other_kinds(self):
        """A frame without its size, with a checksum that lies, of a giant window, skippable, or none at all."""
        for body in (
            bytes.fromhex("28b52ffd") + b"\x00\x58" + b"\x01\x00\x00",  # no content size, an empty raw block
            bytes.fromhex("28b52ffd") + b"\x80\xf8" + (50).to_bytes(4, "little") + b"\x01\x00\x00",  # 2 TiB window
            bytes.fromhex("502a4d18") + (4).to_bytes(4, "little") + b"skip",
            bytes.fromhex("28b52ffd") + b"\xa1\x07" + (50).to_bytes(4, "little") + b"\x01\x00\x00",  # a dictionary
            b"no frame at all",
            b"",
        ):
            self.refused(padded(ZSTD, 50, body))

    def test_compressed_to_more(self):
        """A frame that is no shorter than what it holds is refused: stored would have done."""
        self.refused(padded(ZSTD, 9, zstd_run(65, 9)), b"A" * 9)
        self.refused(padded(ZSTD, 0, zstd_run(65, 0) + b"hidden"), b"")

    def test_bytes_behind_the_frame(self):
        """A frame with anything behind it is refused, another frame and a skippable one too."""
        frame = zstd_run(65, 3000)
        for behind in (b"\0", frame, bytes.fromhex("502a4d18") + bytes(4)):
            self.refused(padded(ZSTD, 3000, frame + behind), b"A" * 3000)

    @quick
    @given(st.binary(min_size=9, max_size=120))
    def test_fuzz(self, inner):
        """Any bytes inside give the content or a FormatError."""
        id, data = blob_inside(inner, b"x")
        try:
            self.assertEqual(opened(data, id), b"x")
        except FormatError:
            return

    def test_every_flip_inside(self):
        """A bit of a compressed inside flipped before it is sealed is noticed, or was one that zstd does not use."""
        inner = padded(ZSTD, 3000, zstd_run(65, 3000))

        def read(changed: bytes) -> bytes:
            id, data = blob_inside(changed, b"A" * 3000)
            return opened(data, id)

        frame_descriptor = INNER.size + 4
        self.assertEqual(accepted_flips(read, inner, FormatError), {frame_descriptor: [b"A" * 3000]})


class HeaderTests(SynchronousTestCase):
    def changed(self, offset: int, value: bytes) -> bytes:
        data = sealed_blob(BlobKind.PAGE, b"short", [b"1" * 32, b"2" * 32])[1]
        return data[:offset] + value + data[offset + len(value) :]

    def test_later_versions(self):
        """Versions, suites, kinds, kind versions and critical flags that are not known are Unsupported."""
        for offset in (2, 3, 4, 5, 6):
            self.assertRaises(Unsupported, parse_header, self.changed(offset, b"\x40"))

    def test_ignorable_flags(self):
        """Ignorable flags are ignored; they are still associated data."""
        self.assertEqual(parse_header(self.changed(7, b"\xff")), parse_header(self.changed(7, b"\0")))

    def test_lengths(self):
        """Lengths beyond their bounds are Malformed at once, with nothing allocated."""
        for offset, value in ((120, b"\xff" * 4), (120, bytes(4)), (124, b"\xff" * 4), (128, b"\xff\xff"), (0, b"XX")):
            data = self.changed(offset, value)

            def parse(data: bytes = data) -> None:
                self.assertRaises(Malformed, parse_header, data)

            self.assertLess(peak_memory(parse), 1 << 18)

    def test_references(self):
        """The same reference twice, and references of a kind that has none, are Malformed."""
        self.assertRaises(Malformed, parse_header, self.changed(HEAD.size, b"2" * 32))
        self.assertRaises(Malformed, parse_header, self.changed(4, bytes([BlobKind.CHUNK])))

    def test_extensions(self):
        """An ignorable extension is passed over and covered by the seal; a critical one stops the reader."""
        inner = padded(STORED, 4, b"good")
        id, data = blob_inside(inner, b"good", extensions=cbor.encode([[2, b"later"]]))
        self.assertEqual(opened(data, id), b"good")
        self.assertEqual(parse_header(data).size, len(data))
        self.assertRaises(Forged, opened, data.replace(b"later", b"Later"), id)
        _, data = blob_inside(inner, b"good", extensions=cbor.encode([[3, b"later"]]))
        self.assertRaises(Unsupported, parse_header, data)
        for bad in (b"\x80", b"x", bytes(4097)):
            self.assertRaises(Malformed, parse_header, blob_inside(inner, b"good", extensions=bad)[1])

    def test_cuts(self):
        """A header cut anywhere is Malformed; what follows it need not be there."""
        header = sealed_blob(BlobKind.PAGE, b"short", [b"1" * 32, b"2" * 32])[1][: HEAD.size + 64]
        for length in range(len(header)):
            self.assertRaises(Malformed, parse_header, header[:length])
        self.assertEqual(len(parse_header(header).references), 2)
        for offset in (-1, -200, 1 << 40):
            self.assertRaises(Malformed, parse_header, header, offset)

    @quick
    @given(st.binary(max_size=200))
    def test_fuzz(self, data):
        """Any bytes, also behind a good beginning, give a header or a FormatError."""
        for candidate in (data, b"MB\x01\x01\x02\x01\x00\x00" + data):
            try:
                parse_header(candidate)
            except FormatError:
                continue

    def test_header_passed_must_be_the_blobs(self):
        """A header taken from elsewhere does not open a blob that is not its own."""
        id, data = sealed_blob()
        header = parse_header(data)
        self.assertRaises(FormatError, OPENER.open, data, replace(header, salt=bytes(16)), samples.RUN_KEY, id)
        self.assertRaises(FormatError, OPENER.open, data, replace(header, kind=BlobKind.CHUNK), samples.RUN_KEY, id)
        self.assertRaises(FormatError, OPENER.open, data[:-1], header, samples.RUN_KEY, id)
