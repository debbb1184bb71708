"""Entries: all metadata, one encoding, and nothing that no file system could hold."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mastodon.sealed import cbor
from mastodon.sealed.entry import (
    HOLE,
    MAX_FILE_SIZE,
    NAME_LIMIT,
    Delta,
    Entry,
    EntryFlag,
    EntryType,
    Place,
    check_first_use,
    decode_places,
    encode_places,
)
from mastodon.sealed.entry_codec import (
    check_name,
    decode_entry,
    encode_entry,
    join_entry,
    owner_name,
    pack_body,
    pack_entry,
)
from mastodon.sealed.errors import FormatError, Malformed, Unsupported
from tests import sealed_samples as samples
from tests.hostile import accepted_flips, quick

U32, U64 = st.integers(0, (1 << 32) - 1), st.integers(0, (1 << 64) - 1)
SIZES = st.integers(0, MAX_FILE_SIZE)
ANYTHING = st.integers() | st.binary() | st.text() | st.lists(st.integers() | st.lists(st.binary()))
TIMES = st.integers(-(1 << 70), 1 << 70)
OWNERS = st.text(max_size=30).filter(lambda name: owner_name(name) == name)
NAMES = st.binary(min_size=1, max_size=NAME_LIMIT).filter(
    lambda name: not set(name) & {0, 47} and name not in (b".", b"..")
)


@st.composite
def entries(draw):
    kind = draw(st.sampled_from(list(EntryType)))
    entry = Entry(
        draw(NAMES), kind, draw(st.integers(0, 0o7777)), draw(U32), draw(U32), draw(TIMES),
        user=draw(OWNERS), group=draw(OWNERS),
        birth_ns=draw(st.none() | TIMES),
        xattrs=tuple(sorted(draw(st.dictionaries(NAMES, st.binary(max_size=20), max_size=3)).items())),
        acl_names=tuple(
            (*qualifier, name)
            for qualifier, name in sorted(
                draw(st.dictionaries(st.tuples(st.sampled_from("ug"), U32), OWNERS, max_size=3)).items()
            )
        ),
        inode_flags=draw(U32), flags=EntryFlag(draw(st.integers(0, 3))), error=draw(st.integers(0, 65535)),
    )  # fmt: skip
    if kind is not EntryType.DIRECTORY:
        entry.link_group = draw(U64)
    if kind is EntryType.SYMLINK:
        entry.target = draw(st.binary(min_size=1, max_size=4096).filter(lambda target: 0 not in target))
    if kind in (EntryType.CHARACTER_DEVICE, EntryType.BLOCK_DEVICE):
        entry.rdev = (draw(U32), draw(U32))
    if kind is EntryType.FILE:
        _draw_content(draw, entry)
    return entry


def _draw_content(draw, entry):
    lengths = draw(st.lists(st.integers(1, 1 << 40), max_size=4))
    entry.places = tuple(
        Place(number, draw(st.integers(0, 1 << 20)), length) if draw(st.booleans()) else Place(HOLE, 0, length)
        for number, length in enumerate(lengths)
    )
    entry.size = sum(lengths)
    if lengths:
        entry.hash = draw(st.binary(min_size=32, max_size=32))
        if draw(st.booleans()):
            base = (Place(0, 0, 7), Place(3, 1, 8))
            entry.size = draw(st.integers(0, MAX_FILE_SIZE))
            entry.delta = Delta(1, b"b" * 32, 15, base)


def body_of(entry: Entry) -> dict[int, object]:
    return encode_entry(entry, {}, {})


FILE = body_of(samples.file_entry(b"name", Place(0, 0, 300)))
DIRECTORY = body_of(Entry(b"name", EntryType.DIRECTORY))
LINK = body_of(Entry(b"name", EntryType.SYMLINK, target=b"t"))
DEVICE = body_of(Entry(b"name", EntryType.BLOCK_DEVICE, rdev=(1, 2)))


def decoded(body: object, users: dict[int, str] | None = None) -> Entry:
    return decode_entry(body, users or {}, {}, 4)


class EntryTests(SynchronousTestCase):
    @quick
    @given(entries())
    def test_round_trip(self, entry):
        """Every entry comes back the same, through CBOR, from maps with ascending keys."""
        users: dict[int, str] = {}
        groups: dict[int, str] = {}
        body = encode_entry(entry, users, groups)
        data = cbor.encode_ordered(body)
        self.assertEqual(decode_entry(cbor.decode(data, 1 << 20), users, groups, 4), entry)

    @quick
    @given(entries())
    def test_packed_parts_are_the_same_entry(self, entry):
        """Put together from its parts, made from the entry or from its map, an entry has its one encoding."""
        users: dict[int, str] = {}
        groups: dict[int, str] = {}
        body = encode_entry(entry, users, groups)
        places = encode_places(entry.places)
        rest = {number: value for number, value in body.items() if number >= 18}
        for packed in (pack_entry(entry), pack_body(body)):
            self.assertEqual(join_entry(packed, places, rest), cbor.encode(body))

    def test_owners_differ_from_the_table(self):
        """A second name for one number is kept with its entry; the table's own name there is refused."""
        users = {1000: "alice"}
        body = encode_entry(Entry(b"n", EntryType.FIFO, uid=1000, user="mallory"), users, {})
        self.assertEqual(decode_entry(body, users, {}, 0).user, "mallory")
        self.assertRaises(Malformed, decode_entry, body | {19: "alice"}, users, {}, 0)
        self.assertEqual(decode_entry(body | {19: ""}, users, {}, 0).user, "")

    def test_owners_that_are_no_text(self):
        """A name with control characters or surrogates is kept as no name; the number is there."""
        for name in ("a\nb", "\udc80", "x" * 257, "\x9b2J"):
            users: dict[int, str] = {}
            entry = Entry(b"n", EntryType.FIFO, uid=5, user=name, acl_names=(("u", 5, name), ("u", 5, name)))
            body = cbor.decode(cbor.encode(encode_entry(entry, users, {})), 1000)
            result = decode_entry(body, users, {}, 0)
            self.assertEqual((result.user, result.uid, result.acl_names), ("", 5, (("u", 5, ""),)))

    def test_lists_are_sorted(self):
        """The order in which the system gave xattrs does not show."""
        entry = Entry(b"n", EntryType.FIFO, xattrs=((b"user.b", b"2"), (b"user.a", b"1")))
        self.assertEqual(decoded(body_of(entry)).xattrs, ((b"user.a", b"1"), (b"user.b", b"2")))

    def test_refused(self):
        """What contradicts itself, is out of bounds or is a default spelled out is Malformed."""
        for body, change in (
            (FILE, {2: 0o10000}), (FILE, {2: -1}), (FILE, {2: True}), (FILE, {3: 1 << 32}), (FILE, {4: -1}),
            (FILE, {5: [0]}), (FILE, {5: [0, 10**9]}), (FILE, {5: [0, -1]}), (FILE, {5: [1 << 63, 0]}),
            (FILE, {5: [True, 0]}), (FILE, {5: b""}), (FILE, {6: 299}), (FILE, {6: 1 << 63}), (FILE, {6: None}),
            (FILE, {6: -1}), (FILE, {7: b"short"}), (FILE, {7: None}), (FILE, {7: b""}), (FILE, {8: []}),
            (FILE, {8: [0, 0]}), (FILE, {8: [4, 0, 300]}), (FILE, {8: [-2, 0, 300]}), (FILE, {8: [-1, 1, 300]}),
            (FILE, {8: [0, -1, 300]}), (FILE, {8: [0, 0, 0, 0, 0, 300]}), (FILE, {8: [0, 0, True]}),
            (FILE, {8: None}), (FILE, {8: [0, 0, 1] * 300}), (FILE, {9: b"target"}), (FILE, {10: 0}),
            (FILE, {10: 1 << 64}), (FILE, {11: [1, 2]}), (FILE, {12: None}), (FILE, {12: [0]}), (FILE, {13: []}),
            (FILE, {13: [[b"b", b""], [b"a", b""]]}), (FILE, {13: [[b"a", b""], [b"a", b""]]}),
            (FILE, {13: [[b"", b""]]}), (FILE, {13: [[b"a\0", b""]]}), (FILE, {13: [[b"a", bytes(65537)]]}),
            (FILE, {13: [[bytes([number]) * 2, bytes(65536)] for number in range(1, 6)]}), (FILE, {14: []}),
            (FILE, {14: [["x", 1, ""]]}), (FILE, {14: [["u", 2, ""], ["u", 1, ""]]}), (FILE, {14: [[["u"], 1, ""]]}),
            (FILE, {15: 0}), (FILE, {16: 0}), (FILE, {16: 1 << 16}), (FILE, {17: 0}), (FILE, {17: 1 << 16}),
            (FILE, {18: [1, b"b" * 32, 9, [0, 0, 8]]}), (FILE, {18: []}), (FILE, {19: "\n"}), (FILE, {23: []}),
            (FILE, {18: None}), (DIRECTORY, {6: 0}), (DIRECTORY, {7: b"h" * 32}), (DIRECTORY, {8: [0, 0, 1]}),
            (DIRECTORY, {10: 5}), (DIRECTORY, {18: [1, b"b" * 32, 8, [0, 0, 8]]}), (DIRECTORY, {9: b"t"}),
            (LINK, {9: b""}), (LINK, {9: b"a\0"}), (LINK, {9: bytes(4097)}), (DEVICE, {11: [1]}),
            (DEVICE, {11: [1 << 32, 0]}), (DEVICE, {11: None}), (DEVICE, {6: 1}),
        ):  # fmt: skip
            self.assertRaises(Malformed, decoded, body | change)

    def test_missing(self):
        """Each of the first six fields, a file's size and hash, a link's target, a device's number have to be there."""
        for body, number in [*((DIRECTORY, number) for number in range(6)), (FILE, 6), (FILE, 7), (FILE, 8), (LINK, 9),
                             (DEVICE, 11)]:  # fmt: skip
            short = {key: value for key, value in body.items() if key != number}
            self.assertRaises(Malformed, decoded, short)
        nothings: tuple[object, ...] = (None, [], b"", {})
        for nothing in nothings:
            self.assertRaises(Malformed, decoded, nothing)

    def test_content_that_could_not_be_read(self):
        """A file without content is only taken with the error that says why; an empty one needs none."""
        body = {number: value for number, value in FILE.items() if number not in (7, 8)}
        self.assertRaises(Malformed, decoded, body)
        self.assertEqual(decoded(body | {17: 13}).error, 13)
        self.assertEqual(decoded(body | {6: 0}).places, ())
        self.assertRaises(Malformed, decoded, body | {6: 0, 18: [1, b"b" * 32, 8, [0, 0, 8]]})

    def test_later_releases(self):
        """Unknown types, critical flags, delta methods and fields are Unsupported; ignorable ones are ignored."""
        for change in ({1: 8}, {1: 0}, {1: True}, {16: 4}, {16: 0x80}, {21: 1}, {18: [2, b"b" * 32, 8, [0, 0, 8]]},
                       {18: [True, b"b" * 32, 8, [0, 0, 8]]}, {23: [[1, b""]]}):  # fmt: skip
            self.assertRaises(Unsupported, decoded, FILE | change)
        self.assertEqual(decoded(FILE | {16: 0x8001}).flags, EntryFlag.FUZZY)
        self.assertEqual(decoded(FILE | {23: [[2, b""]]}), decoded(FILE))

    def test_hole_as_long_as_a_file_can_be(self):
        """Sizes go up to 2^63 - 1."""
        entry = replace(samples.file_entry(b"n", Place(HOLE, 0, MAX_FILE_SIZE)))
        self.assertEqual(decoded(body_of(entry)).size, MAX_FILE_SIZE)

    @quick
    @given(
        st.dictionaries(
            st.integers(0, 23),
            st.integers() | st.binary() | st.text() | st.lists(st.integers() | st.lists(st.binary())),
        )
    )
    def test_fuzz(self, changes):
        """Whatever stands in the fields, an entry or a FormatError comes out, and an entry has one encoding."""
        for body in (FILE, DIRECTORY, LINK, DEVICE):
            try:
                entry = decoded(body | changes)
            except FormatError:
                continue
            self.assertEqual(decoded(body_of(entry)).name, entry.name)

    def test_flips(self):
        """A flip in an entry's bytes gives another entry or a FormatError."""
        data = cbor.encode(FILE)
        original = decoded(FILE, {1000: "alice"})
        taken = accepted_flips(lambda one: decoded(cbor.decode(one, 1000), {1000: "alice"}), data, FormatError)
        self.assertNotIn(original, [entry for results in taken.values() for entry in results])


class NamesTests(SynchronousTestCase):
    def test_names(self):
        """What no directory can hold is refused: a name that would lead elsewhere above all."""
        for name in (b"a", b"\xff\n\x1b", b"x" * 255, b"...", b" "):
            self.assertEqual(check_name(name), name)
        for bad in (b"", b".", b"..", b"a/b", b"/", b"a\0", b"x" * 256, "text", None, 5):
            self.assertRaises(Malformed, check_name, bad)

    def test_empty_name_comes_first_only(self):
        """The empty component belongs to sources, and to the first place."""
        self.assertEqual(check_name(b"", first=True), b"")


class PlacesTests(SynchronousTestCase):
    @quick
    @given(
        st.lists(st.tuples(st.integers(0, 9), st.integers(0, MAX_FILE_SIZE), st.integers(1, MAX_FILE_SIZE)), max_size=9)
    )
    def test_round_trip(self, rows):
        """Places come back from their flat array."""
        places = tuple(Place(*row) for row in rows)
        self.assertEqual(decode_places(encode_places(places), 10), places)

    def test_first_use(self):
        """New references come in ascending order, holes and old ones anywhere."""
        places = [Place(0, 0, 1), Place(HOLE, 0, 1), Place(1, 0, 1), Place(0, 5, 1), Place(2, 0, 1)]
        self.assertEqual(check_first_use(places), 3)
        self.assertEqual(check_first_use(places[4:], 2), 3)
        self.assertRaises(Malformed, check_first_use, places[2:])
