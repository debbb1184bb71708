"""The admin secret: 32 random bytes, kept passphrase-encrypted in one printable file, and the keys from it.

protocol-spec.md §11. The file is text: a first line, then base64 of::

    0   4    magic "MADM"
    4   1    version, 1
    5   1    suite, 1 (scrypt, AES-256-GCM)
    6   1    scrypt log2 N, 15 to 20
    7   1    0
    8   16   salt
    24  48   the secret, sealed; bytes 0-23 are associated data
"""

import base64
import binascii
import hashlib
import struct
from functools import cached_property

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from mastodon.sealed.errors import Forged, Malformed, Unsupported
from mastodon.sealed.purposes import Purpose, hkdf_expand, hkdf_extract, sha256
from mastodon.sealed.record import raw_public_key

SECRET_LENGTH = 32
FIRST_LINE = "mastodon admin secret, encrypted with its passphrase"
MAGIC = b"MADM"
VERSION = SUITE = 1
HEAD = struct.Struct(">4sBBBB16s")
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
    head = HEAD.pack(MAGIC, VERSION, SUITE, log_n, 0, salt)
    associated = Purpose.ADMIN_SECRET_FILE.prefix + head
    sealed = AESGCM(_file_key(passphrase, salt, log_n)).encrypt(bytes(12), secret, associated)
    body = base64.b64encode(head + sealed).decode("ascii")
    lines = [body[at : at + 48] for at in range(0, len(body), 48)]
    return "\n".join([FIRST_LINE, *lines, ""])


def decrypt_secret(content: str, passphrase: bytes) -> bytes:
    """The 32 bytes. Raises Malformed, Unsupported, or Forged for a wrong passphrase."""
    first, _, rest = content.strip().partition("\n")
    if first.strip() != FIRST_LINE:
        raise Malformed("not an admin secret: the first line is another")
    try:
        data = base64.b64decode("".join(rest.split()), validate=True)
    except binascii.Error as error:
        raise Malformed(f"admin secret: {error}") from None
    if len(data) != HEAD.size + SECRET_LENGTH + 16:
        raise Malformed("admin secret: cut short, or with something behind it")
    magic, version, suite, log_n, zero, salt = HEAD.unpack_from(data)
    if magic != MAGIC or zero:
        raise Malformed("not an admin secret")
    if version != VERSION or suite != SUITE:
        raise Unsupported(f"admin secret of version {version}, suite {suite}")
    if not LOG_N_LEAST <= log_n <= LOG_N_MOST:
        raise Malformed(f"admin secret: scrypt log N {log_n} is outside {LOG_N_LEAST} to {LOG_N_MOST}")
    associated = Purpose.ADMIN_SECRET_FILE.prefix + data[: HEAD.size]
    try:
        return AESGCM(_file_key(passphrase, salt, log_n)).decrypt(bytes(12), data[HEAD.size :], associated)
    except InvalidTag:
        raise Forged("wrong passphrase, or the admin secret's file was altered") from None


def _file_key(passphrase: bytes, salt: bytes, log_n: int) -> bytes:
    return hashlib.scrypt(passphrase, salt=salt, n=1 << log_n, r=8, p=1, maxmem=(1 << log_n) * 1280, dklen=32)
