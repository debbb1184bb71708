"""What a ledger entry can say: the whole list, also of what later work fills.

protocol-spec.md §13. Records stand in the entries as the bytes received, so that their signatures are there for ever.
"""

from dataclasses import dataclass
from enum import IntEnum
from typing import ClassVar

from mastodon.sealed.book import BOOK_LIMIT
from mastodon.sealed.enrolment import Role
from mastodon.sealed.order import SEALED_ORDER_LIMIT
from mastodon.sealed.pair import ENVELOPE_LIMIT, PairRecord
from mastodon.sealed.schema import Body, array, choice, key, octets, octets_or_none, row, text, unsigned
from mastodon.sealed.statement import Statement

PIN = octets(32)
MACHINE = octets(32)
TENANT = octets(32)
RECORD = octets(1, 16 * 1024)
STATEMENT = octets(0, Statement.LIMIT)
ACKNOWLEDGED_MOST = 256
"""Events that are acknowledged at once."""


class LedgerEntryType(IntEnum):
    """Types of entries. 0 is never used; 21-127 are reserved; 128-255 are for experiments."""

    CHAIN = 1
    SPOOL = 2
    ADMIN = 3
    CERTIFICATE = 4
    CERTIFICATE_REMOVED = 5
    MACHINE = 6
    PAIR = 7
    SNAPSHOT = 8
    BOOK = 9
    POLICY = 10
    KEEP = 11
    ORDER = 12
    ORDER_DONE = 13
    PENDING = 14
    DELETED = 15
    EVENT = 16
    READS = 17
    MACHINE_STATE = 18
    SUCCESSION = 19
    ACKNOWLEDGED = 20


class MachineState(IntEnum):
    """Whether a machine may append, and is watched. CLOSED and RETIRED are terminal."""

    ACTIVE = 1
    DISABLED = 2
    CLOSED = 3
    RETIRED = 4


@dataclass(frozen=True, slots=True)
class EntryBody(Body):
    """Base of all entries. CRITICAL entries stop a reader that does not know them."""

    ENTRY_TYPE: ClassVar[LedgerEntryType]
    CRITICAL: ClassVar[bool] = True


@dataclass(frozen=True, slots=True)
class ChainStarted(EntryBody):
    """A daemon's chain begins: the pins of its server keys, and its ledger key."""

    ENTRY_TYPE: ClassVar = LedgerEntryType.CHAIN

    servers: tuple[bytes, ...] = key(0, array(PIN, 8))
    ledger_key: bytes = key(1, octets(32))
    version: str = key(2, text(64))


@dataclass(frozen=True, slots=True)
class SpoolChanged(EntryBody):
    """A spool came (online) or went."""

    ENTRY_TYPE: ClassVar = LedgerEntryType.SPOOL

    spool: bytes = key(0, octets(16))
    online: int = key(1, unsigned(1))


@dataclass(frozen=True, slots=True)
class AdminAdded(EntryBody):
    """The operator took an admin's request."""

    ENTRY_TYPE: ClassVar = LedgerEntryType.ADMIN

    tenant: bytes = key(0, TENANT)
    name: str = key(1, text(64))
    request: bytes = key(2, RECORD)


@dataclass(frozen=True, slots=True)
class CertificateAdded(EntryBody):
    """A client key was registered, by the operator (no statement) or its admin. ``tenant`` is empty for the operator's
    own monitor; machine, root and expiry bind a ticket."""

    ENTRY_TYPE: ClassVar = LedgerEntryType.CERTIFICATE

    pin: bytes = key(0, PIN)
    tenant: bytes = key(1, octets_or_none(32))
    role: Role = key(2, choice(Role))
    label: str = key(3, text(64))
    statement: bytes = key(4, STATEMENT)
    machine: bytes = key(5, octets_or_none(32), default=b"")
    root: bytes = key(6, octets_or_none(32), default=b"")
    expires_ns: int = key(7, unsigned(), default=0)


@dataclass(frozen=True, slots=True)
class CertificateRemoved(EntryBody):
    """Terminal: wins over any registration of the key, in any segment."""

    ENTRY_TYPE: ClassVar = LedgerEntryType.CERTIFICATE_REMOVED

    pin: bytes = key(0, PIN)
    statement: bytes = key(1, STATEMENT)


@dataclass(frozen=True, slots=True)
class MachineEnrolled(EntryBody):
    """A machine id belongs to a tenant from now on."""

    ENTRY_TYPE: ClassVar = LedgerEntryType.MACHINE

    enrolment: bytes = key(0, RECORD)
    statement: bytes = key(1, STATEMENT)


@dataclass(frozen=True, slots=True)
class PairAdded(EntryBody):
    """A pair record (or an admin's re-envelope record) and its envelope, together."""

    ENTRY_TYPE: ClassVar = LedgerEntryType.PAIR

    machine: bytes = key(0, MACHINE)
    record: bytes = key(1, octets(1, PairRecord.LIMIT))
    envelope: bytes = key(2, octets(1, ENVELOPE_LIMIT))
    reenvelope: int = key(3, unsigned(1), default=0)


@dataclass(frozen=True, slots=True)
class SnapshotCommitted(EntryBody):
    """A snapshot record; the entry's own time is the server's."""

    ENTRY_TYPE: ClassVar = LedgerEntryType.SNAPSHOT

    record: bytes = key(0, RECORD)


@dataclass(frozen=True, slots=True)
class BookSwapped(EntryBody):
    """A new version of an admin's book, with the statement that swapped it."""

    ENTRY_TYPE: ClassVar = LedgerEntryType.BOOK

    book: bytes = key(0, octets(1, BOOK_LIMIT))
    statement: bytes = key(1, STATEMENT)


@dataclass(frozen=True, slots=True)
class PolicySet(EntryBody):
    """Settings of a tenant, or of one of its machines: (name, value) pairs of text."""

    ENTRY_TYPE: ClassVar = LedgerEntryType.POLICY

    tenant: bytes = key(0, octets_or_none(32))
    machine: bytes = key(1, octets_or_none(32))
    settings: tuple[tuple[str, str], ...] = key(2, array(row(text(64), text(1024)), 256))
    statement: bytes = key(3, STATEMENT)


@dataclass(frozen=True, slots=True)
class Kept(EntryBody):
    """A snapshot is kept (1) or no longer kept (0) by word."""

    ENTRY_TYPE: ClassVar = LedgerEntryType.KEEP

    machine: bytes = key(0, MACHINE)
    snapshot: bytes = key(1, octets(32))
    keep: int = key(2, unsigned(1))
    pin: bytes = key(3, PIN)


@dataclass(frozen=True, slots=True)
class OrderPosted(EntryBody):
    """Sealed mail for a machine."""

    ENTRY_TYPE: ClassVar = LedgerEntryType.ORDER

    machine: bytes = key(0, MACHINE)
    order: bytes = key(1, octets(16))
    sealed: bytes = key(2, octets(1, SEALED_ORDER_LIMIT))
    expires_ns: int = key(3, unsigned())


@dataclass(frozen=True, slots=True)
class OrderDone(EntryBody):
    """Mail was obeyed (result as the agent gave it), cancelled (254) or expired (255)."""

    ENTRY_TYPE: ClassVar = LedgerEntryType.ORDER_DONE

    machine: bytes = key(0, MACHINE)
    order: bytes = key(1, octets(16))
    result: int = key(2, unsigned(8))


@dataclass(frozen=True, slots=True)
class Pending(EntryBody):
    """Something is to go at ``due_ns`` unless it is kept: kind (1 prune, 2 retire, 3 erase, 4 policy) and objects."""

    ENTRY_TYPE: ClassVar = LedgerEntryType.PENDING

    kind: int = key(0, unsigned(8))
    machine: bytes = key(1, MACHINE)
    objects: tuple[bytes, ...] = key(2, array(octets(32), 1 << 16))
    due_ns: int = key(3, unsigned())
    statement: bytes = key(4, STATEMENT)


@dataclass(frozen=True, slots=True)
class Deleted(EntryBody):
    """What was pending is gone; terminal for these objects."""

    ENTRY_TYPE: ClassVar = LedgerEntryType.DELETED

    kind: int = key(0, unsigned(8))
    machine: bytes = key(1, MACHINE)
    objects: tuple[bytes, ...] = key(2, array(octets(32), 1 << 16))


@dataclass(frozen=True, slots=True)
class Event(EntryBody):
    """Something that an operator or admin should know: a code from the typed list of events, and detail text."""

    ENTRY_TYPE: ClassVar = LedgerEntryType.EVENT
    CRITICAL: ClassVar = False

    code: int = key(0, unsigned(16))
    tenant: bytes = key(1, octets_or_none(32))
    machine: bytes = key(2, octets_or_none(32))
    detail: str = key(3, text(1024))


@dataclass(frozen=True, slots=True)
class Reads(EntryBody):
    """What an authenticated client read of a machine since ``since_ns``, aggregated: requests about it, blobs fetched
    and their sealed bytes."""

    ENTRY_TYPE: ClassVar = LedgerEntryType.READS
    CRITICAL: ClassVar = False

    pin: bytes = key(0, PIN)
    machine: bytes = key(1, MACHINE)
    blobs: int = key(2, unsigned())
    content_bytes: int = key(3, unsigned())
    requests: int = key(4, unsigned(), default=0)
    since_ns: int = key(5, unsigned(), default=0)


@dataclass(frozen=True, slots=True)
class MachineStateSet(EntryBody):
    """A machine was disabled, enabled, closed or retired. ``snapshot`` is the record hash of the last one trusted of a
    closed generation, ``until_ns`` how long a retired machine is kept (0: for ever)."""

    ENTRY_TYPE: ClassVar = LedgerEntryType.MACHINE_STATE

    machine: bytes = key(0, MACHINE)
    state: MachineState = key(1, choice(MachineState))
    statement: bytes = key(2, STATEMENT)
    snapshot: bytes = key(3, octets_or_none(32), default=b"")
    until_ns: int = key(4, unsigned(), default=0)


@dataclass(frozen=True, slots=True)
class Succeeded(EntryBody):
    """A tenant's order key was followed by another."""

    ENTRY_TYPE: ClassVar = LedgerEntryType.SUCCESSION

    record: bytes = key(0, RECORD)


@dataclass(frozen=True, slots=True)
class Acknowledged(EntryBody):
    """An admin knows of these events: sequences of their entries, and the pin of the client key that said so."""

    ENTRY_TYPE: ClassVar = LedgerEntryType.ACKNOWLEDGED
    CRITICAL: ClassVar = False

    tenant: bytes = key(0, TENANT)
    pin: bytes = key(1, PIN)
    events: tuple[int, ...] = key(2, array(unsigned(), ACKNOWLEDGED_MOST, 1))


ENTRY_TYPES: dict[LedgerEntryType, type[EntryBody]] = {
    body.ENTRY_TYPE: body
    for body in (
        ChainStarted, SpoolChanged, AdminAdded, CertificateAdded, CertificateRemoved, MachineEnrolled, PairAdded,
        SnapshotCommitted, BookSwapped, PolicySet, Kept, OrderPosted, OrderDone, Pending, Deleted, Event, Reads,
        MachineStateSet, Succeeded, Acknowledged,
    )
}  # fmt: skip
