"""``mastodon machine list``: all machines, as the server knows them: by id, since names are sealed."""

import json

import click

from mastodon.host.sizes import show_size
from mastodon.host.times import show_time
from mastodon.operator.reach import ask, configuration


@click.command("list")
@click.option("--admin", "name", metavar="NAME", help="Only this admin's.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def machine_list(context: click.Context, name: str | None, as_json: bool) -> None:
    """List the machines: id, admin, state, snapshots, what they keep, when they were last seen."""
    machines = ask(configuration(context), "machine list")
    shown = [one for one in machines if name in (None, one["admin"])]
    if as_json:
        click.echo(json.dumps(shown))
        return
    if not shown:
        click.echo("No machines yet: their admins add them, with mastodon-admin machine add")
    for one in shown:
        seen = show_time(one["seen_ns"]) if one["seen_ns"] else "never seen"
        kept = show_size(one["kept_bytes"])
        click.echo(
            f"{one['machine']}  {one['admin']:16} {one['state']:9} {one['snapshots']:6} snapshots {kept:>11}  {seen}"
        )
