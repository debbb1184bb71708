"""What the restore port says of events and of how they are told.

protocol-spec.md §17.
"""

from dataclasses import dataclass
from typing import ClassVar

from mastodon.sealed.ledger_entries import ACKNOWLEDGED_MOST
from mastodon.sealed.schema import array, key, octets_or_none, text, unsigned
from mastodon.wire.restore_verbs import RestoreMessage, RestoreReply, RestoreVerb

EVENTS_LIMIT = 1000
CHANNELS_LIMIT = 1000


@dataclass(frozen=True, slots=True)
class EventsRequest(RestoreMessage):
    """The tenant's events behind the ledger's entry ``after`` and not older than ``since_ns``, about a machine or
    (empty) all; in order, at most ``limit``."""

    KIND: ClassVar = RestoreVerb.EVENTS

    request: int = key(0, unsigned(32))
    machine: bytes = key(1, octets_or_none(32))
    after: int = key(2, unsigned())
    since_ns: int = key(3, unsigned())
    limit: int = key(4, unsigned(16))


@dataclass(frozen=True, slots=True)
class AcknowledgeRequest(RestoreMessage):
    """The admin knows of these events, by the sequences of their entries."""

    KIND: ClassVar = RestoreVerb.ACKNOWLEDGE

    request: int = key(0, unsigned(32))
    events: tuple[int, ...] = key(1, array(unsigned(), ACKNOWLEDGED_MOST, 1))


@dataclass(frozen=True, slots=True)
class NotifyRequest(RestoreMessage):
    """How the tenant's alerts are told; with ``test`` a test is sent to each address first."""

    KIND: ClassVar = RestoreVerb.TEST_NOTIFY

    request: int = key(0, unsigned(32))
    test: int = key(1, unsigned(1))


@dataclass(frozen=True, slots=True)
class EventItem(RestoreMessage):
    """An event: the sequence of its entry, its code, machine (if any), time and detail; when it was acknowledged (0:
    not yet), and whether it opened a condition that holds."""

    KIND: ClassVar = RestoreReply.EVENT

    request: int = key(0, unsigned(32))
    sequence: int = key(1, unsigned())
    code: int = key(2, unsigned(16))
    machine: bytes = key(3, octets_or_none(32))
    time_ns: int = key(4, unsigned())
    detail: str = key(5, text(1024))
    acknowledged_ns: int = key(6, unsigned())
    open: int = key(7, unsigned(1))


@dataclass(frozen=True, slots=True)
class ChannelItem(RestoreMessage):
    """An address that hears of the tenant's events (kind ``mail`` or ``webhook``), or of a machine's runs
    (``heartbeat``); or how long a snooze lasts (``snooze``: the address is the time, ns, the machine empty for all).

    ``failing_ns``: since when the address does not take them, or when it did not take a test (0: it does); and why.
    ``secret`` signs a webhook's POSTs."""

    KIND: ClassVar = RestoreReply.CHANNEL

    request: int = key(0, unsigned(32))
    kind: str = key(1, text(16))
    machine: bytes = key(2, octets_or_none(32))
    address: str = key(3, text(1024))
    failing_ns: int = key(4, unsigned())
    reason: str = key(5, text(512))
    secret: bytes = key(6, octets_or_none(32))
