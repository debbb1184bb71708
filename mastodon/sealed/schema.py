"""Bodies of records and messages: frozen dataclasses that become CBOR maps and come back only if every field fits.

protocol-spec.md §3. Each field has a number (0-22) and a check. Key 23 is the extension map, an array of
[number, bytes] in ascending order: an odd number is critical and refused when unknown, an even one is ignored.
The same array, encoded, stands in the heads of packs, blobs and ledger segments.
"""

import re
from collections.abc import Callable
from dataclasses import MISSING, dataclass, field, fields
from enum import IntEnum
from typing import Any, Self

from mastodon.sealed import cbor
from mastodon.sealed.errors import Malformed, Unsupported

EXTENSIONS = 23
EXTENSIONS_LIMIT = 4096
"""Bytes of an extension map in the head of a binary structure."""

# C0, DEL and C1 can drive a terminal; surrogates are not text.
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")

Check = Callable[[Any], Any]
"""Takes what CBOR gave, returns the field's value, raises Malformed."""


def key(number: int, check: Check, **options: Any) -> Any:
    """A dataclass field kept under ``number`` in the body; with a default it may be absent."""
    return field(metadata={"number": number, "check": check}, **options)


def octets(length: int, most: int | None = None) -> Check:
    """Bytes of exactly ``length``, or of ``length`` to ``most``."""
    top = length if most is None else most

    def check(value: Any) -> bytes:
        if type(value) is not bytes or not length <= len(value) <= top:
            raise Malformed(f"expected {length}{'' if most is None else f' to {most}'} bytes")
        return value

    return check


def octets_or_none(length: int) -> Check:
    """Bytes of exactly ``length``, or none at all: a hash or id that may be absent."""

    def check(value: Any) -> bytes:
        if type(value) is not bytes or len(value) not in (0, length):
            raise Malformed(f"expected {length} bytes, or none")
        return value

    return check


def unsigned(bits: int = 64) -> Check:
    """An integer from 0 to 2^bits - 1."""

    def check(value: Any) -> int:
        if type(value) is not int or not 0 <= value < 1 << bits:
            raise Malformed(f"expected an unsigned integer of {bits} bits")
        return value

    return check


def text(most: int) -> Check:
    """Text of at most ``most`` bytes in UTF-8, without control characters (C0, DEL, C1)."""

    def check(value: Any) -> str:
        if type(value) is not str or len(value) > most or len(value.encode("utf-8", "surrogatepass")) > most:
            raise Malformed(f"expected text of at most {most} bytes")
        if _UNPRINTABLE.search(value):
            raise Malformed("text with control characters")
        return value

    return check


def clean_text(value: str, most: int) -> str:
    """``value`` made fit for a text field: what may not stand there becomes ``?``, what is too long is cut."""
    clean = _UNPRINTABLE.sub("?", value).encode("utf-8")
    return clean[:most].decode("utf-8", "ignore")


def boolean(value: Any) -> bool:
    """True or False."""
    if type(value) is not bool:
        raise Malformed("expected true or false")
    return value


def choice(enum: type[IntEnum]) -> Check:
    """A member of ``enum``; another number was made by a later release."""

    def check(value: Any) -> IntEnum:
        if type(value) is not int:
            raise Malformed(f"expected a number of {enum.__name__}")
        try:
            return enum(value)
        except ValueError:
            raise Unsupported(f"unknown {enum.__name__} {value}") from None

    return check


def array(check: Check, most: int, least: int = 0) -> Check:
    """``least`` to ``most`` items, each by ``check``, as a tuple."""

    def checked(value: Any) -> tuple[Any, ...]:
        if type(value) is not list or not least <= len(value) <= most:
            raise Malformed(f"expected an array of {least} to {most}")
        return tuple(check(item) for item in value)

    return checked


def row(*checks: Check) -> Check:
    """An array of exactly these, as a tuple."""

    def checked(value: Any) -> tuple[Any, ...]:
        if type(value) is not list or len(value) != len(checks):
            raise Malformed(f"expected an array of {len(checks)}")
        return tuple(check(item) for check, item in zip(checks, value, strict=True))

    return checked


def nested(kind: "type[Body]") -> Check:
    """Another body."""
    return kind.from_body


@dataclass(frozen=True, slots=True)
class Body:
    """Base of everything that travels or is kept as a CBOR map."""

    def to_body(self) -> dict[int, Any]:
        """The map to encode; fields that are None are left out."""
        body = {}
        for one in fields(self):
            value = getattr(self, one.name)
            if value is not None:
                body[one.metadata["number"]] = _plain(value)
        return body

    def check_whole(self) -> None:
        """Raise Malformed when fields that are good alone do not go together. Called on everything that is read."""

    @classmethod
    def from_body(cls, body: Any) -> Self:
        """The value that a decoded map stands for. Raises Malformed or Unsupported, naming the field."""
        if type(body) is not dict:
            raise Malformed(f"{cls.__name__}: expected a map")
        left = dict(body)
        if EXTENSIONS in left:
            check_extensions(cls.__name__, left.pop(EXTENSIONS))
        values = {}
        for one in fields(cls):
            number = one.metadata["number"]
            if number in left:
                try:
                    values[one.name] = one.metadata["check"](left.pop(number))
                except (Malformed, Unsupported) as error:
                    raise type(error)(f"{cls.__name__}.{one.name}: {error}") from None
            elif one.default is MISSING and one.default_factory is MISSING:
                raise Malformed(f"{cls.__name__}: field {one.name} is missing")
        if left:
            raise Unsupported(f"{cls.__name__}: unknown fields {sorted(left)}")
        value = cls(**values)
        value.check_whole()
        return value


def _plain(value: Any) -> Any:
    if isinstance(value, Body):
        return value.to_body()
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if isinstance(value, IntEnum):
        return int(value)
    return value


def check_extensions(where: str, extensions: Any) -> None:
    """Raise unless this is an extension map that asks nothing of us: Malformed, or Unsupported for a critical one."""
    last = -1
    if type(extensions) is not list or not extensions:
        raise Malformed(f"{where}: the extension map is not a filled array")
    for pair in extensions:
        if type(pair) is not list or len(pair) != 2 or type(pair[0]) is not int or type(pair[1]) is not bytes:
            raise Malformed(f"{where}: an extension is not [number, bytes]")
        if not last < pair[0] < 1 << 16:
            raise Malformed(f"{where}: extensions out of order or out of bounds")
        last = pair[0]
        if last & 1:
            raise Unsupported(f"{where}: needs extension {last}, which this release does not know")


def check_packed_extensions(where: str, packed: bytes | memoryview) -> None:
    """The same for the encoded map in a binary head, where no bytes stand for an empty one."""
    if packed:
        check_extensions(where, cbor.decode(packed, EXTENSIONS_LIMIT))
