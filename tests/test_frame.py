"""Frames: cut out of the stream however TCP chopped it up, and refused by their length before anything waits for it."""

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mastodon.wire.errors import FrameTooLong
from mastodon.wire.frame import APPEND_FRAME_LIMIT, SMALL, FrameReader, encode_frame
from tests.hostile import peak_memory, quick

FRAMES = st.lists(st.tuples(st.integers(0, 255), st.binary(max_size=60)), max_size=6)
LIMIT = 100


def frames_of(reader: FrameReader) -> list[tuple[int, bytes]]:
    result = []
    while (frame := reader.next_frame()) is not None:
        result.append(frame)
    return result


class FrameTests(SynchronousTestCase):
    @quick
    @given(FRAMES)
    def test_whole(self, frames):
        """All at once: every frame, in order, and nothing left."""
        reader = FrameReader(LIMIT)
        reader.receive(b"".join(encode_frame(*frame) for frame in frames))
        self.assertEqual((frames_of(reader), reader.buffered), (frames, 0))

    @quick
    @given(FRAMES)
    def test_bytewise(self, frames):
        """Byte by byte: each frame comes with its last byte, and not before."""
        reader = FrameReader(LIMIT)
        result = []
        for frame in frames:
            data = encode_frame(*frame)
            for at in range(len(data)):
                self.assertIsNone(reader.next_frame())
                reader.receive(data[at : at + 1])
            result.append(reader.next_frame())
        self.assertEqual(result, frames)

    @quick
    @given(FRAMES, st.lists(st.integers(1, 50)))
    def test_in_pieces_with_bytes_behind(self, frames, cuts):
        """Chopped anywhere, with the beginning of another frame behind: that one stays."""
        data = b"".join(encode_frame(*frame) for frame in frames) + b"\0\0\0"
        reader = FrameReader(LIMIT)
        result, at = [], 0
        for cut in [*cuts, len(data)]:
            reader.receive(data[at : at + cut])
            at += cut
            result += frames_of(reader)
        self.assertEqual((result, reader.buffered), (frames, 3))

    def test_size_ahead(self):
        """The scheduler is told what the next frame takes, once it is there whole."""
        reader = FrameReader(LIMIT)
        data = encode_frame(1, b"abc")
        reader.receive(data[:-1])
        self.assertIsNone(reader.next_frame_size())
        reader.receive(data[-1:])
        self.assertEqual((reader.next_frame_size(), reader.next_frame_size()), (8, 8))
        self.assertEqual(reader.next_frame(), (1, b"abc"))

    def test_length_counts_the_type_byte(self):
        """The longest frame has as many bytes, type included, as the bound says."""
        reader = FrameReader(LIMIT)
        reader.receive(encode_frame(9, bytes(LIMIT - 1)))
        self.assertEqual(reader.next_frame(), (9, bytes(LIMIT - 1)))
        self.assertEqual(encode_frame(9, b""), b"\0\0\0\x01\x09")

    def test_bad_lengths(self):
        """Zero, one too long, giant and 'negative': refused by the four bytes of the length alone."""
        for length in (0, LIMIT + 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF):
            reader = FrameReader(LIMIT)
            reader.receive(encode_frame(1, b"good"))
            reader.receive(length.to_bytes(4, "big"))
            self.assertEqual(reader.next_frame(), (1, b"good"))
            self.assertRaises(FrameTooLong, reader.next_frame)

    def test_first_error_is_final(self):
        """After an error nothing is taken or kept, good frames neither."""
        reader = FrameReader(LIMIT)
        reader.receive(bytes(4))
        self.assertRaises(FrameTooLong, reader.next_frame)
        for _ in range(3):
            reader.receive(encode_frame(1, b"good"))
            self.assertRaises(FrameTooLong, reader.next_frame)
            self.assertRaises(FrameTooLong, reader.next_frame_size)
        self.assertEqual(reader.buffered, 0)

    def test_bound_grows_once_the_peer_is_known(self):
        """A small bound for strangers can be raised between two frames."""
        reader = FrameReader(10)
        reader.receive(encode_frame(1, b"hello"))
        self.assertEqual(reader.next_frame(), (1, b"hello"))
        reader.limit = LIMIT
        reader.receive(encode_frame(2, bytes(50)))
        self.assertEqual(reader.next_frame(), (2, bytes(50)))

    def test_giant_length_allocates_nothing(self):
        """What is announced is not set aside."""
        reader = FrameReader(APPEND_FRAME_LIMIT)
        reader.receive(b"\0\x10\0\0\1")
        self.assertLess(peak_memory(reader.next_frame), 1 << 16)
        self.assertIsNone(reader.next_frame())

    def test_trickle(self):
        """A large frame that comes in tiny chunks takes about the memory of its bytes, and comes out whole."""
        frame = encode_frame(7, b"trickle." * 16_000)
        reader = FrameReader(APPEND_FRAME_LIMIT)

        def receive() -> None:
            for at in range(0, len(frame), 3):
                reader.receive(frame[at : at + 3])

        self.assertLess(peak_memory(receive), 2 * len(frame))
        self.assertEqual(reader.next_frame(), (7, b"trickle." * 16_000))

    def test_large_and_small_chunks(self):
        """Frames whose length, type or end lies in another chunk than the rest, small chunks behind large ones."""
        frames = [(one, bytes([one]) * size) for one, size in enumerate((0, 1, SMALL, 3 * SMALL, 5, 10 * SMALL))]
        data = b"".join(encode_frame(*frame) for frame in frames)
        for cut in (SMALL - 1, SMALL, SMALL + 7, 2 * SMALL + 3):
            for small in (1, 3, 4, 5):
                reader, found, at = FrameReader(APPEND_FRAME_LIMIT), [], 0
                while at < len(data):
                    reader.receive(data[at : at + cut])
                    reader.receive(data[at + cut : at + cut + small])
                    at += cut + small
                    found += frames_of(reader)
                self.assertEqual((found, reader.buffered), (frames, 0))

    def test_spent_bytes_are_let_go(self):
        """A reader that is drained after each piece keeps no more than a piece."""
        reader = FrameReader(LIMIT)
        data = encode_frame(1, bytes(90)) * 20

        def run() -> None:
            for _ in range(500):
                reader.receive(data)
                frames_of(reader)

        self.assertLess(peak_memory(run), 1 << 17)
