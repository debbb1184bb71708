"""``mastodon-admin ls``: what is in a snapshot."""

import click

from mastodon.admin.office import Office
from mastodon.admin.options import Command, finish, office_command, output_options, session_options, snapshot_option
from mastodon.restore import actions


@click.command("ls")
@click.argument("machine")
@click.argument("path", default="/")
@snapshot_option
@click.option("-R", "--recursive", is_flag=True, help="All below PATH.")
@output_options
@office_command
@session_options
def ls(
    office: Office, machine: str, path: str, snapshot: str, recursive: bool, out: actions.Output, open_session: Command
) -> int:
    """List PATH (default /) in a snapshot of MACHINE."""
    session = open_session(machine)
    return finish(office, session, actions.list_directory(session, snapshot, path, recursive, out))
