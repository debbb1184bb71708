"""The blob: one sealed piece of data.

protocol-spec.md §8::

    offset  size
    0       2     magic "MB"
    2       1     blob format version, 1
    3       1     suite, 1 (zstd, Padmé, AES-256-GCM, BLAKE3)
    4       1     kind
    5       1     kind version, 1
    6       1     critical flags: one that is not known is refused
    7       1     ignorable flags
    8       32    machine id
    40      32    run id
    72      32    blob id
    104     16    salt
    120     4     sealed length, the tag included
    124     4     number of references n
    128     2     length of the extension map e
    130     32 n  references: ids of the blobs that this one refers to, no duplicates
    130+32n e     extension map (schema.py), nothing where it is empty
    130+32n+e     sealed

Everything before the sealed part is associated data. The key, HKDF-Expand(run key, suite, id, salt), is used once,
hence nonce 0. Sealed is AES-256-GCM of::

    0       1     method: 0 stored, 1 zstd
    1       4     length of the plaintext
    5       4     length of the body
    9       n     body
    9+n           zeros up to the Padmé length (Nikitin et al., PETS 2019)
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

import zstandard
from blake3 import blake3
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from mastodon.sealed.errors import Forged, Malformed, Mismatch, Unsupported
from mastodon.sealed.purposes import Purpose, hkdf_expand
from mastodon.sealed.schema import EXTENSIONS_LIMIT, check_packed_extensions

MAGIC = b"MB"
VERSION = 1
SUITE = 1
KIND_VERSION = 1
HEAD = struct.Struct(">2sBBBBBB32s32s32s16sIIH")
INNER = struct.Struct(">BII")
ID_LENGTH = 32
SALT_LENGTH = 16
TAG_LENGTH = 16
NONCE = bytes(12)
STORED, ZSTD = 0, 1

SEALED_LEAST = INNER.size + TAG_LENGTH
PLAINTEXT_LIMIT = 16 * 1024 * 1024
SEALED_LIMIT = 18 * 1024 * 1024
"""Room for PLAINTEXT_LIMIT, stored, with its Padmé padding."""
REFERENCES_LIMIT = 1 << 17


class BlobKind(IntEnum):
    """What a blob is. 0 is never used; 7-127 are reserved; 128-255 are for experiments."""

    ROOT = 1
    PAGE = 2
    MAP = 3
    BUNDLE = 4
    CHUNK = 5
    DELTA = 6


LEVELS = {
    BlobKind.ROOT: 3,
    BlobKind.PAGE: 2,
    BlobKind.MAP: 1,
    BlobKind.BUNDLE: 0,
    BlobKind.CHUNK: 0,
    BlobKind.DELTA: 0,
}
"""References go strictly downwards; level 0 refers to nothing."""


@dataclass(frozen=True, slots=True)
class BlobHeader:
    """A blob's visible part. ``size`` counts header and sealed part together."""

    kind: BlobKind
    machine: bytes
    run: bytes
    id: bytes
    salt: bytes
    sealed_length: int
    references: tuple[bytes, ...]
    extension_length: int = 0

    @property
    def header_length(self) -> int:
        """Bytes before the sealed part."""
        return HEAD.size + ID_LENGTH * len(self.references) + self.extension_length

    @property
    def size(self) -> int:
        """Bytes of header and sealed part."""
        return self.header_length + self.sealed_length


def blob_id(id_key: bytes, kind: BlobKind, references: Sequence[bytes], plaintext: bytes | memoryview) -> bytes:
    """BLAKE3 keyed with id_key over kind, kind version, reference count, references and plaintext; 32 bytes."""
    head = Purpose.BLOB_ID.prefix + struct.pack(">BBI", kind, KIND_VERSION, len(references))
    state = blake3(head + b"".join(references), key=id_key)
    state.update(plaintext)
    return state.digest()


def padded_length(length: int) -> int:
    """The Padmé length: at most 12 % more, and O(log log) possible sizes."""
    if length < 2:
        return length
    exponent = length.bit_length() - 1
    low = exponent - exponent.bit_length()
    mask = (1 << low) - 1
    return (length + mask) & ~mask


COMPRESSION = zstandard.ZstdCompressionParameters(
    strategy=zstandard.STRATEGY_FAST, window_log=24, hash_log=17, min_match=6, write_content_size=True
)
"""Between zstd's levels 2 and 3 in size, and below level 2 in time: a table large enough for a whole bundle, and no
second one. A writer's choice, which readers need not know."""


class BlobSealer:
    """Seals blobs of one run. Keeps one compressor: use an own sealer in each thread."""

    def __init__(self, machine: bytes, run: bytes, run_key: bytes) -> None:
        self._machine = machine
        self._run = run
        self._run_key = run_key
        self._compressor = zstandard.ZstdCompressor(compression_params=COMPRESSION)

    def seal(
        self, kind: BlobKind, id: bytes, references: Sequence[bytes], plaintext: bytes | memoryview, salt: bytes
    ) -> bytes:
        """Header and sealed part. ``salt`` is 16 fresh random bytes.

        Raises Malformed for what no reader takes: too long a plaintext, too many references.
        """
        if len(plaintext) > PLAINTEXT_LIMIT or len(references) > REFERENCES_LIMIT:
            raise Malformed(f"a blob of {len(plaintext)} bytes and {len(references)} references is beyond its bounds")
        body: bytes | memoryview = self._compressor.compress(plaintext)
        method = ZSTD
        if len(body) >= len(plaintext):
            body, method = plaintext, STORED
        length = INNER.size + len(body)
        padding = padded_length(length) - length
        sealed_length = length + padding + TAG_LENGTH
        header = HEAD.pack(
            MAGIC, VERSION, SUITE, kind, KIND_VERSION, 0, 0,
            self._machine, self._run, id, salt, sealed_length, len(references), 0,
        ) + b"".join(references)  # fmt: skip
        inner = b"".join((INNER.pack(method, len(plaintext), len(body)), body, bytes(padding)))
        return header + AESGCM(_blob_key(self._run_key, id, salt)).encrypt(NONCE, inner, header)


def parse_header(data: bytes | memoryview, offset: int = 0) -> BlobHeader:
    """The header at ``offset``. The sealed part need not be there.

    Raises Malformed when it is not one whole header within its bounds, Unsupported for a later format.
    """
    if offset < 0 or len(data) - offset < HEAD.size:
        raise Malformed("blob header cut short")
    magic, version, suite, kind, kind_version, critical, _, machine, run, id, salt, sealed, count, extended = (
        HEAD.unpack_from(data, offset)
    )
    if magic != MAGIC:
        raise Malformed("not a blob")
    if version != VERSION or suite != SUITE or critical or kind_version != KIND_VERSION:
        raise Unsupported(f"blob of version {version}, suite {suite}, kind version {kind_version}, flags {critical:#x}")
    if kind not in LEVELS:
        raise Unsupported(f"blob of unknown kind {kind}")
    if not SEALED_LEAST <= sealed <= SEALED_LIMIT or count > REFERENCES_LIMIT or extended > EXTENSIONS_LIMIT:
        raise Malformed("blob header: lengths out of bounds")
    if not count and not extended:
        return BlobHeader(BlobKind(kind), machine, run, id, salt, sealed, ())
    if count and not LEVELS[BlobKind(kind)]:
        raise Malformed(f"a {BlobKind(kind).name.lower()} refers to nothing")
    start = offset + HEAD.size
    middle = start + count * ID_LENGTH
    if len(data) < middle + extended:
        raise Malformed("blob header cut short")
    check_packed_extensions("blob header", data[middle : middle + extended])
    packed = bytes(data[start:middle])
    references = tuple(packed[at : at + ID_LENGTH] for at in range(0, len(packed), ID_LENGTH))
    if len(set(references)) != count:
        raise Malformed("blob header: the same reference twice")
    return BlobHeader(BlobKind(kind), machine, run, id, salt, sealed, references, extended)


class BlobOpener:
    """Opens blobs of one machine. Keeps one decompressor: use an own opener in each thread."""

    def __init__(self, machine: bytes, id_key: bytes) -> None:
        self._machine = machine
        self._id_key = id_key
        self._decompressor = zstandard.ZstdDecompressor()

    def open(self, data: bytes | memoryview, header: BlobHeader, run_key: bytes, expected: bytes) -> bytes:
        """The plaintext of the blob ``data`` (header and sealed part), which must have the id ``expected``.

        Gives nothing before the full id is recomputed: opening alone proves nothing. Raises Forged when seal or
        id do not fit, Mismatch for another machine or id, Malformed for a lying length (bombs included).
        """
        if header.machine != self._machine or header.id != expected:
            raise Mismatch("a blob of another id or machine than was asked for")
        if len(data) != header.size:
            raise Malformed("the blob's length does not fit its header")
        view = memoryview(data)
        associated, sealed = bytes(view[: header.header_length]), view[header.header_length :]
        try:
            inner = AESGCM(_blob_key(run_key, header.id, header.salt)).decrypt(NONCE, sealed, associated)
        except InvalidTag:
            raise Forged("the blob does not open with the run's key") from None
        plaintext = self._unwrap(inner)
        if blob_id(self._id_key, header.kind, header.references, plaintext) != expected:
            raise Forged("the blob's content does not have its id")
        return plaintext

    def _unwrap(self, inner: bytes) -> bytes:
        method, length, body_length = INNER.unpack_from(inner)
        end = INNER.size + body_length
        if length > PLAINTEXT_LIMIT or end > len(inner) or len(inner) != padded_length(end):
            raise Malformed("blob: lengths inside do not fit")
        if inner.count(0, end) != len(inner) - end:
            raise Malformed("blob: padding that is not zero")
        body = memoryview(inner)[INNER.size : end]
        if method == STORED:
            if body_length != length:
                raise Malformed("blob: a stored body of another length")
            return bytes(body)
        if method != ZSTD:
            raise Unsupported(f"blob: unknown method {method}")
        if body_length >= length:
            raise Malformed("blob: compressed to more than it was")
        return self._decompress(body, length)

    def _decompress(self, body: memoryview, length: int) -> bytes:
        try:
            if zstandard.frame_content_size(body) != length:
                raise Malformed("blob: the compressed frame has another length than stated")
            plaintext = self._decompressor.decompress(body, max_output_size=length, allow_extra_data=False)
        except zstandard.ZstdError as error:
            raise Malformed(f"blob: {error}") from None
        if len(plaintext) != length:
            raise Malformed("blob: decompressed to another length than stated")
        return plaintext


def _blob_key(run_key: bytes, id: bytes, salt: bytes) -> bytes:
    return hkdf_expand(run_key, Purpose.BLOB_KEY, bytes([SUITE]) + id + salt)
