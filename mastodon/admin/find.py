"""``mastodon-admin find``: entries of a snapshot whose path matches a pattern."""

import click

from mastodon.admin.office import Office
from mastodon.admin.options import Command, finish, office_command, output_options, session_options, snapshot_option
from mastodon.restore import actions


@click.command("find")
@click.argument("machine")
@click.argument("pattern")
@snapshot_option
@output_options
@office_command
@session_options
def find(office: Office, machine: str, pattern: str, snapshot: str, out: actions.Output, open_session: Command) -> int:
    """Find PATTERN in a snapshot of MACHINE: a name ('*.conf'), or with slashes a whole path ('/etc/**/*.conf')."""
    session = open_session(machine)
    return finish(office, session, actions.find(session, snapshot, pattern, out))
