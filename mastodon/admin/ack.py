"""``mastodon-admin ack``: says that events are known, so that they are not told again."""

import click

from mastodon.admin.office import Office
from mastodon.admin.options import office_command
from mastodon.restore.edge import say
from mastodon.restore.errors import RestoreError
from mastodon.sealed.ledger_entries import ACKNOWLEDGED_MOST


@click.command("ack")
@click.argument("numbers", nargs=-1, type=click.IntRange(1, (1 << 63) - 1), metavar="[EVENT...]")
@click.option("--all", "everything", is_flag=True, help="All that there are until now.")
@click.option("--machine", metavar="NAME", help="With --all: about this machine alone.")
@office_command
def ack(office: Office, numbers: tuple[int, ...], everything: bool, machine: str | None) -> int:
    """Acknowledge events by their numbers (`mastodon-admin events` shows them), for all certificates of this admin.

    What goes on is then no longer in the daily digest. When it is over, and comes again, that is told as ever.
    """
    if everything == bool(numbers) or (machine is not None and not everything):
        raise RestoreError("give the numbers of events, or --all, with --machine where only one is meant")
    wanted = list(numbers)
    if everything:
        about = b"" if machine is None else office.cards.find(machine)[1].machine
        wanted = [one.sequence for one in office.source.events(about, 0, 0) if not one.acknowledged_ns]
    for at in range(0, len(wanted), ACKNOWLEDGED_MOST):
        office.source.acknowledge(wanted[at : at + ACKNOWLEDGED_MOST])
    say(f"{len(wanted)} event{'' if len(wanted) == 1 else 's'} acknowledged")
    return 0
