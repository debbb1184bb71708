"""The machine secret: 32 random bytes in the machine's URL, and the keys that come from it.

protocol-spec.md §5. HKDF-SHA256 Extract with a fixed salt, one Expand per label. It never reaches the server.
"""

from functools import cached_property

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from mastodon.sealed.errors import Malformed
from mastodon.sealed.hpke import SealingKey
from mastodon.sealed.purposes import Purpose, hkdf_expand, hkdf_extract, sha256
from mastodon.sealed.record import raw_public_key

SECRET_LENGTH = 32


class MachineSecret:
    """The keys of one machine generation."""

    def __init__(self, secret: bytes) -> None:
        if len(secret) != SECRET_LENGTH:
            raise Malformed(f"a machine secret has {SECRET_LENGTH} bytes")
        self._root = hkdf_extract(Purpose.MACHINE_SECRET, secret)

    @cached_property
    def signing_key(self) -> Ed25519PrivateKey:
        """Signs HELLO, pair, run and snapshot records."""
        return Ed25519PrivateKey.from_private_bytes(hkdf_expand(self._root, Purpose.MACHINE_SIGNING_KEY))

    @cached_property
    def public_key(self) -> bytes:
        """The signing key's raw public half."""
        return raw_public_key(self.signing_key)

    @cached_property
    def machine_id(self) -> bytes:
        """32 bytes; one id per secret."""
        return machine_id(self.public_key)

    @cached_property
    def id_key(self) -> bytes:
        """Keys the blob ids and file hashes of this machine."""
        return hkdf_expand(self._root, Purpose.MACHINE_ID_KEY)

    @cached_property
    def chunker_seed(self) -> int:
        """Moves the cuts of large files, so that they cannot be told from sizes; 63 bits."""
        return int.from_bytes(hkdf_expand(self._root, Purpose.MACHINE_CHUNKER_SEED)[:8], "big") >> 1

    @cached_property
    def order_key(self) -> SealingKey:
        """Orders to this machine are sealed to it."""
        return SealingKey(hkdf_expand(self._root, Purpose.MACHINE_ORDER_KEY))

    @cached_property
    def pair_mac_key(self) -> bytes:
        """Keys the MAC by which an agent without state knows its own pair again."""
        return hkdf_expand(self._root, Purpose.MACHINE_PAIR_MAC_KEY)


def machine_id(public_key: bytes) -> bytes:
    """The id that belongs to a raw signing public key."""
    return sha256(Purpose.MACHINE_ID, public_key)


def id_key_commitment(id_key: bytes) -> bytes:
    """What a card keeps of id_key: enough to refuse another, nothing to read with."""
    return sha256(Purpose.ID_KEY_COMMITMENT, id_key)
