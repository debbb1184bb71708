"""The command ``mastodon``: what the operator of a backup server types."""

import click

from mastodon import __version__
from mastodon.operator.admin_add import admin_add
from mastodon.operator.admin_add_certificate import admin_add_certificate
from mastodon.operator.admin_list import admin_list
from mastodon.operator.admin_remove_certificate import admin_remove_certificate
from mastodon.operator.audit import audit
from mastodon.operator.check import check
from mastodon.operator.events import events
from mastodon.operator.initialise import init
from mastodon.operator.limit_machine import limit_machine
from mastodon.operator.limit_show import limit_show
from mastodon.operator.limit_total import limit_total
from mastodon.operator.machine_list import machine_list
from mastodon.operator.machine_state import machine_disable, machine_enable
from mastodon.operator.notify import notify
from mastodon.operator.quota_set import quota_admin, quota_machine
from mastodon.operator.quota_show import quota_show
from mastodon.operator.reach import USUAL_CONFIG
from mastodon.operator.rebuild import rebuild
from mastodon.operator.recovery import spool_recovery
from mastodon.operator.spool_add import spool_add
from mastodon.operator.spool_list import spool_list
from mastodon.operator.watch_set import watch_set
from mastodon.operator.watch_show import watch_show


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--config", "-c", default=USUAL_CONFIG, show_default=True, envvar="MASTODON_CONFIG", metavar="FILE",
    help="The server's configuration.",
)  # fmt: skip
@click.version_option(__version__, prog_name="mastodon")
def main(config: str) -> None:
    """Run a Mastodon backup server: set it up, know its admins, look after its spools.

    The daemon itself is started with: twistd mastodon --config FILE
    """


@main.group()
def admin() -> None:
    """The admins whose machines are backed up here."""


@main.group()
def machine() -> None:
    """The machines that are backed up here: list, disable, enable."""


@main.group()
def spool() -> None:
    """The directories that hold the backups."""


@main.group()
def quota() -> None:
    """How many bytes admins and machines may keep."""


@main.group()
def limit() -> None:
    """How many bytes a second agents may send."""


@main.group()
def watch() -> None:
    """When machines are late, and which are."""


admin.add_command(admin_add)
admin.add_command(admin_list)
admin.add_command(admin_add_certificate)
admin.add_command(admin_remove_certificate)
machine.add_command(machine_list)
machine.add_command(machine_disable)
machine.add_command(machine_enable)
spool.add_command(spool_add)
spool.add_command(spool_list)
spool.add_command(spool_recovery)
quota.add_command(quota_show)
quota.add_command(quota_admin)
quota.add_command(quota_machine)
limit.add_command(limit_show)
limit.add_command(limit_total)
limit.add_command(limit_machine)
watch.add_command(watch_show)
watch.add_command(watch_set)
main.add_command(events)
main.add_command(notify)
main.add_command(init)
main.add_command(rebuild)
main.add_command(check)
main.add_command(audit)
