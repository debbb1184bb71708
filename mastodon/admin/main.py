"""mastodon-admin: the admin's client, for adding machines, looking into their backups and restoring them.

Exit codes: 0 done; 1 something could not be restored, or a test message was not taken, and was named; 2 nothing was
done (usage, no connection, no such thing, no key); 3 what the server showed is not to be believed; 70 a bug; 130
interrupted.
"""

import sys
from pathlib import Path

import click

from mastodon import __version__
from mastodon.admin.home import HOME_VARIABLE, default_home
from mastodon.admin.late import LateGroup
from mastodon.restore.edge import guarded, leave

PROGRAM = "mastodon-admin"
COMMANDS = {
    "init": "mastodon.admin.init:init",
    "connect": "mastodon.admin.connect:connect",
    "certificate": "mastodon.admin.certificate:certificate",
    "snapshots": "mastodon.admin.snapshots:snapshots",
    "ls": "mastodon.admin.ls:ls",
    "find": "mastodon.admin.find:find",
    "restore": "mastodon.admin.restore:restore",
    "download": "mastodon.admin.download:download",
    "status": "mastodon.admin.status:status",
    "events": "mastodon.admin.events:events",
    "ack": "mastodon.admin.ack:ack",
    "snooze": "mastodon.admin.snooze:snooze",
    "notify": "mastodon.admin.notify:notify",
    "quota": "mastodon.admin.quota:quota",
    "audit": "mastodon.admin.audit:audit",
}
MACHINE_COMMANDS = {
    "add": "mastodon.admin.machine_add:machine_add",
    "list": "mastodon.admin.machine_list:machine_list",
    "show": "mastodon.admin.machine_show:machine_show",
    "split": "mastodon.admin.machine_split:machine_split",
    "disable": "mastodon.admin.machine_state:machine_disable",
    "enable": "mastodon.admin.machine_state:machine_enable",
    "watch": "mastodon.admin.machine_watch:machine_watch",
}


@click.group(cls=LateGroup, places=COMMANDS, help=__doc__, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name=PROGRAM)
@click.option(
    "--home", type=click.Path(path_type=Path, file_okay=False), help=f"The admin's files (else ${HOME_VARIABLE})."
)
@click.pass_context
def cli(context: click.Context, home: Path | None) -> None:
    """The group of commands."""
    context.obj = home or default_home()


@cli.group("machine", cls=LateGroup, places=MACHINE_COMMANDS)
def machine() -> None:
    """Machines: add, list, show, split, watch, disable, enable."""


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
