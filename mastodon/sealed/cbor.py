"""Deterministic CBOR (RFC 8949 §4.2), strictly: one value has one encoding, and only that is taken.

protocol-spec.md §3. cbor2 takes long integers and trailing bytes, hence the re-encoding; it would make bignums, dates,
sets and shared values of tags, hence their refusal while it decodes.
Its canonical mode sorts map keys length-first (RFC 7049); our maps have keys 0-23 only, all of one length,
so that both orders are the same.
"""

from collections.abc import Collection
from itertools import chain, pairwise
from typing import Any, NoReturn

import cbor2

from mastodon.sealed.errors import Malformed

MAX_DEPTH = 16
"""In so many arrays and maps, one in the other, an item may stand."""
PLAIN = (int, bytes, str, bool, type(None))


def _refuse_tag(*_: object) -> NoReturn:
    raise ValueError("a tag")


# Every tag that cbor2 has a meaning for; the others come to the tag hook.
_TAGS = dict.fromkeys(
    (0, 1, 2, 3, 4, 5, 25, 28, 29, 30, 35, 36, 37, 100, 256, 258, 260, 261, 1004, 43000, 55799), _refuse_tag
)


def encode(value: Any) -> bytes:
    """The one encoding of ``value`` (integers, bytes, text, booleans, None, lists, maps keyed 0-23).

    Raises Malformed for text that is not Unicode, such as a name that the system gave with surrogates.
    """
    return _encode(value, True)


def encode_ordered(value: Any) -> bytes:
    """The same for a value whose maps already have their keys in ascending order, in a third of the time."""
    return _encode(value, False)


def array_head(length: int) -> bytes:
    """How an array of so many items begins; its items, each encoded, follow."""
    if length < 24:
        return bytes((0x80 + length,))
    for info, size in ((0x98, 1), (0x99, 2), (0x9A, 4)):
        if length < 1 << 8 * size:
            return bytes((info,)) + length.to_bytes(size, "big")
    raise Malformed(f"an array of {length} items")


def _encode(value: Any, sort: bool) -> bytes:
    try:
        return cbor2.dumps(value, canonical=sort)
    except UnicodeEncodeError as error:
        raise Malformed(f"text that is not Unicode: {error.reason}") from None


def decode(data: bytes | memoryview, limit: int) -> Any:
    """The value that ``data`` is the one encoding of.

    Raises Malformed when the data is longer than ``limit`` bytes, nested deeper than MAX_DEPTH, holds floats,
    tags or maps with other keys, or is not byte for byte what ``encode`` gives.
    """
    value = decode_untyped(data, limit)
    _check_types(value)
    return value


def decode_untyped(data: bytes | memoryview, limit: int) -> Any:
    """The same, but that of items and keys inside the types were not looked at: for a caller that looks at each."""
    if len(data) > limit:
        raise Malformed(f"{len(data)} bytes of CBOR, bound {limit}")
    data = bytes(data)
    try:
        value = cbor2.loads(
            data,
            tag_hook=_refuse_tag,
            semantic_decoders=_TAGS,
            max_depth=MAX_DEPTH,
            allow_indefinite=False,
            allow_duplicate_keys=False,
        )
        # The order of keys stays as found, and is checked below: to sort here would take three times as long.
        same = cbor2.dumps(value) == data
    except (cbor2.CBORError, ValueError, TypeError, OverflowError, RecursionError, MemoryError) as error:
        raise Malformed(f"not CBOR: {error}") from None
    if not same:
        raise Malformed("CBOR that is not deterministic, or has trailing bytes")
    return value


def check_maps(values: Collection[Any]) -> None:
    """Raise Malformed unless these are maps that have the keys 0 to 23, in ascending order; their items are not looked
    at. Of many that have the same keys one is looked at, which takes a third of the time."""
    if not {*map(type, values)} <= {dict} or not {*map(type, chain.from_iterable(values))} <= {int}:
        raise Malformed("something else than maps with keys from 0 to 23")
    for keys in {*map(tuple, values)}:
        if keys and (keys[0] < 0 or keys[-1] > 23 or any(one >= two for one, two in pairwise(keys))):
            raise Malformed(f"map keys {keys!r}: keys are 0 to 23, ascending")


def _check_types(value: Any) -> None:
    kind = type(value)
    if kind is list:
        for item in value:
            if type(item) not in PLAIN:
                _check_types(item)
    elif kind is dict:
        last = -1
        for key, item in value.items():
            if type(key) is not int or not last < key <= 23:
                raise Malformed(f"map key {key!r}: keys are 0 to 23, ascending")
            last = key
            if type(item) not in PLAIN:
                _check_types(item)
    elif kind not in PLAIN:
        raise Malformed(f"a {kind.__name__} where only integers, bytes, text, arrays and maps may stand")
