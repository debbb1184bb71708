"""``mastodon-admin snapshots``: a machine's snapshots, verified; needs no key."""

import click

from mastodon.admin.office import Office
from mastodon.admin.options import office_command, output_options
from mastodon.restore import actions
from mastodon.restore.edge import tell
from mastodon.restore.keys import with_keyring
from mastodon.restore.session import Session


@click.command("snapshots")
@click.argument("machine")
@click.option("--allow-older", is_flag=True, help="Take an older state than was seen before.")
@output_options
@office_command
def snapshots(office: Office, machine: str, allow_older: bool, out: actions.Output) -> int:
    """List the snapshots of MACHINE, oldest first."""
    office.greet(allow_older=allow_older)
    known, _ = office.cards.known(machine, office.home.identity().order_key)
    session = Session(office.source, known, with_keyring(), office.memory, tell, allow_older=allow_older)
    return actions.list_snapshots(session, out)
