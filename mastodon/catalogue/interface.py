"""What the store asks of a catalogue, whatever database is behind it.

The catalogue is derived: every row follows from ledger entries and packs, and can be made anew. It decides nothing
about trust; it answers quickly. All methods return Deferreds. Writes happen in the order in which they were asked
for; a read marked *behind writes* sees every write asked for before it, other reads see what is committed.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from twisted.internet.defer import Deferred

from mastodon.catalogue.measures import Measures
from mastodon.sealed.blob import BlobKind
from mastodon.sealed.events import EventCode
from mastodon.sealed.jump import Jump
from mastodon.sealed.ledger import Head, LedgerEntry
from mastodon.sealed.ledger_entries import MachineState, Role
from mastodon.sealed.pack import Pack
from mastodon.sealed.snapshot import SnapshotRecord, SnapshotStatus

SEALINGS_EACH_WAY = 32
"""Sealings of one id that a restore is given, of the oldest and of the newest ones: together what a client takes.

An honest machine has one, or two after damage. A hostile one can seal an id anew under each further pair; pairs are
bounded by the day, so the sealing of a snapshot from before stays among the oldest, and that of one made after the
machine was won back among the newest.
"""


class CatalogueError(Exception):
    """The catalogue cannot be used; the text says why and what to do."""


class CatalogueDamaged(CatalogueError):
    """The database is not whole, or is not a catalogue: it has to be made anew from the spools."""


@dataclass(frozen=True, slots=True)
class Account:
    """A machine as the append port sees it. ``pair`` is the newest pair record, b"" before the first."""

    machine: bytes
    public_key: bytes
    tenant: bytes
    state: MachineState
    head_sequence: int
    head_hash: bytes
    pair: bytes
    stored_blobs: int


@dataclass(frozen=True, slots=True)
class Standing:
    """What decides whether a machine is let in: one look-up, whether it is known or not."""

    tenant: bytes
    public_key: bytes
    state: MachineState


@dataclass(frozen=True, slots=True)
class Certificate:
    """A registered client key. ``tenant`` is empty for the operator's monitor; machine and root bind a ticket."""

    pin: bytes
    tenant: bytes
    role: Role
    label: str
    machine: bytes = b""
    root: bytes = b""
    expires_ns: int = 0
    added_ns: int = 0


@dataclass(frozen=True, slots=True)
class Tenant:
    """An admin. ``counter`` is that of the last statement taken."""

    tenant: bytes
    name: str
    order_key: bytes
    counter: int
    added_ns: int = 0
    machines: int = 0
    certificates: tuple[Certificate, ...] = ()


@dataclass(frozen=True, slots=True)
class MachineRow:
    """A machine as its admin sees it."""

    machine: bytes
    enrolment: bytes
    state: MachineState
    seen_ns: int
    snapshots: int
    kept_bytes: int
    tenant: bytes = b""


@dataclass(frozen=True, slots=True)
class Committed:
    """A snapshot that was committed."""

    hash: bytes
    time_ns: int
    status: SnapshotStatus


@dataclass(frozen=True, slots=True)
class PairRow:
    """What there is of a pair, and of the machine's pairs, for judging a further record."""

    known: bool
    public_key: bytes
    recent: int
    """Pair records of the machine in the time asked about."""


@dataclass(frozen=True, slots=True)
class ListedPair:
    """A pair by name: the machine's number of it, id and hash of its record, the server's time."""

    number: int
    pair: bytes
    hash: bytes
    time_ns: int


@dataclass(frozen=True, slots=True)
class UntoldPair:
    """A machine's newest pair, of which no event tells: whose, the machine's number of it, and its record's hash."""

    tenant: bytes
    machine: bytes
    number: int
    hash: bytes


@dataclass(frozen=True, slots=True)
class BlobState:
    """An id as it stands under the countable pairs: is a sealing there, and is all below it?"""

    kind: BlobKind
    present: bool
    closed: bool


@dataclass(frozen=True, slots=True)
class StoredPack:
    """A verified pack and where it lies. ``pairs`` maps run ids to pair ids."""

    pack: Pack
    pairs: dict[bytes, bytes]
    spool: bytes
    day: str
    size: int
    received_ns: int


@dataclass(frozen=True, slots=True)
class BlobPlace:
    """One sealing: pack, spool, day, and where in the pack."""

    blob: bytes
    pack: bytes
    spool: bytes
    day: str
    start: int
    size: int


@dataclass(frozen=True, slots=True)
class EventRow:
    """An event of the ledger. ``tenant`` is its machine's where it names none; ``code`` may be a later release's."""

    sequence: int
    code: int
    tenant: bytes
    machine: bytes
    detail: str
    time_ns: int


@dataclass(frozen=True, slots=True)
class ListedEvent:
    """An event as it is shown. ``acknowledged_ns``: when its admin said that it is known, 0 for not; ``is_open``: it
    opened a condition that holds."""

    event: EventRow
    acknowledged_ns: int
    is_open: bool


@dataclass(frozen=True, slots=True)
class Condition:
    """What an event opened and none has closed since; ``sequence``, ``time_ns`` and ``detail`` are that event's."""

    code: EventCode
    tenant: bytes
    machine: bytes
    subject: str
    sequence: int
    time_ns: int
    detail: str


@dataclass(frozen=True, slots=True)
class WatchRow:
    """A machine as the watch sees it; times are the server's, 0 for never. ``newest`` is of its newest snapshot, and
    ``complete`` of its newest complete one (``entry``: its sequence in the ledger), ``partial_since_ns`` the time of
    the first partial one behind that."""

    machine: bytes
    tenant: bytes
    state: MachineState
    added_ns: int
    seen_ns: int
    newest_ns: int
    newest_status: SnapshotStatus | None
    complete_ns: int
    complete_entry: int
    partial_since_ns: int


@dataclass(frozen=True, slots=True)
class SettingRow:
    """The value that a setting has at one place; tenant and machine are empty for all of them."""

    name: str
    tenant: bytes
    machine: bytes
    value: str


@dataclass(frozen=True, slots=True)
class Holding:
    """What a machine has on the server."""

    snapshots: int
    kept_bytes: int


@dataclass(frozen=True, slots=True)
class TenantHolding:
    """What a tenant's machines have on the server, together."""

    tenant: bytes
    name: str
    machines: int
    kept_bytes: int


@dataclass(frozen=True, slots=True)
class Totals:
    """How much a catalogue knows; for the operator."""

    tenants: int = 0
    machines: int = 0
    snapshots: int = 0
    packs: int = 0
    blobs: int = 0
    bytes: int = 0


@dataclass(frozen=True, slots=True)
class Judgement:
    """What a snapshot's memory means (sealed/jump.py): a jump, whether somebody has to be told of it; or that no second
    copy of its machine has come for so long that there is none any more."""

    jump: Jump | None = None
    is_news: bool = False
    ends_fork: bool = False


@dataclass(frozen=True, slots=True)
class ReadRow:
    """What a client read of a machine between two times; ``sequence`` is the entry's (0: not written yet)."""

    sequence: int
    pin: bytes
    label: str
    tenant: bytes
    machine: bytes
    since_ns: int
    time_ns: int
    requests: int
    blobs: int
    content_bytes: int


@dataclass(frozen=True, slots=True)
class DayOfPacks:
    """What the catalogue holds of one day on one spool: pack ids that are there, and those marked lost."""

    there: frozenset[bytes] = field(default_factory=frozenset)
    lost: frozenset[bytes] = field(default_factory=frozenset)


class Catalogue(Protocol):
    """The interface. Ids that are asked for may be up to 8192 in one call."""

    @property
    def measures(self) -> Measures:
        """What machines' days were like (measures.py)."""

    def open(self) -> Deferred[Head | None]:
        """Make ready; the head up to which the ledger is applied, None for an empty one. Raises CatalogueError."""

    def close(self) -> Deferred[None]:
        """Finish what was asked for, then let go."""

    # Written from the ledger and from packs

    def apply(self, entries: Sequence[tuple[LedgerEntry, Head]]) -> Deferred[None]:
        """Follow these entries, in one transaction; those already followed are passed over. Raises CatalogueError when
        one between the last followed and these is left out."""

    def add_pack(self, stored: StoredPack) -> Deferred[tuple[bytes, ...]]:
        """Note a pack and its blobs. Ids whose header is not that of their first sealing are returned: such sealings
        are located like others, and never count."""

    def set_lost(self, spool: bytes, day: str, packs: Sequence[bytes], lost: bool) -> Deferred[None]:
        """Packs are gone from a spool, or back: their blobs are missing, or no longer."""

    def mark_closed(self, machine: bytes, ids: Sequence[bytes], closure: int) -> Deferred[bool]:
        """All below these is there; False when something was lost since ``closure`` was read."""

    # Asked by the append port

    def account(self, machine: bytes) -> Deferred[Account | None]:
        """None for one that is not known."""

    def standing(self, machine: bytes, stranger: bool = False) -> Deferred[Standing | None]:
        """The same for somebody who says that it is theirs, or (``stranger``) that it is this machine: whether it is
        known shows neither in how much is looked up nor in whose turn that is."""

    def offending(self, pack: Pack, pair: bytes) -> Deferred[tuple[bytes, ...]]:
        """Ids in a pack that are there already (under countable pairs), or whose header differs from their first."""

    def has_pack(self, machine: bytes, pack: bytes) -> Deferred[bool]:
        """Whether a pack of this machine is there: one of another machine's is not."""

    def closure(self, machine: bytes) -> Deferred[int]: ...

    def blob_states(
        self, machine: bytes, ids: Sequence[bytes], behind_writes: bool = False
    ) -> Deferred[dict[bytes, BlobState]]:
        """Ids never seen are left out."""

    def references(self, machine: bytes, ids: Sequence[bytes]) -> Deferred[dict[bytes, tuple[bytes, ...]]]: ...

    def committed(
        self, machine: bytes, hash: bytes, since_ns: int, until_ns: int
    ) -> Deferred[tuple[Committed | None, int]]:
        """The snapshot with that record hash, and how many were committed in that time: what lies behind its end is of
        a clock that was set back since."""

    def judge(self, machine: bytes, snapshot: SnapshotRecord) -> Deferred[Judgement]:
        """What the next snapshot's memory means."""

    def pair(self, machine: bytes, pair: bytes, since_ns: int, until_ns: int) -> Deferred[PairRow]: ...

    def has_envelope(self, machine: bytes, hash: bytes) -> Deferred[bool]: ...

    # Asked by the restore port and the operator

    def certificate(self, pin: bytes) -> Deferred[Certificate | None]: ...

    def is_removed(self, pin: bytes) -> Deferred[bool]: ...

    def tenant(self, tenant: bytes) -> Deferred[Tenant | None]: ...

    def tenants(self) -> Deferred[list[Tenant]]: ...

    def owner(self, machine: bytes) -> Deferred[bytes | None]: ...

    def certificates(self, tenant: bytes) -> Deferred[list[Certificate]]:
        """A tenant's, or (b"") the operator's own, in the order of registration."""

    def machines(self, tenant: bytes | None) -> Deferred[list[MachineRow]]:
        """A tenant's, or (None) all, in the order of enrolment."""

    def snapshots(self, machine: bytes, first: int, limit: int) -> Deferred[list[tuple[bytes, int]]]: ...

    def untold_pairs(self, machine: bytes | None = None) -> Deferred[list[UntoldPair]]:
        """The newest pairs of machines with more than one (of one machine, or of all), since which none was told."""

    def pairs(self, machine: bytes, first: int, limit: int) -> Deferred[list[ListedPair]]:
        """The names of pairs, from the machine's number ``first`` on."""

    def envelopes(
        self, machine: bytes, pair: bytes, reenvelopes: int
    ) -> Deferred[list[tuple[bytes, bytes, bool]]]:
        """At most so many re-envelope records of a pair, the newest first, then its own record; with envelopes."""

    def runs(self, machine: bytes, ids: Sequence[bytes]) -> Deferred[list[bytes]]: ...

    def locate(self, machine: bytes, ids: Sequence[bytes], spools: Sequence[bytes]) -> Deferred[list[BlobPlace]]:
        """Sealings that are there on one of ``spools``, at most SEALINGS_EACH_WAY of the oldest and of the newest of an
        id: newest pack first, then by place in the pack."""

    def book(self, tenant: bytes) -> Deferred[tuple[int, bytes, bytes]]:
        """Version, record hash and bytes of the newest book; (0, b"", b"") before the first."""

    # Asked by whoever watches and tells

    def events(
        self, after: int, limit: int, tenant: bytes | None = None, codes: Collection[int] | None = None
    ) -> Deferred[list[EventRow]]:
        """Events behind a sequence of the ledger, the oldest first: a tenant's, or (None) all; of these codes only."""

    def listed_events(
        self, after: int, since_ns: int, limit: int, tenant: bytes | None, machine: bytes, codes: Collection[int]
    ) -> Deferred[list[ListedEvent]]:
        """Events behind a sequence and not older than a time, the oldest first: a tenant's, or (None) all; about a
        machine, or (b"") any; of these codes."""

    def events_of(self, tenant: bytes, sequences: Sequence[int], codes: Collection[int]) -> Deferred[dict[int, bool]]:
        """Those of the sequences that are events of the tenant and of these codes; and whether it knows of them."""

    def known_conditions(self, tenant: bytes) -> Deferred[frozenset[int]]:
        """Sequences of the events that opened what holds, of those that the tenant acknowledged."""

    def newest_event(
        self, code: EventCode, tenant: bytes = b"", machine: bytes = b""
    ) -> Deferred[EventRow | None]:
        """The newest event of a code about a machine, or (b"") about a tenant and none of its machines."""

    def conditions(self, tenant: bytes | None = None, machine: bytes | None = None) -> Deferred[list[Condition]]:
        """What is open: of a tenant, or (None) of all; of a machine, or (None) of all."""

    def watch_rows(self, tenant: bytes | None = None, machine: bytes | None = None) -> Deferred[list[WatchRow]]:
        """The machines as the watch sees them, in the order of enrolment: a tenant's, or one; None: all."""

    def setting_rows(self, names: Collection[str], at: int | None = None) -> Deferred[list[SettingRow]]:
        """All values of these settings, at whatever place: the newest, or those that held at a ledger's sequence."""

    def holdings(self, tenant: bytes | None = None, machine: bytes | None = None) -> Deferred[dict[bytes, Holding]]:
        """What machines have here: a tenant's, or one; None: all."""

    def growth(self, since_ns: int) -> Deferred[list[tuple[bytes, int, int]]]:
        """The bytes of packs that each machine stored on each day (UTC, since 1970), from a time on."""

    def tenant_holdings(self, tenant: bytes | None = None) -> Deferred[list[TenantHolding]]:
        """What tenants have here, by name; None: all."""

    # Asked at start and by `check`

    def settings(self, name: str, tenant: bytes = b"") -> Deferred[list[tuple[bytes, str]]]:
        """A setting's newest values in a tenant's policy, or (b"") the operator's: by machine, b"" for all."""

    def reads(
        self, after: int, limit: int, tenant: bytes | None, machine: bytes, since_ns: int
    ) -> Deferred[list[ReadRow]]:
        """Reads behind a sequence and not over before ``since_ns``, the oldest first; of a tenant (None: all), about a
        machine or (empty) all."""

    def has_fetched(self, pin: bytes) -> Deferred[bool]:
        """Whether a client key ever fetched blobs."""

    def days(self, spool: bytes) -> Deferred[list[str]]: ...

    def packs_of_day(self, spool: bytes, day: str) -> Deferred[DayOfPacks]: ...

    def totals(self) -> Deferred[Totals]: ...
