"""One point: a fault in an installation, the next run, the check. What all kinds of faults have in common."""

import os
import random
import shutil
from dataclasses import dataclass, field
from pathlib import Path

from bench.faults.check import Checks, check_all, check_road
from bench.faults.programs import Program
from bench.faults.site import Machine, Site
from bench.faults.steps import Fault, Plan


class Missed(Exception):
    """The fault did not come: the program was through before. The point is done again with another draw."""


@dataclass(slots=True)
class Point:
    """Where and what; ``said`` collects what is worth telling when it fails."""

    number: int
    site: Site
    machine: Machine
    rng: random.Random
    counts: Checks
    reach: dict[str, float]
    """Of each program how many steps it has when nothing stops it, and how many seconds it takes: from these is drawn
    when it is stopped."""
    rebuilt: bool = False
    """Whether the catalogue took a `mastodon rebuild`."""
    spent: bool = False
    """Whether the installation is not to be used any more: what it lost, it lost by design."""
    said: list[str] = field(default_factory=list)

    def plan(self, who: str, fault: Fault, *below: Path, journal: bool = False) -> Plan:
        """A plan for a program; the journal, if wanted, is new."""
        path = self.site.work / f"journal-{self.number}-{self.rng.getrandbits(32):08x}" if journal else None
        self.said.append(f"{who}: {fault.what.value} {_calls(fault)} {fault.step}{' on' if fault.lasting else ''}")
        return Plan(below, fault, path)

    def draw(self, who: str) -> int:
        """A step of a program; a few lie behind its last one, so that the count stays true."""
        return self.rng.randrange(1, round(1.05 * self.reach[who]) + 2)

    def moment(self, who: str) -> float:
        """Some time of a program's life, in seconds."""
        return self.rng.uniform(0, self.reach[f"{who} seconds"])

    def count(self, who: str, plan: Plan, program: Program) -> None:
        """Remember how many steps a program has that nothing stopped."""
        if not plan.counter.hit and program.status is not None and program.status >= 0:
            self.reach[who] = max(self.reach.get(who, 0), plan.counter.steps)
            before = self.reach.get(f"{who} seconds", program.took)
            self.reach[f"{who} seconds"] = before * 0.8 + program.took * 0.2

    def target(self, name: str) -> Path:
        """A directory to restore into, which is not there yet."""
        path = self.site.work / f"{name}-{self.number}"
        shutil.rmtree(path, ignore_errors=True)
        return path

    def settle(self) -> None:
        """After the fault: a daemon without faults, and a run of the agent that completes."""
        if not self.site.daemon_runs:
            self.site.start_daemon()
        self.site.back_up(self.machine)

    def acked(self) -> list[int]:
        """The snapshots of its machine that were acknowledged, at least one: without one yet, a run makes it."""
        if not self.machine.acked:
            self.settle()
        return sorted(self.machine.acked)

    def check_others(self) -> None:
        """What all machines share may have been hit: of each other one the newest snapshot, by the admin's client."""
        for other in self.site.machines:
            if other is not self.machine and other.acked:
                check_road(self.site, other, [max(other.acked)], "restored")
                self.counts.snapshots += 1
                self.counts.restores += 1

    def check(self) -> None:
        """Every snapshot that was acknowledged to the machine, by both roads."""
        check_all(self.site, self.machine, self.machine.acked, self.counts)


def _calls(fault: Fault) -> str:
    calls = ",".join(sorted(fault.calls)) if len(fault.calls) < 4 else "step"
    return f"{calls} of {fault.part}" if fault.part else calls


def read_count(descriptor: int) -> int:
    """How many bytes wait in a pipe."""
    os.set_blocking(descriptor, False)
    try:
        return len(os.read(descriptor, 4096))
    except BlockingIOError:
        return 0
