"""Where things lie in a spool, for all who read one: daemon, operator and recovery.

A spool is a directory::

    mastodon-spool.json             the marker: layout version, UUID, generation, sibling spools
    packs/YYYY/MM/DD/<id>.pack      packs by day of receipt (UTC), the proof of their age
    ledger/<chain>/<sequence>.ledger
                                    segments by the sequence of their first entry, 20 digits, so that names sort
    incoming/                       packs being received; worthless when no daemon runs
    recovery/                       protocol-spec.md, mastodon-recover and its wheels

Ids are lower-case hexadecimal. A directory without a marker is not a spool, or is not mounted: never written to.
"""

import contextlib
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from mastodon.host.durable import is_temporary

MARKER = "mastodon-spool.json"
PACKS = "packs"
LEDGER = "ledger"
INCOMING = "incoming"
RECOVERY = "recovery"
PACK_SUFFIX = ".pack"
SEGMENT_SUFFIX = ".ledger"
LAYOUT = 1
MARKER_LIMIT = 64 * 1024
UUID_LENGTH = 16
DAY_LENGTH = len("2026/01/31")


class NoSpool(Exception):
    """The directory bears no marker: it is no spool, or its file system is not mounted."""


class BadMarker(Exception):
    """The marker cannot be read or was made by a later release."""


@dataclass(frozen=True, slots=True)
class Marker:
    """What a spool says of itself. ``generation`` grows each time that a daemon takes the spool into use."""

    spool: bytes
    generation: int = 0
    siblings: tuple[bytes, ...] = ()
    layout: int = LAYOUT

    def encode(self) -> bytes:
        """The marker file's bytes."""
        fields = asdict(self) | {"spool": self.spool.hex(), "siblings": [one.hex() for one in self.siblings]}
        return json.dumps(fields, indent=2, sort_keys=True).encode("ascii") + b"\n"


def decode_marker(data: bytes) -> Marker:
    """The marker in ``data``. Raises BadMarker."""
    try:
        fields = json.loads(data)
        layout = fields["layout"]
        marker = Marker(
            bytes.fromhex(fields["spool"]),
            int(fields["generation"]),
            tuple(bytes.fromhex(one) for one in fields["siblings"]),
            int(layout),
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise BadMarker(f"the marker cannot be read: {error}") from None
    if marker.layout != LAYOUT:
        raise BadMarker(f"layout {marker.layout} was made by a later release: update this program")
    if len(marker.spool) != UUID_LENGTH or marker.generation < 0:
        raise BadMarker("the marker names no spool")
    return marker


def read_marker(root: str | os.PathLike[str]) -> Marker:
    """The marker of the spool at ``root``. Raises NoSpool, BadMarker or OSError."""
    path = Path(root, MARKER)
    try:
        with open(path, "rb") as file:
            return decode_marker(file.read(MARKER_LIMIT))
    except (FileNotFoundError, NotADirectoryError):
        raise NoSpool(f"{os.fspath(root)}: no {MARKER} there: not mounted, or no spool") from None
    except BadMarker as error:
        raise BadMarker(f"{path}: {error}") from None


def pack_name(day: str, pack: bytes) -> str:
    """Path of a pack inside its spool; ``day`` is YYYY/MM/DD."""
    return f"{PACKS}/{day}/{pack.hex()}{PACK_SUFFIX}"


def pack_days(root: str | os.PathLike[str]) -> list[str]:
    """The days, YYYY/MM/DD and ascending, for which a spool has a directory of packs."""
    days = []
    top = Path(root, PACKS)
    for year in _names(top):
        for month in _names(top / year):
            days += [f"{year}/{month}/{day}" for day in _names(top / year / month)]
    return sorted(day for day in days if len(day) == DAY_LENGTH)


def packs_of_day(root: str | os.PathLike[str], day: str) -> Iterator[tuple[bytes, Path]]:
    """Id and path of each pack received on ``day``, in the order of their ids."""
    directory = Path(root, PACKS, day)
    for name in _names(directory):
        if name.endswith(PACK_SUFFIX) and not is_temporary(name):
            with contextlib.suppress(ValueError):  # somebody else's file: not ours to judge
                pack = bytes.fromhex(name.removesuffix(PACK_SUFFIX))
                if len(pack) == 32:
                    yield pack, directory / name


def chains(root: str | os.PathLike[str]) -> list[bytes]:
    """The chains of which a spool has a ledger."""
    found = []
    for name in _names(Path(root, LEDGER)):
        with contextlib.suppress(ValueError):
            found.append(bytes.fromhex(name))
    return [chain for chain in found if len(chain) == 16]


def chain_directory(root: str | os.PathLike[str], chain: bytes) -> Path:
    """Where a spool keeps the segments of ``chain``."""
    return Path(root, LEDGER, chain.hex())


def segment_name(first: int) -> str:
    """File name of the segment whose first entry has this sequence."""
    return f"{first:020d}{SEGMENT_SUFFIX}"


def segments(root: str | os.PathLike[str], chain: bytes) -> list[Path]:
    """The segments of ``chain``, in order."""
    directory = chain_directory(root, chain)
    return [directory / name for name in _names(directory) if name.endswith(SEGMENT_SUFFIX)]


def _names(directory: Path) -> list[str]:
    try:
        return sorted(os.listdir(directory))
    except (FileNotFoundError, NotADirectoryError):
        return []
