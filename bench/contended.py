"""A daemon on one core and its clients on another, some of them floods: what `bench.fairness` measures on."""

import os
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.installation import Installation, Machine
from bench.measure import cpu_seconds, loopback_bytes
from bench.run import aside
from bench.tenant import Tenant
from mastodon.sealed.pack import HEAD

WARM_UP_S = 3.0
WATCHED_S = 3.0
PATIENCE_S = 30.0
PASSKEY = "only for measuring"


@dataclass(frozen=True, slots=True)
class Size:
    """How much there is to do."""

    slow_files: int = 2000
    slow_pictures: int = 60
    noise_mb: int = 1500
    equal_mb: int = 400
    archive_mb: int = 300


@dataclass(frozen=True, slots=True)
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
        """The daemon, and the slow machine with its pair."""
        self.here.set_up()
        self.here.add_tenant(self.tenant.name, self.tenant.request())
        self.empty.mkdir()
        self.timed(self.nothing_to_send())

    @property
    def empty(self) -> Path:
        """A tree without anything."""
        return self.work / "empty"

    def nothing_to_send(self) -> list[str | Path]:
        """The slow machine's run that only starts, connects, scans and commits."""
        return [*self.here.agent_words(), self.empty]

    def machines(self, name: str, count: int) -> list[Machine]:
        """New ones of the bare tenant's; real agents can back them up too."""
        names = [f"{name}{self.enrolled + number}" for number in range(count)]
        self.enrolled += count
        urls = self.tenant.enrol(self.here.restore_port, self.here.append_port, names, self.work)
        passkey = self.work / "any.passkey"
        passkey.touch(mode=0o600)
        passkey.write_text(PASSKEY, "ascii")
        return [Machine(url.stem, url, passkey, url.with_suffix(".state")) for url in urls]

    def on_client_core(self, words: Sequence[str | Path], idly: bool = False) -> list[str | Path]:
        """``idly``: only while nothing else wants that core. Of nice 19 others would still wait for the slice."""
        prefix = ["taskset", "-c", self.client_core, *(["chrt", "--idle", "0"] if idly else [])]
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
        return self.on_client_core(machine.agent_words(tree), idly=True)

    def lean(self, machine: Machine, kind: str) -> list[str | Path]:
        words: list[str | Path] = [sys.executable, "-m", "bench.flood", kind, str(self.here.append_port), machine.url]
        return self.on_client_core(words, idly=True)

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
    """SIGTERM to all; SIGKILL to what does not mind."""
    for one in running:
        one.terminate()
    for one in running:
        try:
            one.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            one.kill()
            one.wait()
