"""``mastodon events``: what the server noted, and the operator should know."""

import json
from typing import Any

import click

from mastodon.daemon.watching import show_time
from mastodon.operator.machine_id import MACHINE_ID
from mastodon.operator.reach import ask, configuration
from mastodon.operator.since import SINCE

USUAL = "7d"


@click.command("events")
@click.option("--since", type=SINCE, default=USUAL, show_default=True, metavar="TIME", help="Such as 6h or 2d ago.")
@click.option("--machine", default=None, type=MACHINE_ID, metavar="ID", help="About this machine alone.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@click.pass_context
def events(context: click.Context, since: int, machine: str | None, as_json: bool) -> None:
    """List the newest events that are for the operator, at most 1,000, the oldest first."""
    found = ask(configuration(context), "events", machine=machine or "", since_ns=since, after=0)
    for one in found:
        click.echo(json.dumps(one) if as_json else _line(one))
    if not found and not as_json:
        click.echo("No events.")


def _line(one: dict[str, Any]) -> str:
    about = " ".join(filter(None, (one["admin"], one["machine"][:16]))) or "-"
    text = f"{one['title']}: {one['detail']}" if one["detail"] else one["title"]
    mark = " [going on]" if one["open"] else ""
    return f"{one['sequence']:6}  {show_time(one['time_ns'])}  {one['severity']:8} {about} {text}{mark}"
