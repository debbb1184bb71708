"""``mastodon watch show``: how the machines stand, and what is due of them."""

import json
from typing import Any

import click

from mastodon.operator.reach import ask, configuration
from mastodon.sealed.duration import show_duration


@click.command("show")
@click.option("--json", "as_json", is_flag=True, help="Print JSON: times in nanoseconds, lengths in seconds.")
@click.pass_context
def watch_show(context: click.Context, as_json: bool) -> None:
    """Show every machine: how it stands, its newest complete snapshot, interval and grace."""
    found = ask(configuration(context), "watch show")
    if as_json:
        click.echo(json.dumps(found))
        return
    usual = _bounds(found["interval_s"], found["grace_s"])
    click.echo(f"where nothing else is set: {usual}")
    for one in found["machines"]:
        click.echo(_line(one))


def _line(one: dict[str, Any]) -> str:
    bounds = _bounds(one["interval_s"], one["grace_s"])
    return f"{one['machine']}  {one['admin']}  {one['state']}  last complete {one['complete']}  {bounds}"


def _bounds(interval_s: int, grace_s: int) -> str:
    return f"every {show_duration(interval_s)}, grace {show_duration(grace_s)}"
