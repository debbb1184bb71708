"""One spool: a directory with a marker, where packs and the ledger are kept.

Promises: nothing is written to a directory without its marker, to another's spool, or to one that went back in time;
such a spool is offline and says why. The first error of the disk takes a spool offline for good: until the daemon's
next start it is only read.
"""

import os
import shutil
import threading
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from mastodon.daemon.config import SpoolConfig
from mastodon.daemon.errors import StoreError
from mastodon.host.durable import SYSTEM_DISK, Disk, DiskError, fsync_directory, write_file, write_new
from mastodon.host.spool_layout import (
    INCOMING,
    LEDGER,
    MARKER,
    PACKS,
    RECOVERY,
    UUID_LENGTH,
    BadMarker,
    Marker,
    NoSpool,
    read_marker,
)


class Spool:
    """A configured spool. ``offline`` says why it is not in use; empty while it is."""

    def __init__(self, config: SpoolConfig, disk: Disk = SYSTEM_DISK) -> None:
        self.path = config.path
        self.weight = config.weight
        self.reserve = config.reserve
        self.disk = disk
        self.marker: Marker | None = None
        self.offline = "not opened yet"
        self.credit = 0.0
        """What the spool is owed in the choice of the next one (spools.py)."""
        self._directories: set[str] = set()
        self._making = threading.Lock()

    @property
    def uuid(self) -> bytes:
        """The UUID in the marker; empty when none was read."""
        return self.marker.spool if self.marker else b""

    @property
    def online(self) -> bool:
        """Whether the spool is in use."""
        return not self.offline

    def look(self) -> None:
        """Read the marker. The spool stays offline until ``adopt``, but then for no reason of its own."""
        try:
            self.marker = read_marker(self.path)
            self.offline = "not adopted yet"
        except (NoSpool, BadMarker) as error:
            self.marker, self.offline = None, str(error)
        except OSError as error:
            self.marker, self.offline = None, f"{self.path}: {error.strerror}"

    def adopt(self, siblings: tuple[bytes, ...]) -> None:
        """Take the spool into use: a new generation in the marker, no leftovers in incoming/. Raises DiskError."""
        assert self.marker is not None
        self.marker = replace(self.marker, generation=self.marker.generation + 1, siblings=siblings)
        for name in (PACKS, LEDGER, INCOMING):
            self.directory(name)
        write_file(self.path / MARKER, self.marker.encode(), 0o644, self.disk)
        self._sweep()
        self.offline = ""

    def directory(self, relative: str) -> Path:
        """A directory inside the spool, there durably when this returns, whichever thread made it. Raises DiskError."""
        path = self.path / relative
        with self._making:
            if relative not in self._directories:
                make_directories(path, self.path, self.disk)
                self._directories.add(relative)
        return path

    def usable(self) -> int:
        """Bytes that may still be taken: free space minus the reserve, 0 when the spool cannot be asked."""
        try:
            stat = os.statvfs(self.path)
        except OSError:
            return 0
        return max(0, stat.f_bavail * stat.f_frsize - self.reserve)

    def demand_mounted(self) -> None:
        """Raise DiskError when the marker is gone: writing now would land on the file system below."""
        if not (self.path / MARKER).exists():
            raise DiskError(f"{self.path}: the marker is gone: not mounted any more")

    def _sweep(self) -> None:
        for leftover in sorted((self.path / INCOMING).iterdir()):
            self.disk.unlink(os.fspath(leftover))


def make_spool(path: Path, uuid: bytes, siblings: tuple[bytes, ...] = (), disk: Disk = SYSTEM_DISK) -> Marker:
    """Prepare an empty or missing directory as a spool. Raises StoreError."""
    marker = Marker(uuid, 0, siblings)
    assert len(uuid) == UUID_LENGTH
    try:
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
        if (path / MARKER).exists():
            raise StoreError(f"{path} is a spool already")
        strange = [one.name for one in path.iterdir() if one.name != "lost+found"]
        if strange:
            raise StoreError(f"{path} is not empty ({strange[0]}): give an empty directory")
        for name in (PACKS, LEDGER, INCOMING):
            make_directories(path / name, path, disk)
        write_new(path / MARKER, marker.encode(), 0o644, disk)
        fsync_directory(path.parent, disk)
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror}") from None
    except DiskError as error:
        raise StoreError(str(error)) from None
    return marker


def install_recovery(spool: Path, source: Path, disk: Disk = SYSTEM_DISK) -> int:
    """Copy protocol-spec.md, mastodon-recover and its wheels from ``source`` into the spool; the number of files."""
    count = 0
    for folder, _, names in os.walk(source):
        target = spool / RECOVERY / Path(folder).relative_to(source)
        make_directories(target, spool, disk)
        for name in sorted(names):
            origin = Path(folder, name)
            write_file(target / name, origin.read_bytes(), 0o755 if os.access(origin, os.X_OK) else 0o644, disk)
            count += 1
    return count


def make_directories(path: Path, below: Path, disk: Disk = SYSTEM_DISK) -> None:
    """Make ``path`` and its parents down from ``below``, each name durable. Raises DiskError.

    One that is there already may have been made just before a crash, so its name is made durable too.
    """
    names = []
    while path != below:
        names.append(path)
        path = path.parent
    try:
        for one in reversed(names):
            one.mkdir(mode=0o700, exist_ok=True)
            fsync_directory(one.parent, disk)
    except OSError as error:
        raise DiskError(f"{one}: {error.strerror}") from error


def day_of(time_ns: int) -> str:
    """The directory for packs received at that time: YYYY/MM/DD, UTC."""
    return datetime.fromtimestamp(time_ns // 10**9, UTC).strftime("%Y/%m/%d")


def total_space(path: Path) -> tuple[int, int]:
    """Size and free bytes of the file system that ``path`` lies on."""
    usage = shutil.disk_usage(path)
    return usage.total, usage.free
