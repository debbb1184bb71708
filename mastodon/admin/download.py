"""``mastodon-admin download``: one file's content, to a file or stdout."""

import os
import posixpath

import click

from mastodon.admin.office import Office
from mastodon.admin.options import Command, finish, office_command, output_options, session_options, snapshot_option
from mastodon.restore import actions
from mastodon.restore.errors import RestoreError


@click.command("download")
@click.argument("machine")
@click.argument("path")
@click.option(
    "-o", "--output", default="", metavar="FILE|-", help="Where to (default: the file's name, here; -: stdout)."
)
@snapshot_option
@output_options
@office_command
@session_options
def download(
    office: Office, machine: str, path: str, output: str, snapshot: str, out: actions.Output, open_session: Command
) -> int:
    """Download the file PATH of a snapshot of MACHINE. A file appears only when it is whole and verified."""
    session = open_session(machine)
    target = None if output == "-" else output or posixpath.basename(path.rstrip("/"))
    if target and not output and os.path.lexists(target):
        raise RestoreError(f"{target} is there already: say where to with -o FILE, which replaces a file that is there")
    return finish(office, session, actions.download(session, snapshot, path, target, out))
