"""``mastodon admin list``: the admins, how many machines they have, and their certificates."""

import json

import click

from mastodon.host.certificates import pin_text
from mastodon.operator.reach import ask, configuration


@click.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def admin_list(context: click.Context, as_json: bool) -> None:
    """List the admins and their certificates."""
    admins = ask(configuration(context), "admin list")
    if as_json:
        click.echo(json.dumps(admins))
        return
    if not admins:
        click.echo("No admins yet: mastodon admin add NAME --request FILE")
    for admin in admins:
        count = admin["machines"]
        whose = f"{admin['name']}: {count} machine{'' if count == 1 else 's'}"
        click.echo(whose if admin["tenant"] else "the operator's own, for every machine's status:")
        for one in admin["certificates"]:
            click.echo(f"  {pin_text(bytes.fromhex(one['pin']))}  {one['role']}  {one['label']}")
