"""mastodon-admin: the admin's client. One file per command.

Exit codes: 0 done; 1 something could not be restored and was named; 2 nothing was done (usage, no connection, no such
thing, no key); 3 what the server showed is not to be believed; 70 a bug; 130 interrupted.
"""

import sys
from pathlib import Path

import click

from mastodon import __version__
from mastodon.admin.ack import ack
from mastodon.admin.audit import audit
from mastodon.admin.certificate import certificate
from mastodon.admin.connect import connect
from mastodon.admin.download import download
from mastodon.admin.events import events
from mastodon.admin.find import find
from mastodon.admin.home import HOME_VARIABLE, default_home
from mastodon.admin.init import init
from mastodon.admin.ls import ls
from mastodon.admin.machine_add import machine_add
from mastodon.admin.machine_list import machine_list
from mastodon.admin.machine_show import machine_show
from mastodon.admin.machine_split import machine_split
from mastodon.admin.machine_state import machine_disable, machine_enable
from mastodon.admin.machine_watch import machine_watch
from mastodon.admin.notify import notify
from mastodon.admin.quota import quota
from mastodon.admin.restore import restore
from mastodon.admin.snapshots import snapshots
from mastodon.admin.snooze import snooze
from mastodon.admin.status import status
from mastodon.restore.edge import guarded, leave

PROGRAM = "mastodon-admin"


@click.group(help=__doc__, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name=PROGRAM)
@click.option(
    "--home", type=click.Path(path_type=Path, file_okay=False), help=f"The admin's files (else ${HOME_VARIABLE})."
)
@click.pass_context
def cli(context: click.Context, home: Path | None) -> None:
    """The group of commands."""
    context.obj = home or default_home()


@cli.group("machine")
def machine() -> None:
    """Machines: add, list, show, split, watch, disable, enable."""


machine.add_command(machine_add)
machine.add_command(machine_list)
machine.add_command(machine_show)
machine.add_command(machine_split)
machine.add_command(machine_disable)
machine.add_command(machine_enable)
machine.add_command(machine_watch)
for command in (init, connect, certificate, snapshots, ls, find, restore, download):
    cli.add_command(command)
for command in (status, events, ack, snooze, notify, quota, audit):
    cli.add_command(command)


def main() -> None:
    """Entry of the command."""
    leave(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run a command line; the exit code."""

    def command() -> int:
        try:
            return int(cli.main(args=arguments, prog_name=PROGRAM, standalone_mode=False) or 0)
        except click.ClickException as error:
            error.show()
            return error.exit_code
        except click.Abort:
            raise KeyboardInterrupt from None

    return guarded(PROGRAM, command)


if __name__ == "__main__":
    main()
