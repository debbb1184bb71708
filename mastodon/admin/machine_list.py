"""``mastodon-admin machine list``: the machines that this admin knows, and what the server says of them."""

from typing import Any

import click

from mastodon.admin.office import Office
from mastodon.admin.options import office_command, output_options
from mastodon.host.sizes import show_size
from mastodon.host.times import show_time
from mastodon.restore.actions import Output
from mastodon.restore.errors import RestoreError
from mastodon.restore.present import to_json
from mastodon.sealed.enrolment import Enrolment
from mastodon.sealed.errors import FormatError
from mastodon.wire.restore_messages import MachineItem


@click.command("list")
@click.option("--book", "read_book", is_flag=True, help="Read the book first (unlocks the admin secret).")
@output_options
@office_command
def machine_list(office: Office, read_book: bool, out: Output) -> int:
    """List the machines. Names come from the local cache of the book, states from the server."""
    if read_book:
        office.read_book()
    shown = machines_on_server(office)
    for card in office.cards.cards:
        fields = machine_fields(card.name, card.generations[-1].machine, shown)
        out.say(to_json(fields) if out.json else _line(fields))
    known = {one.machine for card in office.cards.cards for one in card.generations}
    for machine in sorted(shown.keys() - known):
        fields = machine_fields("", machine, shown)
        out.say(to_json(fields) if out.json else _line(fields))
        out.tell(f"machine {machine.hex()[:16]} has no card here: `mastodon-admin machine list --book` reads the book")
    return 0


def machines_on_server(office: Office) -> dict[bytes, MachineItem]:
    """What the server says, by machine id; enrolments that are not signed by their machine are an error."""
    found: dict[bytes, MachineItem] = {}
    for item in office.source.machines():
        try:
            found[Enrolment.open(item.enrolment).machine] = item
        except FormatError as error:
            raise RestoreError(f"the server shows a machine that nobody enrolled: {error}") from None
    return found


def machine_fields(name: str, machine: bytes, shown: dict[bytes, MachineItem]) -> dict[str, Any]:
    """A machine for programs."""
    item = shown.get(machine)
    fields: dict[str, Any] = {"name": name, "machine": machine.hex(), "enrolled": item is not None}
    if item is not None:
        fields |= {
            "state": item.state.name.lower(),
            "seen_ns": item.seen_ns,
            "snapshots": item.snapshots,
            "kept_bytes": item.kept_bytes,
        }
    return fields


def _line(fields: dict[str, Any]) -> str:
    start = f"{fields['name'] or '-':20} {fields['machine'][:16]}"
    if not fields["enrolled"]:
        return f"{start}  the server does not know it"
    seen = show_time(fields["seen_ns"]) if fields["seen_ns"] else "never seen"
    size = show_size(fields["kept_bytes"])
    return f"{start}  {fields['state']:9} {fields['snapshots']:6} snapshots {size:>11}  {seen}"
