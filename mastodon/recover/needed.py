"""What recovery needs besides Python: looked for before anything else, and named in clear words when missing.

This module imports nothing of Mastodon and nothing that may be missing.
"""

import importlib.util
import re
import shlex
import shutil
import sys
from pathlib import Path

LIBRARIES = {
    "blake3": "blake3",
    "cbor2": "cbor2",
    "click": "click",
    "cryptography": "cryptography",
    "gnupg": "python-gnupg",
    "zstandard": "zstandard",
}
"""What is imported, and what it is called where it is installed from."""
HELPFUL = ("pyxdelta",)
"""Used where the program xdelta3 is not. rich, which shows progress, is not missed."""
OLDEST_PYTHON = (3, 11)
WHEELS = "wheels"


def missing(beside: Path) -> list[str]:
    """Lines that say what is missing and how to get it; none when all is there. ``beside`` is the tool's directory."""
    if sys.version_info < OLDEST_PYTHON:
        return [f"Python {sys.version_info.major}.{sys.version_info.minor} is too old: 3.11 or later is needed"]
    lines = []
    libraries = [name for module, name in LIBRARIES.items() if importlib.util.find_spec(module) is None]
    if libraries:
        lines += [f"missing Python libraries: {', '.join(libraries)}", *_how_to_install(beside / WHEELS)]
    if shutil.which("gpg") is None:
        lines.append("missing program: gpg (Debian: apt install gnupg)")
    return lines


def _how_to_install(wheels: Path) -> list[str]:
    """From the wheels beside the tool, where they fit this Python; else from wherever pip finds them."""
    names = [path.name for path in wheels.glob("*.whl")]
    made_for = sorted({int(minor) for name in names for minor in re.findall(r"-cp3(\d+)-cp3\d+-", name)})
    minor = sys.version_info.minor
    lines, python = [], shlex.quote(sys.executable or "python3")
    if made_for and minor not in made_for:
        python = f"python3.{made_for[-1]}"
        lines.append(f"the wheels beside this fit {python}, and this is Python 3.{minor}: get {python}")
    source = f"--no-index --find-links {shlex.quote(str(wheels))} " if names else ""
    helpful = [library for library in HELPFUL if not names or any(name.startswith(f"{library}-") for name in names)]
    return [
        *lines,
        "make an environment and install them, then run this with its Python:",
        f"    {python} -m venv /tmp/recover",
        f"    /tmp/recover/bin/pip install {source}{' '.join([*LIBRARIES.values(), *helpful])}",
    ]
