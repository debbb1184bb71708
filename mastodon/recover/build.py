"""Builds the one-file tool: ``python -m mastodon.recover.build OUT_DIR [--wheels]``.

A zipapp of the modules that recovery shares with the rest of Mastodon: they are not another implementation. With
--wheels the libraries that it needs are put beside it, in the versions that are installed here, for the day when no
registry is left.
"""

import importlib.metadata
import shutil
import subprocess
import sys
import tempfile
import zipapp
from pathlib import Path

import click

import mastodon
from mastodon.recover.needed import LIBRARIES, WHEELS

NAME = "mastodon-recover.pyz"
PACKAGES = ("sealed", "wire", "host", "restore", "recover")
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


class BuildError(Exception):
    """The tool could not be built; the text says why."""


def build(out: Path) -> Path:
    """Write the tool into a directory; its path."""
    out.mkdir(parents=True, exist_ok=True)
    source = Path(mastodon.__file__).parent
    with tempfile.TemporaryDirectory() as staging:
        top = Path(staging)
        for package in PACKAGES:
            ignore = shutil.ignore_patterns("__pycache__", "build.py" if package == "recover" else "__pycache__")
            shutil.copytree(source / package, top / "mastodon" / package, ignore=ignore)
        shutil.copy(source / "__init__.py", top / "mastodon")
        (top / "__main__.py").write_text(MAIN, "utf-8")
        tool = out / NAME
        zipapp.create_archive(top, tool, interpreter="/usr/bin/env python3", compressed=True)
    tool.chmod(0o755)
    return tool


def add_wheels(out: Path) -> Path:
    """Put the libraries' wheels beside the tool, in the versions installed here. Raises BuildError."""
    wheels = out / WHEELS
    wanted = [f"{name}=={importlib.metadata.version(name)}" for name in LIBRARIES.values()]
    done = subprocess.run(
        [sys.executable, "-m", "pip", "download", "--quiet", "--only-binary=:all:", "--dest", wheels, *wanted],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise BuildError(f"the wheels could not be fetched: {(done.stderr.strip() or 'pip failed').splitlines()[-1]}")
    return wheels


@click.command()
@click.argument("out_dir", type=click.Path(path_type=Path, file_okay=False))
@click.option("--wheels", is_flag=True, help="Also fetch the libraries' wheels into OUT_DIR/wheels (by pip).")
def command(out_dir: Path, wheels: bool) -> None:
    """Build mastodon-recover.pyz in OUT_DIR."""
    click.echo(build(out_dir))
    if wheels:
        try:
            click.echo(add_wheels(out_dir))
        except BuildError as error:
            raise click.ClickException(str(error)) from None


if __name__ == "__main__":
    command()
