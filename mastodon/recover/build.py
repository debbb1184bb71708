"""Builds the recovery kit from what is installed, without a network: ``python -m mastodon.recover.build OUT_DIR``.

The kit is the one-file tool, a zipapp of the modules that recovery shares with the rest of Mastodon (they are not
another implementation), the wheels of the libraries that it needs, and the specification of the formats. The same
installation makes the same kit. What cannot be put in is told, and is no reason to have no kit.
"""

import site
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

import click

import mastodon
from mastodon.recover.installed_wheels import Member, NoWheel, pack, remake, with_dependencies
from mastodon.recover.needed import HELPFUL, LIBRARIES, WHEELS

TOOL = "mastodon-recover.pyz"
SPECIFICATION = "protocol-spec.md"
PACKAGES = ("sealed", "wire", "host", "restore", "recover")
NOT_IN_THE_TOOL = ("build.py", "installed_wheels.py")
SHEBANG = b"#!/usr/bin/env python3\n"
MAIN = '''"""The entry of the one-file mastodon-recover."""

import sys
from pathlib import Path

from mastodon.recover.needed import missing

lines = missing(Path(sys.argv[0]).resolve().parent)
if lines:
    print("\\n".join(["mastodon-recover cannot start:", *lines]), file=sys.stderr)
    sys.exit(2)

from mastodon.recover.main import main

main()
'''


@dataclass(frozen=True, slots=True)
class Kit:
    """What was built. ``lacking`` has a line for each thing that could not be put in."""

    directory: Path
    wheels: tuple[str, ...]
    lacking: tuple[str, ...]


def build_kit(out: Path) -> Kit:
    """Write tool, wheels and specification into a directory. Raises OSError."""
    build_tool(out)
    lacking = []
    specification = find_specification()
    if specification is None:
        lacking.append(f"{SPECIFICATION}: it was not installed with Mastodon")
    else:
        (out / SPECIFICATION).write_bytes(specification.read_bytes())
    folder = out / WHEELS
    folder.mkdir(exist_ok=True)
    distributions, absent = with_dependencies([*LIBRARIES.values(), *HELPFUL])
    lacking += [f"the wheel of {name}: it is not installed here" for name in absent]
    wheels = []
    for library, distribution in distributions.items():
        try:
            name, data = remake(distribution)
        except NoWheel as error:
            lacking.append(f"the wheel of {library}: {error}")
            continue
        (folder / name).write_bytes(data)
        wheels.append(name)
    return Kit(out, tuple(wheels), tuple(lacking))


def build_tool(out: Path) -> Path:
    """Write the one-file tool into a directory; its path. Raises OSError."""
    out.mkdir(parents=True, exist_ok=True)
    package = Path(mastodon.__file__).parent
    sources = [package / "__init__.py"]
    for name in PACKAGES:
        sources += sorted(path for path in (package / name).rglob("*.py") if path.name not in NOT_IN_THE_TOOL)
    members = [Member(path.relative_to(package.parent).as_posix(), path.read_bytes()) for path in sources]
    tool = out / TOOL
    tool.write_bytes(SHEBANG + pack([Member("__main__.py", MAIN.encode("utf-8")), *members]))
    tool.chmod(0o755)
    return tool


def find_specification() -> Path | None:
    """protocol-spec.md: beside the package in a source tree, else where setup.cfg has it installed."""
    places = [Path(mastodon.__file__).parent.parent]
    places += [Path(root, "share/mastodon") for root in (sysconfig.get_path("data"), sys.prefix, site.getuserbase())]
    return next((place / SPECIFICATION for place in places if (place / SPECIFICATION).is_file()), None)


@click.command()
@click.argument("out_dir", type=click.Path(path_type=Path, file_okay=False))
def command(out_dir: Path) -> None:
    """Build the recovery kit in OUT_DIR: mastodon-recover.pyz, wheels/, protocol-spec.md."""
    try:
        kit = build_kit(out_dir)
    except OSError as error:
        raise click.ClickException(f"{error.filename or out_dir}: {error.strerror or error}") from None
    click.echo(f"{kit.directory / TOOL} and {len(kit.wheels)} wheels")
    for line in kit.lacking:
        click.echo(f"lacking: {line}", err=True)


if __name__ == "__main__":
    command()
