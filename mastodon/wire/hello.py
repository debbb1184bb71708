"""HELLO's signature: proves the machine's key to exactly this server, in exactly this session.

protocol-spec.md §15. It covers the greeting's nonce, the hash of the server key that the agent sees, the machine id
and the negotiated version; so it can neither be replayed nor relayed through another server.
"""

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from mastodon.sealed.purposes import Purpose

VERSION = 1
"""The newest version of the wire, and the only one so far."""
OLDEST_VERSION = 1
"""The oldest one that a server speaks: at least that of the agents of the two releases before."""


def sign_hello(signing_key: Ed25519PrivateKey, nonce: bytes, server_pin: bytes, machine: bytes, version: int) -> bytes:
    """The 64-byte signature."""
    return signing_key.sign(_signed(nonce, server_pin, machine, version))


def hello_fits(
    signature: bytes, public_key: bytes, nonce: bytes, server_pin: bytes, machine: bytes, version: int
) -> bool:
    """Whether the signature was made by ``public_key`` for this nonce, server, machine and version."""
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, _signed(nonce, server_pin, machine, version))
    except (InvalidSignature, ValueError):
        return False
    return True


def _signed(nonce: bytes, server_pin: bytes, machine: bytes, version: int) -> bytes:
    return Purpose.SIGN_HELLO.prefix + nonce + server_pin + machine + version.to_bytes(2, "big")
