"""``mastodon-admin machine disable`` and ``enable``: whether the server takes anything from a machine."""

import click

from mastodon.admin.office import Office
from mastodon.admin.options import office_command
from mastodon.restore.edge import say
from mastodon.sealed.statement import MachineContent, StatementVerb, encode_content


@click.command("disable")
@click.argument("name")
@office_command
def machine_disable(office: Office, name: str) -> int:
    """Have the server take nothing more from the machine NAME, at once, in a run that is going on too.

    It is not watched while it is disabled. All that is stored stays, and can be restored.
    """
    _state(office, StatementVerb.DISABLE_MACHINE, name)
    say(f"{name} is disabled: nothing is taken from it, and it is not watched, until `machine enable {name}`")
    return 0


@click.command("enable")
@click.argument("name")
@office_command
def machine_enable(office: Office, name: str) -> int:
    """Have the server take backups from the machine NAME again, and watch it."""
    _state(office, StatementVerb.ENABLE_MACHINE, name)
    say(f"{name} is enabled")
    return 0


def _state(office: Office, verb: StatementVerb, name: str) -> None:
    machine = office.cards.find(name)[1].machine
    office.state(verb, encode_content(MachineContent(machine)))
