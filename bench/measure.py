"""One measured command: wall, CPU of both sides, peak memory of both process trees, bytes over loopback.

Memory is the larger of two figures: the kernel's own peak of the largest process, and the sum of proportional set
sizes (shared pages counted once) over the whole tree, sampled five times a second.
"""

import os
import subprocess
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

INTERVAL = 0.2


class CommandFailed(Exception):
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


def shared_out_mib(pid: int) -> float:
    """The proportional set size of a process tree, now."""
    kib = 0
    for member in tree_of(pid):
        try:
            lines = Path(f"/proc/{member}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        kib += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return kib / 1024


def high_water_mib(pid: int) -> float:
    """The peak of one process since `reset_high_water`."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) / 1024
    return 0.0


def reset_high_water(pid: int) -> None:
    Path(f"/proc/{pid}/clear_refs").write_text("5")


class MemoryWatch(threading.Thread):
    """Samples process trees until told to stop; ``peaks`` then has the highest sum of each."""

    def __init__(self, pids: list[int]) -> None:
        super().__init__(daemon=True)
        self.peaks = dict.fromkeys(pids, 0.0)
        self._done = threading.Event()

    def run(self) -> None:
        while not self._done.wait(INTERVAL):
            for pid in self.peaks:
                self.peaks[pid] = max(self.peaks[pid], shared_out_mib(pid))

    def finish(self) -> None:
        self._done.set()
        self.join()


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
    watch.start()
    assert child.stderr is not None
    said = child.stderr.read()
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    wall = time.perf_counter() - start
    watch.finish()
    if child.returncode not in command.good:
        words = said.decode(errors="replace")[-2000:]
        raise CommandFailed(f"{' '.join(command.argv)}: exit code {child.returncode}\n{words}")
    cost = Cost(
        wall=wall,
        cpu=usage.ru_utime + usage.ru_stime,
        peak=max(usage.ru_maxrss / 1024, watch.peaks[child.pid]),
        sent=loopback_bytes() - sent,
    )
    if server is not None:
        cost.server_cpu = cpu_seconds(server) - server_cpu
        cost.server_peak = max(high_water_mib(server), watch.peaks[server])
    return cost
