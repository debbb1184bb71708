"""The specification says what the code does: every table and every list of fields is held against it."""

import re
from collections.abc import Iterator
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from mastodon.sealed import (  # noqa: F401  their bodies have to be loaded to be found
    book,
    enrolment,
    ledger,
    listing,
    order,
    statement,
)
from mastodon.sealed.enrolment import Role
from mastodon.sealed.events import CLOSES, EVENTS, OF_A_SUBJECT, OPENS, EventCode
from mastodon.sealed.ledger_entries import ENTRY_TYPES
from mastodon.sealed.purposes import Purpose
from mastodon.sealed.record import Record, RecordType
from mastodon.sealed.schema import Body
from mastodon.sealed.settings import SETTINGS
from mastodon.wire.errors import RETRYABLE, ErrorCode
from mastodon.wire.messages import CLIENT_MESSAGES, SERVER_MESSAGES, Message, Verb
from mastodon.wire.restore_messages import REPLIES, REQUESTS
from mastodon.wire.restore_verbs import ALLOWED, RestoreVerb

TOP = Path(__file__).resolve().parent.parent
SPEC = (TOP / "protocol-spec.md").read_text("utf-8")
BLOCK = re.compile(r"^    (\w+): (.*)\n((?:^    [ \d]\d \w+ .*\n)*)", re.M)
ROW = re.compile(r"^    ([ \d]\d) (\w+) +(.*)$", re.M)


def section(number: int) -> str:
    return re.split(r"^## \d+\. .*$", SPEC, flags=re.M)[number]


def table(text: str) -> list[list[str]]:
    rows = [line.strip("|\n").split("|") for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip().strip("`") for cell in row] for row in rows]


def bodies(kind: type[Body] = Body) -> Iterator[type[Body]]:
    for below in kind.__subclasses__():
        if below.__module__.startswith("mastodon."):
            yield below
            yield from bodies(below)


BLOCKS: dict[str, tuple[str, list[tuple[int, str, str]]]] = {
    match[1]: (match[2], [(int(row[1]), row[2], row[3]) for row in ROW.finditer(match[3])])
    for match in BLOCK.finditer(SPEC)
}


class SpecTests(SynchronousTestCase):
    def test_fields(self):
        """Each body's fields stand there with number, name and whether they may be absent; and no body is left out."""
        documented = set()
        for kind in bodies():
            numbers = [(one.metadata["number"], one.name) for one in fields(kind)]
            if not numbers and not issubclass(kind, Message):
                continue
            if kind.__name__ in ("Body", "Record", "EntryBody", "Message", "RestoreMessage"):
                continue
            self.assertIn(kind.__name__, BLOCKS)
            _, rows = BLOCKS[kind.__name__]
            self.assertEqual([(number, name) for number, name, _ in rows], numbers, kind.__name__)
            for one, (_, _, what) in zip(fields(kind), rows, strict=True):
                absent = "may be absent" in what
                self.assertEqual(absent, _has_default(one), f"{kind.__name__}.{one.name}")
            documented.add(kind.__name__)
        self.assertEqual(set(BLOCKS), documented)

    def test_purposes(self):
        """The table of purposes is the code's, in full."""
        listed = [row[0] for row in table(section(2)) if len(row) == 2][2:]
        self.assertEqual(listed, [purpose.value for purpose in Purpose])

    def test_records(self):
        """Each record type has its number, its signature's purpose and its bound."""
        kinds = {kind.TYPE: kind for kind in bodies(Record) if issubclass(kind, Record)}
        listed = {int(row[0]): row[1:4] for row in table(section(4))[2:]}
        self.assertEqual(set(listed), {int(kind) for kind in RecordType})
        for number, (name, purpose, most) in listed.items():
            kind = kinds[RecordType(number)]
            self.assertEqual((name, purpose, _bytes(most)), (kind.__name__, kind.PURPOSE.value, kind.LIMIT))

    def test_ledger_types(self):
        """Each entry type has its number, and those that may be passed over say so."""
        for number, kind in ENTRY_TYPES.items():
            head = f"type {int(number)}" + ("" if kind.CRITICAL else ", not critical")
            self.assertEqual(BLOCKS[kind.__name__][0], head)

    def test_messages(self):
        """Each message has its verb and part, or frame type, and its bound where it is not the usual one."""
        for (verb, part), kind in CLIENT_MESSAGES.items():
            self._check_head(kind, f"{Verb(verb).name} part {part}")
        for replies in (SERVER_MESSAGES, REPLIES):
            for number, kind in replies.items():
                self._check_head(kind, f"server, frame type {int(number)}")
        for number, kind in REQUESTS.items():
            self._check_head(kind, f"client, frame type {int(number)}")

    def _check_head(self, kind: type[Message], start: str) -> None:
        head = BLOCKS[kind.__name__][0]
        self.assertTrue(
            head.split(",")[: 1 + start.count(",")] == start.split(",") or head.startswith(start + " "), head
        )
        bound = re.search(r"at most (.*)$", head)
        self.assertEqual(_bytes(bound[1]) if bound else 4096, kind.LIMIT, kind.__name__)

    def test_verbs_and_roles(self):
        """The table of verbs and roles is the literal one that the server goes by."""
        head, _, *rows = table(section(17))
        self.assertEqual(head[2:], [role.name for role in Role])
        listed = {
            RestoreVerb(int(row[0])): {role for role, cell in zip(Role, row[2:], strict=True) if cell == "yes"}
            for row in rows
        }
        self.assertEqual(listed, {verb: set(roles) for verb, roles in ALLOWED.items()})
        self.assertEqual([row[1] for row in rows], [verb.name for verb in RestoreVerb])

    def test_error_codes(self):
        """Each code with its name, and whether to try again."""
        rows = table(section(16))[2:]
        self.assertEqual(
            [(int(row[0]), row[1], row[3] == "yes") for row in rows],
            [(int(code), code.name, code in RETRYABLE) for code in ErrorCode],
        )

    def test_statement_verbs(self):
        """Every verb of a statement is named."""
        for verb in statement.StatementVerb:
            self.assertIn(verb.name, section(11))

    def test_events(self):
        """Each event with its severity and audience, what it opens, and what closes that."""
        rows = [row for row in table(section(13)) if row[0].isdigit()]
        expected = []
        for code, kind in EVENTS.items():
            marks = (" †" if code in OPENS else "") + (" s" if code in OF_A_SUBJECT else "")
            closers = [closer.name for closer, closed in CLOSES.items() if code in closed]
            expected.append([str(int(code)), code.name + marks, kind.severity, kind.audience, ", ".join(closers)])
        self.assertEqual(rows, expected)
        self.assertEqual(set(EVENTS), set(EventCode))

    def test_settings(self):
        """Each setting with its usual value."""
        rows = [row for row in table(section(13)) if "." in row[0]]
        names = {name.strip("` "): row[2] for row in rows for name in row[0].split(",")}
        self.assertEqual(names, {name: kind.usual for name, kind in SETTINGS.items()})

    def test_sections_that_modules_name(self):
        """A module's docstring that names a section names one that there is."""
        count = len(re.findall(r"^## \d+\. ", SPEC, re.M))
        self.assertEqual(count, 21)
        for path in [*(TOP / "mastodon" / "sealed").glob("*.py"), *(TOP / "mastodon" / "wire").glob("*.py")]:
            for number in re.findall(r"protocol-spec\.md §(\d+)", path.read_text("utf-8")):
                self.assertLessEqual(int(number), count, path.name)


def _has_default(one: Any) -> bool:
    return one.default is not MISSING


def _bytes(text: str) -> int:
    number, unit = text.replace(",", "").split()
    return int(number) * {"bytes": 1, "KiB": 1 << 10, "MiB": 1 << 20}[unit]
