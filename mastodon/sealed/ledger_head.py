"""The signed head of a ledger: how far its chains had come. What agents and clients remember of a server.

protocol-spec.md §13. Apart from the ledger itself, since an agent's hourly run needs nothing else of it.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

from mastodon.sealed.errors import FormatError, Malformed
from mastodon.sealed.purposes import Purpose
from mastodon.sealed.record import Record, RecordType
from mastodon.sealed.schema import array, key, octets, row, unsigned

HASH_LENGTH = 32
CHAIN_LENGTH = 16


@dataclass(frozen=True, slots=True)
class LedgerHeadRecord(Record):
    """Heads of all chains, (chain, sequence, hash), signed by the ledger key, which lies outside the spools.

    ``ledger_key`` is its public half: agents and clients remember it with the highest head that they saw.
    """

    TYPE: ClassVar = RecordType.LEDGER_HEAD
    PURPOSE: ClassVar = Purpose.SIGN_LEDGER_HEAD

    heads: tuple[tuple[bytes, int, bytes], ...] = key(
        0, array(row(octets(CHAIN_LENGTH), unsigned(), octets(HASH_LENGTH)), 128)
    )
    time_ns: int = key(1, unsigned())
    ledger_key: bytes = key(2, octets(32))

    def check_whole(self) -> None:
        """Raise Malformed for chains out of order, or twice."""
        if any(one[0] >= two[0] for one, two in pairwise(self.heads)):
            raise Malformed("ledger head: chains out of order, or twice")

    @classmethod
    def open(cls, data: bytes) -> "LedgerHeadRecord":
        """The heads, signed by the key that they name: the caller knows whether it is the one. Raises FormatError."""
        record = cls.read_unverified(data)
        cls.check_signature(data, record.ledger_key)
        return record


def went_on(before: bytes, now: bytes) -> bool:
    """Whether a signed head is as new as one that was shown before, and of the same ledger; empty: none was shown.

    One that cannot be read, or is signed by another key, is taken for a ledger that went back.
    """
    if not before and not now:
        return True
    try:
        new = LedgerHeadRecord.open(now)
        old = LedgerHeadRecord.open(before) if before else new
    except FormatError:
        return False
    reached = {chain: (sequence, hash) for chain, sequence, hash in new.heads}
    return new.ledger_key == old.ledger_key and all(
        reached.get(chain, (-1, b""))[0] > sequence or reached.get(chain) == (sequence, hash)
        for chain, sequence, hash in old.heads
    )
