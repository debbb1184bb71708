"""The verbs of the restore port, who may use them, and the frame types of its answers.

protocol-spec.md §17. Apart from the messages, so that a client of one verb need not load what all of them carry.
"""

from enum import IntEnum

from mastodon.sealed.enrolment import Role
from mastodon.wire.messages import Message

ALPN = "mastodon-restore/1"


class RestoreVerb(IntEnum):
    """Requests. 16-31 are reserved for keeps and mail."""

    WHO = 1
    MACHINES = 2
    SNAPSHOTS = 3
    PAIRS = 4
    RUNS = 5
    FETCH = 6
    BOOK = 7
    STATE = 8
    ENVELOPES = 9
    EVENTS = 10
    ACKNOWLEDGE = 11
    STATUS = 12
    TEST_NOTIFY = 13
    READS = 14
    CERTIFICATES = 15


ALLOWED: dict[RestoreVerb, frozenset[Role]] = {
    RestoreVerb.WHO: frozenset({Role.ADMIN, Role.TICKET, Role.MONITOR}),
    RestoreVerb.MACHINES: frozenset({Role.ADMIN}),
    RestoreVerb.SNAPSHOTS: frozenset({Role.ADMIN, Role.TICKET}),
    RestoreVerb.PAIRS: frozenset({Role.ADMIN}),
    RestoreVerb.RUNS: frozenset({Role.ADMIN, Role.TICKET}),
    RestoreVerb.FETCH: frozenset({Role.ADMIN, Role.TICKET}),
    RestoreVerb.BOOK: frozenset({Role.ADMIN}),
    RestoreVerb.STATE: frozenset({Role.ADMIN}),
    RestoreVerb.ENVELOPES: frozenset({Role.ADMIN}),
    RestoreVerb.EVENTS: frozenset({Role.ADMIN}),
    RestoreVerb.ACKNOWLEDGE: frozenset({Role.ADMIN}),
    RestoreVerb.STATUS: frozenset({Role.ADMIN, Role.MONITOR}),
    RestoreVerb.TEST_NOTIFY: frozenset({Role.ADMIN}),
    RestoreVerb.READS: frozenset({Role.ADMIN}),
    RestoreVerb.CERTIFICATES: frozenset({Role.ADMIN}),
}
"""The whole table of verbs and roles. Machines are looked up inside the certificate's tenant, for a ticket inside its
machine and root; what lies outside is NOT_FOUND, as if it did not exist. The operator's monitor has no tenant, and sees
the status of all."""


class RestoreReply(IntEnum):
    """Frame types that the server sends on the restore port, beside ERROR and KEEPALIVE."""

    WHO = 160
    MACHINE = 161
    SNAPSHOT = 162
    PAIR = 163
    RUN = 164
    DATA = 165
    BOOK = 166
    ENVELOPE = 167
    EVENT = 168
    STATUS = 169
    SERVER_STATUS = 170
    CHANNEL = 171
    READ = 172
    CERTIFICATE = 173
    DONE = 190


class RestoreMessage(Message):
    """Base of messages on the restore port."""

    __slots__ = ()
