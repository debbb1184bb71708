"""``mastodon watch set``: how often a complete backup is due, and the grace beyond that."""

import click

from mastodon.operator.machine_id import MACHINE_ID
from mastodon.operator.reach import ask, configuration
from mastodon.sealed.settings import GRACE, INTERVAL, duration_value


@click.command("set")
@click.option("--admin", default="", metavar="NAME", help="For this admin's machines alone.")
@click.option("--machine", default=None, type=MACHINE_ID, metavar="ID", help="For this machine alone.")
@click.option("--every", metavar="TIME", help="How often a complete snapshot is due.")
@click.option("--grace", metavar="TIME", help="How much later it may come.")
@click.pass_context
def watch_set(context: click.Context, admin: str, machine: str | None, every: str | None, grace: str | None) -> None:
    """Set interval and grace: of all machines, of an admin's, or of one.

    TIME is such as 30m, 6h or 2d, or `default` for what the level above says: a machine's own wins over its admin's,
    that over the server's. It holds within a minute. Who is watched less by it is told.
    """
    if admin and machine:
        raise click.UsageError("give --admin or --machine, not both: a machine has one admin")
    if every is None and grace is None:
        raise click.UsageError("give --every or --grace, or both; `mastodon watch show` shows what holds")
    try:
        typed = {INTERVAL: every, GRACE: grace}
        settings = {name: duration_value(name, text) for name, text in typed.items() if text is not None}
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    ask(configuration(context), "policy set", admin=admin, machine=machine or "", settings=settings)
    click.echo(f"{machine or admin or 'all machines'}: set.")
