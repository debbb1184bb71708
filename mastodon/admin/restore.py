"""``mastodon-admin restore``: a snapshot, or parts of it, into a directory."""

from pathlib import Path

import click

from mastodon.admin.office import Office
from mastodon.admin.options import Command, finish, office_command, output_options, session_options, snapshot_option
from mastodon.restore import actions

OVERWRITE = click.Choice(["never", "if-changed", "if-newer", "always"])


@click.command("restore")
@click.argument("machine")
@click.argument("paths", nargs=-1, metavar="[PATH]...")
@click.option(
    "--to", required=True, type=click.Path(path_type=Path, file_okay=False), help="Directory to restore into."
)
@snapshot_option
@click.option("--owner-by", default="number", metavar="number|name|FILE", help="How owners are set (default: number).")
@click.option("--overwrite", type=OVERWRITE, default="never", help="What becomes of existing files (default: never).")
@click.option("--verify", is_flag=True, help="Compare the content of files that are there already.")
@click.option("-n", "--dry-run", is_flag=True, help="Only show what would be restored.")
@output_options
@office_command
@session_options
def restore(
    office: Office, machine: str, paths: tuple[str, ...], to: Path, snapshot: str, owner_by: str, overwrite: str,
    verify: bool, dry_run: bool, out: actions.Output, open_session: Command,
) -> int:  # fmt: skip
    """Restore a snapshot of MACHINE, or just PATHs and patterns of it, below --to.

    The same command again goes on where one was interrupted. Exit code 1: something could not be restored, and was
    named.
    """
    session = open_session(machine)
    options = actions.options_from(overwrite, owner_by, verify)
    return finish(office, session, actions.restore(session, snapshot, paths, to, options, dry_run, out))
