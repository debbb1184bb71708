"""Mastodon beside the tools a user would pick instead: same tree, same machine, one run, taking turns.

    python -m bench.run --data TREE --work DIR [--tools mastodon,restic,borg] [--runs N] [--json FILE]

For each tool: a first backup, one without a change, one after a day of changes, a restore (compared with the tree),
one file. Day and single file need a lamp tree of bench.corpus. The cache is dropped before each step where that is
allowed, and it is said where it is not. The medians come out as a Markdown table. DIR has to have room for the tree
three times over; it is emptied after each tool.
"""

import argparse
import dataclasses
import filecmp
import json
import shutil
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from bench.mastodon_tool import Mastodon
from bench.measure import Command, Cost, drop_caches, measure
from bench.peers import Borg, Restic, Tool

TOOLS: dict[str, Callable[[Path], Tool]] = {"mastodon": Mastodon, "restic": Restic, "borg": Borg}
SINGLE = "var/lib/mysql/users.ibd"
COLUMNS = (
    ("wall s", lambda cost: cost.wall),
    ("client CPU s", lambda cost: cost.cpu),
    ("server CPU s", lambda cost: cost.server_cpu),
    ("client MiB", lambda cost: cost.peak),
    ("server MiB", lambda cost: cost.server_peak),
    ("sent MB", lambda cost: cost.sent / 1e6),
    ("kept MB", lambda cost: cost.kept / 1e6),
)

Steps = dict[str, Cost]


def steps(tool: Tool, tree: Path, work: Path) -> Iterator[tuple[str, Command]]:
    """What is measured, in order; each command is asked for when its turn has come."""
    lamp = (tree / SINGLE).exists()
    yield "first", tool.backup(tree)
    yield "no change", tool.backup(tree)
    if lamp:
        aside("bench.corpus", "mutate", tree)
        yield "day", tool.backup(tree)
    (work / "restored").mkdir()
    yield "restore", tool.restore(work / "restored")
    if lamp:
        (work / "single").mkdir()
        yield "single file", tool.single(work / "single", SINGLE)


def run_once(name: str, data: Path, work: Path) -> Steps:
    """All steps of one tool on a fresh copy of ``data``, in the empty folder ``work``."""
    tree, costs = work / "data", Steps()
    subprocess.run(["cp", "-a", str(data), str(tree)], check=True)
    own = work / "tool"
    own.mkdir()
    tool = TOOLS[name](own)
    server = tool.start()
    try:
        for label, command in steps(tool, tree, work):
            drop_caches()
            costs[label] = cost = measure(command, server)
            cost.kept = tool.kept()
            print(f"{name}, {label}: {cost.wall:.1f} s", file=sys.stderr, flush=True)
    finally:
        tool.stop()
    costs["restore"].differences = compare(name, tree, tool.restored(work / "restored"))
    if "single file" in costs:
        same = filecmp.cmp(tree / SINGLE, tool.restored(work / "single") / SINGLE, shallow=False)
        costs["single file"].differences = 0 if same else 1
    return costs


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


def table(results: dict[str, list[Steps]]) -> Iterator[str]:
    """The medians over all runs as lines of Markdown."""
    heads = ["tool", "step", *(head for head, _ in COLUMNS), "differences"]
    yield f"| {' | '.join(heads)} |"
    yield "|" + " --- |" * len(heads)
    for name, runs in results.items():
        for label in runs[0]:
            costs = [run[label] for run in runs]
            cells = [f"{statistics.median(map(value, costs)):.1f}" for _, value in COLUMNS]
            found = max((cost.differences for cost in costs if cost.differences is not None), default="")
            yield f"| {name} | {label} | {' | '.join(cells)} | {found} |"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--tools", default=",".join(TOOLS))
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    names = chosen.tools.split(",")
    if unknown := set(names) - set(TOOLS):
        parser.error(f"unknown tools: {', '.join(sorted(unknown))}")
    if not drop_caches():
        print("the cache cannot be dropped here: all figures are of a warm cache")
    results: dict[str, list[Steps]] = {name: [] for name in names}
    for number in range(chosen.runs):
        # Turns are taken from both ends, so that a machine that warms up or fills favours nobody.
        for name in names if number % 2 == 0 else reversed(names):
            work = (chosen.work / name).absolute()
            work.mkdir(parents=True)
            try:
                results[name].append(run_once(name, chosen.data, work))
            finally:
                shutil.rmtree(work)
    if chosen.json:
        chosen.json.write_text(json.dumps(results, default=dataclasses.asdict, indent=1))
    print(*table(results), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
