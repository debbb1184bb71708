"""Deterministic CBOR (RFC 8949 §4.2), strictly: one value has one encoding, and only that is taken.

protocol-spec.md §3. cbor2 takes duplicate keys, long integers and trailing bytes, hence the re-encoding.
Its canonical mode sorts map keys length-first (RFC 7049); our maps have keys 0-23 only, all of one length,
so that both orders are the same.
"""

from typing import Any

import cbor2

from mastodon.sealed.errors import Malformed

MAX_DEPTH = 16
PLAIN = (int, bytes, str, bool, type(None))


def encode(value: Any) -> bytes:
    """The one encoding of ``value`` (integers, bytes, text, booleans, None, lists, maps keyed 0-23)."""
    return cbor2.dumps(value, canonical=True)


def decode(data: bytes | memoryview, limit: int) -> Any:
    """The value that ``data`` is the one encoding of.

    Raises Malformed when the data is longer than ``limit`` bytes, nested deeper than MAX_DEPTH, holds floats,
    tags or maps with other keys, or is not byte for byte what ``encode`` gives.
    """
    if len(data) > limit:
        raise Malformed(f"{len(data)} bytes of CBOR, bound {limit}")
    data = bytes(data)
    try:
        value = cbor2.loads(data, max_depth=MAX_DEPTH, allow_indefinite=False, allow_duplicate_keys=False)
        same = cbor2.dumps(value, canonical=True) == data
    except (cbor2.CBORError, ValueError, TypeError, OverflowError, RecursionError, MemoryError) as error:
        raise Malformed(f"not CBOR: {error}") from None
    if not same:
        raise Malformed("CBOR that is not deterministic, or has trailing bytes")
    _check_types(value)
    return value


def _check_types(value: Any) -> None:
    kind = type(value)
    if kind is list:
        for item in value:
            if type(item) not in PLAIN:
                _check_types(item)
    elif kind is dict:
        for key, item in value.items():
            if type(key) is not int or not 0 <= key <= 23:
                raise Malformed(f"map key {key!r}: keys are 0 to 23")
            if type(item) not in PLAIN:
                _check_types(item)
    elif kind not in PLAIN:
        raise Malformed(f"a {kind.__name__} where only integers, bytes, text, arrays and maps may stand")
