"""The independent check: every acknowledged snapshot, by both roads, against the rig's own record; and the spools."""

import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from bench.faults import programs
from bench.faults.site import Broken, Machine, Site
from bench.faults.tree import differences, take_manifest

SHOWN = 8


class Lost(Broken):
    """Something that was acknowledged does not come back as it was."""


@dataclass(slots=True)
class Checks:
    """Counts what was checked."""

    snapshots: int = 0
    restores: int = 0
    recoveries: int = 0
    checks: int = 0


def check_all(site: Site, machine: Machine, numbers: Iterable[int], counts: Checks) -> None:
    """Restore these snapshots by both roads, compare; look for the packs, run ``mastodon check``."""
    numbers = sorted(set(numbers))
    check_packs(site, machine)
    for road in ("restored", "recovered"):
        check_road(site, machine, numbers, road)
    counts.snapshots += len(numbers)
    counts.restores += len(numbers)
    counts.recoveries += len(numbers)
    check_spools(site, counts)


def check_road(site: Site, machine: Machine, numbers: list[int], road: str) -> None:
    """Restore by the admin's client ("restored") or from the spools alone ("recovered"), and compare."""
    top = site.work / road
    words = site.restore_words if road == "restored" else site.recover_words
    program = programs.admin if road == "restored" else programs.recover
    commands = [words(machine, number, top / str(number)) for number in numbers]
    try:
        site.do(programs.on_one_core(program(*commands)), what=road)
        for number in numbers:
            compare(machine, number, top / str(number))
    finally:
        shutil.rmtree(top, ignore_errors=True)


def compare(machine: Machine, number: int, restored: Path) -> None:
    """What was restored against what was there."""
    found = take_manifest(restored / machine.tree.relative_to("/"))
    wrong = differences(machine.acked[number], found)
    if wrong:
        raise Lost(f"{machine.name}, snapshot {number}: {len(wrong)} differences: " + "; ".join(wrong[:SHOWN]))


def check_packs(site: Site, machine: Machine) -> None:
    """Each acknowledged pack lies on a spool."""
    there = {path.stem for spool in site.spools for path in spool.glob("packs/**/*.pack")}
    gone = machine.packs - there
    if gone:
        raise Lost(f"{machine.name}: {len(gone)} acknowledged packs are gone, first {min(gone)}")


def check_spools(site: Site, counts: Checks) -> None:
    """``mastodon check`` finds nothing."""
    site.do(programs.operator("--config", site.config, "check"), what="check")
    counts.checks += 1
