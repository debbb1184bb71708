"""Mastodon beside the tools a user would pick instead: same tree, same machine, one run, taking turns.

    python -m bench.run --data TREE --work DIR [--tools NAMES] [--steps NAMES] [--runs N] [--json FILE] [--chart FILE]

Steps: a first backup, one without a change, one after a day of changes, a restore of everything, one of one 128 MB
file. All tools work on one copy of the tree, which changes once a run, so that each sees the same bytes; at every step
they take turns, and who begins changes from step to step and from run to run. The page cache is dropped before each.
Every restored tree is compared with what was backed up. `day` and `single` need a tree of `bench.corpus lamp`.

Medians over the runs come out as a Markdown table, with a second one of ratios beside what the project promises itself.
`bare` is tar and find: what the machine itself needs. Root only: else the cache stays warm and owners are not restored.

A LAMP tree (62,023 files, 1.34 GB) takes about 5 minutes a run and 8 GB in DIR; a million files of `bench.corpus many`
about 12 minutes a run with restic alone, and 20 GB. DIR is emptied at the end. How to get restic and borg:
docs/development.md, "Measuring".
"""

import argparse
import dataclasses
import filecmp
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from bench.installation import command
from bench.mastodon_tool import Mastodon, MastodonDelta, knows_delta
from bench.measure import Cost, drop_caches, measure, own_network
from bench.peers import Bare, Borg, Restic, Tool
from bench.report import Steps, chart, machine, peaks, ratios, table

TOOLS: dict[str, Callable[[Path], Tool]] = {
    "mastodon": Mastodon,
    "mastodon-delta": MastodonDelta,
    "restic": Restic,
    "borg": Borg,
    "bare": Bare,
}
SINGLE = "var/lib/mysql/users.ibd"
STEPS = {"first": "first", "nochange": "no change", "day": "day", "restore": "restore", "single": "single file"}
LAMP_ONLY = ("day", "single")


class Turn:
    """One tool in one run: its own folder, its server, what its steps took."""

    def __init__(self, name: str, tree: Path, work: Path) -> None:
        self.name, self.tree, self.work = name, tree, work
        self.costs = Steps()
        work.mkdir()
        (work / "tool").mkdir()
        self.tool = TOOLS[name](work / "tool")
        self.server = self.tool.start()

    def do(self, step: str) -> None:
        """Measure a step; what was restored is compared and removed."""
        to = self.work / "restored"
        to.mkdir()
        command = {
            "restore": lambda: self.tool.restore(to),
            "single": lambda: self.tool.single(to, SINGLE),
        }.get(step, lambda: self.tool.backup(self.tree))()
        self.tool.gpg_seconds()
        drop_caches()
        self.costs[STEPS[step]] = cost = measure(command, self.server)
        cost.gpg, cost.kept = self.tool.gpg_seconds(), self.tool.kept()
        print(f"{self.name}, {STEPS[step]}: {cost.wall:.1f} s", file=sys.stderr, flush=True)
        if step == "restore" and self.name != "bare":
            cost.differences = compare(self.name, self.tree, self.tool.restored(to))
        elif step == "single":
            cost.differences = self._compare_single(to)
        shutil.rmtree(to)

    def _compare_single(self, to: Path) -> int | None:
        if self.name == "bare":  # its archive is as old as the first step
            return None
        return 0 if filecmp.cmp(self.tree / SINGLE, self.tool.restored(to) / SINGLE, shallow=False) else 1


def run_once(names: Sequence[str], steps: Sequence[str], data: Path, work: Path, number: int) -> dict[str, Steps]:
    """All steps of all tools on one fresh copy of ``data``, in the empty folder ``work``."""
    tree = work / "data"
    subprocess.run(["cp", "-a", str(data), str(tree)], check=True)
    settle(tree)
    turns: list[Turn] = []
    try:
        for name in names:
            turns.append(Turn(name, tree, work / name))
        for at, step in enumerate(steps):
            if step == "day":
                aside("bench.corpus", "mutate", tree)
            begin = (number + at) % len(turns)
            for turn in turns[begin:] + turns[:begin]:
                turn.do(step)
    finally:
        for turn in turns:
            turn.tool.stop()
    return {turn.name: turn.costs for turn in turns}


def settle(tree: Path) -> None:
    """Read a byte of everything, so that not the first tool alone has the kernel write new access times."""
    for root, _, names in os.walk(tree):
        for name in names:
            path = os.path.join(root, name)
            if os.path.isfile(path) and not os.path.islink(path):
                with open(path, "rb", buffering=0) as file:
                    file.read(1)


def compare(name: str, tree: Path, restored: Path) -> int:
    """The number of differences; the first few are told."""
    *lines, count = aside("bench.compare", tree, restored, good=(0, 1)).splitlines()
    for line in lines:
        print(f"{name}: {line}", file=sys.stderr)
    return int(count)


def aside(module: str, *arguments: object, good: tuple[int, ...] = (0,)) -> str:
    """Runs one of our modules in a process of its own and returns what it says.

    The runner has to stay small: the kernel counts its size at the fork as the peak of every command that it starts.
    """
    argv = [sys.executable, "-m", module, *map(str, arguments)]
    done = subprocess.run(argv, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode not in good:
        raise SystemExit(f"{module}: exit code {done.returncode}")
    return done.stdout


def prepare() -> None:
    """What every measurement starts with: a loopback of its own, a cache that can be dropped; or a word about it."""
    if os.geteuid() or not own_network():
        print("no loopback of our own here: whatever else uses it is counted as sent", file=sys.stderr)
    if not drop_caches():
        print("the cache cannot be dropped here: all figures are of a warm cache", file=sys.stderr)


def chosen_tools(parser: argparse.ArgumentParser, wanted: str | None, usual: Sequence[str]) -> list[str]:
    """The tools that were named; unless any were, the usual ones that are to be had."""
    if wanted is None:
        return [name for name in usual if name != "mastodon-delta" or knows_delta()]
    names = wanted.split(",")
    if unknown := set(names) - set(TOOLS):
        parser.error(f"unknown tools: {', '.join(sorted(unknown))}; there are {', '.join(TOOLS)}")
    if "mastodon-delta" in names and not knows_delta():
        parser.error("mastodon-delta: the mastodon-agent that is installed has no --delta")
    return names


def chosen_steps(parser: argparse.ArgumentParser, wanted: str | None, lamp: bool) -> list[str]:
    """The steps that were named, in their order; there is no other without the first."""
    names = list(STEPS) if wanted is None else ["first", *wanted.split(",")]
    if unknown := set(names) - set(STEPS):
        parser.error(f"unknown steps: {', '.join(sorted(unknown))}; there are {', '.join(STEPS)}")
    if wanted is not None and not lamp and (out := set(names) & set(LAMP_ONLY)):
        parser.error(f"{', '.join(sorted(out))}: only with a tree of `bench.corpus lamp`")
    return [name for name in STEPS if name in names and (lamp or name not in LAMP_ONLY)]


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="a tree of bench.corpus, or any")
    parser.add_argument("--work", type=Path, required=True, help="an empty or new directory")
    parser.add_argument("--tools", help=f"of {','.join(TOOLS)} (default: all that are to be had)")
    parser.add_argument("--steps", help=f"of {','.join(STEPS)} (default: all that the tree is fit for)")
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--json", type=Path, help="every single figure")
    parser.add_argument("--chart", type=Path, help="the medians as SVG")
    return parser


def main() -> int:
    parser = arguments()
    chosen = parser.parse_args()
    data, lamp = chosen.data.resolve(), (chosen.data / SINGLE).exists()
    names = chosen_tools(parser, chosen.tools, list(TOOLS))
    steps = chosen_steps(parser, chosen.steps, lamp)
    work = chosen.work.resolve() / "run"
    prepare()
    results: dict[str, list[Steps]] = {name: [] for name in names}
    versions: list[str] = []
    for number in range(chosen.runs):
        work.mkdir(parents=True)
        try:
            versions = versions or [word for name in names for word in TOOLS[name](work).versions()]
            for name, costs in run_once(names, steps, data, work, number).items():
                results[name].append(costs)
        finally:
            shutil.rmtree(work)
    about = [machine(), *dict.fromkeys(versions)]
    if chosen.json:
        chosen.json.write_text(json.dumps({"about": about, "runs": results}, default=dataclasses.asdict, indent=1))
    if chosen.chart:
        chosen.chart.write_text(chart(results))
    print(f"{'; '.join(about)}. Runs: {chosen.runs}.\n")
    print(*table(results), "", *ratios(results, lamp), "", *peaks(results), sep="\n")
    return 1 if any(differs(cost) for runs in results.values() for run in runs for cost in run.values()) else 0


def differs(cost: Cost) -> bool:
    return bool(cost.differences)


if __name__ == "__main__":
    command(main)
