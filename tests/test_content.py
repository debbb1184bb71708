"""A file's content: its whole hash, and maps for long lists of chunks."""

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mastodon.sealed import cbor
from mastodon.sealed.content import (
    MAP_PLACES_LIMIT,
    FileHasher,
    decode_map,
    encode_map,
    file_hash_key,
    places_length,
    whole_hash,
)
from mastodon.sealed.entry import HOLE, Place
from mastodon.sealed.errors import FormatError, Malformed, Unsupported
from tests.hostile import accepted_cuts, accepted_flips, quick

KEY = bytes(32)


def hashed(*parts: bytes | tuple[int, int], size: int, key: bytes = KEY) -> bytes:
    hasher = FileHasher(key)
    for part in parts:
        if isinstance(part, tuple):
            hasher.hole(*part)
        else:
            hasher.data(part)
    return hasher.digest(size)


class FileHashTests(SynchronousTestCase):
    @quick
    @given(st.lists(st.binary(max_size=50)))
    def test_pieces_do_not_matter(self, pieces):
        """However the data came, the hash is that of the whole."""
        whole = b"".join(pieces)
        self.assertEqual(hashed(*pieces, size=len(whole)), whole_hash(KEY, whole))

    def test_holes_size_and_key_count(self):
        """Another hole, place of a hole, size or key gives another hash; data cannot pass for a hole."""
        hole = (4096).to_bytes(8, "big") + (8192).to_bytes(8, "big")
        hashes = {
            hashed(b"data", (4096, 8192), size=12288),
            hashed(b"data", (4096, 8193), size=12288),
            hashed(b"data", (4097, 8192), size=12288),
            hashed(b"data", (4096, 8192), size=12289),
            hashed(b"data", (4096, 4096), (8192, 4096), size=12288),
            hashed(b"data", size=12288),
            hashed(b"data" + hole, size=12288),
            hashed(b"data", (4096, 8192), size=12288, key=b"\1" * 32),
        }
        self.assertEqual(len(hashes), 8)

    def test_key_is_derived(self):
        """Whoever knows a file's hash key does not know id_key."""
        self.assertNotEqual(file_hash_key(KEY), KEY)


PLACES = [Place(0, 0, 100), Place(HOLE, 0, 50), Place(1, 0, 70), Place(0, 0, 100)]


class MapTests(SynchronousTestCase):
    def test_round_trip(self):
        """Chunks and holes come back in order, a chunk that occurs twice too."""
        self.assertEqual(decode_map(encode_map(PLACES), 2), tuple(PLACES))
        self.assertEqual(places_length(PLACES), 320)

    def test_references(self):
        """Each visible reference is used, in order of first use, and none that is not there."""
        for references in (0, 1, 3):
            self.assertRaises(Malformed, decode_map, encode_map(PLACES), references)
        self.assertRaises(Malformed, decode_map, encode_map(PLACES[2:]), 2)

    def test_bounds(self):
        """No place, and more than there may be, are refused."""
        self.assertRaises(Malformed, decode_map, encode_map([]), 0)
        most = [Place(0, 0, 1)] * MAP_PLACES_LIMIT
        self.assertEqual(len(decode_map(encode_map(most), 1)), MAP_PLACES_LIMIT)
        self.assertRaises(Malformed, decode_map, encode_map([*most, Place(0, 0, 1)]), 1)

    def test_shape(self):
        """Anything but the places is refused; extensions follow their rule."""
        flat = [0, 0, 100]
        bodies: tuple[object, ...] = ([], {}, {0: 5}, {0: [0]}, {0: flat, 1: 0}, {0: flat, 23: []}, {0: ["0", 0, 1]})
        for body in bodies:
            self.assertRaises(Malformed, decode_map, cbor.encode(body), 1)
        self.assertEqual(decode_map(cbor.encode({0: flat, 23: [[2, b""]]}), 1), (Place(0, 0, 100),))
        self.assertRaises(Unsupported, decode_map, cbor.encode({0: flat, 23: [[1, b""]]}), 1)

    def test_hostile_bytes(self):
        """Each flip gives a FormatError or other places; cut or lengthened, a map is refused."""
        taken = accepted_flips(lambda one: decode_map(one, 2), encode_map(PLACES), FormatError)
        self.assertNotIn(tuple(PLACES), [result for results in taken.values() for result in results])
        self.assertEqual(accepted_cuts(lambda one: decode_map(one, 2), encode_map(PLACES), FormatError), [])
