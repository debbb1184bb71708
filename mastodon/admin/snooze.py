"""``mastodon-admin snooze``: for planned work, alerts about silence wait."""

import click

from mastodon.admin.office import Office
from mastodon.admin.options import office_command
from mastodon.admin.when import WHEN_AHEAD
from mastodon.restore.edge import say
from mastodon.restore.errors import RestoreError
from mastodon.restore.history import show_time
from mastodon.sealed.settings import SNOOZE
from mastodon.sealed.statement import PolicyContent, StatementVerb, encode_content


@click.command("snooze")
@click.argument("until", required=False, type=WHEN_AHEAD)
@click.option("--off", is_flag=True, help="End a snooze now.")
@click.option("--machine", metavar="NAME", help="Of this machine alone.")
@office_command
def snooze(office: Office, until: int | None, off: bool, machine: str | None) -> int:
    """Hold back what the watch says of machines, UNTIL a time such as '2026-11-24 07:00', or for 6h or 2d.

    At most 30 days. What goes on then is told when it is over. What weakens the watch or smells of an attack is told
    all the same, and the snooze itself is: to you, and to the operator.
    """
    if (until is None) != off:
        raise RestoreError("give a time until when, or --off")
    about = b"" if machine is None else office.cards.find(machine)[1].machine
    value = "" if until is None else str(until)
    office.state(StatementVerb.POLICY, encode_content(PolicyContent(about, ((SNOOZE, value),))))
    say(f"{machine or 'all machines'}: " + ("no snooze" if until is None else f"snoozed until {show_time(until)}"))
    return 0
