"""``mastodon spool recovery``: puts the recovery kit into spools, as ``mastodon init`` and ``mastodon spool add`` do.

Promises: each file is replaced in one step; an older wheel of the same library for the same Python goes, and nothing
else is removed. What the kit lacks is said.
"""

import tempfile
from collections.abc import Sequence
from pathlib import Path

import click

from mastodon.daemon.spool import install_recovery
from mastodon.host.durable import DiskError
from mastodon.host.spool_layout import RECOVERY, BadMarker, NoSpool, read_marker
from mastodon.operator.reach import configuration
from mastodon.recover.build import build_kit
from mastodon.recover.needed import WHEELS

MIB = 1 << 20

recovery_option = click.option(
    "--recovery", "source", type=click.Path(path_type=Path, exists=True, file_okay=False), metavar="DIR",
    help="Copy the recovery kit from there. Default: one is made of what is installed here.",
)  # fmt: skip
no_recovery_option = click.option("--no-recovery", is_flag=True, help="Put no recovery kit into the spool.")


@click.command("recovery")
@click.argument("paths", nargs=-1, type=click.Path(path_type=Path))
@recovery_option
@click.pass_context
def spool_recovery(context: click.Context, paths: tuple[Path, ...], source: Path | None) -> None:
    """Renew the recovery kit in the spools PATHS, or in all: after an upgrade of Mastodon.

    The kit is mastodon-recover in one file, the libraries that it needs, and the specification.
    """
    chosen = [path.absolute() for path in paths] or [spool.path for spool in configuration(context).spools]
    lines, good = put_recovery(chosen, source)
    click.echo("\n".join(lines))
    if not good:
        context.exit(1)


def put_recovery(spools: Sequence[Path], source: Path | None) -> tuple[list[str], bool]:
    """Put the kit into spools; what to tell the operator, and whether each spool has it now."""
    with tempfile.TemporaryDirectory(prefix="mastodon-recovery-") as scratch:
        lacking: tuple[str, ...] = ()
        try:
            kit = source or Path(scratch)
            if source is None:
                lacking = build_kit(kit).lacking
        except OSError as error:
            return [f"Recovery kit:   not made: {_why(error)}; then repeat: mastodon spool recovery"], False
        results = [_put(spool, kit) for spool in spools]
    lines = [line for line, _ in results] + [f"Recovery kit:   lacks {line}" for line in lacking]
    return lines, all(good for _, good in results)


def _put(spool: Path, kit: Path) -> tuple[str, bool]:
    target = spool / RECOVERY
    try:
        read_marker(spool)
        count = install_recovery(spool, kit)
        _remove_superseded(target / WHEELS, {path.name for path in (kit / WHEELS).glob("*.whl")})
    except (NoSpool, BadMarker, DiskError, OSError) as error:
        return f"Recovery kit:   not in {spool}: {_why(error)}; then repeat: mastodon spool recovery", False
    size = sum(path.stat().st_size for path in kit.rglob("*") if path.is_file())
    return f"Recovery kit:   {target}: {count} files, {size / MIB:.1f} MiB; docs/recovery.md tells its use", True


def _remove_superseded(folder: Path, new: set[str]) -> None:
    """Other versions of the wheels that were put there, for the same Python."""
    mine = {_library(name) for name in new}
    for path in folder.glob("*.whl"):
        if path.name not in new and _library(path.name) in mine:
            path.unlink()


def _library(wheel: str) -> tuple[str, ...]:
    """Library and Python of a wheel by its file name: NAME-VERSION-[BUILD-]PYTHON-ABI-PLATFORM.whl."""
    parts = wheel.split("-")
    return (parts[0].lower(), *parts[-3:-1])


def _why(error: Exception) -> str:
    if isinstance(error, OSError):
        return f"{error.filename or ''} {error.strerror or error}".strip()
    return str(error)
