"""Wheels remade from what is installed, without a network: for the day when no registry is left.

Promises: a wheel holds the modules that run here, byte for byte, under a RECORD of its own; the same installation makes
the same wheel. Scripts, headers and compiled bytecode are left out: pip makes scripts and bytecode anew, recovery needs
no headers. A wheel fits the Python version and processor that it was installed for.
"""

import base64
import csv
import hashlib
import importlib.metadata
import io
import re
import stat
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from email.parser import HeaderParser
from importlib.metadata import Distribution
from pathlib import Path

EPOCH = (1980, 1, 1, 0, 0, 0)
LEVEL = 3
"""Of compression: half the time of the usual one, for 7 % more bytes."""
PIPS_OWN = {"INSTALLER", "RECORD", "REQUESTED", "direct_url.json"}


class NoWheel(Exception):
    """A library of which no wheel can be made; the text says why."""


@dataclass(frozen=True, slots=True)
class Member:
    """A file of an archive."""

    name: str
    data: bytes
    executable: bool = False


def pack(members: Iterable[Member]) -> bytes:
    """A zip file, the same for the same members: in their order, without times or owners."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for member in members:
            entry = zipfile.ZipInfo(member.name, EPOCH)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = (stat.S_IFREG | (0o755 if member.executable else 0o644)) << 16
            archive.writestr(entry, member.data, compresslevel=LEVEL)
    return out.getvalue()


def with_dependencies(names: Iterable[str]) -> tuple[dict[str, Distribution], list[str]]:
    """Distributions with all that they need, by plain name; and which of ``names`` are not installed.

    No markers are weighed: whoever installed these weighed them, so what is not here is not needed by this Python.
    """
    found: dict[str, Distribution] = {}
    waiting = [_plain(name) for name in names]
    asked = list(waiting)
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        try:
            found[name] = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        for line in found[name].requires or ():
            requirement, _, marker = line.partition(";")
            needed = re.match(r"[A-Za-z0-9._-]+", requirement.strip())
            if needed and not re.search(r"\bextra\b", marker):
                waiting.append(_plain(needed[0]))
    return dict(sorted(found.items())), [name for name in asked if name not in found]


def remake(distribution: Distribution) -> tuple[str, bytes]:
    """Name and bytes of the wheel of an installed distribution. Raises NoWheel or OSError."""
    if distribution.read_text("RECORD") is None:
        raise NoWheel("installed without a RECORD, by the system's package manager perhaps")
    tags = distribution.read_text("WHEEL")
    if tags is None:
        raise NoWheel("not installed from a wheel")
    members, info = [], ""
    for file in sorted(distribution.files or (), key=str):
        if file.is_absolute() or ".." in file.parts or file.suffix == ".pyc":
            continue
        if file.suffix == ".pth" or file.name.startswith("__editable__"):
            raise NoWheel("installed in place, from a source tree")
        if file.parts[0].endswith(".dist-info"):
            info = file.parts[0]
            if file.name in PIPS_OWN and len(file.parts) == 2:
                continue
        path = Path(str(file.locate()))
        if path.is_file():  # who slims an image removes tests and the like
            members.append(Member(str(file), path.read_bytes(), bool(path.stat().st_mode & 0o100)))
    # The directory of metadata comes last, as the format recommends, and RECORD as the last of it.
    members.sort(key=lambda member: member.name.startswith(f"{info}/"))
    members.append(Member(f"{info}/RECORD", _record(members, f"{info}/RECORD")))
    return _file_name(info, tags), pack(members)


def _record(members: Iterable[Member], own: str) -> bytes:
    out = io.StringIO()
    lines = csv.writer(out, lineterminator="\n")
    for member in members:
        digest = base64.urlsafe_b64encode(hashlib.sha256(member.data).digest()).rstrip(b"=").decode("ascii")
        lines.writerow((member.name, f"sha256={digest}", len(member.data)))
    lines.writerow((own, "", ""))
    return out.getvalue().encode("utf-8")


def _file_name(info: str, wheel: str) -> str:
    """By the metadata's directory, which bears name and version, and the tags that the wheel came with."""
    headers = HeaderParser().parsestr(wheel)
    tags = [str(tag).split("-") for tag in headers.get_all("Tag", [])]
    if not tags or any(len(tag) != 3 for tag in tags):
        raise NoWheel("its WHEEL file has no tags")
    build = [str(headers["Build"])] if headers["Build"] else []
    sets = [".".join(dict.fromkeys(part)) for part in zip(*tags, strict=True)]
    return "-".join([info.removesuffix(".dist-info"), *build, *sets]) + ".whl"


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
