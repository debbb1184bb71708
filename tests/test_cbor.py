"""CBOR: one value has one encoding, and nothing else is taken."""

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mastodon.sealed import cbor
from mastodon.sealed.errors import Malformed
from tests.hostile import peak_memory, quick

LIMIT = 1 << 20
PLAIN = st.one_of(
    st.integers(-(1 << 64), (1 << 64) - 1), st.binary(max_size=40), st.text(max_size=20), st.booleans(), st.none()
)
VALUES = st.recursive(
    PLAIN,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.integers(0, 23), inner, max_size=5),
    max_leaves=20,
)

# What is refused, and why it would be dangerous to take.
REFUSED = {
    "a long integer": "1801",
    "a long length": "580161",
    "an indefinite array": "9fff",
    "an indefinite string": "5f4161ff",
    "a trailing byte": "0000",
    "nothing": "",
    "a half-precision float": "f93c00",
    "a double": "fb3ff0000000000000",
    "not a number": "f97e00",
    "undefined": "f7",
    "a simple value": "e5",
    "a bignum": "c249010000000000000000",
    "a negative bignum": "c349010000000000000000",
    "a date": "c11a514b67b0",
    "a date in text": "c074323031332d30332d32315432303a30343a30305a",
    "a fraction": "c48221196ab3",
    "a set": "d9010280",
    "a shared value": "d81c80",
    "a reference to itself": "d81c81d81d00",
    "a string table": "d9010080",
    "a tag of no meaning": "d9ffff00",
    "a key of text": "a1616100",
    "a key beyond 23": "a1181800",
    "a negative key": "a12000",
    "a key that is true": "a1f500",
    "the same key twice": "a200000001",
    "keys out of order": "a201000000",
    "text that is not UTF-8": "62eda0",
    "text that is a surrogate": "63eda080",
    "an array cut short": "8200",
    "bytes cut short": "4361",
    "an item inside 17 arrays": "81" * 17 + "00",
}  # fmt: skip


class CborTests(SynchronousTestCase):
    @quick
    @given(VALUES)
    def test_round_trip(self, value):
        """What is encoded comes back the same, if it is not nested too deep."""
        data = cbor.encode(value)
        self.assertEqual(cbor.decode(data, LIMIT), value)

    @quick
    @given(VALUES)
    def test_one_encoding(self, value):
        """Maps in whatever order give the same bytes."""
        self.assertEqual(cbor.encode(_reversed(value)), cbor.encode(value))

    @quick
    @given(st.dictionaries(st.integers(0, 23), PLAIN))
    def test_ordered_encoding_is_the_same(self, value):
        """Where keys are ascending already, the quick encoder gives the same bytes."""
        self.assertEqual(cbor.encode_ordered(dict(sorted(value.items()))), cbor.encode(value))

    @quick
    @given(st.binary(max_size=60))
    def test_fuzz(self, data):
        """Any bytes are either refused as Malformed or are the one encoding of what they give."""
        try:
            value = cbor.decode(data, LIMIT)
        except Malformed:
            return
        self.assertEqual(cbor.encode(value), data)

    def test_head_of_an_array(self):
        """An array's head and its items one by one make the array."""
        for length in (0, 1, 23, 24, 255, 256, 65535, 65536):
            items = [number % 7 for number in range(length)]
            self.assertEqual(cbor.array_head(length) + b"".join(map(cbor.encode, items)), cbor.encode(items))

    def test_refused(self):
        """Each of these is Malformed."""
        for what, data in REFUSED.items():
            self.assertRaises(Malformed, cbor.decode, bytes.fromhex(data), LIMIT)
            with self.assertRaises(Malformed, msg=what):
                cbor.decode(b"\x81" + bytes.fromhex(data), LIMIT)

    def test_sixteen_deep_is_taken(self):
        """An item may stand inside 16 arrays, and not inside 17."""
        value: list[object] = []
        for _ in range(16):
            value = [value]
        self.assertEqual(cbor.decode(b"\x81" * 16 + b"\x80", LIMIT), value)
        self.assertRaises(Malformed, cbor.decode, b"\x81" * 17 + b"\x80", LIMIT)

    def test_limit_comes_first(self):
        """Longer than its bound is refused without a look inside."""
        self.assertEqual(cbor.decode(b"\x43abc", 4), b"abc")
        self.assertRaises(Malformed, cbor.decode, b"\x43abc", 3)

    def test_huge_lengths_allocate_nothing(self):
        """A few bytes that announce a terabyte cost next to nothing."""
        for head in ("5b", "7b", "9b", "bb"):
            data = bytes.fromhex(head + "000000ffffffffff")

            def decode(data: bytes = data) -> None:
                self.assertRaises(Malformed, cbor.decode, data, LIMIT)

            self.assertLess(peak_memory(decode), 1 << 20)

    def test_maps_by_their_keys(self):
        """Among many maps one with another key than the ascending 0 to 23 is found, also where it equals a good one."""
        good = [{0: 1, 23: 2.5}, {}, {0: "x", 23: {}}]
        cbor.check_maps(good)
        for bad in ({False: 1, 23: 2}, {23: 1, 0: 2}, {24: 1}, {-1: 1}, {"a": 1}, {0.0: 1}, [0], 7, None):
            self.assertRaises(Malformed, cbor.check_maps, [*good, bad])

    def test_text_with_surrogates_cannot_be_encoded(self):
        """A name that the system gave with surrogates is Malformed, not a crash."""
        self.assertRaises(Malformed, cbor.encode, ["\udc80"])
        self.assertRaises(Malformed, cbor.encode_ordered, {0: "\udc80"})


def _reversed(value):
    if isinstance(value, dict):
        return {key: _reversed(item) for key, item in reversed(value.items())}
    if isinstance(value, list):
        return [_reversed(item) for item in value]
    return value
