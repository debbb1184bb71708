"""One point: a fault in an installation, the next run, the check. What all kinds of faults have in common."""

import os
import random
from dataclasses import dataclass, field
from pathlib import Path

from bench.faults.check import Checks, check_all
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
    reach: dict[str, int]
    """Of each program and set of calls the most steps that were ever counted: from these a step is drawn."""
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

    def draw(self, who: str, least: int) -> int:
        """A step of a program: up to the most that was counted, ``least`` while nothing was."""
        return self.rng.randrange(1, max(least, self.reach.get(who, 0)) + 1)

    def count(self, who: str, plan: Plan) -> None:
        """Remember how many steps a program has."""
        self.reach[who] = max(self.reach.get(who, 0), plan.counter.steps)

    def settle(self) -> None:
        """After the fault: a daemon without faults, and a run of the agent that completes."""
        if not self.site.daemon_runs:
            self.site.start_daemon()
        self.site.back_up(self.machine)

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
