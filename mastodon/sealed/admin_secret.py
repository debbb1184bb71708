"""The admin secret: 32 random bytes, kept passphrase-encrypted in one printable file, and the keys from it.

protocol-spec.md §11. The file is text: a first line, then base64 of::

    0   4    magic "MADM"
    4   1    version, 1
    5   1    suite, 1 (scrypt, AES-256-GCM)
    6   2    critical flags: one that is not known is refused
    8   2    ignorable flags
    10  1    scrypt log2 N, 15 to 20 (r = 8, p = 1)
    11  3    0
    14  2    length of the extension map e
    16  16   salt
    32  e    extension map (schema.py), nothing where it is empty
    32+e 48  the secret, sealed; what stands before it is associated data
"""

import base64
import hashlib
import struct
from functools import cached_property

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from mastodon.sealed.errors import Forged, Malformed, Unsupported
from mastodon.sealed.purposes import Purpose, hkdf_expand, hkdf_extract, sha256
from mastodon.sealed.record import raw_public_key
from mastodon.sealed.schema import EXTENSIONS_LIMIT, check_packed_extensions

SECRET_LENGTH = 32
SEALED_LENGTH = SECRET_LENGTH + 16
FILE_LIMIT = 16 * 1024
FIRST_LINE = "mastodon admin secret, encrypted with its passphrase"
MAGIC = b"MADM"
VERSION = SUITE = 1
HEAD = struct.Struct(">4sBBHHB3sH16s")
LOG_N = 17
LOG_N_LEAST, LOG_N_MOST = 15, 20


class AdminSecret:
    """The keys of one admin."""

    def __init__(self, secret: bytes) -> None:
        if len(secret) != SECRET_LENGTH:
            raise Malformed(f"an admin secret has {SECRET_LENGTH} bytes")
        self._root = hkdf_extract(Purpose.ADMIN_SECRET, secret)

    @cached_property
    def order_key(self) -> Ed25519PrivateKey:
        """Signs orders, statements and books."""
        return Ed25519PrivateKey.from_private_bytes(hkdf_expand(self._root, Purpose.ADMIN_ORDER_KEY))

    @cached_property
    def order_public(self) -> bytes:
        """The order key's raw public half: the pin in a machine's URL."""
        return raw_public_key(self.order_key)

    @cached_property
    def book_key(self) -> bytes:
        """Seals the book."""
        return hkdf_expand(self._root, Purpose.ADMIN_BOOK_KEY)

    @cached_property
    def tenant(self) -> bytes:
        """The tenant's id, 32 bytes."""
        return tenant_id(self.order_public)


def tenant_id(order_public: bytes) -> bytes:
    """The id of the tenant whose first order key this is."""
    return sha256(Purpose.TENANT_ID, order_public)


def successor_hash(order_public: bytes) -> bytes:
    """How an offline successor key is named before it is needed."""
    return sha256(Purpose.SUCCESSOR_HASH, order_public)


def encrypt_secret(secret: bytes, passphrase: bytes, salt: bytes, log_n: int = LOG_N) -> str:
    """The text of the secret's file; ``salt`` is 16 fresh random bytes."""
    head = HEAD.pack(MAGIC, VERSION, SUITE, 0, 0, log_n, bytes(3), 0, salt)
    associated = Purpose.ADMIN_SECRET_FILE.prefix + head
    sealed = AESGCM(_file_key(passphrase, salt, log_n)).encrypt(bytes(12), secret, associated)
    body = base64.b64encode(head + sealed).decode("ascii")
    lines = [body[at : at + 48] for at in range(0, len(body), 48)]
    return "\n".join([FIRST_LINE, *lines, ""])


def decrypt_secret(content: str, passphrase: bytes) -> bytes:
    """The 32 bytes. Raises Malformed, Unsupported, or Forged for a wrong passphrase."""
    data, associated, salt, log_n = _parse_file(content)
    try:
        sealed = data[-SEALED_LENGTH:]
        return AESGCM(_file_key(passphrase, salt, log_n)).decrypt(bytes(12), sealed, associated)
    except InvalidTag:
        raise Forged("wrong passphrase, or the admin secret's file was altered") from None


def _parse_file(content: str) -> tuple[bytes, bytes, bytes, int]:
    if len(content) > FILE_LIMIT:
        raise Malformed("not an admin secret: too long")
    first, _, rest = content.strip().partition("\n")
    if first.strip() != FIRST_LINE:
        raise Malformed("not an admin secret: the first line is another")
    try:
        data = base64.b64decode("".join(rest.split()), validate=True)
    except ValueError as error:
        raise Malformed(f"admin secret: {error}") from None
    if len(data) < HEAD.size + SEALED_LENGTH:
        raise Malformed("admin secret: cut short")
    magic, version, suite, critical, _, log_n, zero, extended, salt = HEAD.unpack_from(data)
    if magic != MAGIC or zero != bytes(3):
        raise Malformed("not an admin secret")
    if version != VERSION or suite != SUITE or critical:
        raise Unsupported(f"admin secret of version {version}, suite {suite}, flags {critical:#x}")
    if not LOG_N_LEAST <= log_n <= LOG_N_MOST:
        raise Malformed(f"admin secret: scrypt log N {log_n} is outside {LOG_N_LEAST} to {LOG_N_MOST}")
    if len(data) != HEAD.size + extended + SEALED_LENGTH or extended > EXTENSIONS_LIMIT:
        raise Malformed("admin secret: cut short, or with something behind it")
    check_packed_extensions("admin secret", data[HEAD.size : HEAD.size + extended])
    return data, Purpose.ADMIN_SECRET_FILE.prefix + data[: HEAD.size + extended], salt, log_n


def _file_key(passphrase: bytes, salt: bytes, log_n: int) -> bytes:
    salt = Purpose.ADMIN_SECRET_FILE.prefix + salt
    return hashlib.scrypt(passphrase, salt=salt, n=1 << log_n, r=8, p=1, maxmem=(1 << log_n) * 1280, dklen=32)
