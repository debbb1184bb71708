"""``mastodon admin remove-certificate``: a client key may do nothing any more, at once and for ever."""

import click

from mastodon.host.certificates import parse_pin
from mastodon.operator.reach import ask, configuration, plain_errors


@click.command("remove-certificate")
@click.argument("pin")
@click.pass_context
def admin_remove_certificate(context: click.Context, pin: str) -> None:
    """Remove the client key PIN (as `mastodon admin list` shows it), for ever."""
    config = configuration(context)
    with plain_errors():
        ask(config, "admin remove-certificate", pin=parse_pin(pin).hex())
    click.echo("Removed. The key is refused from now on, and can never be registered again.")
