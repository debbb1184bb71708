"""``mastodon quota show``: what admins and machines may keep, and do."""

import json

import click

from mastodon.host.sizes import show_use
from mastodon.operator.reach import ask, configuration


@click.command("show")
@click.option("--admin", default="", metavar="NAME", help="One admin alone, with its machines.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON; bytes, null for no quota.")
@click.pass_context
def quota_show(context: click.Context, admin: str, as_json: bool) -> None:
    """Show quotas and what is used of them, by the sizes of the stored packs; one copy of each counts."""
    found = ask(configuration(context), "quota show", admin=admin)
    if as_json:
        click.echo(json.dumps(found))
        return
    if not found:
        click.echo("No admins yet: mastodon admin add NAME --request FILE")
    for one in found:
        click.echo(f"{one['admin']}: {show_use(one['used_bytes'], one['quota_bytes'])}")
        for machine in one["machines"]:
            if admin or machine["quota_bytes"] is not None:
                click.echo(f"  {machine['machine']}  {show_use(machine['used_bytes'], machine['quota_bytes'])}")
