"""The typed list of events: what an operator or admin should know of. They stand in the ledger, codes and detail.

protocol-spec.md §13. An event that opens a **condition** says that something goes on from then on, until the event that
closes it, about the same machine, tenant and subject. Conditions follow from the ledger alone: whoever asks whether to
tell something looks there, so that a restart tells nothing twice and forgets nothing.
"""

from dataclasses import dataclass
from enum import IntEnum, StrEnum

SUBJECT_LENGTH = 128
SUBJECT_END = ": "


class EventCode(IntEnum):
    """Codes stay what they are: they are in every spool. 0 is never used."""

    SPOOL_OFFLINE = 1
    SPOOL_ONLINE = 2
    PACK_REFUSED = 3
    PACK_LOST = 4
    PACK_FOUND = 5
    PACK_STRANGE = 6
    PAIR_REFUSED = 7
    SNAPSHOT_REFUSED = 8
    UNKNOWN_VERB = 9
    STATEMENT_REFUSED = 10
    CATALOGUE_REBUILT = 11
    LEDGER_CONFIRMED = 12
    MALFORMED = 13
    HELLO_REFUSED = 14
    KEY_REFUSED = 15
    ROLE_REFUSED = 16
    LATE = 17
    RECOVERED = 18
    RUN_FAILED = 19
    PARTIAL_LONG = 20
    NEVER_SEEN = 21
    SEEDING_LONG = 22
    TIME_TRAVEL = 23
    CLONE = 24
    NEW_PAIR = 25
    QUOTA_80 = 26
    QUOTA_95 = 27
    QUOTA_FULL = 28
    SPOOL_NEARLY_FULL = 29
    CERTIFICATE_EXPIRING = 30
    SERVER_KEY_EXPIRING = 31
    WRONG_CREDENTIALS = 32
    CLOCK_SKEW = 33
    AGENT_TOO_OLD = 34
    ANOMALY = 35
    WATCH_WEAKENED = 36
    FIRST_RESTORE = 37
    SPOOL_HAS_ROOM = 38
    ADDRESS_CHANGED = 39
    TELLING_FAILED = 40
    SPLIT = 41
    CLOCK_JUMPED = 42
    CERTIFICATE_ADDED = 43
    CERTIFICATE_GONE = 44
    SERVER_STATE_NEWER_AGENT = 45
    CLOCK_FITS = 46
    AGENT_UPDATED = 47
    USUAL_AGAIN = 48
    CERTIFICATE_RENEWED = 49
    CREDENTIALS_QUIET = 50
    SERVER_KEY_RENEWED = 51
    QUOTA_HAS_ROOM = 52


class Severity(StrEnum):
    """How much it matters."""

    INFO = "info"
    WARNING = "warning"
    CRITICAL = "critical"


class Audience(StrEnum):
    """Who is told, and may read it."""

    ADMIN = "admin"
    OPERATOR = "operator"
    BOTH = "both"


@dataclass(frozen=True, slots=True)
class EventKind:
    """What an event means to whoever reads it, and what to do about it."""

    severity: Severity
    audience: Audience
    title: str
    advice: str


_INFO, _WARNING, _CRITICAL = Severity.INFO, Severity.WARNING, Severity.CRITICAL
_ADMIN, _OPERATOR, _BOTH = Audience.ADMIN, Audience.OPERATOR, Audience.BOTH

_HOSTILE = "No client of ours does this: find out what runs there."

EVENTS: dict[EventCode, EventKind] = {
    EventCode.SPOOL_OFFLINE: EventKind(
        _CRITICAL, _OPERATOR, "a spool is offline", "See `mastodon spool list`; mount or repair it, then restart."
    ),
    EventCode.SPOOL_ONLINE: EventKind(_INFO, _OPERATOR, "a spool is back", "Nothing."),
    EventCode.PACK_REFUSED: EventKind(
        _WARNING, _ADMIN, "a pack was refused", "If it comes again, its disk or its agent is at fault."
    ),
    EventCode.PACK_LOST: EventKind(
        _CRITICAL, _OPERATOR, "packs are gone or cannot be read", "Run `mastodon check`, and look at the disk."
    ),
    EventCode.PACK_FOUND: EventKind(_INFO, _OPERATOR, "packs are back", "Nothing."),
    EventCode.PACK_STRANGE: EventKind(
        _WARNING, _OPERATOR, "a file in a spool is no pack of ours", "It is not counted. Find out who put it there."
    ),
    EventCode.PAIR_REFUSED: EventKind(_WARNING, _ADMIN, "a sealing pair was refused", _HOSTILE),
    EventCode.SNAPSHOT_REFUSED: EventKind(
        _WARNING, _ADMIN, "a snapshot was refused", "A cloned machine does this now and then. Else: " + _HOSTILE
    ),
    EventCode.UNKNOWN_VERB: EventKind(_WARNING, _BOTH, "something asked for what there is not", _HOSTILE),
    EventCode.STATEMENT_REFUSED: EventKind(
        _WARNING, _ADMIN, "a statement was refused", "Check the clocks, and who signs."
    ),
    EventCode.CATALOGUE_REBUILT: EventKind(_INFO, _OPERATOR, "the catalogue was made anew", "Nothing."),
    EventCode.LEDGER_CONFIRMED: EventKind(_INFO, _OPERATOR, "the ledger's head was confirmed", "Nothing."),
    EventCode.MALFORMED: EventKind(_WARNING, _BOTH, "something sent what is not our format", _HOSTILE),
    EventCode.HELLO_REFUSED: EventKind(
        _WARNING, _OPERATOR, "unknown or closed machines keep trying", "Look in the log where they come from."
    ),
    EventCode.KEY_REFUSED: EventKind(
        _WARNING, _OPERATOR, "unknown client keys keep trying", "Look in the log where they come from."
    ),
    EventCode.ROLE_REFUSED: EventKind(
        _WARNING, _ADMIN, "a certificate asked for more than it may", "Find out who uses it; remove it if in doubt."
    ),
    EventCode.LATE: EventKind(
        _CRITICAL, _ADMIN, "no complete backup in time",
        "See whether the machine runs and reaches the server; run its agent by hand: it says what is wrong.",
    ),
    EventCode.RECOVERED: EventKind(_INFO, _ADMIN, "backups are complete again", "Nothing."),
    EventCode.RUN_FAILED: EventKind(
        _WARNING, _ADMIN, "a run failed", "Run the agent by hand on the machine: it says what is wrong."
    ),
    EventCode.PARTIAL_LONG: EventKind(
        _WARNING, _ADMIN, "backups have been partial for days",
        "The agent's output names the files it cannot read: make them readable, or exclude them.",
    ),
    EventCode.NEVER_SEEN: EventKind(
        _WARNING, _ADMIN, "a machine never checked in", "Install the agent with the URL and passkey of this machine."
    ),
    EventCode.SEEDING_LONG: EventKind(
        _WARNING, _ADMIN, "a first backup is not complete after days", "See that its agent runs, and how far it is."
    ),
    EventCode.TIME_TRAVEL: EventKind(
        _WARNING, _ADMIN, "a machine's disk went back in time",
        "Nothing is lost. Find out why: a stale half of a mirror, a snapshot put back.",
    ),
    EventCode.CLONE: EventKind(
        _CRITICAL, _ADMIN, "two machines back up as one",
        "Give one of them an identity of its own: `mastodon-admin machine split`.",
    ),
    EventCode.NEW_PAIR: EventKind(
        _WARNING, _ADMIN, "a machine made a new sealing pair",
        "If you changed its passkey, or it was set up anew, accept it (--accept-pair); else somebody has root there.",
    ),
    EventCode.QUOTA_80: EventKind(_WARNING, _BOTH, "80 % of a quota is used", "Ask for more, or keep less."),
    EventCode.QUOTA_95: EventKind(_WARNING, _BOTH, "95 % of a quota is used", "Ask for more, or keep less."),
    EventCode.QUOTA_FULL: EventKind(
        _CRITICAL, _BOTH, "a quota is used up: new data is refused", "What is stored stays. Raise the quota."
    ),
    EventCode.SPOOL_NEARLY_FULL: EventKind(
        _CRITICAL, _OPERATOR, "a spool is nearly full", "Make room, or add a spool."
    ),
    EventCode.CERTIFICATE_EXPIRING: EventKind(
        _WARNING, _BOTH, "a client certificate expires", "It works on: dates only warn. Make a new one when you like."
    ),
    EventCode.SERVER_KEY_EXPIRING: EventKind(
        _WARNING, _OPERATOR, "the server's certificate expires",
        "Clients with a pin go on; those without need a new certificate for the same key.",
    ),
    EventCode.WRONG_CREDENTIALS: EventKind(
        _WARNING, _OPERATOR, "wrong credentials in bulk", "Somebody tries: look in the log where it comes from."
    ),
    EventCode.CLOCK_SKEW: EventKind(
        _WARNING, _ADMIN, "a machine's clock is wrong", "Set it: times in its listings are its own."
    ),
    EventCode.AGENT_TOO_OLD: EventKind(_WARNING, _ADMIN, "an agent is too old", "Update the agent on the machine."),
    EventCode.ANOMALY: EventKind(
        _CRITICAL, _ADMIN, "a backup is unlike this machine's others",
        "Much changed or is gone: see that it was you, and no ransomware. Older snapshots are as they were.",
    ),
    EventCode.WATCH_WEAKENED: EventKind(
        _WARNING, _BOTH, "the watch was weakened", "If this was not you, find out who signed it, and put it back."
    ),
    EventCode.FIRST_RESTORE: EventKind(
        _WARNING, _BOTH, "a certificate restored for the first time", "If it is not yours, remove it at once."
    ),
    EventCode.SPOOL_HAS_ROOM: EventKind(_INFO, _OPERATOR, "a spool has room again", "Nothing."),
    EventCode.ADDRESS_CHANGED: EventKind(
        _WARNING, _BOTH, "an address for alerts was changed", "If this was not you, find out who signed it."
    ),
    EventCode.TELLING_FAILED: EventKind(
        _CRITICAL, _BOTH, "an alert could not be delivered", "See that the mail server or webhook works."
    ),
    EventCode.SPLIT: EventKind(_INFO, _ADMIN, "a fork was ended", "Nothing."),
    EventCode.CLOCK_JUMPED: EventKind(
        _WARNING, _OPERATOR, "the server's clock jumped", "See that NTP works. The watch itself does not go by it."
    ),
    EventCode.CERTIFICATE_ADDED: EventKind(
        _WARNING, _BOTH, "a client certificate was registered", "If this was not you, remove it at once."
    ),
    EventCode.CERTIFICATE_GONE: EventKind(_INFO, _BOTH, "a client certificate was removed", "Nothing."),
    EventCode.SERVER_STATE_NEWER_AGENT: EventKind(
        _CRITICAL, _BOTH, "an agent remembers more than the server has",
        "The server was put back to an older state: look for a newer copy of its spools.",
    ),
    EventCode.CLOCK_FITS: EventKind(_INFO, _ADMIN, "a machine's clock fits again", "Nothing."),
    EventCode.AGENT_UPDATED: EventKind(_INFO, _ADMIN, "an agent is new enough again", "Nothing."),
    EventCode.USUAL_AGAIN: EventKind(
        _INFO, _ADMIN, "a backup is as usual again", "If you did not look into what was odd, do so all the same."
    ),
    EventCode.CERTIFICATE_RENEWED: EventKind(_INFO, _BOTH, "a client certificate is good for longer", "Nothing."),
    EventCode.CREDENTIALS_QUIET: EventKind(_INFO, _OPERATOR, "wrong credentials have stopped", "Nothing."),
    EventCode.SERVER_KEY_RENEWED: EventKind(
        _INFO, _OPERATOR, "the server's certificate is good for longer", "Nothing."
    ),
    EventCode.QUOTA_HAS_ROOM: EventKind(_INFO, _BOTH, "a quota has room again", "Nothing."),
}  # fmt: skip

OF_A_SUBJECT = frozenset(
    {
        EventCode.SPOOL_OFFLINE, EventCode.SPOOL_ONLINE, EventCode.SPOOL_NEARLY_FULL, EventCode.SPOOL_HAS_ROOM,
        EventCode.CERTIFICATE_EXPIRING, EventCode.CERTIFICATE_GONE, EventCode.CERTIFICATE_RENEWED, EventCode.ANOMALY,
        EventCode.USUAL_AGAIN, EventCode.WRONG_CREDENTIALS, EventCode.CREDENTIALS_QUIET, EventCode.QUOTA_80,
        EventCode.QUOTA_95, EventCode.QUOTA_FULL, EventCode.QUOTA_HAS_ROOM,
    }
)  # fmt: skip
"""Events whose detail begins with what they are about (a spool, a pin, a port, a mark), a colon, a space."""

CLOSES: dict[EventCode, frozenset[EventCode]] = {
    EventCode.RECOVERED: frozenset(
        {
            EventCode.LATE, EventCode.RUN_FAILED, EventCode.PARTIAL_LONG, EventCode.NEVER_SEEN, EventCode.SEEDING_LONG,
        }
    ),
    EventCode.SPOOL_ONLINE: frozenset({EventCode.SPOOL_OFFLINE}),
    EventCode.SPOOL_HAS_ROOM: frozenset({EventCode.SPOOL_NEARLY_FULL}),
    EventCode.CERTIFICATE_GONE: frozenset({EventCode.CERTIFICATE_EXPIRING}),
    EventCode.SPLIT: frozenset({EventCode.CLONE}),
    EventCode.CLOCK_FITS: frozenset({EventCode.CLOCK_SKEW}),
    EventCode.AGENT_UPDATED: frozenset({EventCode.AGENT_TOO_OLD}),
    EventCode.USUAL_AGAIN: frozenset({EventCode.ANOMALY}),
    EventCode.CERTIFICATE_RENEWED: frozenset({EventCode.CERTIFICATE_EXPIRING}),
    EventCode.CREDENTIALS_QUIET: frozenset({EventCode.WRONG_CREDENTIALS}),
    EventCode.QUOTA_HAS_ROOM: frozenset({EventCode.QUOTA_80, EventCode.QUOTA_95, EventCode.QUOTA_FULL}),
    EventCode.SERVER_KEY_RENEWED: frozenset({EventCode.SERVER_KEY_EXPIRING}),
}  # fmt: skip
"""The conditions that an event ends, about the same machine, tenant and subject."""

OPENS: frozenset[int] = frozenset().union(*CLOSES.values())
"""Events that open a condition."""


UNKNOWN = EventKind(_WARNING, _BOTH, "an event of a later release", "See the server's log, and update this program.")


def known_code(code: int) -> EventCode | None:
    """The code, None for a later release's."""
    try:
        return EventCode(code)
    except ValueError:
        return None


def kind_of(code: int) -> EventKind:
    """What an event means; a later release's too."""
    known = known_code(code)
    return UNKNOWN if known is None else EVENTS[known]


def name_of(code: int) -> str:
    """The event's name in the list."""
    known = known_code(code)
    return f"EVENT_{code}" if known is None else known.name


def codes_for(audience: Audience) -> frozenset[int]:
    """The codes of events that are for an admin, or for the operator."""
    return frozenset(int(code) for code, kind in EVENTS.items() if kind.audience in (audience, Audience.BOTH))


def closed_by(code: int) -> frozenset[EventCode]:
    """The conditions that an event of this code ends."""
    return next((closed for closer, closed in CLOSES.items() if closer == code), frozenset())


def subject_of(code: int, detail: str) -> str:
    """What an event is about beside machine and tenant; empty for most."""
    if code not in OF_A_SUBJECT:
        return ""
    subject, colon, _ = detail.partition(SUBJECT_END)
    return subject[:SUBJECT_LENGTH] if colon else ""
