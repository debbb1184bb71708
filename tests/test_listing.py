"""Listings: in order across sections and pages, cut by content, found by binary search."""

from bisect import bisect_right
from dataclasses import replace

import cbor2
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mastodon.sealed import cbor, listing
from mastodon.sealed.entry import Entry, EntryType, Place
from mastodon.sealed.errors import FormatError, Malformed, Unsupported
from mastodon.sealed.listing import (
    PAGE_MAXIMUM,
    PAGE_MINIMUM,
    Root,
    Section,
    check_order,
    cuts_after,
    decode_page,
    encode_page,
    first_key,
    with_references,
)
from tests import sealed_samples as samples
from tests.hostile import accepted_cuts, accepted_flips, peak_memory, quick
from tests.test_entry_codec import NAMES

REFERENCES = samples.SECTION_REFERENCES
PATHS = st.lists(NAMES, max_size=5).map(tuple)


def page_of(*sections: Section) -> list[Section]:
    return decode_page(encode_page(sections), 0)


def fifo(name: bytes) -> Entry:
    return Entry(name, EntryType.FIFO)


def changed(**values: object) -> bytes:
    """A small page with parts of its CBOR exchanged."""
    body = {0: [[0, ""]], 1: [[0, ""]], 2: [[0, [b"d"], [{0: b"n", 1: 4, 2: 0, 3: 0, 4: 0, 5: [0, 0]}]]]}
    return cbor.encode(body | {int(name[1:]): value for name, value in values.items()})


ENTRY = {0: b"n", 1: 4, 2: 0, 3: 0, 4: 0, 5: [0, 0]}


class PageTests(SynchronousTestCase):
    def test_round_trip(self):
        """Entries of all types, with all fields, come back."""
        self.assertEqual(decode_page(encode_page(samples.sections()), REFERENCES), samples.sections())

    @quick
    @given(st.dictionaries(PATHS, st.sets(NAMES, min_size=1, max_size=4), min_size=1, max_size=12))
    def test_round_trips(self, tree):
        """Any directories and names, in order, come back, deep paths shortened or not."""
        sections = [Section(path, [fifo(name) for name in sorted(tree[path])]) for path in sorted(tree)]
        self.assertEqual(page_of(*sections), sections)

    def test_order_is_depth_first(self):
        """A directory's children stand together, and before those of its subdirectories."""
        self.assertLess((b"a",), (b"a", b"b"))
        page_of(Section((), [fifo(b"z")]), Section((b"a",), [fifo(b"z")]), Section((b"a", b"b"), [fifo(b"a")]))

    def test_disorder(self):
        """Entries or directories out of order, or twice, are Malformed."""
        one, two = Section((b"a",), [fifo(b"x")]), Section((b"b",), [fifo(b"x")])
        for sections in (
            [two, one], [one, one], [Section((b"a",), [fifo(b"y"), fifo(b"x")])],
            [Section((b"a",), [fifo(b"x"), fifo(b"x")])], [Section((b"a", b"c"), [fifo(b"x")]), one],
            [Section((b"a",), [])], [],
        ):  # fmt: skip
            self.assertRaises(Malformed, page_of, *sections)

    def test_sources(self):
        """The empty name stands first in a directory, for sources, and nowhere else."""
        page_of(Section((b"", b"mysql"), [fifo(b"dump")]), Section((b"a",), [fifo(b"x")]))
        self.assertRaises(Malformed, page_of, Section((b"a", b""), [fifo(b"x")]))
        self.assertRaises(Malformed, page_of, Section((), [fifo(b"")]))

    def test_hostile_names(self):
        """No directory and no entry may be named so that it leads elsewhere."""
        for name in (b"..", b".", b"a/b", b"a\0b", b"x" * 256):
            self.assertRaises(Malformed, page_of, Section((b"a", name), [fifo(b"x")]))
            self.assertRaises(Malformed, page_of, Section((b"a",), [fifo(name)]))

    def test_shape(self):
        """Anything but users, groups and sections in shortest form is Malformed."""
        self.assertEqual(len(decode_page(changed(), 0)), 1)
        changes: tuple[dict[str, object], ...] = (
            {"_2": []}, {"_2": [[0, [b"d"]]]}, {"_2": [[0, [b"d"], []]]}, {"_2": [[1, [b"d"], [ENTRY]]]},
            {"_2": [[-1, [b"d"], [ENTRY]]]}, {"_2": [[0, b"d", [ENTRY]]]}, {"_2": [[0, [b"d"], ENTRY]]}, {"_2": 5},
            {"_2": [[0, [b"d"], [ENTRY]], [0, [b"d", b"e"], [ENTRY]]]}, {"_2": [[True, [b"d"], [ENTRY]]]},
            {"_0": [[0, ""], [1, ""]]}, {"_0": []}, {"_0": [[0, ""], [0, ""]]}, {"_1": [[1, ""]]}, {"_0": [[0, "\n"]]},
            {"_0": {}}, {"_3": 1}, {"_23": []},
        )  # fmt: skip
        for values in changes:
            self.assertRaises(Malformed, decode_page, changed(**values), 0)
        self.assertEqual(len(decode_page(changed(_23=[[2, b""]]), 0)), 1)
        self.assertRaises(Unsupported, decode_page, changed(_23=[[1, b""]]), 0)
        self.assertRaises(Malformed, decode_page, cbor.encode([]), 0)

    def test_visible_and_sealed_references_agree(self):
        """A page whose header names more or fewer blobs than its entries use is refused."""
        plaintext = encode_page(samples.sections())
        for references in (0, REFERENCES - 1, REFERENCES + 1):
            self.assertRaises(Malformed, decode_page, plaintext, references)

    def test_references_in_order_of_first_use(self):
        """The same content has one page: references in another order are refused."""
        moved = with_references(samples.sections(), {0: 1, 1: 0})
        self.assertEqual(moved[0].entries[7].places, (Place(1, 0, 300),))
        delta = moved[1].entries[1].delta
        self.assertTrue(delta and delta.base_places == (Place(1, 0, 800),))
        self.assertRaises(Malformed, decode_page, encode_page(moved), REFERENCES)

    def test_hostile_bytes(self):
        """Each flip gives a FormatError or another page; cut or lengthened, a page is refused."""
        plaintext, sections = encode_page(samples.sections()), samples.sections()
        taken = accepted_flips(lambda one: decode_page(one, REFERENCES), plaintext, FormatError)
        self.assertNotIn(sections, [result for results in taken.values() for result in results])
        self.assertEqual(accepted_cuts(lambda one: decode_page(one, REFERENCES), plaintext, FormatError), [])

    def test_strange_items_and_keys(self):
        """A float, a truth value or a map anywhere in a page is refused, as is a key that is true where 1 should be."""
        page = cbor2.loads(encode_page(samples.sections()))
        places = list(_places_in(page))
        self.assertGreater(len(places), 100)
        for holder, at in places:
            original = holder[at]
            for strange in (1.5, True, {5: 1.5}):
                holder[at] = strange
                self.assertRaises(FormatError, decode_page, cbor2.dumps(page), REFERENCES)
            holder[at] = original
        self.assertEqual(decode_page(cbor2.dumps(page), REFERENCES), samples.sections())
        page[2][0][2][0] = _with_true_as_key(page[2][0][2][0])
        self.assertRaises(FormatError, decode_page, cbor2.dumps(page), REFERENCES)
        page = _with_true_as_key(cbor2.loads(encode_page(samples.sections())))
        self.assertRaises(FormatError, decode_page, cbor2.dumps(page), REFERENCES)

    @quick
    @given(st.binary(max_size=100))
    def test_fuzz(self, data):
        """Any bytes give a page or a FormatError."""
        try:
            decode_page(data, 0)
        except FormatError:
            return

    def test_deep_directories_cannot_fill_memory(self):
        """Short as they are written, many very deep directories in one page are refused, by writer and reader."""
        deep = [[0, [b"d"] * 60_000, [ENTRY]], [60_000, [b"0000"], [ENTRY]]]
        deep += [[60_000, [b"%04d" % number], [ENTRY]] for number in range(1, 1000)]
        plaintext = cbor.encode({0: [[0, ""]], 1: [[0, ""]], 2: deep})

        def decode() -> None:
            self.assertRaises(Malformed, decode_page, plaintext, 0)

        self.assertLess(peak_memory(decode), 80 << 20)
        path = (b"d",) * 60_000
        sections = [Section((*path, b"%04d" % number), [fifo(b"x")]) for number in range(100)]
        self.assertRaises(Malformed, encode_page, sections)
        self.assertEqual(page_of(*sections[:5])[4].directory[-1], b"0004")

    def test_one_directory_as_deep_as_can_be(self):
        """A path far beyond PATH_MAX has its place."""
        path = (b"d" * 200,) * 4000
        self.assertEqual(page_of(Section(path, [fifo(b"x")]))[0].directory, path)


class CutTests(SynchronousTestCase):
    def test_bounds(self):
        """No page ends below the minimum, and each does at the maximum, of bytes or of names."""
        self.assertFalse(any(cuts_after(b"%d" % number, PAGE_MINIMUM - 1) for number in range(2000)))
        self.assertTrue(all(cuts_after(b"%d" % number, PAGE_MAXIMUM) for number in range(20)))
        self.assertTrue(cuts_after(b"x", 0, listing.NAMES_MAXIMUM))

    def test_cuts_follow_the_name(self):
        """Between the bounds, a page ends at about one name in CUT_ODDS, wherever the page began."""
        cuts = [number for number in range(20_000) if cuts_after(b"%d" % number, PAGE_MINIMUM)]
        self.assertEqual(cuts, [number for number in range(20_000) if cuts_after(b"%d" % number, PAGE_MAXIMUM - 1)])
        self.assertTrue(10 < len(cuts) < 70, len(cuts))


class OrderTests(SynchronousTestCase):
    def test_pages_in_order(self):
        """Pages pass through in order; one that does not come after the one before is Malformed."""
        one, two = [Section((b"a",), [fifo(b"x")])], [Section((b"a",), [fifo(b"y")]), Section((b"b",), [fifo(b"a")])]
        self.assertEqual(list(check_order([one, two])), [one, two])
        self.assertEqual(first_key(two), ((b"a",), b"y"))
        for pages in ([two, one], [one, one]):
            self.assertRaises(Malformed, list, check_order(pages))


class RootTests(SynchronousTestCase):
    def test_round_trip(self):
        """A root comes back, its first keys shortened on the way."""
        plaintext = samples.root().encode()
        self.assertEqual(Root.decode(plaintext, 2), samples.root())
        self.assertEqual(plaintext.count(b"etc"), 2, "once as a root, once in the first keys")

    def test_references(self):
        """As many pages as first keys, no more and no fewer."""
        for references in (0, 1, 3):
            self.assertRaises(Malformed, Root.decode, samples.root().encode(), references)

    @quick
    @given(st.sets(st.tuples(PATHS, NAMES), max_size=20), st.tuples(PATHS, NAMES))
    def test_search(self, keys, wanted):
        """The page where a key would be is found as by any other search."""
        root = replace(samples.root(), first_keys=tuple(sorted(keys)))
        self.assertEqual(Root.decode(root.encode(), len(keys)), root)
        self.assertEqual(root.page_of(wanted), bisect_right(root.first_keys, wanted) - 1)

    def test_refused(self):
        """Pages out of order, names that lead elsewhere, facts beyond their bound: refused by writer and reader."""
        root = samples.root()
        for changes in (
            {"first_keys": tuple(reversed(root.first_keys))}, {"first_keys": (root.first_keys[0],) * 2},
            {"first_keys": (((b"..",), b"x"),)}, {"first_keys": (((), b""),)}, {"roots": ((b"a", b".."),)},
            {"roots": ((b"a/b",),)}, {"facts": tuple((f"f{number}", bytes(1 << 18)) for number in range(5))},
            {"hostname": "a\x1b[2J"}, {"entries": -1}, {"excludes": (b"",)},
        ):  # fmt: skip
            self.assertRaises(Malformed, replace(root, **changes).encode)

    def test_hostile_bytes(self):
        """Each flip gives a FormatError or another root; cut or lengthened, it is refused."""
        plaintext = samples.root().encode()
        taken = accepted_flips(lambda one: Root.decode(one, 2), plaintext, FormatError)
        self.assertNotIn(samples.root(), [result for results in taken.values() for result in results])
        self.assertEqual(accepted_cuts(lambda one: Root.decode(one, 2), plaintext, FormatError), [])

    def test_later_releases(self):
        """A critical extension stops the reader, an ignorable one does not."""
        body = samples.root().to_body()
        self.assertEqual(Root.decode(cbor.encode(body | {23: [[2, b""]]}), 2), samples.root())
        self.assertRaises(Unsupported, Root.decode, cbor.encode(body | {23: [[1, b""]]}), 2)


def _places_in(value):
    """Every place of an item inside a value: what holds it, and where."""
    for at, item in list(value.items() if isinstance(value, dict) else enumerate(value)):
        yield value, at
        if isinstance(item, dict | list):
            yield from _places_in(item)


def _with_true_as_key(value):
    """The same map, but that the key 1 is true."""
    return {True if number == 1 else number: item for number, item in value.items()}
