"""``mastodon spool list``: the spools, whether they are in use, and how much room they have."""

import json
from dataclasses import asdict
from typing import Any

import click

from mastodon.daemon.config import Config
from mastodon.daemon.control import ask_daemon
from mastodon.daemon.spools import SpoolMemory, Spools, spool_status
from mastodon.operator.reach import configuration, plain_errors

GIB = 1 << 30


@click.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def spool_list(context: click.Context, as_json: bool) -> None:
    """List the spools."""
    config = configuration(context)
    with plain_errors():
        try:
            spools = ask_daemon(config.state, "spool list", {})
        except (FileNotFoundError, ConnectionRefusedError):
            spools = _look(config)
    if as_json:
        click.echo(json.dumps(spools))
        return
    for one in spools:
        what = f"OFFLINE: {one['offline']}" if one["offline"] else f"{one['usable'] / GIB:.1f} GiB usable"
        click.echo(f"{one['path']}  {one['spool'] or '-'}  weight {one['weight']}  {what}")


def _look(config: Config) -> list[dict[str, Any]]:
    """What can be said without opening anything, while no daemon runs."""
    spools = Spools(config.spools, SpoolMemory(config.state))
    for spool in spools.look():
        spool.offline = ""
    return [asdict(spool_status(spool)) for spool in spools.all]
