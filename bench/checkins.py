"""Many machines check in on one daemon: refusals, how long HELLO waits for its answer, memory of a connection.

    python -m bench.checkins --work DIR [--machines N] [--seconds S] [--json FILE]

Each machine is enrolled, comes at a moment of its own within S seconds (0: all at once), finishes TLS 1.3, signs the
server's greeting, and stays. What is told: those refused or cut, the median and the 99th percentile of the time from
HELLO to its answer and from the first SYN to it, and how the daemon's memory (PSS) grew for each connection.

The usual 200 machines in 60 s take about 70 s and 20 MB.
"""

import argparse
import json
import math
import os
import random
import shutil
import ssl
import statistics
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

from bench.blocking_peers import AppendPeer
from bench.installation import Installation, command
from bench.measure import shared_out_mib, tree_of
from bench.report import machine as about_machine
from bench.run import prepare
from bench.tenant import Tenant
from mastodon.sealed.machine_secret import MachineSecret
from mastodon.sealed.url import parse_url
from mastodon.wire.messages import Answer

SEED = 7
P99_S = 1.0


@dataclass(frozen=True, slots=True)
class CheckIn:
    """One machine's: seconds from SYN and from HELLO to the answer, or why there was none."""

    whole: float = 0.0
    answer: float = 0.0
    refused: str = ""


@dataclass(frozen=True, slots=True)
class Figures:
    """All of them."""

    machines: int
    seconds: float
    refused: int
    answer_p50: float
    answer_p99: float
    whole_p50: float
    whole_p99: float
    daemon_mib: float
    connection_kib: float

    @property
    def kept(self) -> bool:
        return not self.refused and self.answer_p99 < P99_S


class Crowd:
    """All machines; their connections stay open until `leave`."""

    def __init__(self, port: int, secrets: Sequence[MachineSecret]) -> None:
        self._port, self._secrets = port, secrets
        self._peers: list[AppendPeer] = []

    def check_in(self, seconds: float) -> list[CheckIn]:
        """Each at its moment."""
        rng, start = random.Random(SEED), time.perf_counter()
        moments = sorted(start + rng.random() * seconds for _ in self._secrets)
        with ThreadPoolExecutor(len(self._secrets)) as threads:
            return list(threads.map(self._one, self._secrets, moments))

    def leave(self) -> None:
        """Close all connections."""
        for peer in self._peers:
            peer.socket.close()

    def _one(self, secret: MachineSecret, moment: float) -> CheckIn:
        time.sleep(max(0.0, moment - time.perf_counter()))
        start = time.perf_counter()
        try:
            peer = AppendPeer(self._port)
            self._peers.append(peer)
            hello = peer.hello_for(secret, os.urandom(16))
            said = time.perf_counter()
            peer.send(hello)
            message = peer.message()
        except (OSError, ssl.SSLError, AssertionError) as error:
            return CheckIn(refused=repr(error))
        now = time.perf_counter()
        if not isinstance(message, Answer):
            return CheckIn(refused=repr(message))
        return CheckIn(now - start, now - said)


def percentile(values: Sequence[float], part: float) -> float:
    """The least value that ``part`` of all do not exceed."""
    return sorted(values)[math.ceil(part * len(values)) - 1] if values else 0.0


def measure_checkins(work: Path, machines: int, seconds: float) -> Figures:
    """A server of its own below ``work``, and the machines."""
    here, tenant = Installation(work), Tenant("crowd")
    try:
        here.set_up()
        here.add_tenant(tenant.name, tenant.request())
        names = [f"machine{number}" for number in range(machines)]
        urls = tenant.enrol(here.restore_port, here.append_port, names, work)
        crowd = Crowd(here.append_port, [MachineSecret(parse_url(url.read_text("ascii")).secret) for url in urls])
        assert here.daemon is not None
        before = shared_out_mib(tree_of(here.daemon.pid))
        found = crowd.check_in(seconds)
        after = shared_out_mib(tree_of(here.daemon.pid))
        crowd.leave()
    finally:
        here.stop_daemon()
    for one in found:
        if one.refused:
            print(f"refused: {one.refused}", file=sys.stderr)
    answers, whole = ([one.answer for one in found if not one.refused], [one.whole for one in found if not one.refused])
    return Figures(
        machines, seconds, machines - len(answers), statistics.median(answers or [0.0]), percentile(answers, 0.99),
        statistics.median(whole or [0.0]), percentile(whole, 0.99), after, (after - before) * 1024 / machines,
    )  # fmt: skip


def table(figures: Figures) -> list[str]:
    """As Markdown."""
    heads = ("machines", "within s", "refused", "HELLO to answer, p50 ms", "p99 ms", "SYN to answer, p50 ms", "p99 ms",
             "daemon MiB", "KiB a connection")  # fmt: skip
    times = (figures.answer_p50, figures.answer_p99, figures.whole_p50, figures.whole_p99)
    cells = [
        f"{figures.machines}",
        f"{figures.seconds:g}",
        f"{figures.refused}",
        *(f"{one * 1e3:.1f}" for one in times),
    ]
    cells += [f"{figures.daemon_mib:.0f}", f"{figures.connection_kib:.0f}"]
    return [f"| {' | '.join(heads)} |", "|" + " --- |" * len(heads), f"| {' | '.join(cells)} |"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="an empty or new directory")
    parser.add_argument("--machines", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    work = chosen.work.resolve() / "checkins"
    prepare()
    work.mkdir(parents=True)
    try:
        figures = measure_checkins(work, chosen.machines, chosen.seconds)
    finally:
        shutil.rmtree(work)
    if chosen.json:
        chosen.json.write_text(json.dumps(asdict(figures), indent=1))
    print(f"{about_machine()}.\n", *table(figures), sep="\n")
    return 0 if figures.kept else 1


if __name__ == "__main__":
    command(main)
