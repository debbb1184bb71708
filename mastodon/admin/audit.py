"""``mastodon-admin audit``: who read what of this admin's machines, as the server's ledger has it."""

from typing import Any

import click

from mastodon.admin.office import Office
from mastodon.admin.options import office_command, output_options
from mastodon.admin.when import WHEN_PAST
from mastodon.host.certificates import pin_text
from mastodon.host.sizes import show_blobs
from mastodon.restore.actions import Output
from mastodon.restore.history import show_time
from mastodon.restore.present import to_json
from mastodon.wire.read_messages import ReadItem

USUAL = "30d"


@click.command("audit")
@click.argument("machine", required=False)
@click.option(
    "--since", type=WHEN_PAST, default=USUAL, show_default=True, metavar="TIME", help="A time, or how long ago: 6h, 2d."
)
@output_options
@office_command
def audit(office: Office, machine: str | None, since: int, out: Output) -> int:
    """Show who read backups of MACHINE (all): which certificate, when, how much. The oldest first.

    FIRST_RESTORE among the events tells at once when a certificate fetches for the first time.
    """
    wanted = office.cards.find(machine)[1].machine if machine else b""
    names = {one.machine: card.name for card in office.cards.cards for one in card.generations}
    shown = False
    for item in office.source.reads(wanted, since):
        shown = True
        fields = read_fields(item, names.get(item.machine, ""))
        out.say(to_json(fields) if out.json else read_line(fields))
    if not shown and not out.json:
        out.tell(f"nothing was read since {show_time(since)}")
    return 0


def read_fields(item: ReadItem, name: str) -> dict[str, Any]:
    """An entry for programs."""
    return {
        "machine": item.machine.hex(),
        "name": name,
        "pin": pin_text(item.pin),
        "label": item.label,
        "since_ns": item.since_ns,
        "time_ns": item.time_ns,
        "requests": item.requests,
        "blobs": item.blobs,
        "bytes": item.content_bytes,
        "written": bool(item.sequence),
    }


def read_line(fields: dict[str, Any]) -> str:
    """An entry for people."""
    name = fields["name"] or fields["machine"][:16]
    much = show_blobs(fields["blobs"], fields["bytes"]) if fields["blobs"] else "records only"
    until = show_time(fields["time_ns"])[11:19] if fields["written"] else "now"
    return f"{show_time(fields['since_ns'])[:19]} - {until}  {name:20} {fields['label']:16} {fields['pin']}  {much}"
