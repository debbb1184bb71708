"""Bodies: every field is checked, what is not known is refused unless it says that it may be ignored."""

from dataclasses import dataclass
from enum import IntEnum

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mastodon.sealed import cbor
from mastodon.sealed.errors import Malformed, Unsupported
from mastodon.sealed.schema import (
    Body,
    array,
    boolean,
    check_packed_extensions,
    choice,
    clean_text,
    key,
    nested,
    octets,
    octets_or_none,
    row,
    text,
    unsigned,
)
from tests.hostile import quick


class Colour(IntEnum):
    RED = 1


@dataclass(frozen=True, slots=True)
class Inner(Body):
    number: int = key(0, unsigned(8))


@dataclass(frozen=True, slots=True)
class Sample(Body):
    hash: bytes = key(0, octets(4))
    colour: Colour = key(1, choice(Colour))
    inner: tuple[Inner, ...] = key(2, array(nested(Inner), 2), default=())
    flag: bool = key(3, boolean, default=False)

    def check_whole(self):
        if self.flag and not self.inner:
            raise Malformed("a flag without an inner")


GOOD = {0: b"hash", 1: 1}


class BodyTests(SynchronousTestCase):
    def test_round_trip(self):
        """A body comes back from its map."""
        sample = Sample(b"hash", Colour.RED, (Inner(1), Inner(255)), True)
        self.assertEqual(Sample.from_body(cbor.decode(cbor.encode(sample.to_body()), 100)), sample)

    def test_defaults(self):
        """A field with a default may be absent."""
        self.assertEqual(Sample.from_body(GOOD), Sample(b"hash", Colour.RED))

    def test_refused(self):
        """Each of these is Malformed, and the text names the field."""
        for change, word in (
            ({0: b"hash!"}, "hash"), ({0: "hash"}, "hash"), ({1: True}, "colour"), ({1: "red"}, "colour"),
            ({2: [{0: 256}]}, "number"), ({2: [{0: -1}]}, "number"), ({2: [{0: True}]}, "number"),
            ({2: [{}]}, "number"), ({2: [3]}, "inner"), ({2: {}}, "inner"), ({2: [{0: 1}] * 3}, "inner"),
            ({3: 1}, "flag"), ({3: None}, "flag"), ({3: True}, "inner"),
        ):  # fmt: skip
            error = self.assertRaises(Malformed, Sample.from_body, GOOD | change)
            self.assertIn(word, str(error))
        bodies: list[object] = [[], None, b"", {0: b"hash"}, {1: 1}]
        for body in bodies:
            self.assertRaises(Malformed, Sample.from_body, body)

    def test_later_releases(self):
        """An unknown field or number is Unsupported: made by a later release."""
        self.assertRaises(Unsupported, Sample.from_body, GOOD | {9: 1})
        self.assertRaises(Unsupported, Sample.from_body, GOOD | {1: 2})

    def test_extensions(self):
        """Even extensions are ignored, odd ones refused, disorder is Malformed."""
        self.assertEqual(Sample.from_body(GOOD | {23: [[0, b""], [4, b"x"]]}), Sample.from_body(GOOD))
        self.assertRaises(Unsupported, Sample.from_body, GOOD | {23: [[0, b""], [1, b""]]})
        bads: list[object] = [
            [], [[4, b""], [2, b""]], [[2, b""], [2, b""]], [[2]], [[2, 2]], [["2", b""]], {}, [[-2, b""]],
            [[1 << 16, b""]], 0, [2], [[True, b""]],
        ]  # fmt: skip
        for bad in bads:
            self.assertRaises(Malformed, Sample.from_body, GOOD | {23: bad})

    def test_packed_extensions(self):
        """The same rules in a binary head; no bytes stand for none, and an encoded empty map is not canonical."""
        check_packed_extensions("x", b"")
        check_packed_extensions("x", cbor.encode([[2, b"y"]]))
        self.assertRaises(Malformed, check_packed_extensions, "x", cbor.encode([]))
        self.assertRaises(Malformed, check_packed_extensions, "x", b"\xff")
        self.assertRaises(Unsupported, check_packed_extensions, "x", cbor.encode([[3, b"y"]]))

    @quick
    @given(st.dictionaries(st.integers(0, 23), st.integers() | st.binary() | st.text() | st.lists(st.integers())))
    def test_fuzz(self, body):
        """Any map gives a body or one of the two errors."""
        try:
            Sample.from_body(body)
        except (Malformed, Unsupported):
            return
        self.assertEqual(body[0], Sample.from_body(body).hash)


class ChecksTests(SynchronousTestCase):
    def test_octets_or_none(self):
        """A hash that may be absent is whole or empty, nothing between."""
        check = octets_or_none(32)
        self.assertEqual((check(b""), check(bytes(32))), (b"", bytes(32)))
        for length in (1, 31, 33):
            self.assertRaises(Malformed, check, bytes(length))

    def test_unsigned(self):
        """64 bits and no more."""
        check = unsigned()
        self.assertEqual(check((1 << 64) - 1), (1 << 64) - 1)
        for value in (1 << 64, -1, True, "1", None, 1.0):
            self.assertRaises(Malformed, check, value)

    def test_text(self):
        """Bounded in bytes; what could drive a terminal, and what is no text, is refused."""
        check = text(4)
        self.assertEqual((check("ääßx"[:2]), check("")), ("ää", ""))
        for value in ("äää", "abcde", "\x1b", "\n", "\0", "\x7f", "\x9b", "\udc80", b"abc", 5):
            self.assertRaises(Malformed, check, value)

    def test_array_and_row(self):
        """Neither shorter nor longer than said."""
        self.assertEqual(array(unsigned(), 2, 1)([1, 2]), (1, 2))
        self.assertRaises(Malformed, array(unsigned(), 2, 1), [])
        self.assertRaises(Malformed, array(unsigned(), 2, 1), [1, 2, 3])
        self.assertEqual(row(unsigned(), octets(1))([1, b"x"]), (1, b"x"))
        self.assertRaises(Malformed, row(unsigned(), octets(1)), [1])

    @quick
    @given(st.text(), st.integers(1, 50))
    def test_clean_text_always_fits(self, value, most):
        """Whatever went in, the check takes what comes out."""
        self.assertLessEqual(len(text(most)(clean_text(value, most)).encode()), most)

    def test_clean_text_keeps_what_is_good(self):
        """Good text is left alone, also at the bound."""
        self.assertEqual(clean_text("größe", 7), "größe")
        self.assertEqual(clean_text("a\nb\udc80", 9), "a?b?")
        self.assertEqual(clean_text("äö", 3), "ä")
