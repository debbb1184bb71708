"""What the restore port says of who read what.

protocol-spec.md §17.
"""

from dataclasses import dataclass
from typing import ClassVar

from mastodon.sealed.schema import key, octets, octets_or_none, text, unsigned
from mastodon.wire.restore_verbs import RestoreMessage, RestoreReply, RestoreVerb

READS_LIMIT = 1000


@dataclass(frozen=True, slots=True)
class ReadsRequest(RestoreMessage):
    """What was read of the tenant's machines: entries behind the sequence ``after`` and not over before ``since_ns``,
    about a machine or (empty) all; in order, at most ``limit``, then what is counted and not written yet."""

    KIND: ClassVar = RestoreVerb.READS

    request: int = key(0, unsigned(32))
    machine: bytes = key(1, octets_or_none(32))
    after: int = key(2, unsigned())
    since_ns: int = key(3, unsigned())
    limit: int = key(4, unsigned(16))


@dataclass(frozen=True, slots=True)
class ReadItem(RestoreMessage):
    """What a client key read of a machine from ``since_ns`` to ``time_ns``: requests about it, blobs fetched and their
    sealed bytes; the sequence of the entry (0: not written yet), and the key's label at that time."""

    KIND: ClassVar = RestoreReply.READ

    request: int = key(0, unsigned(32))
    sequence: int = key(1, unsigned())
    pin: bytes = key(2, octets(32))
    label: str = key(3, text(64))
    machine: bytes = key(4, octets(32))
    since_ns: int = key(5, unsigned())
    time_ns: int = key(6, unsigned())
    requests: int = key(7, unsigned())
    blobs: int = key(8, unsigned())
    content_bytes: int = key(9, unsigned())
