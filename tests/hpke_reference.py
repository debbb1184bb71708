"""HPKE (RFC 9180) base mode over a shared secret that is already known: an independent second opinion, and the way to
test vectors, since a library encapsulates with randomness of its own.

MLKEM768-X25519 is KEM 0x647a, with HKDF-SHA256 (0x0001) and AES-256-GCM (0x0002). `tests/vectors/xwing.json` holds the
secrets and encapsulations of draft-connolly-cfrg-xwing-kem, which is the same KEM.
"""

import hashlib
import hmac
import json
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

SUITE_ID = b"HPKE" + bytes.fromhex("647a00010002")


@dataclass(frozen=True, slots=True)
class Encapsulation:
    """A key pair's seed and public key, an encapsulation to it, and the shared secret inside."""

    seed: bytes
    public_key: bytes
    encapsulated: bytes
    shared: bytes


def published() -> list[Encapsulation]:
    """The published vectors."""
    path = Path(__file__).parent / "vectors" / "xwing.json"
    return [
        Encapsulation(*(bytes.fromhex(case[name]) for name in ("seed", "pk", "ct", "ss")))
        for case in json.loads(path.read_text())["cases"]
    ]


def seal_known(to: Encapsulation, payload: bytes, info: bytes) -> bytes:
    """What sealing ``payload`` gives where the encapsulation came out as ``to``."""
    context = b"\0" + _extract(b"", b"psk_id_hash", b"") + _extract(b"", b"info_hash", info)
    secret = _extract(to.shared, b"secret", b"")
    key = _expand(secret, b"key", context, 32)
    nonce = _expand(secret, b"base_nonce", context, 12)
    return to.encapsulated + AESGCM(key).encrypt(nonce, payload, b"")


def _extract(salt: bytes, label: bytes, material: bytes) -> bytes:
    return hmac.digest(salt, b"HPKE-v1" + SUITE_ID + label + material, "sha256")


def _expand(secret: bytes, label: bytes, info: bytes, length: int) -> bytes:
    info = length.to_bytes(2, "big") + b"HPKE-v1" + SUITE_ID + label + info
    return hmac.new(secret, info + b"\x01", hashlib.sha256).digest()[:length]
