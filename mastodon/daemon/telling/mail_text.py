"""A letter as a mail for people: what happened, to which machine, since when, and what to do.

Promise: text that a machine or client caused stands behind a label of its own line and holds nothing that could end the
line or drive a terminal.
"""

from collections.abc import Callable

from mastodon.daemon.telling.letter import Letter, LetterKind, Line
from mastodon.daemon.watching import show_time
from mastodon.sealed.events import Severity

SHORT = 12
NameOf = Callable[[bytes], str]
"""An admin's name."""


def subject(letter: Letter, server: str) -> str:
    """The mail's subject."""
    what = letter.lines or letter.open
    if letter.kind is LetterKind.TEST:
        text = "a test: mails arrive"
    elif letter.kind is LetterKind.DIGEST:
        text = f"daily digest: {_many(_total(letter), 'event')}, {_many(len(letter.open), 'thing')} going on"
    elif len(what) == 1 and not letter.more:
        text = f"{what[0].kind.title}{_about(what[0])}"
    else:
        text = f"{_many(_total(letter), 'alert')}, first: {what[0].kind.title}{_about(what[0])}"
    grave = "CRITICAL: " if any(_is_critical(one) for one in what) and letter.kind is not LetterKind.DIGEST else ""
    return f"[mastodon {server}] {grave}{text}"


def text(letter: Letter, server: str, tenant: bytes, name_of: NameOf) -> str:
    """The mail's body."""
    parts = [_opening(letter, server, name_of(tenant) if tenant else "")]
    parts += [_paragraph(one, "" if tenant else name_of(one.tenant)) for one in letter.lines]
    if letter.open and letter.lines:
        parts.append("Still going on:")
    parts += [_paragraph(one, "" if tenant else name_of(one.tenant)) for one in letter.open]
    command = "mastodon-admin events" if tenant else "mastodon events"
    if letter.more:
        parts.append(f"And {letter.more} more that are not listed here: {command}")
    if tenant:
        parts.append(
            "Names of machines: mastodon-admin machine list. All events: mastodon-admin events. I know of this:\n"
            "mastodon-admin ack. Planned work: mastodon-admin snooze. Another address: mastodon-admin notify set."
        )
    else:
        parts.append("All events: mastodon events. Another address: mastodon notify set.")
    return "\n\n".join(parts) + "\n"


def _opening(letter: Letter, server: str, admin: str) -> str:
    who = f"{server}, machines of {admin}" if admin else f"{server}, for its operator"
    match letter.kind:
        case LetterKind.TEST:
            return f"Backup server {who}.\n\nThis is the test that was asked for. Alerts come to this address."
        case LetterKind.STILL:
            return f"Backup server {who}.\n\nA snooze is over. This still goes on:"
        case LetterKind.DIGEST:
            return f"Backup server {who}.\n\nWhat there was since the last digest, as of {show_time(letter.time_ns)}:"
    return f"Backup server {who}. As of {show_time(letter.time_ns)}:"


def _paragraph(line: Line, admin: str) -> str:
    kind = line.kind
    rows = [f"{kind.severity.value.upper()}: {kind.title}"]
    if line.machine:
        rows.append(f"  machine: {line.machine.hex()}")
    if admin:
        rows.append(f"  admin:   {_plain(admin)}")
    if line.count > 1:
        rows.append(f"  times:   {line.count}, from {show_time(line.first_ns)} to {show_time(line.last_ns)}")
    else:
        rows.append(f"  since:   {show_time(line.first_ns)}")
    if line.detail:
        rows.append(f"  detail:  {_plain(line.detail)}")
    rows.append(f"  do:      {kind.advice}")
    rows.append(f"  event:   {line.sequence} {line.name}")
    return "\n".join(rows)


def _about(line: Line) -> str:
    return f" (machine {line.machine.hex()[:SHORT]})" if line.machine else ""


def _total(letter: Letter) -> int:
    return sum(one.count for one in letter.lines) + letter.more or len(letter.open)


def _is_critical(line: Line) -> bool:
    return line.kind.severity is Severity.CRITICAL


def _many(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def _plain(value: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in value)[:500]
