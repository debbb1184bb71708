"""What P12 comes to: a slow machine, a restore and equal machines beside floods, with real agents in real processes.

    python -m bench.fairness --work DIR [--runs N] [--only PARTS] [--json FILE] [--chart FILE]

The daemon has one core to itself, all clients share another, floods at nice 19: so it is the daemon that is contended,
not the clients' CPU, and how busy it was is printed. Everything is measured in one run on one installation:

    agents      a slow machine (a small tree, all of it new each time) beside 8 real agents with big trees of noise
    packs       the same beside 8 lean clients that send packs of noise, for which they need next to no CPU
    equal       8 equal machines: Jain's index over the bytes that the spool has of each when the first is done
    hostile     the slow machine beside one hostile client of each kind of bench.flood, without and with 7 that flood
    restore     a restore alone, and beside 8 that flood

An equal share is reckoned from what was measured: f, a run that has nothing to send (start, connection, scan, commit);
T, the run alone; b, its bytes on the wire; C, the bytes on the wire in a second, of the floods alone or with the slow
machine, whichever is more. With n machines at work the ideal is f + max(T - f, n b / C): the run goes on as if alone
unless an n-th of C is slower. Whatever bounds C (the daemon's core, the disk) is shared; how busy the daemon's core
was is told beside it. A machine that does other work too starves the floods, and the figures mean nothing.

Takes about 8 minutes with --runs 3, and 25 GB in DIR, which is emptied at the end. Needs root and two cores.
"""

import argparse
import dataclasses
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from bench.chart import bars, page
from bench.flood import KINDS
from bench.installation import Installation, Machine, command
from bench.measure import cpu_seconds, loopback_bytes
from bench.report import machine as about_machine
from bench.run import aside, prepare
from bench.tenant import Tenant
from mastodon.sealed.pack import HEAD

FLOODERS = 8
HOSTILE = tuple(kind for kind in KINDS if kind != "packs")
PARTS = ("agents", "packs", "equal", "hostile", "restore")
WARM_UP_S = 3.0
WATCHED_S = 3.0
PATIENCE_S = 600.0
PASSKEY = "only for measuring"


@dataclasses.dataclass(frozen=True, slots=True)
class Size:
    """How much there is to do."""

    slow_files: int = 2000
    slow_pictures: int = 60
    noise_mb: int = 1500
    equal_mb: int = 400
    archive_mb: int = 300


@dataclasses.dataclass(slots=True)
class Finding:
    """One comparison: its figure, what it may be, and how it came about."""

    name: str
    value: float
    floor: float
    at_most: bool
    how: str

    @property
    def kept(self) -> bool:
        return self.value <= self.floor if self.at_most else self.value >= self.floor


@dataclasses.dataclass(frozen=True, slots=True)
class Timed:
    """One run of the slow machine, and what went on meanwhile."""

    wall: float
    wire_bytes: int
    daemon_busy: float

    @property
    def rate(self) -> float:
        """All bytes on the wire in a second."""
        return self.wire_bytes / self.wall


class Site:
    """The daemon on the first core, clients on the last; a tenant for machines that are lean clients."""

    def __init__(self, work: Path, size: Size) -> None:
        cores = sorted(os.sched_getaffinity(0))
        if len(cores) < 2:
            raise SystemExit("needs two cores: one for the daemon, one for its clients")
        self.work, self.size = work, size
        self.client_core = str(cores[-1])
        self.here = Installation(work)
        self.here.twistd = ["taskset", "-c", str(cores[0]), "twistd"]
        self.trees = self.enrolled = 0
        self.flood_rate = 0.0
        """Bytes on the wire in a second, of the floods that run now, before anything else was added."""
        self.tenant = Tenant("floods")

    def set_up(self) -> None:
        self.here.set_up()
        self.here.add_tenant(self.tenant.name, self.tenant.request())

    def machines(self, name: str, count: int) -> list[Machine]:
        """New ones of the bare tenant's; real agents can back them up too."""
        names = [f"{name}{self.enrolled + number}" for number in range(count)]
        self.enrolled += count
        urls = self.tenant.enrol(self.here.restore_port, self.here.append_port, names, self.work)
        passkey = self.work / "any.passkey"
        passkey.touch(mode=0o600)
        passkey.write_text(PASSKEY, "ascii")
        return [Machine(url.stem, url, passkey, url.with_suffix(".state")) for url in urls]

    def on_client_core(self, words: Sequence[str | Path], nice: bool = False) -> list[str | Path]:
        prefix = ["taskset", "-c", self.client_core, *(["nice", "-n", "19"] if nice else [])]
        return [*prefix, *words]

    def timed(self, words: Sequence[str | Path]) -> Timed:
        """Run a client to its end."""
        assert self.here.daemon is not None
        cpu, wire, start = cpu_seconds(self.here.daemon.pid), loopback_bytes(), time.perf_counter()
        self.here.call("measured", *self.on_client_core(words))
        wall = time.perf_counter() - start
        busy = (cpu_seconds(self.here.daemon.pid) - cpu) / wall
        return Timed(wall, loopback_bytes() - wire, busy)

    def small_tree(self) -> Path:
        """A tree that nobody has seen before."""
        self.trees += 1
        tree = self.work / f"slow-{self.trees}"
        size = ("--files", self.size.slow_files, "--pictures", self.size.slow_pictures, "--mb", 4)
        aside("bench.corpus", "lamp", tree, "--seed", self.trees, *size)
        return tree

    def slow_run(self) -> Timed:
        """The slow machine backs a new tree up."""
        tree = self.small_tree()
        try:
            return self.timed([*self.here.agent_words(), tree])
        finally:
            shutil.rmtree(tree)

    def noise(self, megabytes: int) -> Path:
        """A tree of noise."""
        tree = self.work / f"noise-{megabytes}"
        if not tree.exists():
            aside("bench.corpus", "noise", tree, "--mb", megabytes)
        return tree

    # Floods

    def agent(self, machine: Machine, tree: Path) -> list[str | Path]:
        return self.on_client_core(machine.agent_words(tree), nice=True)

    def lean(self, machine: Machine, kind: str) -> list[str | Path]:
        words: list[str | Path] = [sys.executable, "-m", "bench.flood", kind, str(self.here.append_port), machine.url]
        return self.on_client_core(words, nice=True)

    def start(self, commands: Sequence[Sequence[str | Path]]) -> list["subprocess.Popen[bytes]"]:
        """All at once; what they say goes to a file."""
        with (self.work / "clients.log").open("ab") as log:
            return [subprocess.Popen(words, env=self.here.environment, stdout=log, stderr=log) for words in commands]

    @contextmanager
    def beside(self, commands: Sequence[Sequence[str | Path]]) -> Iterator[list["subprocess.Popen[bytes]"]]:
        """These run meanwhile; they must last to the end."""
        running = self.start(commands)
        try:
            time.sleep(WARM_UP_S)
            wire, start = loopback_bytes(), time.perf_counter()
            time.sleep(WATCHED_S)
            self.flood_rate = (loopback_bytes() - wire) / (time.perf_counter() - start)
            yield running
            if any(one.poll() is not None for one in running):
                raise SystemExit("a flood was over before the measurement: give it a larger tree")
        finally:
            end(running)

    def stored(self) -> Counter[bytes]:
        """Bytes of the packs that the spool has, by machine."""
        found: Counter[bytes] = Counter()
        for spool in self.here.spools():
            for root, _, names in os.walk(spool / "packs"):
                for name in names:
                    path = os.path.join(root, name)
                    with open(path, "rb") as file:
                        machine = HEAD.unpack(file.read(HEAD.size))[7]
                    found[machine] += os.stat(path).st_size
        return found


def end(running: Sequence["subprocess.Popen[bytes]"]) -> None:
    """SIGTERM to all, then wait for each."""
    for one in running:
        one.terminate()
    for one in running:
        one.wait()


class Fairness:
    """All parts, one after the other."""

    def __init__(self, site: Site, runs: int) -> None:
        self.site, self.runs = site, runs
        self.findings: list[Finding] = []
        self.bare_s = self.alone_s = 0.0
        self.slow_bytes = 0

    def run(self, parts: Sequence[str]) -> None:
        """The parts asked for, after what each is compared with."""
        self._alone()
        agents = self.site.machines("agent", FLOODERS)
        noise = self.site.noise(self.site.size.noise_mb)
        if "agents" in parts:
            self._flood("8 real agents", [self.site.agent(machine, noise) for machine in agents])
        lean = self._floods(FLOODERS)
        if "packs" in parts:
            self._flood("8 lean clients", lean)
        if "restore" in parts:
            self._restore(self._floods(FLOODERS))
        if "equal" in parts:
            self._equal()
        if "hostile" in parts:
            self._hostile()

    def _floods(self, count: int) -> list[list[str | Path]]:
        """Lean clients of machines that had no session before: none has to wait for an old one's end."""
        return [self.site.lean(machine, "packs") for machine in self.site.machines("lean", count)]

    def _find(self, name: str, value: float, floor: float, at_most: bool, how: str) -> None:
        finding = Finding(name, value, floor, at_most, how)
        self.findings.append(finding)
        print(line(finding), file=sys.stderr, flush=True)

    def _runs(self) -> list[Timed]:
        return [self.site.slow_run() for _ in range(self.runs)]

    def _alone(self) -> None:
        empty = self.site.work / "empty"
        empty.mkdir()
        words = [*self.site.here.agent_words(), empty]
        self.site.timed(words)  # makes the pair
        self.bare_s = statistics.median(self.site.timed(words).wall for _ in range(self.runs))
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
            f"{rate / 1e6:.0f} MB/s, daemon busy {busy:.0%} of its core",
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

    def _hostile(self) -> None:
        with self.site.beside(self._floods(FLOODERS)):
            flooded = statistics.median(one.wall for one in self._runs())
        for kind in HOSTILE:
            for others, usual in ((0, self.alone_s), (FLOODERS - 1, flooded)):
                (enemy,) = self.site.machines(kind, 1)
                with self.site.beside([self.site.lean(enemy, kind), *self._floods(others)]):
                    runs = self._runs()
                wall, busy = (statistics.median(values) for values in zip(*map(wall_and_busy, runs), strict=True))
                instead = f" and {others} that flood, instead of {FLOODERS}" if others else " alone"
                self._find(
                    f"slow machine beside hostile {kind}{instead}", wall / usual, 1.1, True,
                    f"{wall:.2f} s instead of {usual:.2f} s; daemon busy {busy:.0%}",
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
            f"{after:.2f} s instead of {before:.2f} s; daemon busy {busy:.0%}",
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
    missed = "" if finding.kept else ", MISSED"
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
    work = chosen.work.resolve() / "fairness"
    prepare()
    work.mkdir(parents=True)
    site = Site(work, Size(200, 5, 200, 60, 20) if chosen.small else Size())
    fairness = Fairness(site, chosen.runs)
    try:
        site.set_up()
        fairness.run(parts)
    finally:
        site.here.stop_daemon()
        shutil.rmtree(work)
    if chosen.json:
        chosen.json.write_text(json.dumps([dataclasses.asdict(one) for one in fairness.findings], indent=1))
    if chosen.chart:
        chosen.chart.write_text(chart(fairness.findings))
    print(f"{about_machine()}. Runs: {chosen.runs}.\n\n| what | measured | bound | how |\n| --- | --- | --- | --- |")
    print(*map(line, fairness.findings), sep="\n")
    return 0 if all(one.kept for one in fairness.findings) else 1


if __name__ == "__main__":
    command(main)
