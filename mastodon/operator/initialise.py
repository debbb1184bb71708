"""``mastodon init``: a server's configuration, keys, first spool and catalogue, in a directory of its own.

Promises: nothing that exists is overwritten; private keys are 0600; the spare key is for keeping elsewhere, only its
pin stands in the configuration.
"""

import datetime
import ipaddress
import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import click

from mastodon.daemon.config import load_config
from mastodon.daemon.errors import StoreError
from mastodon.daemon.spool import make_spool
from mastodon.host.certificates import make_identity, pin_text, write_identity
from mastodon.host.durable import write_new
from mastodon.host.spool_layout import UUID_LENGTH
from mastodon.operator.reach import opened, plain_errors
from mastodon.operator.recovery import no_recovery_option, put_recovery, recovery_option
from mastodon.operator.spool_add import RESERVE, demand_room_for_spool

APPEND_PORT, RESTORE_PORT = 7410, 7411

TEMPLATE = """\
# Configuration of a Mastodon backup server. Paths are relative to this file. After a change restart the daemon:
#   twistd mastodon --config {config}

# The name under which machines and admins reach this server.
name = {name}
# What the daemon keeps beside the spools: catalogue, control socket, the newest signed head of the ledger.
state = "state"

# Machines append here.
[append]
listen = {listen}
port = {append_port}

# Admins restore from here; only registered client certificates are served.
[restore]
listen = {listen}
port = {restore_port}

[keys]
server_key = "keys/server.key"
server_certificate = "keys/server.crt"
# Signs the heads of the ledger. Keep a copy off this machine, as of this file.
ledger_key = "keys/ledger.key"
# Pins of keys that are kept offline, for the day when the server key is lost or stolen.
spare_pins = [{spare_pin}]

# Bounds on what strangers can use up, and caps on what agents send a second (0: none), with their usual values:
# [limits]
# append_rate = 0
# machine_rate = 0
# connections = 12000
# handshakes = 1000
# handshake_seconds = 20
# silence_seconds = 60

# Where the server tells of what matters. Without a relay it sends no mail: only `mastodon events` and webhooks say it.
# [telling]
# smtp_host = "mail.example.org"
# smtp_port = 587
# starttls = true
# user = "mastodon"
# password_file = "keys/smtp.password"
# from = "mastodon@backup.example.org"
# Your own mail addresses; admins set theirs with `mastodon-admin notify set`.
# operator = ["you@example.org"]
# Whether the webhooks and heartbeats of admins may lead to hosts that are not public.
# allow_private = false
# The hour of the daily digest, in UTC.
# digest_hour = 6

# Figures for Prometheus, on loopback unless told otherwise: whoever reaches the address may read them.
# [metrics]
# listen = "127.0.0.1"
# port = 7412
"""

SPOOL = """
# Where the backups lie; repeat the block for more directories, best on different disks (mastodon spool add PATH).
# weight shares new packs out, reserve bytes of the file system stay free.
[[spool]]
path = {path}
weight = 1
reserve = "{reserve}"
"""


@dataclass(frozen=True, slots=True)
class Initialised:
    """What was made."""

    config: Path
    pin: bytes
    spare_pin: bytes
    spools: tuple[Path, ...]


@click.command()
@click.argument("directory", type=click.Path(path_type=Path))
@click.option("--name", metavar="HOST", help="The name or address under which others reach this server.")
@click.option("--listen", default="0.0.0.0", show_default=True, metavar="ADDR", help="The address to listen on.")
@click.option("--append-port", default=APPEND_PORT, show_default=True, type=click.IntRange(0, 65535))
@click.option("--restore-port", default=RESTORE_PORT, show_default=True, type=click.IntRange(0, 65535))
@click.option(
    "--spool", "spools", multiple=True, type=click.Path(path_type=Path), metavar="PATH",
    help="A directory for the backups, empty or not there yet; may be repeated. Default: DIRECTORY/spool.",
)  # fmt: skip
@recovery_option
@no_recovery_option
def init(
    directory: Path, name: str | None, listen: str, append_port: int, restore_port: int, spools: tuple[Path, ...],
    source: Path | None, no_recovery: bool,
) -> None:  # fmt: skip
    """Set up a server in DIRECTORY: configuration, keys, one spool, catalogue."""
    with plain_errors():
        made = initialise(
            directory, name=socket.getfqdn() if name is None else name, listen=listen, append_port=append_port,
            restore_port=restore_port, spools=spools,
        )  # fmt: skip
    spare = directory / "keys" / "spare.key"
    click.echo(f"Configuration:  {made.config}")
    click.echo(f"Server's pin:   {pin_text(made.pin)}")
    click.echo(f"Spare pin:      {pin_text(made.spare_pin)}")
    for path in made.spools:
        click.echo(f"Spool:          {path}")
    if not no_recovery:
        # A server without the kit is a server: what went wrong is said, and can be done later.
        click.echo("\n".join(put_recovery(made.spools, source)[0]))
    click.echo(
        f"\nNext:\n"
        f"  1. Move {spare} to a place off this machine; it replaces a lost or stolen server key.\n"
        f"  2. Start the daemon:        twistd mastodon --config {made.config}\n"
        f"  3. An admin makes a request: mastodon-admin init\n"
        f"  4. Take it:                 mastodon --config {made.config} admin add NAME --request FILE"
    )


def initialise(
    directory: Path, *, name: str, listen: str = "0.0.0.0", append_port: int = APPEND_PORT,
    restore_port: int = RESTORE_PORT, spools: Sequence[Path] = (),
) -> Initialised:  # fmt: skip
    """Make a server, without recovery kits. Raises StoreError, DiskError, ConfigError or OSError."""
    directory = directory.absolute()
    config, keys = directory / "mastodon.toml", directory / "keys"
    paths = tuple(path.absolute() for path in spools) or (directory / "spool",)
    _judge(directory, name, listen)
    if append_port == restore_port and append_port:
        raise StoreError(f"--restore-port {restore_port} is the append port too: give another")
    _judge_spools(paths)
    for path in (directory, keys):
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
    now = datetime.datetime.now(datetime.UTC)
    server, spare, ledger = (make_identity(name, now, names=_names(name)) for _ in range(3))
    write_identity(server, keys / "server.key", keys / "server.crt")
    write_new(keys / "spare.key", spare.key_pem())
    write_new(keys / "ledger.key", ledger.key_pem())
    uuids = [os.urandom(UUID_LENGTH) for _ in paths]
    for path, uuid in zip(paths, uuids, strict=True):
        make_spool(path, uuid, tuple(one for one in uuids if one != uuid))
    text = TEMPLATE.format(
        config=config, name=_quoted(name), listen=_quoted(listen), append_port=append_port, restore_port=restore_port,
        spare_pin=_quoted(pin_text(spare.pin)),
    )  # fmt: skip
    for path in paths:
        text += SPOOL.format(path=_quoted(_shown(path, directory)), reserve=RESERVE)
    # The last file: with it there, everything is.
    write_new(config, text.encode("utf-8"))
    with opened(load_config(config)):
        pass
    return Initialised(config, server.pin, spare.pin, paths)


def _judge(directory: Path, name: str, listen: str) -> None:
    for there in (directory / "mastodon.toml", directory / "keys"):
        if there.exists():
            raise StoreError(f"{there} exists already: give another directory; nothing was changed")
    if directory.exists() and not directory.is_dir():
        raise StoreError(f"{directory} is a file: give a directory, one that is not there yet")
    if not name or not name.isprintable() or any(c.isspace() or c in "/@?#,\"'\\" for c in name):
        raise StoreError(f"--name {name!r}: expected a host name or an IP address")
    try:
        ipaddress.ip_address(listen)
    except ValueError:
        raise StoreError(f"--listen {listen!r}: expected an IP address, such as 0.0.0.0, :: or 127.0.0.1") from None


def _judge_spools(paths: Sequence[Path]) -> None:
    """What make_spool would refuse is refused before anything is made, so that the command can be repeated."""
    if len({path.resolve() for path in paths}) != len(paths):
        raise StoreError("--spool names the same directory twice; nothing was changed")
    for path in paths:
        demand_room_for_spool(path)


def _names(name: str) -> tuple[str, ...]:
    """DNS names for the certificate; an address is none, and nobody who pins the key looks."""
    try:
        ipaddress.ip_address(name)
        return ()
    except ValueError:
        return (name,) if name.isascii() else ()


def _shown(path: Path, directory: Path) -> str:
    return str(path.relative_to(directory)) if path.is_relative_to(directory) else str(path)


def _quoted(value: str) -> str:
    """A TOML basic string."""
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
