"""All spools of a daemon: what is remembered of each, and which one takes the next pack.

What is remembered lies in the state directory, outside the spools: for each UUID its path, generation and how far its
ledger had come. A spool that is behind that went back in time; one that bears another UUID than its path had is
another's. Both stay offline until the operator says ``mastodon spool add --again``.
"""

import json
import threading
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from mastodon.daemon.config import SpoolConfig
from mastodon.daemon.errors import SpoolFull, Unavailable
from mastodon.daemon.spool import Spool
from mastodon.host.durable import SYSTEM_DISK, Disk, write_file

REMEMBERED = "spools.json"
AGAIN = "if that is meant, stop the daemon and run: mastodon spool add --again"


@dataclass(frozen=True, slots=True)
class Remembered:
    """What the state directory knows of a spool."""

    path: str
    generation: int
    sequence: int


class SpoolMemory:
    """The file of what is remembered. An unreadable one is taken for none: it is a watch, not the truth."""

    def __init__(self, state: Path, disk: Disk = SYSTEM_DISK) -> None:
        self._path = state / REMEMBERED
        self._disk = disk
        self.spools: dict[bytes, Remembered] = self._read()

    def _read(self) -> dict[bytes, Remembered]:
        try:
            found = json.loads(self._path.read_bytes())
            return {
                bytes.fromhex(uuid): Remembered(str(one["path"]), int(one["generation"]), int(one["sequence"]))
                for uuid, one in found.items()
            }
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return {}

    def write(self, spools: Iterable[Spool], sequence: int) -> None:
        """Remember the spools that are online, whose ledgers have all come to ``sequence``. Raises DiskError."""
        for spool in spools:
            if spool.online and spool.marker is not None:
                now = Remembered(str(spool.path), spool.marker.generation, sequence)
                self.spools[spool.uuid] = now
        self._save()

    def forget(self, path: Path, uuid: bytes) -> None:
        """Let a spool back in that went back in time, or took another's place."""
        kept = {one: known for one, known in self.spools.items() if one != uuid and known.path != str(path)}
        self.spools = kept
        self._save()

    def _save(self) -> None:
        data = json.dumps({uuid.hex(): asdict(one) for uuid, one in self.spools.items()}, indent=2, sort_keys=True)
        write_file(self._path, data.encode("ascii"), disk=self._disk)

    def doubt(self, spool: Spool) -> str:
        """Why a spool whose marker was read is not to be trusted; empty when nothing speaks against it."""
        assert spool.marker is not None
        known = self.spools.get(spool.uuid)
        if known is None:
            others = [uuid for uuid, one in self.spools.items() if one.path == str(spool.path)]
            if others:
                return f"{spool.path} is another spool than the one that was here ({others[0].hex()}): {AGAIN}"
        elif spool.marker.generation < known.generation:
            return (
                f"{spool.path} went back in time: generation {spool.marker.generation}, "
                f"but {known.generation} is remembered: {AGAIN}"
            )
        return ""


@dataclass(frozen=True, slots=True)
class SpoolStatus:
    """A spool, for the operator. ``offline`` is empty while it is in use."""

    path: str
    spool: str
    generation: int
    weight: int
    usable: int
    offline: str


class Spools:
    """The configured spools."""

    def __init__(self, configs: Sequence[SpoolConfig], memory: SpoolMemory, disk: Disk = SYSTEM_DISK) -> None:
        self.all = [Spool(config, disk) for config in configs]
        self.memory = memory
        self._lock = threading.Lock()

    @property
    def online(self) -> list[Spool]:
        """Those in use."""
        return [spool for spool in self.all if spool.online]

    def look(self) -> list[Spool]:
        """Read the markers; the spools against which nothing speaks so far."""
        good: list[Spool] = []
        for spool in self.all:
            spool.look()
            if spool.marker is None:
                continue
            spool.offline = self.memory.doubt(spool)
            if any(one.uuid == spool.uuid for one in good):
                spool.offline = f"{spool.path} has the same UUID as another spool: it is a copy"
            if not spool.offline:
                spool.offline = "its ledger was not looked at yet"
                good.append(spool)
        return good

    def by_uuid(self, uuid: bytes) -> Spool | None:
        """The spool that is online under this UUID."""
        return next((spool for spool in self.all if spool.online and spool.uuid == uuid), None)

    def choose(self, size: int) -> Spool:
        """The spool for a pack of at most ``size`` bytes. Raises SpoolFull or Unavailable; called in threads.

        Spools take turns in proportion to weight × usable space: each is credited its share, the one with most
        credit is taken and pays for all. So two equal spools alternate, and a fuller one is chosen less often.
        """
        online = self.online
        if not online:
            raise Unavailable("no spool is online: see `mastodon spool list`")
        with self._lock:
            shares = [(spool, spool.weight * usable) for spool in online if (usable := spool.usable()) >= size]
            total = sum(share for _, share in shares)
            if not total:
                raise SpoolFull("every spool is full up to its reserve: make room, or add a spool")
            for spool, share in shares:
                spool.credit += share / total
            chosen = max(shares, key=lambda one: one[0].credit if one[1] else float("-inf"))[0]
            chosen.credit -= 1
            return chosen


def spool_status(spool: Spool) -> SpoolStatus:
    """A spool, for the operator."""
    return SpoolStatus(
        str(spool.path), spool.uuid.hex(), spool.marker.generation if spool.marker else 0, spool.weight,
        spool.usable() if spool.online else 0, spool.offline,
    )  # fmt: skip
