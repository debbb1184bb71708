"""Sealing to a public key: HPKE (RFC 9180) base mode with MLKEM768-X25519, HKDF-SHA256, AES-256-GCM.

The private key is kept as the 32-byte seed of draft-ietf-hpke-pq (SHAKE256 to the ML-KEM seed and the X25519
scalar), since the composite key has no serialisation of its own. The public key is the ML-KEM-768
encapsulation key followed by the X25519 one, 1,216 bytes. protocol-spec.md §2.
"""

import hashlib

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey, MLKEM768PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, MLKEM768X25519PrivateKey, MLKEM768X25519PublicKey, Suite

from mastodon.sealed.errors import Forged, Malformed

SEED_LENGTH = 32
MLKEM_PUBLIC_LENGTH = 1184
PUBLIC_KEY_LENGTH = MLKEM_PUBLIC_LENGTH + 32
OVERHEAD = 1120 + 16
"""A sealed message is this much longer than its payload: encapsulated key and tag."""

_SUITE = Suite(KEM.MLKEM768_X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)


class SealingKey:
    """The private half of a sealing pair, from its 32-byte seed."""

    def __init__(self, seed: bytes) -> None:
        if len(seed) != SEED_LENGTH:
            raise Malformed(f"a sealing key's seed has {SEED_LENGTH} bytes")
        expanded = hashlib.shake_256(seed).digest(96)
        self._mlkem = MLKEM768PrivateKey.from_seed_bytes(expanded[:64])
        self._x25519 = X25519PrivateKey.from_private_bytes(expanded[64:])
        self._key = MLKEM768X25519PrivateKey(self._mlkem, self._x25519)

    @property
    def public_key(self) -> bytes:
        """The raw public half, PUBLIC_KEY_LENGTH bytes."""
        return self._mlkem.public_key().public_bytes_raw() + self._x25519.public_key().public_bytes_raw()

    def open(self, sealed: bytes, info: bytes) -> bytes:
        """The payload. Raises Forged when it was sealed to another key or info, or altered."""
        try:
            return _SUITE.decrypt(sealed, self._key, info=info)
        except (InvalidTag, ValueError):
            raise Forged("the seal does not open with this key") from None


def seal(payload: bytes, public_key: bytes, info: bytes) -> bytes:
    """``payload`` sealed to the raw ``public_key``, bound to ``info``."""
    if len(public_key) != PUBLIC_KEY_LENGTH:
        raise Malformed(f"a sealing key has {PUBLIC_KEY_LENGTH} bytes")
    try:
        mlkem = MLKEM768PublicKey.from_public_bytes(public_key[:MLKEM_PUBLIC_LENGTH])
        x25519 = X25519PublicKey.from_public_bytes(public_key[MLKEM_PUBLIC_LENGTH:])
        return _SUITE.encrypt(payload, MLKEM768X25519PublicKey(mlkem, x25519), info=info)
    except ValueError as error:
        raise Malformed(f"not a sealing key: {error}") from None
