"""Domain separation: every signature, hash, MAC and key derivation starts with one of these.

protocol-spec.md §2. The prefix of a purpose is ``mastodon/1 <purpose>`` and a zero byte, so that
bytes made for one use never serve another. This table is the whole list.
"""

import hashlib
import hmac
from enum import Enum

from blake3 import blake3


class Purpose(Enum):
    """Every purpose for which Mastodon hashes, signs, MACs or derives a key."""

    # key derivation: salts and labels
    MACHINE_SECRET = "machine secret"
    MACHINE_SIGNING_KEY = "machine signing key"
    MACHINE_ID_KEY = "machine id key"
    MACHINE_CHUNKER_SEED = "machine chunker seed"
    MACHINE_ORDER_KEY = "machine order key"
    MACHINE_PAIR_MAC_KEY = "machine pair mac key"
    ADMIN_SECRET = "admin secret"
    ADMIN_ORDER_KEY = "admin order key"
    ADMIN_BOOK_KEY = "admin book key"
    ADMIN_SECRET_FILE = "admin secret file"
    BOOK_SEAL = "book seal"
    BLOB_KEY = "blob key"
    FILE_HASH_KEY = "file hash key"
    WEBHOOK_KEY = "webhook key"
    # hashes and MACs
    MACHINE_ID = "machine id"
    TENANT_ID = "tenant id"
    ORDER_KEY_HASH = "order key hash"
    SUCCESSOR_HASH = "successor hash"
    RECORD_HASH = "record hash"
    RUN_ID = "run id"
    RUN_COMMITMENT = "run commitment"
    ID_KEY_COMMITMENT = "id key commitment"
    PAIR_MAC = "pair mac"
    PAIR_PASSPHRASE = "pair passphrase"
    ENVELOPE_HASH = "envelope hash"
    BLOB_ID = "blob id"
    FILE_HASH = "file hash"
    PACK_CHECKSUM = "pack checksum"
    LEDGER_ENTRY = "ledger entry"
    LEDGER_ENTRY_HEAD = "ledger entry head"
    PAGE_CUT = "page cut"
    LINK_GROUP = "link group"
    AGENT_STATE = "agent state"
    WEBHOOK = "webhook"
    # HPKE infos
    RUN_SEAL = "run seal"
    ORDER_SEAL = "order seal"
    # signatures
    SIGN_PAIR = "pair record"
    SIGN_REENVELOPE = "re-envelope record"
    SIGN_RUN = "run record"
    SIGN_SNAPSHOT = "snapshot record"
    SIGN_BOOK = "book"
    SIGN_STATEMENT = "statement"
    SIGN_ENROLMENT = "enrolment"
    SIGN_ORDER = "order"
    SIGN_ADMIN_REQUEST = "admin request"
    SIGN_SUCCESSION = "succession"
    SIGN_LEDGER_HEAD = "ledger head"
    SIGN_HELLO = "hello"

    def __init__(self, text: str) -> None:
        self.prefix = b"mastodon/1 " + text.encode("ascii") + b"\0"
        """The bytes that go in front of everything hashed or signed for this purpose."""


def sha256(purpose: Purpose, *parts: bytes) -> bytes:
    """SHA-256 over the purpose's prefix and the parts, 32 bytes."""
    state = hashlib.sha256(purpose.prefix)
    for part in parts:
        state.update(part)
    return state.digest()


def mac(purpose: Purpose, key: bytes, *parts: bytes) -> bytes:
    """HMAC-SHA-256 under ``key`` over the purpose's prefix and the parts, 32 bytes."""
    state = hmac.new(key, purpose.prefix, hashlib.sha256)
    for part in parts:
        state.update(part)
    return state.digest()


def hkdf_extract(purpose: Purpose, secret: bytes) -> bytes:
    """HKDF-SHA256 Extract (RFC 5869) with the purpose's prefix as the fixed salt."""
    return hmac.digest(purpose.prefix, secret, "sha256")


def hkdf_expand(key: bytes, purpose: Purpose, context: bytes = b"") -> bytes:
    """One block of HKDF-SHA256 Expand (RFC 5869): 32 bytes for the purpose and context."""
    return hmac.digest(key, purpose.prefix + context + b"\x01", "sha256")


def keyed_hasher(purpose: Purpose, key: bytes) -> blake3:
    """A BLAKE3 hasher keyed with 32 bytes, the purpose's prefix already fed."""
    return blake3(purpose.prefix, key=key)


def hasher(purpose: Purpose) -> blake3:
    """An unkeyed BLAKE3 hasher, the purpose's prefix already fed."""
    return blake3(purpose.prefix)
