"""The snapshot record: what a run committed, signed by the machine, of constant size.

protocol-spec.md §10.
"""

from dataclasses import dataclass
from enum import IntEnum, IntFlag
from itertools import pairwise
from typing import ClassVar

from mastodon.sealed.errors import Malformed
from mastodon.sealed.pair import PAIR_ID_LENGTH
from mastodon.sealed.purposes import Purpose
from mastodon.sealed.record import Record, RecordType
from mastodon.sealed.run import NONCE_LENGTH
from mastodon.sealed.schema import array, choice, key, octets, octets_or_none, row, unsigned


class SnapshotStatus(IntEnum):
    """How whole a snapshot is (design §5)."""

    COMPLETE = 1
    PARTIAL = 2
    CHECKPOINT = 3


class Reason(IntEnum):
    """What is counted in a snapshot record. GONE, GREW and FUZZY leave it complete."""

    GONE = 1
    GREW = 2
    FUZZY = 3
    UNREADABLE = 4
    IO_ERROR = 5
    MISSING_PATH = 6
    FAILED_SOURCE = 7
    CARRIED = 8
    METADATA = 9


INCOMPLETE = frozenset({Reason.UNREADABLE, Reason.IO_ERROR, Reason.MISSING_PATH, Reason.FAILED_SOURCE, Reason.METADATA})
"""Any of these makes a snapshot partial."""

ORDER_RESULTS_LIMIT = 16


class Notice(IntFlag):
    """What the agent noticed and its admin has to be told. A bit that is not known is shown as its number."""

    STATE_LOST = 1  # the agent's state was gone or behind: everything was looked at afresh
    TRUST_MEMORY_LOST = 2  # only the URL's pins are trusted, and no restore order issued before
    NEW_PAIR = 4  # the server's pair did not fit the present passkey and recipients, or there was none
    SERVER_WENT_BACK = 8  # the server's signed ledger head, or its newest snapshot, is older than one seen before
    MEMORY_NOT_KEPT = 16  # the agent could not write its memory: the next run will not remember this snapshot


@dataclass(frozen=True, slots=True)
class SnapshotRecord(Record):
    """``sequence`` is one more than the head that the server named. Hashes are record hashes, empty for none.

    ``predecessor`` is the head that the server named, ``remembered`` the one that the agent's state holds: where
    they differ, the machine travelled in time or was cloned. ``job_serial`` and ``job_hash`` echo the job order
    obeyed, ``order_results`` are (order id, result) of the newest orders done, ``book_version`` the highest version of
    the admin's book that any order bore: a floor below which a client refuses the book (0 and empty: none).
    ``notices`` are Notice bits.
    """

    TYPE: ClassVar = RecordType.SNAPSHOT
    PURPOSE: ClassVar = Purpose.SIGN_SNAPSHOT
    LIMIT: ClassVar = 4096

    machine: bytes = key(0, octets(32))
    sequence: int = key(1, unsigned())
    pair: bytes = key(2, octets(PAIR_ID_LENGTH))
    status: SnapshotStatus = key(3, choice(SnapshotStatus))
    counts: tuple[tuple[Reason, int], ...] = key(4, array(row(choice(Reason), unsigned()), len(Reason)))
    time_ns: int = key(5, unsigned())
    root: bytes = key(6, octets(32))
    run_nonce: bytes = key(7, octets(NONCE_LENGTH))
    predecessor: bytes = key(8, octets_or_none(32))
    remembered: bytes = key(9, octets_or_none(32))
    job_serial: int = key(10, unsigned(), default=0)
    job_hash: bytes = key(11, octets_or_none(32), default=b"")
    order_results: tuple[tuple[bytes, int], ...] = key(
        12, array(row(octets(16), unsigned(8)), ORDER_RESULTS_LIMIT), default=()
    )
    book_version: int = key(13, unsigned(), default=0)
    notices: int = key(14, unsigned(32), default=0)

    def check_whole(self) -> None:
        """Raise Malformed for a sequence, status or counts that contradict each other."""
        if (self.sequence == 1) != (not self.predecessor) or not self.sequence:
            raise Malformed("snapshot record: the first has sequence 1 and no predecessor, the others have both")
        if any(one[0] >= two[0] for one, two in pairwise(self.counts)) or any(not count for _, count in self.counts):
            raise Malformed("snapshot record: counts out of order, twice or zero")
        if self.status == SnapshotStatus.COMPLETE and any(reason in INCOMPLETE for reason, _ in self.counts):
            raise Malformed("snapshot record: complete, with counts of what is missing")
        if (self.job_serial == 0) != (not self.job_hash):
            raise Malformed("snapshot record: a job's serial without its hash, or the other way round")
