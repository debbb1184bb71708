"""What the root of a listing says about the machine: disks, system, time zone, for whoever has to rebuild it.

Only what stays the same from run to run. Disks only as root, each tool only where it exists, for a few seconds, and
never more than FACT_LIMIT bytes; the tools run while files are scanned.
"""

import contextlib
import os
import shutil
import subprocess
import time

from mastodon.sealed.schema import clean_text

FACT_LIMIT = 64 * 1024
TIMEOUT_S = 5.0
DISKS_LIMIT = 12
PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
COLUMNS = "NAME,PATH,TYPE,SIZE,RO,RM,FSTYPE,LABEL,UUID,PARTTYPE,PARTLABEL,PARTUUID,MOUNTPOINT,MODEL,SERIAL"


class HostFacts:
    """Starts the tools at once; ``collect`` takes what they said."""

    def __init__(self) -> None:
        self._running: list[tuple[str, subprocess.Popen[bytes]]] = []
        if os.geteuid() == 0:
            self._start("lsblk", "lsblk", "--json", "--bytes", "--output", COLUMNS)
            self._start("blkid", "blkid")
            for disk in _disks()[:DISKS_LIMIT]:
                self._start(f"sfdisk {disk}", "sfdisk", "--dump", f"/dev/{disk}")

    def collect(self) -> tuple[tuple[str, bytes], ...]:
        """(name, text) of what could be had. To be called once."""
        facts = [("os-release", _read("/etc/os-release")), ("uname", " ".join(os.uname()).encode("utf-8", "replace"))]
        running, self._running = self._running, []
        for name, process in running:
            facts.append((clean_text(name, 64), _finish(process)))
        return tuple((name, text[:FACT_LIMIT]) for name, text in facts if text)

    def _start(self, name: str, program: str, *arguments: str) -> None:
        found = shutil.which(program, path=PATH)
        if found is None:
            return
        with contextlib.suppress(OSError):
            process = subprocess.Popen(
                [found, *arguments],
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                env={"LC_ALL": "C.UTF-8", "PATH": PATH},
            )  # fmt: skip
            self._running.append((name, process))


def hostname() -> str:
    """This machine's name for itself."""
    return clean_text(os.uname().nodename, 255)


def time_zone() -> str:
    """As in TZ or /etc/localtime, else its short name."""
    zone = os.environ.get("TZ", "").lstrip(":")
    if not zone:
        try:
            zone = os.path.realpath("/etc/localtime").split("/zoneinfo/", 1)[1]
        except IndexError:
            zone = time.tzname[0]
    return clean_text(zone, 64)


def _finish(process: "subprocess.Popen[bytes]") -> bytes:
    """What a program printed; nothing when it failed or takes too long."""
    with process:
        try:
            text, _ = process.communicate(timeout=TIMEOUT_S)
        except (OSError, subprocess.SubprocessError):
            process.kill()
            return b""
    return text if process.returncode == 0 else b""


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(FACT_LIMIT)
    except OSError:
        return b""


def _disks() -> list[str]:
    """Names of block devices that have hardware behind them."""
    try:
        names = sorted(os.listdir("/sys/block"))
    except OSError:
        return []
    return [name for name in names if os.path.exists(f"/sys/block/{name}/device") and os.path.exists(f"/dev/{name}")]
