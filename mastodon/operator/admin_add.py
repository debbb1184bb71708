"""``mastodon admin add``: takes an admin's request and gives back the invitation, one line with address and pins."""

import json
from pathlib import Path
from urllib.parse import quote

import click

from mastodon.daemon.config import Config
from mastodon.host.certificates import load_certificate, pin_text, spki_pin
from mastodon.host.durable import write_file
from mastodon.operator.reach import ask, configuration, plain_errors

REQUEST_LIMIT = 64 * 1024


@click.command("add")
@click.argument("name")
@click.option(
    "--request", "request_file", required=True, type=click.Path(path_type=Path, exists=True, dir_okay=False),
    metavar="FILE", help="What `mastodon-admin init` wrote.",
)  # fmt: skip
@click.option(
    "--out", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE", help="Write the invitation there, too."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def admin_add(context: click.Context, name: str, request_file: Path, out: Path | None, as_json: bool) -> None:
    """Take the admin NAME's request. Doing it again changes nothing."""
    config = configuration(context)
    with plain_errors():
        request = request_file.read_bytes()[:REQUEST_LIMIT]
        tenant = ask(config, "admin add", name=name, request=request.hex())
        line = invitation(config, name)
        if out is not None:
            write_file(out, line.encode("ascii") + b"\n")
    click.echo(json.dumps({**tenant, "invitation": line}) if as_json else line)


def invitation(config: Config, name: str) -> str:
    """What an admin needs to connect: ``mastodon+admin://NAME@HOST:PORT/?server=PIN&server=PIN``."""
    pins = [spki_pin(load_certificate(config.keys.server_certificate)), *config.keys.spare_pins]
    host = f"[{config.name}]" if ":" in config.name else config.name
    query = "&".join(f"server={pin_text(pin)}" for pin in pins)
    return f"mastodon+admin://{quote(name, safe='')}@{host}:{_restore_port(config)}/?{query}"


def _restore_port(config: Config) -> int:
    if config.restore.port:
        return config.restore.port
    # The system chose a port when the daemon began to listen.
    try:
        return int((config.state / "ports").read_text("ascii").split()[1])
    except (OSError, ValueError, IndexError):
        raise click.ClickException(
            "restore.port is 0, so that only a running daemon has a port: start it, then do this again"
        ) from None
