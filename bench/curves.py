"""How Mastodon's costs grow: with files, with snapshots, with machines; a table and a plot of each.

    python -m bench.curves --work DIR [--only CURVES] [--files N,N] [--snapshots N,N] [--machines N,N] [--json FILE]
                           [--chart FILE]

    files       trees of `bench.corpus many`: first run, no change, restore; memory of client and daemon
    snapshots   one machine whose tree of 1,000 files changes a little before each: a run, the list, a restore
    machines    each with a tree of 1,000 files in the same spool: a run of the last that came

Each point also has the bytes of catalogue, ledger and agent's state, and how long the daemon takes to start. Each step
starts from a cold cache. For many snapshots the daemon is started anew with its clock an hour ahead before it reaches
its bound on snapshots in an hour (bench/ahead.py).

The usual sizes take about 15 minutes for the files, 25 for the snapshots, 5 for the machines, and 15 GB in DIR, which
is emptied at the end.
"""

import argparse
import dataclasses
import json
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from bench.chart import lines, page
from bench.installation import Machine, command
from bench.mastodon_tool import Mastodon
from bench.measure import Command, Cost, drop_caches, measure
from bench.peers import bytes_below
from bench.report import machine as about_machine
from bench.run import aside, compare, prepare
from bench.tenant import Tenant

CURVES = ("files", "snapshots", "machines")
TREE_FILES = 1000
AN_HOURS = 50
"""Snapshots after which the daemon is set an hour ahead; it takes 60."""
HOUR_S = 3600
PLOTS = (("Wall time", "s", "seconds"), ("Peak memory", "MiB", "memory"), ("Size", "MB", "bytes"))


@dataclasses.dataclass(slots=True)
class Point:
    """What was measured at one size: seconds, MiB of memory, bytes."""

    size: int
    seconds: dict[str, float] = dataclasses.field(default_factory=dict)
    memory: dict[str, float] = dataclasses.field(default_factory=dict)
    bytes: dict[str, int] = dataclasses.field(default_factory=dict)

    def take(self, step: str, cost: Cost) -> None:
        """A step's wall time, and the most memory of client and daemon."""
        self.seconds[step] = cost.wall
        self.memory[step] = cost.peak
        self.memory["daemon"] = max(self.memory.get("daemon", 0.0), cost.server_peak)
        print(f"{self.size}: {step}: {cost.wall:.2f} s, {cost.peak:.0f} MiB", file=sys.stderr, flush=True)


class Growing:
    """One installation that is looked at when it has grown."""

    def __init__(self, work: Path) -> None:
        work.mkdir()
        self.work = work
        self.tool = Mastodon(work)
        self.server = self.tool.start()
        self.hours = 0

    def step(self, point: Point, name: str, run: Command) -> None:
        """Measured, from a cold cache."""
        drop_caches()
        point.take(name, measure(run, self.server))

    def admin(self, *words: str) -> Command:
        return Command(["mastodon-admin", *words], self.tool.here.environment)

    def restore(self, point: Point, tree: Path) -> None:
        """Everything, which is compared."""
        to = self.work / "restored"
        to.mkdir()
        self.step(point, "restore", self.tool.restore(to))
        if compare("mastodon", tree, self.tool.restored(to)):
            raise SystemExit("what was restored is not what was backed up")
        shutil.rmtree(to)

    def next_hour(self) -> float:
        """The daemon, an hour ahead of where it was; the seconds of its start."""
        self.hours += 1
        self.tool.here.stop_daemon()
        drop_caches()
        start = time.perf_counter()
        self.server = self.tool.start_later(self.hours * HOUR_S)
        return time.perf_counter() - start

    def sizes(self, point: Point, state: Path) -> None:
        """Of what was derived and what is kept; the daemon's start."""
        point.seconds["daemon's start"] = self.next_hour()
        here = self.tool.here
        catalogue = [file for file in (here.server / "state").glob("catalogue*") if file.is_file()]
        point.bytes["catalogue"] = sum(file.stat().st_size for file in catalogue)
        point.bytes["ledger"] = sum(bytes_below(spool / "ledger") for spool in here.spools())
        point.bytes["packs"] = sum(bytes_below(spool / "packs") for spool in here.spools())
        point.bytes["agent's state"] = bytes_below(state)

    def stop(self) -> None:
        self.tool.stop()


def small_tree(work: Path, count: int = TREE_FILES) -> Path:
    tree = work / "data"
    aside("bench.corpus", "many", tree, "--files", count)
    return tree


def with_files(work: Path, sizes: Sequence[int]) -> Iterator[Point]:
    """A server and a tree of its own for each size."""
    for size in sizes:
        tree, point = small_tree(work, size), Point(size)
        growing = Growing(work / "server")
        try:
            growing.step(point, "first", growing.tool.backup(tree))
            growing.step(point, "no change", growing.tool.backup(tree))
            growing.restore(point, tree)
            growing.sizes(point, work / "server/agent-state")
        finally:
            growing.stop()
        yield point
        shutil.rmtree(tree)
        shutil.rmtree(work / "server")


def with_snapshots(work: Path, sizes: Sequence[int]) -> Iterator[Point]:
    """One machine; the snapshot at each size is measured."""
    tree, growing = small_tree(work), Growing(work / "server")
    files = sorted(file for file in tree.rglob("*") if file.is_file())
    words = [*growing.tool.here.agent_words(), tree]
    try:
        for number in range(1, max(sizes) + 1):
            with files[number % len(files)].open("ab") as file:
                file.write(b"one more line\n")
            if number % AN_HOURS == 0:
                growing.next_hour()
            if number not in sizes:
                growing.tool.here.call("a snapshot", *words)
                continue
            point = Point(number)
            growing.step(point, "a run", growing.tool.backup(tree))
            growing.step(point, "list of snapshots", growing.admin("snapshots", "web01"))
            growing.restore(point, tree)
            growing.sizes(point, work / "server/agent-state")
            yield point
    finally:
        growing.stop()


def with_machines(work: Path, sizes: Sequence[int]) -> Iterator[Point]:
    """Many machines of one tenant; the run of the last at each size is measured."""
    tree, growing = small_tree(work), Growing(work / "server")
    here, tenant = growing.tool.here, Tenant("fleet")
    try:
        here.add_tenant(tenant.name, tenant.request())
        names = [f"machine{number}" for number in range(1, max(sizes) + 1)]
        urls = tenant.enrol(here.restore_port, here.append_port, names, work)
        for number, url in enumerate(urls, 1):
            machine = Machine(url.stem, url, here.passkey, work / f"{url.stem}.state")
            words = machine.agent_words(tree)
            if number not in sizes:
                here.call("a machine", *words)
                continue
            point, run = Point(number), Command([str(word) for word in words], here.environment)
            growing.step(point, "first", run)
            growing.step(point, "no change", run)
            growing.sizes(point, machine.state)
            yield point
    finally:
        growing.stop()


MAKERS: dict[str, Callable[[Path, Sequence[int]], Iterator[Point]]] = {
    "files": with_files,
    "snapshots": with_snapshots,
    "machines": with_machines,
}


def table(name: str, points: Sequence[Point]) -> Iterator[str]:
    """Markdown: a row for each size."""
    heads = [name, *(f"{step} s" for step in points[0].seconds), *(f"{who} MiB" for who in points[0].memory)]
    heads += [f"{what} MB" for what in points[0].bytes]
    yield f"| {' | '.join(heads)} |"
    yield "|" + " --- |" * len(heads)
    for point in points:
        cells = [f"{point.size:,}", *(f"{value:.2f}" for value in point.seconds.values())]
        cells += [f"{value:.0f}" for value in point.memory.values()]
        cells += [f"{value / 1e6:,.2f}" for value in point.bytes.values()]
        yield f"| {' | '.join(cells)} |"


def chart(curves: dict[str, list[Point]]) -> str:
    """Three plots for each curve, with logarithmic axes."""
    panels = []
    for name, points in curves.items():
        for title, unit, part in PLOTS:
            series: dict[str, list[tuple[float, float]]] = {}
            for point in points:
                for key, value in getattr(point, part).items():
                    series.setdefault(key, []).append((point.size, value / 1e6 if part == "bytes" else value))
            panels.append(lines(f"{title} by {name}", name, unit, series, log=True))
    return page(panels)


def numbers(words: str) -> list[int]:
    """The sizes in an argument, ascending."""
    return sorted({int(word) for word in words.split(",")})


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="an empty or new directory")
    parser.add_argument("--only", default=",".join(CURVES), help=f"of {','.join(CURVES)}")
    parser.add_argument("--files", type=numbers, default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--snapshots", type=numbers, default=[1, 100, 1000])
    parser.add_argument("--machines", type=numbers, default=[1, 10, 100])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--chart", type=Path)
    chosen = parser.parse_args()
    names = chosen.only.split(",")
    if unknown := set(names) - set(CURVES):
        parser.error(f"unknown curves: {', '.join(sorted(unknown))}; there are {', '.join(CURVES)}")
    prepare()
    curves = {}
    for name in names:
        work = chosen.work.resolve() / f"curve-{name}"
        work.mkdir(parents=True)
        try:
            curves[name] = list(MAKERS[name](work, getattr(chosen, name)))
        finally:
            shutil.rmtree(work)
    if chosen.json:
        chosen.json.write_text(json.dumps(curves, default=dataclasses.asdict, indent=1))
    if chosen.chart:
        chosen.chart.write_text(chart(curves))
    print(f"{about_machine()}.")
    for name, points in curves.items():
        print("", *table(name, points), sep="\n")
    return 0


if __name__ == "__main__":
    command(main)
