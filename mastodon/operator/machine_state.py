"""``mastodon machine disable`` and ``enable``: whether anything is taken from a machine."""

import click

from mastodon.operator.machine_id import MACHINE_ID
from mastodon.operator.reach import ask, configuration


@click.command("disable")
@click.argument("machine", metavar="ID", type=MACHINE_ID)
@click.pass_context
def machine_disable(context: click.Context, machine: str) -> None:
    """Take nothing more from the machine ID (or the beginning of its id), at once, in a run that is going on too.

    It is not watched while it is disabled. All that is stored stays, and can be restored. Its admin is told.
    """
    found = ask(configuration(context), "machine state", machine=machine, enabled=False)
    click.echo(f"{found}: disabled. Its admin is told, and may enable it again.")


@click.command("enable")
@click.argument("machine", metavar="ID", type=MACHINE_ID)
@click.pass_context
def machine_enable(context: click.Context, machine: str) -> None:
    """Take backups from the machine ID (or the beginning of its id) again, and watch it."""
    found = ask(configuration(context), "machine state", machine=machine, enabled=True)
    click.echo(f"{found}: enabled.")
