"""A machine's snapshot records: verified, in order, their chain looked at (past.py), and one chosen.

Only records with the machine's signature count. Gaps, forks and jumps are shown for what they are.
"""

import datetime
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

from mastodon.host.times import show_time
from mastodon.restore.errors import Distrusted, NotThere
from mastodon.restore.past import look_at_chain
from mastodon.restore.trust import KnownMachine
from mastodon.sealed.errors import FormatError, Mismatch
from mastodon.sealed.jump import Jump
from mastodon.sealed.record import record_hash
from mastodon.sealed.snapshot import SnapshotRecord

SECOND = 10**9
PASSED_OVER_LIMIT = 1000
"""Records that do not verify before a source without an end is taken for one that makes them up."""
_HASH_PREFIX = re.compile(r"[0-9a-f]{8,64}")


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A snapshot that the machine signed; ``server_time_ns`` is the server's word (0: unknown). ``jump``: its machine
    remembered another one than it follows."""

    record: SnapshotRecord
    hash: bytes
    server_time_ns: int
    jump: Jump | None = None


@dataclass(slots=True)
class History:
    """All snapshots shown, by sequence. ``warnings`` tell of gaps, forks, jumps and records passed over; ``gaps`` are
    first and last sequences of what is not shown."""

    snapshots: list[Snapshot] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    gaps: list[tuple[int, int]] = field(default_factory=list)
    forked: bool = False

    @property
    def newest(self) -> Snapshot | None:
        """The one with the highest sequence."""
        return self.snapshots[-1] if self.snapshots else None


def read_history(known: KnownMachine, offered: Iterable[tuple[bytes, int]], *, has_an_end: bool = True) -> History:
    """Verify and order what a source shows; what does not verify is passed over with a warning.

    Raises Distrusted when too much does not, of a source that can go on like that for ever.
    """
    history = History()
    seen: set[bytes] = set()
    for data, time_ns in offered:
        try:
            record = SnapshotRecord.verify(data, known.public_key)
            if record.machine != known.machine:
                raise Mismatch("snapshot record of another machine")
        except FormatError as error:
            history.warnings.append(f"{known.name}: a snapshot record was passed over: {error}")
            if len(history.warnings) >= PASSED_OVER_LIMIT and not has_an_end:
                raise Distrusted(
                    f"{known.name}: the server shows snapshot records that this machine did not sign, "
                    f"{PASSED_OVER_LIMIT:,} so far: nothing is taken from it; ask its operator, or restore from the "
                    "spools with mastodon-recover"
                ) from None
            continue
        digest = record_hash(data)
        if digest not in seen:
            seen.add(digest)
            history.snapshots.append(Snapshot(record, digest, time_ns))
    history.snapshots.sort(key=lambda one: (one.record.sequence, one.record.time_ns, one.hash))
    chain = look_at_chain(known.name, ((one.record, one.hash) for one in history.snapshots))
    history.snapshots = [replace(one, jump=chain.jumps.get(one.hash)) for one in history.snapshots]
    history.warnings += chain.warnings
    history.gaps, history.forked = chain.gaps, chain.forked
    return history


def choose(history: History, wanted: str, warn: Callable[[str], None] = lambda text: None) -> Snapshot:
    """The snapshot that ``wanted`` names: ``latest``, a sequence number, the start of a hash, or a time.

    A time (2026-11-24, 2026-11-24 07:00, with or without a zone) means the newest snapshot of that time or before, by
    the machine's clock and the server's: each may lie, so neither alone makes a snapshot older than it is.
    """
    if not history.snapshots:
        raise NotThere("there is no snapshot of this machine")
    if wanted == "latest":
        return history.snapshots[-1]
    if wanted.isascii() and wanted.isdigit() and len(wanted) < 20:
        found = [one for one in history.snapshots if one.record.sequence == int(wanted)]
        if len(found) > 1:
            hashes = ", ".join(one.hash.hex()[:16] for one in found)
            raise NotThere(f"there are {len(found)} snapshots {wanted} (a fork): name one by its hash: {hashes}")
        if found:
            return found[0]
        if not _HASH_PREFIX.fullmatch(wanted):
            raise NotThere(f"there is no snapshot {wanted}: {_extent(history)}")
    if _HASH_PREFIX.fullmatch(wanted):
        found = [one for one in history.snapshots if one.hash.hex().startswith(wanted)]
        if len(found) == 1:
            return found[0]
        raise NotThere(f"{len(found)} snapshots have a hash that starts with {wanted}")
    moment = parse_time(wanted)
    earlier = [one for one in history.snapshots if max(one.record.time_ns, one.server_time_ns) <= moment]
    sequence = earlier[-1].record.sequence if earlier else 0
    disputed = [one for one in history.snapshots if one.record.sequence > sequence and _may_be_of(one, moment)]
    if disputed:
        one = disputed[-1]
        warn(
            f"snapshot {one.record.sequence} is of {show_time(one.record.time_ns)} by the machine's clock, of "
            f"{show_time(one.server_time_ns)} by the server's: if it is the one you mean, name it by its number"
        )
    if not earlier:
        raise NotThere(f"there is no snapshot of {wanted} or before: {_extent(history)}")
    return earlier[-1]


def _may_be_of(one: Snapshot, moment: int) -> bool:
    """Whether one of the two clocks says that it is of that time or before."""
    return bool(one.server_time_ns) and min(one.record.time_ns, one.server_time_ns) <= moment


def parse_time(text: str) -> int:
    """Nanoseconds since 1970 of a date (its end) or time; local time where no zone stands. Raises NotThere."""
    try:
        moment = datetime.datetime.fromisoformat(text)
    except ValueError:
        raise NotThere(
            f"{text!r} names no snapshot: write latest, its number, the start of its hash, or a time like "
            "2026-11-24 or '2026-11-24 07:00'"
        ) from None
    if len(text) <= 10:
        moment += datetime.timedelta(days=1, microseconds=-1)
    return int(moment.timestamp()) * SECOND + moment.microsecond * 1000


def show_age(time_ns: int, now_ns: int) -> str:
    """How long ago something was, as people say it."""
    seconds = (now_ns - time_ns) // SECOND
    if seconds < 0:
        return "in the future"
    for unit, length in (("day", 86400), ("hour", 3600), ("minute", 60)):
        if seconds >= 2 * length:
            return f"{seconds // length} {unit}s ago"
    return "just now" if seconds < 60 else f"{seconds} seconds ago"


def called(one: Snapshot, now_ns: int) -> str:
    """A snapshot by number, date and age."""
    time_ns = one.record.time_ns
    return f"snapshot {one.record.sequence} of {show_time(time_ns)}, {show_age(time_ns, now_ns)}"


def _extent(history: History) -> str:
    first, last = history.snapshots[0].record, history.snapshots[-1].record
    return f"there are {first.sequence} ({show_time(first.time_ns)}) to {last.sequence} ({show_time(last.time_ns)})"
