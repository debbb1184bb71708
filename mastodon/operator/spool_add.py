"""``mastodon spool add``: prepares a directory as a spool and prints the block for the configuration."""

import json
import os
from pathlib import Path

import click

from mastodon.daemon.config import Config
from mastodon.daemon.errors import StoreError
from mastodon.daemon.opening import StateLock
from mastodon.daemon.spool import install_recovery, make_spool
from mastodon.daemon.spools import SpoolMemory
from mastodon.host.spool_layout import UUID_LENGTH, BadMarker, NoSpool, read_marker
from mastodon.operator.reach import configuration, plain_errors

RESERVE = "1 GiB"


@click.command("add")
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--again", is_flag=True, help="Let a spool back in that went back in time, or took another's place.")
@click.option(
    "--recovery", type=click.Path(path_type=Path, exists=True, file_okay=False), metavar="DIR",
    help="Where protocol-spec.md, mastodon-recover and its wheels lie, to be copied into the spool.",
)  # fmt: skip
@click.pass_context
def spool_add(context: click.Context, path: Path, again: bool, recovery: Path | None) -> None:
    """Prepare the directory PATH, empty or not there yet, as a spool."""
    config = configuration(context)
    path = path.absolute()
    with plain_errors():
        if again:
            _let_in(config, path)
            offer_recovery(path, recovery)
            click.echo(f"{path} is taken as it is at the daemon's next start; what it lacks is asked for anew.")
            return
        make_spool(path, os.urandom(UUID_LENGTH), _siblings(config))
        offer_recovery(path, recovery)
    click.echo(f"# Add this to {config.file}, then restart the daemon:\n")
    click.echo(f'[[spool]]\npath = {json.dumps(str(path), ensure_ascii=False)}\nweight = 1\nreserve = "{RESERVE}"')


def offer_recovery(spool: Path, source: Path | None) -> None:
    """Copy the recovery tool into a spool, where there is one to copy."""
    if source is not None:
        install_recovery(spool, source)


def _let_in(config: Config, path: Path) -> None:
    try:
        marker = read_marker(path)
    except (NoSpool, BadMarker) as error:
        raise StoreError(str(error)) from None
    lock = StateLock(config.state)
    try:
        SpoolMemory(config.state).forget(path, marker.spool)
    finally:
        lock.release()


def _siblings(config: Config) -> tuple[bytes, ...]:
    found = []
    for spool in config.spools:
        try:
            found.append(read_marker(spool.path).spool)
        except (NoSpool, BadMarker, OSError):
            continue
    return tuple(found)
