"""What recovery needs besides Python: looked for before anything else, and named in clear words when missing.

This module imports nothing of Mastodon and nothing that may be missing.
"""

import importlib.util
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
"""What is imported, and what it is called where it is installed from. rich and pyxdelta are used where they are."""
OLDEST_PYTHON = (3, 11)
WHEELS = "wheels"


def missing(beside: Path) -> list[str]:
    """Lines that say what is missing and how to get it; none when all is there. ``beside`` is the tool's directory."""
    if sys.version_info < OLDEST_PYTHON:
        return [f"Python {sys.version_info.major}.{sys.version_info.minor} is too old: 3.11 or later is needed"]
    lines = []
    libraries = [name for module, name in LIBRARIES.items() if importlib.util.find_spec(module) is None]
    if libraries:
        wheels = beside / WHEELS
        source = f"--no-index --find-links {wheels} " if wheels.is_dir() else ""
        lines += [
            f"missing Python libraries: {', '.join(libraries)}",
            "make an environment and install them, then run this with its Python:",
            "    python3 -m venv /tmp/recover",
            f"    /tmp/recover/bin/pip install {source}{' '.join(LIBRARIES.values())}",
        ]
    if shutil.which("gpg") is None:
        lines.append("missing program: gpg (Debian: apt install gnupg)")
    return lines
