"""``mastodon admin add-certificate``: a further client key of an admin, or a monitor's."""

import click

from mastodon.host.certificates import parse_pin
from mastodon.operator.reach import ask, configuration, plain_errors


@click.command("add-certificate")
@click.argument("pin")
@click.option("--admin", "name", default="", metavar="NAME", help="Whose certificate it is.")
@click.option("--monitor", is_flag=True, help="It may only ask for status: of one admin's machines, or of everything.")
@click.option("--label", default="", help="What the device is called.")
@click.pass_context
def admin_add_certificate(context: click.Context, pin: str, name: str, monitor: bool, label: str) -> None:
    """Register the client key PIN, which `mastodon-admin certificate make` printed.

    --admin NAME: as one of that admin's, who is told of it. --monitor alone: as your own monitor, which sees the status
    of every machine and of the server, and nothing else. Doing it again changes nothing.
    """
    if not name and not monitor:
        raise click.UsageError("say whose it is: --admin NAME, or --monitor for your own, which sees all machines")
    config = configuration(context)
    with plain_errors():
        ask(config, "admin add-certificate", pin=parse_pin(pin).hex(), admin=name, monitor=monitor, label=label)
    role = "monitor" if monitor else "admin"
    click.echo(f"Registered as {name}'s {role}." if name else "Registered as your own monitor.")
