"""What P12 comes to: a slow machine, a restore and equal machines beside floods, with real agents in real processes.

    python -m bench.fairness --work DIR [--runs N] [--only PARTS] [--json FILE] [--chart FILE]

The daemon has one core to itself, all clients share another, floods only while it is idle: so it is the daemon that is
contended, not the clients' CPU, and how busy it was is printed. Each part has a new installation:

    agents      a slow machine (a small tree, all of it new each time) beside 8 real agents with big trees of noise
    packs       the same beside 8 lean clients that send packs of noise, for which they need next to no CPU
    equal       8 equal machines: Jain's index over the bytes that the spool has of each when the first is done
    hostile     the slow machine beside one hostile client of each kind of bench.flood, without and with 7 that flood
    restore     a restore alone, and beside 8 that flood

An equal share is reckoned from what was measured: f, a run that has nothing to send (start, connection, scan, commit);
T, the run alone; b, its bytes on the wire; C, the bytes on the wire in a second, of the floods alone or with the slow
machine, whichever is more. With n machines at work the ideal is f + max(T - f, n b / C): the run goes on as if alone
unless an n-th of C is slower. Whatever bounds C (the daemon's core, the disk) is shared; how busy the daemon's core
was is told beside it. On a machine that does other work too the floods starve: then that is said, not the figure kept.

Takes about 8 minutes with --runs 3, and 15 GB in DIR, which is emptied after each part. Needs root and two cores.
"""

import argparse
import dataclasses
import json
import shutil
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from bench.chart import bars, page
from bench.contended import Site, Size, Timed, end
from bench.flood import KINDS
from bench.installation import command
from bench.report import machine as about_machine
from bench.run import prepare

FLOODERS = 8
HOSTILE = tuple(kind for kind in KINDS if kind != "packs")
PARTS = ("agents", "packs", "equal", "hostile", "restore")
PATIENCE_S = 600.0
LEAST_FLOOD = 20e6
"""Bytes in a second that 7 or 8 floods make at the least, on a machine that is theirs."""


@dataclasses.dataclass(slots=True)
class Finding:
    """One comparison: its figure, what it may be, and how it came about."""

    name: str
    value: float
    floor: float
    at_most: bool
    how: str
    starved: bool = False
    """The floods hardly ran: a machine that does other work too. No figure, then."""

    @property
    def kept(self) -> bool:
        return not self.starved and (self.value <= self.floor if self.at_most else self.value >= self.floor)


class Fairness:
    """All parts, one after the other, each on a site of its own below ``work``: what floods store is gone after it."""

    def __init__(self, work: Path, size: Size, runs: int) -> None:
        self.work, self.size, self.runs = work, size, runs
        self.findings: list[Finding] = []
        self.bare_s = self.alone_s = self.flooded_s = 0.0
        self.slow_bytes = 0

    def run(self, parts: Sequence[str]) -> None:
        """The parts asked for, after what each is compared with."""
        with self._on_site():
            self._alone()
        if "agents" in parts:
            with self._on_site():
                noise = self.site.noise(self.size.noise_mb)
                agents = self.site.machines("agent", FLOODERS)
                self._flood("8 real agents", [self.site.agent(machine, noise) for machine in agents])
        if "packs" in parts:
            with self._on_site():
                self._flood("8 lean clients", self._floods(FLOODERS))
        if "equal" in parts:
            with self._on_site():
                self._equal()
        if "hostile" in parts:
            with self._on_site(), self.site.beside(self._floods(FLOODERS)):
                self.flooded_s = statistics.median(one.wall for one in self._runs())
            for kind in HOSTILE:
                with self._on_site():
                    self._hostile(kind)
        if "restore" in parts:
            with self._on_site():
                self._restore(self._floods(FLOODERS))

    @contextmanager
    def _on_site(self) -> Iterator[None]:
        self.work.mkdir(parents=True)
        self.site = Site(self.work, self.size)
        try:
            self.site.set_up()
            yield
        finally:
            self.site.here.stop_daemon()
            shutil.rmtree(self.work)

    def _floods(self, count: int) -> list[list[str | Path]]:
        """Lean clients of machines that had no session before: none has to wait for an old one's end."""
        return [self.site.lean(machine, "packs") for machine in self.site.machines("lean", count)]

    def _find(self, name: str, value: float, floor: float, at_most: bool, how: str, flooded: bool = False) -> None:
        starved = flooded and self.site.flood_rate < LEAST_FLOOD
        finding = Finding(name, value, floor, at_most, how, starved)
        self.findings.append(finding)
        print(line(finding), file=sys.stderr, flush=True)

    def _runs(self) -> list[Timed]:
        return [self.site.slow_run() for _ in range(self.runs)]

    def _alone(self) -> None:
        bare = [self.site.timed(self.site.nothing_to_send()).wall for _ in range(self.runs)]
        self.bare_s = statistics.median(bare)
        alone = self._runs()
        self.alone_s = statistics.median(one.wall for one in alone)
        self.slow_bytes = int(statistics.median(one.wire_bytes for one in alone))
        print(
            f"nothing to send {self.bare_s:.2f} s, alone {self.alone_s:.2f} s, {self.slow_bytes / 1e6:.1f} MB",
            file=sys.stderr,
        )

    def _flood(self, name: str, commands: Sequence[Sequence[str | Path]]) -> None:
        with self.site.beside(commands):
            runs = self._runs()
        shares = [self._share(one, len(commands) + 1) for one in runs]
        wall, busy = statistics.median(one.wall for one in runs), statistics.median(one.daemon_busy for one in runs)
        rate = statistics.median(one.rate for one in runs)
        self._find(
            f"slow machine beside {name}, over an equal share", statistics.median(shares), 1.3, True,
            f"{wall:.2f} s; alone {self.alone_s:.2f} s, nothing to send {self.bare_s:.2f} s, "
            f"{self.slow_bytes / 1e6:.1f} MB; floods alone {self.site.flood_rate / 1e6:.0f} MB/s, all together "
            f"{rate / 1e6:.0f} MB/s, daemon busy {busy:.0%} of its core", flooded=True,
        )  # fmt: skip

    def _share(self, run: Timed, machines: int) -> float:
        rate = max(run.rate, self.site.flood_rate)
        return run.wall / (self.bare_s + max(self.alone_s - self.bare_s, machines * self.slow_bytes / rate))

    def _equal(self) -> None:
        """All start at once; each has its own first pack before any is counted as done."""
        tree = self.site.noise(self.site.size.equal_mb)
        machines = self.site.machines("equal", FLOODERS)
        before = self.site.stored()
        commands = [self.site.on_client_core(machine.agent_words(tree)) for machine in machines]
        running = self.site.start(commands)
        try:
            deadline = time.monotonic() + PATIENCE_S
            while all(one.poll() is None for one in running) and time.monotonic() < deadline:
                time.sleep(0.02)
            counts = sorted((self.site.stored() - before).values())
            codes = [one.wait(PATIENCE_S) for one in running]
        finally:
            end(running)
        if any(codes) or len(counts) != FLOODERS:
            raise SystemExit(f"equal machines: exit codes {codes}, {len(counts)} of them have packs")
        shown = ", ".join(f"{count / 1e6:.0f}" for count in counts)
        self._find("Jain's index over 8 equal machines", jain(counts), 0.98, False, f"MB when the first ended: {shown}")

    def _hostile(self, kind: str) -> None:
        for others, usual in ((0, self.alone_s), (FLOODERS - 1, self.flooded_s)):
            (enemy,) = self.site.machines(kind, 1)
            with self.site.beside([self.site.lean(enemy, kind), *self._floods(others)]):
                runs = self._runs()
            wall, busy = (statistics.median(values) for values in zip(*map(wall_and_busy, runs), strict=True))
            instead = f" and {others} that flood, instead of {FLOODERS}" if others else " alone"
            self._find(
                f"slow machine beside hostile {kind}{instead}", wall / usual, 1.1, True,
                f"{wall:.2f} s instead of {usual:.2f} s; daemon busy {busy:.0%}", flooded=others > 0,
            )  # fmt: skip

    def _restore(self, floods: Sequence[Sequence[str | Path]]) -> None:
        here, tree = self.site.here, self.site.noise(self.site.size.archive_mb)
        here.call("an archive", *self.site.on_client_core([*here.agent_words(), tree]))
        idle = [self._restored() for _ in range(self.runs)]
        with self.site.beside(floods):
            flooded = [self._restored() for _ in range(self.runs)]
        before, after = (statistics.median(one.wall for one in each) for each in (idle, flooded))
        busy = statistics.median(one.daemon_busy for one in flooded)
        self._find(
            "restore beside 8 that flood, part of its idle speed", before / after, 0.5, False,
            f"{after:.2f} s instead of {before:.2f} s; daemon busy {busy:.0%}", flooded=True,
        )  # fmt: skip

    def _restored(self) -> Timed:
        to = self.site.work / "restored"
        try:
            return self.site.timed(self.site.here.restore_words(to))
        finally:
            shutil.rmtree(to)


def wall_and_busy(run: Timed) -> tuple[float, float]:
    return run.wall, run.daemon_busy


def jain(values: Sequence[float]) -> float:
    """1 where all are equal, 1/n where one has everything."""
    squares = sum(value * value for value in values)
    return sum(values) ** 2 / (len(values) * squares) if squares else 0.0


def line(finding: Finding) -> str:
    """A row of Markdown."""
    sign = "≤" if finding.at_most else "≥"
    missed = ", FLOODS STARVED" if finding.starved else "" if finding.kept else ", MISSED"
    return f"| {finding.name} | {finding.value:.3g} | {sign} {finding.floor:g}{missed} | {finding.how} |"


def chart(findings: Sequence[Finding]) -> str:
    """Each finding beside its bound."""
    return page(
        [bars("Fairness", "see the table", {one.name: {"measured": one.value, "bound": one.floor}}) for one in findings]
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="an empty or new directory")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--only", default=",".join(PARTS), help=f"of {','.join(PARTS)}")
    parser.add_argument("--small", action="store_true", help="little data: shows that it works, its figures are noise")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--chart", type=Path)
    chosen = parser.parse_args()
    parts = chosen.only.split(",")
    if unknown := set(parts) - set(PARTS):
        parser.error(f"unknown parts: {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    prepare()
    size = Size(200, 5, 200, 60, 20) if chosen.small else Size()
    fairness = Fairness(chosen.work.resolve() / "fairness", size, chosen.runs)
    fairness.run(parts)
    if chosen.json:
        chosen.json.write_text(json.dumps([dataclasses.asdict(one) for one in fairness.findings], indent=1))
    if chosen.chart:
        chosen.chart.write_text(chart(fairness.findings))
    print(f"{about_machine()}. Runs: {chosen.runs}.\n\n| what | measured | bound | how |\n| --- | --- | --- | --- |")
    print(*map(line, fairness.findings), sep="\n")
    return 0 if all(one.kept for one in fairness.findings) else 1


if __name__ == "__main__":
    command(main)
