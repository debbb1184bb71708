"""The spool marker: says which spool a directory is, so that nothing is ever written blindly.

protocol-spec.md §18. The file ``mastodon-spool`` at the spool's top::

    0   4   magic "MSPL"
    4   1   layout version, 1
    5   1   suite, 1 (BLAKE3)
    6   2   critical flags: one that is not known is refused
    8   2   ignorable flags
    10  4   length of the body
    14  n   body, deterministic CBOR map
    14+n 32 BLAKE3 over the purpose's prefix and every byte before

The generation grows each time that a daemon takes the spool for writing, on all spools alike; one that comes up with
a lower generation than the others went back in time.
"""

import struct
from dataclasses import dataclass

from mastodon.sealed import cbor
from mastodon.sealed.errors import Forged, Malformed, Unsupported
from mastodon.sealed.purposes import Purpose, hasher
from mastodon.sealed.schema import Body, array, key, octets, octets_or_none, unsigned

MAGIC = b"MSPL"
LAYOUT_VERSION = 1
SUITE = 1
HEAD = struct.Struct(">4sBBHHI")
CHECKSUM_LENGTH = 32
MARKER_LIMIT = 16 * 1024
MARKER_NAME = "mastodon-spool"
SPOOL_ID_LENGTH = 16
SIBLINGS_LIMIT = 256


@dataclass(frozen=True, slots=True)
class SpoolMarker(Body):
    """``spool`` is a random UUID, ``siblings`` those of the other spools, ``chain`` the ledger chain of the daemon that
    writes here (empty before the first), ``servers`` the pins of its keys."""

    spool: bytes = key(0, octets(SPOOL_ID_LENGTH))
    generation: int = key(1, unsigned())
    siblings: tuple[bytes, ...] = key(2, array(octets(SPOOL_ID_LENGTH), SIBLINGS_LIMIT), default=())
    created_ns: int = key(3, unsigned(), default=0)
    chain: bytes = key(4, octets_or_none(16), default=b"")
    servers: tuple[bytes, ...] = key(5, array(octets(32), 8), default=())

    def encode(self) -> bytes:
        """The file's bytes."""
        body = cbor.encode(self.to_body())
        before = HEAD.pack(MAGIC, LAYOUT_VERSION, SUITE, 0, 0, len(body)) + body
        return before + _checksum(before)

    @classmethod
    def decode(cls, data: bytes) -> "SpoolMarker":
        """The marker in a file's bytes. Raises Malformed, Unsupported, or Forged for a wrong checksum."""
        if not HEAD.size + CHECKSUM_LENGTH < len(data) <= MARKER_LIMIT:
            raise Malformed(f"a spool marker of {len(data)} bytes")
        magic, version, suite, critical, _, length = HEAD.unpack_from(data)
        if magic != MAGIC:
            raise Malformed("not a spool marker")
        if version != LAYOUT_VERSION or suite != SUITE or critical:
            raise Unsupported(f"a spool of layout version {version}, suite {suite}, flags {critical:#x}")
        end = HEAD.size + length
        if len(data) != end + CHECKSUM_LENGTH:
            raise Malformed("spool marker: the length does not fit")
        if _checksum(data[:end]) != data[end:]:
            raise Forged("spool marker: the checksum does not fit")
        return cls.from_body(cbor.decode(data[HEAD.size : end], MARKER_LIMIT))


def _checksum(before: bytes) -> bytes:
    state = hasher(Purpose.SPOOL_MARKER)
    state.update(before)
    return state.digest()
