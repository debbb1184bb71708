"""The signed head of the ledger, kept in the state directory, outside the spools.

It tells a ledger that went back in time from one that did not: at start the chain has to bear the entry that was
signed last. It is written now and then and when the daemon stops, always behind the ledger, never ahead of it.
"""

from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from mastodon.daemon.errors import StoreError
from mastodon.host.certificates import CertificateError, load_key
from mastodon.host.durable import SYSTEM_DISK, Disk, write_file
from mastodon.sealed.errors import FormatError
from mastodon.sealed.ledger import Head
from mastodon.sealed.ledger_head import LedgerHeadRecord
from mastodon.sealed.record import raw_public_key

HEADS = "heads"


class HeadsFile:
    """Signs heads, and keeps the newest."""

    def __init__(self, state: Path, ledger_key: Ed25519PrivateKey, disk: Disk = SYSTEM_DISK) -> None:
        self.path = state / HEADS
        self.public_key = raw_public_key(ledger_key)
        self._key = ledger_key
        self._disk = disk

    def sign(self, head: Head, time_ns: int) -> bytes:
        """The head as a signed record."""
        heads = ((head.chain, head.sequence, head.hash),)
        return LedgerHeadRecord(heads, time_ns, self.public_key).sign(self._key)

    def write(self, head: Head, time_ns: int) -> None:
        """Keep the head durably. Raises DiskError."""
        write_file(self.path, self.sign(head, time_ns), disk=self._disk)

    def read(self) -> Head | None:
        """The head signed last; None when there is no file, or it was not signed by this daemon's ledger key."""
        try:
            record = LedgerHeadRecord.verify(self.path.read_bytes(), self.public_key)
        except (OSError, FormatError):
            return None
        return Head(*record.heads[0]) if record.heads else None


def load_ledger_key(path: Path) -> Ed25519PrivateKey:
    """The key that signs the ledger's heads. Raises StoreError."""
    try:
        key = load_key(path)
    except CertificateError as error:
        raise StoreError(str(error)) from None
    if not isinstance(key, Ed25519PrivateKey):
        raise StoreError(f"{path}: the ledger key has to be an Ed25519 key")
    return key
