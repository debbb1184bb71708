"""Pairs and snapshots: what a machine signs, checked against its account, then into the ledger.

Promises: one thing at a time for each machine; a record that is there already is answered as it was the first time;
nothing that a machine adds changes or hides an older snapshot, since every record must follow the newest one and times
come from the server; how many it may add in a time is bounded.
"""

from collections.abc import Callable
from dataclasses import dataclass

from twisted.internet.defer import DeferredLock

from mastodon.catalogue.interface import Account
from mastodon.daemon.closure import Closure
from mastodon.daemon.errors import LimitReached, PairRefused, Refused, SnapshotRefused
from mastodon.daemon.events import EventCode
from mastodon.daemon.intake import NAMED, Intake
from mastodon.daemon.ledger_writer import LedgerWriter
from mastodon.daemon.travels import CODES, FORK_OVER, told
from mastodon.sealed.blob import BlobKind
from mastodon.sealed.duration import DAY_NS, HOUR_NS
from mastodon.sealed.errors import FormatError
from mastodon.sealed.ledger_entries import PairAdded, SnapshotCommitted
from mastodon.sealed.pair import ENVELOPE_LIMIT, PairRecord, envelope_hash
from mastodon.sealed.record import record_hash
from mastodon.sealed.snapshot import SnapshotRecord, SnapshotStatus

COMMITS_PER_HOUR = 60
ATTEMPTS_PER_HOUR = 240
"""Commits asked for, also those that only learn what is missing."""
PAIRS_PER_DAY = 24


@dataclass(frozen=True, slots=True)
class CommitResult:
    """Committed, unless ``missing`` names ids that the snapshot reaches and that are not there (``more``: and more)."""

    hash: bytes
    time_ns: int
    status: SnapshotStatus
    missing: tuple[bytes, ...] = ()
    more: bool = False


class Commits:
    """Lives in the reactor's thread."""

    def __init__(self, intake: Intake, ledger: LedgerWriter, now_ns: Callable[[], int]) -> None:
        self._intake = intake
        self._ledger = ledger
        self._now_ns = now_ns
        self._locks: dict[bytes, DeferredLock] = {}
        self._attempts: dict[bytes, tuple[int, int]] = {}

    async def add_pair(
        self, machine: bytes, record: bytes, envelope: bytes, demand_current: Callable[[], None]
    ) -> bytes:
        """Take a pair record with its envelope; its record hash. Raises Refused."""
        async with self._locks.setdefault(machine, DeferredLock()):
            account = await self._intake.writer_account(machine)
            name = record_hash(record)
            if await self._intake.catalogue.has_envelope(machine, name):
                return name
            try:
                pair = _judge_pair(account, record, envelope)
                now_ns = self._now_ns()
                row = await self._intake.catalogue.pair(machine, pair.pair, now_ns - DAY_NS, now_ns)
                if row.known:
                    # Places for further envelopes of a pair belong to the admin.
                    raise PairRefused("a pair with this id is here already, with its envelope")
            except PairRefused as error:
                self._intake.record(EventCode.PAIR_REFUSED, machine, error.text)
                raise
            if row.recent >= PAIRS_PER_DAY:
                raise LimitReached(f"more than {PAIRS_PER_DAY} sealing pairs in a day")
            demand_current()
            await self._ledger.append(PairAdded(machine, record, envelope))
            return name

    async def commit(self, machine: bytes, record: bytes, demand_current: Callable[[], None]) -> CommitResult:
        """Commit a snapshot record if all that it reaches is there. Raises Refused."""
        async with self._locks.setdefault(machine, DeferredLock()):
            account = await self._intake.writer_account(machine)
            catalogue = self._intake.catalogue
            name = record_hash(record)
            now_ns = self._now_ns()
            before, recent = await catalogue.committed(machine, name, now_ns - HOUR_NS, now_ns)
            if before is not None:
                return CommitResult(name, before.time_ns, before.status)
            self._bound_attempts(machine)
            if recent >= COMMITS_PER_HOUR:
                raise LimitReached(f"more than {COMMITS_PER_HOUR} snapshots in an hour")
            try:
                snapshot = _judge_snapshot(account, record)
                missing, more = await self._missing(machine, snapshot.root)
            except SnapshotRefused as error:
                self._intake.record(EventCode.SNAPSHOT_REFUSED, machine, error.text)
                raise
            if missing or more:
                return CommitResult(name, 0, snapshot.status, missing, more)
            events = await self._travels(machine, snapshot)
            demand_current()
            for code, detail in events:
                # Before the snapshot: a crash between the two must not keep it from being told.
                self._intake.record(code, machine, detail)
            entry = await self._ledger.append(SnapshotCommitted(record))
            return CommitResult(name, entry.time_ns, snapshot.status)

    async def _travels(self, machine: bytes, snapshot: SnapshotRecord) -> list[tuple[EventCode, str]]:
        """What is to be told of the machine's memory."""
        catalogue = self._intake.catalogue
        judged = await catalogue.judge(machine, snapshot)
        if judged.jump is not None and judged.is_news:
            code, detail = CODES[judged.jump.kind], told(snapshot, judged.jump)
            before = await catalogue.newest_event(code, b"", machine)
            return [] if before is not None and before.detail == detail else [(code, detail)]
        if judged.ends_fork and any(one.code is EventCode.CLONE for one in await catalogue.conditions(None, machine)):
            return [(EventCode.SPLIT, FORK_OVER)]
        return []

    async def _missing(self, machine: bytes, root: bytes) -> tuple[tuple[bytes, ...], bool]:
        # Behind the writes: a commit sees every pack acknowledged before it.
        states = await self._intake.catalogue.blob_states(machine, [root], behind_writes=True)
        if root in states and states[root].kind is not BlobKind.ROOT:
            raise SnapshotRefused("the root is a blob of another kind", (root,))
        found = await Closure(self._intake.catalogue, machine).walk([root])
        if found.wrong:
            raise SnapshotRefused("references that do not lead to a lower level", tuple(found.wrong)[:NAMED])
        return tuple(found.missing), found.more

    def _bound_attempts(self, machine: bytes) -> None:
        now = self._now_ns()
        begun, count = self._attempts.get(machine, (now, 0))
        if not 0 <= now - begun < HOUR_NS:
            begun, count = now, 0
        if count >= ATTEMPTS_PER_HOUR:
            raise LimitReached(f"more than {ATTEMPTS_PER_HOUR} attempts to commit in an hour")
        self._attempts[machine] = (begun, count + 1)


def _judge_pair(account: Account, record: bytes, envelope: bytes) -> PairRecord:
    try:
        pair = PairRecord.verify(record, account.public_key)
        before = PairRecord.read_unverified(account.pair) if account.pair else None
    except FormatError as error:
        raise PairRefused(str(error)) from None
    previous = record_hash(account.pair) if account.pair else b""
    _demand(PairRefused, pair.machine == account.machine, "a pair record of another machine")
    _demand(PairRefused, len(envelope) <= ENVELOPE_LIMIT, "the envelope is too large")
    _demand(PairRefused, pair.envelope_hash == envelope_hash(envelope), "another envelope than the pair record names")
    _demand(PairRefused, pair.previous == previous, "the pair record does not follow the machine's newest")
    # Not just larger: numbers are finite, and with the last one taken no further pair could ever be made.
    number = before.number + 1 if before else 1
    _demand(PairRefused, pair.number == number, f"the pair's number is not {number}, which follows")
    return pair


def _judge_snapshot(account: Account, record: bytes) -> SnapshotRecord:
    try:
        snapshot = SnapshotRecord.verify(record, account.public_key)
        current = PairRecord.read_unverified(account.pair).pair if account.pair else b""
    except FormatError as error:
        raise SnapshotRefused(str(error)) from None
    head = f"the newest snapshot here is {account.head_sequence}: check in again"
    _demand(SnapshotRefused, snapshot.machine == account.machine, "a snapshot record of another machine")
    _demand(SnapshotRefused, snapshot.pair == current, "the snapshot names another pair than the machine's newest")
    _demand(SnapshotRefused, snapshot.sequence == account.head_sequence + 1, f"the sequence does not follow: {head}")
    _demand(SnapshotRefused, snapshot.predecessor == account.head_hash, f"another predecessor is named: {head}")
    return snapshot


def _demand(refusal: Callable[[str], Refused], holds: bool, text: str) -> None:
    if not holds:
        raise refusal(text)
