"""Signed records: one shape for everything that a machine, an admin or a daemon signs.

protocol-spec.md §4::

    offset  size
    0       4     magic "MSTD"
    4       1     record type
    5       1     format version, 1
    6       1     suite, 1 (Ed25519, SHA-256, AES-256-GCM, MLKEM768-X25519)
    7       1     0
    8       2     critical flags: one that is not known is refused
    10      2     ignorable flags
    12      4     length of the body
    16      n     body, deterministic CBOR map
    16+n    64    Ed25519 signature over purpose prefix, head and body

The signature covers the bytes received, never a re-encoding.
"""

import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import ClassVar, Self

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from mastodon.sealed import cbor
from mastodon.sealed.errors import Forged, Malformed, Unsupported
from mastodon.sealed.purposes import Purpose, sha256
from mastodon.sealed.schema import Body

MAGIC = b"MSTD"
VERSION = 1
SUITE = 1
HEAD = struct.Struct(">4sBBBBHHI")
SIGNATURE_LENGTH = 64


class RecordType(IntEnum):
    """What a record says. 0 is never used; 12-127 are reserved; 128-255 are for experiments."""

    PAIR = 1
    REENVELOPE = 2
    RUN = 3
    SNAPSHOT = 4
    BOOK = 5
    STATEMENT = 6
    ENROLMENT = 7
    ORDER = 8
    ADMIN_REQUEST = 9
    SUCCESSION = 10
    LEDGER_HEAD = 11


@dataclass(frozen=True, slots=True)
class Record(Body):
    """Base of all signed records. A subclass names its type, its signature's purpose and its bound."""

    TYPE: ClassVar[RecordType]
    PURPOSE: ClassVar[Purpose]
    LIMIT: ClassVar[int] = 16 * 1024

    def sign(self, signing_key: Ed25519PrivateKey) -> bytes:
        """The record's bytes, signed."""
        body = cbor.encode(self.to_body())
        self.from_body(cbor.decode(body, self.LIMIT))  # never sign what no reader takes
        signed = HEAD.pack(MAGIC, self.TYPE, VERSION, SUITE, 0, 0, 0, len(body)) + body
        if len(signed) + SIGNATURE_LENGTH > self.LIMIT:
            raise Malformed(f"{self.TYPE.name}: {len(signed)} bytes, bound {self.LIMIT}")
        return signed + signing_key.sign(self.PURPOSE.prefix + signed)

    @classmethod
    def verify(cls, data: bytes, public_key: bytes) -> Self:
        """The record in ``data``, signed by the raw Ed25519 ``public_key``.

        Raises Malformed, Unsupported, or Forged when the signature does not fit.
        """
        record = cls.read_unverified(data)
        cls.check_signature(data, public_key)
        return record

    @classmethod
    def check_signature(cls, data: bytes, public_key: bytes) -> None:
        """Raise Forged unless ``public_key`` signed ``data``."""
        try:
            key = Ed25519PublicKey.from_public_bytes(public_key)
            key.verify(data[-SIGNATURE_LENGTH:], cls.PURPOSE.prefix + data[:-SIGNATURE_LENGTH])
        except (InvalidSignature, ValueError):
            raise Forged(f"{cls.TYPE.name.lower()} record: the signature does not fit") from None

    @classmethod
    def read_unverified(cls, data: bytes) -> Self:
        """The record in ``data`` as it stands, its signature not looked at: for finding out whose it claims to be."""
        if not HEAD.size + SIGNATURE_LENGTH < len(data) <= cls.LIMIT:
            raise Malformed(f"{cls.TYPE.name.lower()} record of {len(data)} bytes")
        magic, kind, version, suite, zero, critical, _, length = HEAD.unpack_from(data)
        if magic != MAGIC or zero or kind != cls.TYPE:
            raise Malformed(f"no {cls.TYPE.name.lower().replace('_', ' ')} record")
        if version != VERSION or suite != SUITE or critical:
            what = f"version {version}, suite {suite}, flags {critical:#x}"
            raise Unsupported(f"{cls.TYPE.name.lower()} record of {what}")
        if HEAD.size + length + SIGNATURE_LENGTH != len(data):
            raise Malformed(f"{cls.TYPE.name.lower()} record: the length does not fit")
        return cls.from_body(cbor.decode(data[HEAD.size : HEAD.size + length], cls.LIMIT))


def record_hash(data: bytes) -> bytes:
    """The hash by which other records name this one: over every byte, signature included."""
    return sha256(Purpose.RECORD_HASH, data)


def raw_public_key(key: Ed25519PrivateKey) -> bytes:
    """The 32-byte public half."""
    return key.public_key().public_bytes_raw()
