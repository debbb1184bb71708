"""``mastodon-admin status``: how all machines do, as the server sees it and as this client knows it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import click

from mastodon.admin.office import Office
from mastodon.admin.options import Command, finish, office_command, output_options, session_options
from mastodon.host.sizes import show_size
from mastodon.restore.actions import Output
from mastodon.restore.errors import RestoreError
from mastodon.restore.present import to_json
from mastodon.sealed.duration import show_span
from mastodon.sealed.events import EVENTS, EventCode
from mastodon.sealed.listing import Root
from mastodon.sealed.snapshot import SnapshotStatus
from mastodon.wire.status_messages import Condition, ServerStatusItem, StatusItem, TenantUse

SECOND_NS = 10**9
KEY_UNPROVEN = "key unproven"
NO_CARD = "no card here"
HEADS = ("machine", "state", "complete", "newest", "snapshots", "kept")
CONTENT = "agent's content"


@dataclass(slots=True)
class Row:
    """A machine: what the server says, and what only this client knows."""

    name: str
    item: StatusItem
    notes: list[str] = field(default_factory=list)
    root: Root | None = None


@click.command("status")
@click.option(
    "--content", is_flag=True,
    help="Open each newest snapshot, for what its agent says that it backed up; needs what opens the backups.",
)  # fmt: skip
@output_options
@office_command
@session_options
def status(office: Office, content: bool, out: Output, open_session: Command) -> int:
    """Show how all machines do: state, newest complete snapshot, sizes, and what is not as it should be.

    "key unproven": no envelope of the machine was ever opened with this client's book, so nobody knows that its backups
    can be. Open one: list a snapshot with `ls`.
    """
    office.greet()
    server, machines = office.source.status()
    rows = [_row(office, one) for one in machines]
    rows.sort(key=lambda row: (not row.name, row.name, row.item.machine))
    if content:
        for row in rows:
            _read_content(office, row, open_session)
    if out.json:
        for row in rows:
            out.say(to_json(row_fields(row)))
        for tenant in server.tenants:
            out.say(to_json(tenant_fields(tenant)))
        return 0
    for line in table(server, rows, content, headings=not out.quiet):
        out.say(line)
    return 0


def _row(office: Office, item: StatusItem) -> Row:
    found = next(
        ((card, one) for card in office.cards.cards for one in card.generations if one.machine == item.machine), None
    )
    row = Row(found[0].name if found else "", item)
    if found is None:
        row.notes.append(NO_CARD)
    elif item.snapshots and not found[1].pairs:
        row.notes.append(KEY_UNPROVEN)
    head = office.memory.head(item.machine)
    if head is not None and head.sequence > item.snapshots:
        row.notes.append(f"{head.sequence} snapshots were seen, {item.snapshots} are there")
    return row


def _read_content(office: Office, row: Row, open_session: Callable[[str], Any]) -> None:
    """The root of the newest snapshot; why not stands among the notes."""
    if not row.name or not row.item.snapshots:
        return
    try:
        session = open_session(row.item.machine.hex())
        row.root = session.listing(session.snapshot("latest")).root
        finish(office, session, 0)
    except RestoreError as error:
        row.notes.append(f"content: {error}")
    else:
        row.notes = [one for one in row.notes if one != KEY_UNPROVEN]


def row_fields(row: Row) -> dict[str, Any]:
    """A machine for programs; times in nanoseconds, 0 for never."""
    item = row.item
    fields = {
        "name": row.name, "machine": item.machine.hex(), "state": item.watch.name.lower(), "since_ns": item.since_ns,
        "enrolment": item.state.name.lower(), "seen_ns": item.seen_ns, "complete_ns": item.complete_ns,
        "newest_ns": item.newest_ns, "newest_status": _status(item.newest_status),
        "partial_since_ns": item.partial_since_ns, "interval_s": item.interval_s, "grace_s": item.grace_s,
        "snapshots": item.snapshots, "kept_bytes": item.kept_bytes, "quota_bytes": item.quota_bytes,
        "conditions": _condition_fields(item.conditions), "key_unproven": KEY_UNPROVEN in row.notes,
        "notes": row.notes,
    }  # fmt: skip
    if row.root is not None:
        fields["agent_files"], fields["agent_content_bytes"] = row.root.files, row.root.content_bytes
    return fields


def tenant_fields(tenant: TenantUse) -> dict[str, Any]:
    """The admin as a whole, for programs."""
    return {
        "admin": tenant.name, "machines": tenant.machines, "kept_bytes": tenant.kept_bytes,
        "quota_bytes": tenant.quota_bytes, "conditions": _condition_fields(tenant.conditions),
    }  # fmt: skip


def table(server: ServerStatusItem, rows: Sequence[Row], content: bool, *, headings: bool) -> list[str]:
    """For people; ages are by the server's clock."""
    cells = [_cells(server, row, content) for row in rows]
    heads = (*HEADS, *((CONTENT,) if content else ()), "")
    lines = [heads, *cells] if headings else cells
    widths = [max(len(line[at]) for line in lines) for at in range(len(heads) - 1)] if lines else []
    shown = ["  ".join([*map(str.ljust, line, widths), line[-1]]).rstrip() for line in lines]
    if headings:
        shown += [_tenant_line(one) for one in server.tenants]
    return shown


def _cells(server: ServerStatusItem, row: Row, content: bool) -> tuple[str, ...]:
    item = row.item
    kept = show_size(item.kept_bytes)
    if item.quota_bytes is not None:
        kept += f" of {show_size(item.quota_bytes)}"
    newest = _ago(server, item.newest_ns)
    if item.newest_status not in (None, SnapshotStatus.COMPLETE):
        newest += f", {_status(item.newest_status)}"
    cells = [
        row.name or item.machine.hex()[:16], item.watch.name.lower().replace("_", " "), _ago(server, item.complete_ns),
        newest, str(item.snapshots), kept,
    ]  # fmt: skip
    if content:
        root = row.root
        cells.append(f"{show_size(root.content_bytes)} in {root.files} files" if root else "-")
    return (*cells, "; ".join([*row.notes, *_titles(server, item.conditions)]))


def _tenant_line(tenant: TenantUse) -> str:
    of = "" if tenant.quota_bytes is None else f" of {show_size(tenant.quota_bytes)}"
    count = f"{tenant.machines} machine{'' if tenant.machines == 1 else 's'}"
    said = "".join(f"; {_title(code)}" for code, _, _ in tenant.conditions)
    return f"{tenant.name}: {count}, {show_size(tenant.kept_bytes)}{of} kept{said}"


def _ago(server: ServerStatusItem, time_ns: int) -> str:
    if not time_ns:
        return "never"
    seconds = (server.time_ns - time_ns) // SECOND_NS
    return f"{show_span(seconds)} ago" if seconds >= 0 else "in the future"


def _status(status: SnapshotStatus | None) -> str:
    return status.name.lower() if status else ""


def _titles(server: ServerStatusItem, conditions: Sequence[Condition]) -> list[str]:
    return [f"{_title(code)} (since {_ago(server, since_ns)})" for code, _, since_ns in conditions]


def _title(code: int) -> str:
    return EVENTS[EventCode(code)].title if code in set(EventCode) else f"event {code} of a later release"


def _condition_fields(conditions: Sequence[Condition]) -> list[dict[str, Any]]:
    return [
        {
            "condition": EventCode(code).name.lower() if code in set(EventCode) else str(code),
            "subject": subject, "since_ns": since_ns,
        }
        for code, subject, since_ns in conditions
    ]  # fmt: skip
