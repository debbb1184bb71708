"""``mastodon limit show``: the caps that hold now."""

import json

import click

from mastodon.operator.rate import rate_text
from mastodon.operator.reach import ask, configuration


@click.command("show")
@click.option("--json", "as_json", is_flag=True, help="Print JSON: bytes a second, 0 for no cap.")
@click.pass_context
def limit_show(context: click.Context, as_json: bool) -> None:
    """Show how many bytes a second agents may send."""
    found = ask(configuration(context), "limit show")
    if as_json:
        click.echo(json.dumps(found))
        return
    click.echo(f"all together  {rate_text(found['total'])}")
    click.echo(f"each machine  {rate_text(found['machine'])}")
    for machine, rate in found["machines"].items():
        click.echo(f"{machine}  {rate_text(rate)}")
