"""One measured command: wall, CPU of both sides, peak memory of both process trees, bytes over loopback.

Memory is the larger of two figures: the kernel's own peak of the command's first process (RSS), and the sum over the
whole tree of proportional set sizes (PSS: what processes share, such as a ring, is counted once). The tree is looked at
20 times a second. A look at PSS costs the kernel a walk over all pages, so it is taken when the tree's RSS, which is
cheap to read, has grown beyond what it was at any look before, and at every fifth time at the latest.
"""

import ctypes
import fcntl
import os
import resource
import socket
import struct
import subprocess
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

from bench.installation import Failed

INTERVAL = 0.05
AT_LATEST = 5
GROWN = 1.01
CLONE_NEWNET = 0x4000_0000
SIOCSIFFLAGS = 0x8914
IFF_UP_RUNNING = 0x1 | 0x40
PAGE_MIB = os.sysconf("SC_PAGE_SIZE") / (1 << 20)


class CommandFailed(Failed):
    """A measured command ended with an exit code that its tool does not know; its last words follow."""


@dataclass(frozen=True, slots=True)
class Command:
    """What to run, and which exit codes mean that it did its work."""

    argv: list[str]
    env: dict[str, str] = field(default_factory=dict)
    cwd: str | None = None
    good: tuple[int, ...] = (0,)


@dataclass(slots=True)
class Cost:
    """What one command took; server figures stay 0 where there is none."""

    wall: float
    cpu: float
    peak: float
    sent: int
    server_cpu: float = 0.0
    server_peak: float = 0.0
    kept: int = 0
    differences: int | None = None
    gpg: float | None = None
    """Seconds of the wall time that gpg took, where the tool uses it."""


def own_network() -> bool:
    """A loopback of this process and its children alone, so that its counters are theirs; False where not allowed.

    Call it before there are other threads.
    """
    if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNET):
        return False
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", IFF_UP_RUNNING))
    return True


def loopback_bytes() -> int:
    """All bytes that ever crossed lo, both directions of every connection."""
    for line in Path("/proc/net/dev").read_text().splitlines():
        name, _, counts = line.strip().partition(":")
        if name == "lo":
            return int(counts.split()[0])
    return 0


def drop_caches() -> bool:
    """Makes the next command start from a cold cache; False where that is not allowed."""
    os.sync()
    try:
        Path("/proc/sys/vm/drop_caches").write_text("3")
    except OSError:
        return False
    return True


def tree_of(pid: int) -> list[int]:
    """``pid`` and its living descendants."""
    found, at = [pid], 0
    while at < len(found):
        for task in Path(f"/proc/{found[at]}/task").glob("*/children"):
            try:
                found += [int(child) for child in task.read_text().split()]
            except OSError:
                continue
        at += 1
    return found


def cpu_seconds(pid: int) -> float:
    """User and system time of a process tree, its waited-for children included."""
    ticks = 0
    for member in tree_of(pid):
        try:
            fields = Path(f"/proc/{member}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        ticks += sum(map(int, fields[11:15]))
    return ticks / os.sysconf("SC_CLK_TCK")


def resident_mib(members: list[int]) -> float:
    """The sum of resident set sizes, now; shared pages count as often as they are shared."""
    pages = 0
    for member in members:
        try:
            pages += int(Path(f"/proc/{member}/statm").read_text().split()[1])
        except (OSError, IndexError):
            continue
    return pages * PAGE_MIB


def shared_out_mib(members: list[int]) -> float:
    """The sum of proportional set sizes, now."""
    kib = 0
    for member in members:
        try:
            lines = Path(f"/proc/{member}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        kib += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return kib / 1024


def high_water_mib(pid: int) -> float:
    """The peak of one process since it began its program, or since `reset_high_water`.

    Its rusage would not do: that still has what its parent held when it was forked.
    """
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM")), 0.0)


def reset_high_water(pid: int) -> None:
    Path(f"/proc/{pid}/clear_refs").write_text("5")


class MemoryWatch(threading.Thread):
    """Samples process trees until told to stop; ``peaks`` then has the highest PSS of each."""

    def __init__(self, pids: list[int]) -> None:
        super().__init__(daemon=True)
        self.peaks = dict.fromkeys(pids, 0.0)
        self._resident = dict.fromkeys(pids, 0.0)
        self._done = threading.Event()

    def run(self) -> None:
        number = 0
        while not self._done.wait(INTERVAL):
            for pid in self.peaks:
                self._look(pid, number % AT_LATEST == 0)
            number += 1

    def _look(self, pid: int, anyway: bool) -> None:
        members = tree_of(pid)
        resident = resident_mib(members)
        self.peaks[pid] = max(self.peaks[pid], high_water_mib(pid))
        if anyway or resident > GROWN * self._resident[pid]:
            self._resident[pid] = max(self._resident[pid], resident)
            self.peaks[pid] = max(self.peaks[pid], shared_out_mib(members))

    def finish(self) -> None:
        self._done.set()
        if self.ident is not None:
            self.join()


def wait_for(child: "subprocess.Popen[bytes]") -> tuple[bytes, resource.struct_rusage]:
    """What it says on standard error until it ends, and what it used; its exit code is set."""
    assert child.stderr is not None
    said = child.stderr.read()
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    return said, usage


def measure(command: Command, server: int | None) -> Cost:
    """Runs ``command`` to its end; ``server`` is the process that it talks to, if there is one."""
    if server is not None:
        reset_high_water(server)
    server_cpu, sent = cpu_seconds(server) if server is not None else 0.0, loopback_bytes()
    start = time.perf_counter()
    child = subprocess.Popen(
        command.argv,
        env={**os.environ, **command.env},
        cwd=command.cwd,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    watch = MemoryWatch([child.pid] if server is None else [child.pid, server])
    try:
        watch.start()
        said, usage = wait_for(child)
        wall = time.perf_counter() - start
    except BaseException:
        child.kill()
        child.wait()
        raise
    finally:
        watch.finish()
    if child.returncode not in command.good:
        words = said.decode(errors="replace")[-2000:]
        raise CommandFailed(f"{' '.join(command.argv)}: exit code {child.returncode}\n{words}")
    cost = Cost(
        wall=wall,
        cpu=usage.ru_utime + usage.ru_stime,
        peak=watch.peaks[child.pid],
        sent=loopback_bytes() - sent,
    )
    if server is not None:
        cost.server_cpu = cpu_seconds(server) - server_cpu
        cost.server_peak = watch.peaks[server]
    return cost
