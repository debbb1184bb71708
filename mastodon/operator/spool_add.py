"""``mastodon spool add``: prepares a directory as a spool and prints the block for the configuration."""

import json
import os
from pathlib import Path

import click

from mastodon.daemon.config import Config
from mastodon.daemon.errors import StoreError
from mastodon.daemon.opening import StateLock
from mastodon.daemon.spool import make_spool
from mastodon.daemon.spools import SpoolMemory
from mastodon.host.spool_layout import MARKER, UUID_LENGTH, BadMarker, NoSpool, read_marker
from mastodon.operator.reach import configuration, plain_errors
from mastodon.operator.recovery import no_recovery_option, put_recovery, recovery_option

RESERVE = "1 GiB"


@click.command("add")
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--again", is_flag=True, help="Let a spool back in that went back in time, or took another's place.")
@recovery_option
@no_recovery_option
@click.pass_context
def spool_add(context: click.Context, path: Path, again: bool, source: Path | None, no_recovery: bool) -> None:
    """Prepare the directory PATH, empty or not there yet, as a spool."""
    config = configuration(context)
    path = path.absolute()
    with plain_errors():
        if again:
            _let_in(config, path)
        else:
            demand_room_for_spool(path)
            make_spool(path, os.urandom(UUID_LENGTH), _siblings(config))
    if not no_recovery:
        # As comments: what is said here may be appended to the configuration as it is.
        click.echo("\n".join(f"# {line}" for line in put_recovery([path], source)[0]))
    if again:
        click.echo(f"{path} is taken as it is at the daemon's next start; what it lacks is asked for anew.")
        return
    click.echo(f"# Add this to {config.file}, then restart the daemon:\n")
    click.echo(f'[[spool]]\npath = {json.dumps(str(path), ensure_ascii=False)}\nweight = 1\nreserve = "{RESERVE}"')


def demand_room_for_spool(path: Path) -> None:
    """Refuse, before anything is made, a path that cannot become a spool. Raises StoreError or OSError."""
    if path.exists() and not path.is_dir():
        raise StoreError(f"{path} is a file: give a directory, empty or not there yet")
    if (path / MARKER).exists():
        raise StoreError(f"{path} is a spool already: give an empty directory")
    strange = [one.name for one in path.iterdir() if one.name != "lost+found"] if path.exists() else []
    if strange:
        raise StoreError(f"{path} is not empty ({strange[0]}): give an empty directory")


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
