"""Weeks of backups: what is sent and kept each day, and whether the newest snapshot restores as quickly as the first.

    python -m bench.days --data TREE --work DIR [--days N] [--tools NAMES] [--runs N] [--json FILE] [--chart FILE]

TREE is one of `bench.corpus lamp`. After a first backup comes a day of `bench.corpus mutate` N times, each with a seed
of its own, and after each a backup by every tool, all of the same tree. At the end the first snapshot and the newest
are restored in turns, --runs times, from a cold cache; the newest is compared with the tree. Mastodon's daemon is
started anew every day with its clock a day ahead (bench/ahead.py), so that no bound on snapshots in an hour is met.

60 days of the usual LAMP tree take about 15 minutes for mastodon alone, 45 with all four, and 8 or 30 GB in DIR, which
is emptied at the end.
"""

import argparse
import dataclasses
import json
import shutil
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from bench.chart import lines, page
from bench.installation import command
from bench.mastodon_tool import Mastodon
from bench.measure import Cost, drop_caches, measure
from bench.peers import bytes_below
from bench.report import PEERS
from bench.report import machine as about_machine
from bench.run import SINGLE, TOOLS, aside, chosen_tools, compare, prepare, settle

DAY_S = 24 * 3600
REFRESHED = 1.2
KEPT = 0.5
USUAL = ("mastodon", "mastodon-delta", "restic", "borg")


@dataclasses.dataclass(slots=True)
class Course:
    """What one tool came to."""

    days: list[Cost] = dataclasses.field(default_factory=list)
    trees: list[int] = dataclasses.field(default_factory=list)
    """Bytes of the tree on each day."""
    first: list[Cost] = dataclasses.field(default_factory=list)
    newest: list[Cost] = dataclasses.field(default_factory=list)
    differences: int = 0

    def restored(self) -> tuple[float, float]:
        """Median seconds of the first and the newest snapshot's restore."""
        first, newest = (statistics.median(cost.wall for cost in costs) for costs in (self.first, self.newest))
        return first, newest

    def sent(self) -> int:
        """Bytes after the first backup."""
        return sum(cost.sent for cost in self.days[1:])


class Runner:
    """One tool through all days."""

    def __init__(self, name: str, tree: Path, work: Path) -> None:
        self.name, self.tree, self.work = name, tree, work
        work.mkdir()
        (work / "tool").mkdir()
        self.tool = TOOLS[name](work / "tool")
        self.server = self.tool.start()
        self.course = Course()

    def back_up(self, day: int) -> None:
        """The tree as it is on that day."""
        if isinstance(self.tool, Mastodon) and day:
            self.server = self.tool.start_later(day * DAY_S)
        drop_caches()
        cost = measure(self.tool.backup(self.tree), self.server)
        cost.kept = self.tool.kept()
        self.course.days.append(cost)
        self.course.trees.append(bytes_below(self.tree))
        print(f"{self.name}, day {day}: {cost.sent / 1e6:.1f} MB sent, {cost.kept / 1e6:.0f} MB kept", file=sys.stderr)

    def restore(self, first: bool) -> None:
        """Everything of the first snapshot or the newest, which is compared."""
        to = self.work / "restored"
        to.mkdir()
        command = self.tool.restore(to, first)
        drop_caches()
        cost = measure(command, self.server)
        (self.course.first if first else self.course.newest).append(cost)
        if not first:
            cost.differences = compare(self.name, self.tree, self.tool.restored(to))
            self.course.differences += cost.differences
        shutil.rmtree(to)


def run(names: Sequence[str], data: Path, work: Path, days: int, runs: int) -> dict[str, Course]:
    """All days of all tools on one copy of ``data``, in the empty folder ``work``."""
    tree = work / "data"
    subprocess.run(["cp", "-a", str(data), str(tree)], check=True)
    settle(tree)
    runners: list[Runner] = []
    try:
        for name in names:
            runners.append(Runner(name, tree, work / name))
        for day in range(days + 1):
            if day:
                aside("bench.corpus", "mutate", tree, "--seed", day)
            for runner in turns(runners, day):
                runner.back_up(day)
        for number in range(runs):
            for first in (number % 2 == 0, number % 2 == 1):
                for runner in turns(runners, number):
                    runner.restore(first)
    finally:
        for runner in runners:
            runner.tool.stop()
    return {runner.name: runner.course for runner in runners}


def turns(runners: list[Runner], number: int) -> list[Runner]:
    """Somebody else begins each time."""
    begin = number % len(runners)
    return runners[begin:] + runners[:begin]


def table(courses: dict[str, Course]) -> Iterator[str]:
    """Markdown."""
    heads = (
        "tool", "kept after first MB", "kept at the end MB", "sent meanwhile MB", "a day MB (median)",
        "first restored s", "newest restored s", "newest / first", "differences",
    )  # fmt: skip
    yield f"| {' | '.join(heads)} |"
    yield "|" + " --- |" * len(heads)
    for name, course in courses.items():
        first, newest = course.restored()
        ratio = f"{newest / first:.2f}" + (bound(newest / first, REFRESHED) if name.startswith("mastodon") else "")
        sizes = (course.days[0].kept, course.days[-1].kept, course.sent(), daily(course))
        cells = [*(f"{size / 1e6:.1f}" for size in sizes), f"{first:.1f}", f"{newest:.1f}", ratio]
        yield f"| {name} | {' | '.join(cells)} | {course.differences} |"
    trees = next(iter(courses.values())).trees
    yield ""
    yield f"The tree had {trees[0] / 1e6:,.0f} MB at first, {trees[-1] / 1e6:,.0f} MB at the end."
    for name in [name for name in courses if name.startswith("mastodon")]:
        for peer in [peer for peer in PEERS if peer in courses]:
            ratio_kept = courses[name].days[-1].kept / courses[peer].days[-1].kept
            yield ""
            yield f"Kept at the end, {name} / {peer}: {ratio_kept:.2f}{bound(ratio_kept, KEPT)}"


def daily(course: Course) -> float:
    return statistics.median([cost.sent for cost in course.days[1:]] or [0])


def bound(value: float, most: float) -> str:
    return f" (≤ {most:g}{'' if value <= most else ', MISSED'})"


def chart(courses: dict[str, Course]) -> str:
    """Kept and sent, day by day; a tool that sends nothing over loopback is left out of the second."""
    kept = {name: [(day, cost.kept / 1e6) for day, cost in enumerate(one.days)] for name, one in courses.items()}
    sent = {
        name: [(day, cost.sent / 1e6) for day, cost in enumerate(one.days) if day]
        for name, one in courses.items()
        if one.sent()
    }
    return page([lines("Bytes kept", "day", "MB", kept), lines("Bytes sent a day", "day", "MB", sent)])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="a tree of bench.corpus lamp")
    parser.add_argument("--work", type=Path, required=True, help="an empty or new directory")
    parser.add_argument("--days", type=int, default=60)
    parser.add_argument("--tools", help=f"of {','.join(TOOLS)} (default: {','.join(USUAL)}, if to be had)")
    parser.add_argument("--runs", type=int, default=3, help="restores of each (default: %(default)s)")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--chart", type=Path)
    chosen = parser.parse_args()
    names = chosen_tools(parser, chosen.tools, USUAL)
    if "bare" in names or not (chosen.data / SINGLE).exists():
        parser.error("needs a tree of `bench.corpus lamp`, and tools that keep more than one backup")
    work = chosen.work.resolve() / "days"
    prepare()
    work.mkdir(parents=True)
    try:
        courses = run(names, chosen.data.resolve(), work, chosen.days, chosen.runs)
    finally:
        shutil.rmtree(work)
    if chosen.json:
        chosen.json.write_text(json.dumps(courses, default=dataclasses.asdict, indent=1))
    if chosen.chart:
        chosen.chart.write_text(chart(courses))
    print(f"{about_machine()}. Days: {chosen.days}.\n", *table(courses), sep="\n")
    return 1 if any(course.differences for course in courses.values()) else 0


if __name__ == "__main__":
    command(main)
