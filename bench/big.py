"""One big file that nothing compresses: Mastodon beside a bare TLS connection that carries the same bytes to a disk.

    python -m bench.big --work DIR [--mb N] [--runs N] [--json FILE]

The yardstick is `openssl s_client` to `openssl s_server`, TLS 1.3 with AES-256-GCM, over the same loopback: s_client
reads the file from a cold cache, s_server's output goes to a new file on the same disk, and the time ends when that
file is fsynced. No compression, no chunks, no hashes, no second seal. Mastodon's first run (a new server and machine
each time) and its restore, of the same file from a cold cache, are each set beside it. They take turns; the restored
file is compared. Ratios are of medians.

2,000 MB take about 2 minutes a run, and 9 GB in DIR, which is emptied at the end.
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
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from bench.installation import command, free_port
from bench.mastodon_tool import Mastodon
from bench.measure import Cost, drop_caches, measure
from bench.peers import first_line, make_certificate, require, wait_for_port
from bench.report import machine as about_machine
from bench.run import aside, compare, prepare

MOST = 1.7
SUITE = "TLS_AES_256_GCM_SHA384"
PATIENCE_S = 600


def pipe_seconds(file: Path, work: Path) -> float:
    """The yardstick, in the empty folder ``work``."""
    key, certificate, copy = work / "key.pem", work / "cert.pem", work / "copy"
    make_certificate(key, certificate)
    port = free_port()
    serve = ["openssl", "s_server", "-quiet", "-accept", f"127.0.0.1:{port}", "-tls1_3", "-ciphersuites", SUITE]
    serve += ["-cert", str(certificate), "-key", str(key), "-naccept", "2"]
    # Without -nocommands an R at the start of a block would be a wish to renegotiate.
    send = ["openssl", "s_client", "-quiet", "-no_ign_eof", "-nocommands", "-connect", f"127.0.0.1:{port}", "-tls1_3"]
    with copy.open("wb") as out, (work / "log").open("wb") as log:
        # Its input stays open and silent: s_server would send it.
        server = subprocess.Popen(serve, stdin=subprocess.PIPE, stdout=out, stderr=log)
        try:
            wait_for_port(port)  # the first of the two connections
            drop_caches()
            start = time.perf_counter()
            with file.open("rb") as source:
                subprocess.run(send, stdin=source, stdout=log, stderr=log, check=True, timeout=PATIENCE_S)
            server.wait(PATIENCE_S)
            os.fsync(out.fileno())
            took = time.perf_counter() - start
        finally:
            server.kill()
            server.wait()
    if copy.stat().st_size != file.stat().st_size:
        raise SystemExit(f"openssl carried {copy.stat().st_size} of {file.stat().st_size} bytes")
    return took


def mastodon_costs(tree: Path, work: Path) -> tuple[Cost, Cost]:
    """A first run and a restore, in the empty folder ``work``."""
    tool, to = Mastodon(work), work / "restored"
    to.mkdir()
    server = tool.start()
    try:
        costs = []
        for command in (tool.backup(tree), tool.restore(to)):
            drop_caches()
            costs.append(measure(command, server))
    finally:
        tool.stop()
    costs[1].differences = compare("mastodon", tree, tool.restored(to))
    return costs[0], costs[1]


@dataclasses.dataclass(slots=True)
class Round:
    """One run of each."""

    pipe: float
    first: Cost
    restore: Cost


def one_round(tree: Path, work: Path, pipe_first: bool) -> Round:
    """Each once, in the order asked for."""

    def pipe() -> float:
        with emptied(work / "pipe") as own:
            return pipe_seconds(tree / "random.bin", own)

    took = pipe() if pipe_first else 0.0
    with emptied(work / "mastodon") as own:
        first, restore = mastodon_costs(tree, own)
    done = Round(took if pipe_first else pipe(), first, restore)
    print(f"{done.pipe:.1f} s bare, {first.wall:.1f} s first, {restore.wall:.1f} s restore", file=sys.stderr)
    return done


@contextmanager
def emptied(folder: Path) -> Iterator[Path]:
    """A new folder, gone afterwards."""
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def table(rounds: Sequence[Round], megabytes: int) -> Iterator[str]:
    """Markdown."""
    yield "| what | wall s | MB/s | CPU of both sides, s | client MiB | over the bare connection |"
    yield "|" + " --- |" * 6
    pipe = statistics.median(one.pipe for one in rounds)
    size = megabytes * (1 << 20) / 1e6
    yield f"| openssl s_client, s_server, fsync | {pipe:.2f} | {size / pipe:.0f} | | | 1 |"
    steps: Mapping[str, Sequence[Cost]] = {
        "mastodon, first": [one.first for one in rounds],
        "mastodon, restore": [one.restore for one in rounds],
    }
    for name, costs in steps.items():
        wall, peak = statistics.median(cost.wall for cost in costs), statistics.median(cost.peak for cost in costs)
        cpu = statistics.median(cost.cpu + cost.server_cpu for cost in costs)
        ratio = wall / pipe
        missed = "" if ratio <= MOST else ", MISSED"
        yield f"| {name} | {wall:.2f} | {size / wall:.0f} | {cpu:.1f} | {peak:.0f} | {ratio:.2f} (≤ {MOST}{missed}) |"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="an empty or new directory")
    parser.add_argument("--mb", type=int, default=2000)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    require("openssl")
    work = chosen.work.resolve() / "big"
    prepare()
    work.mkdir(parents=True)
    rounds: list[Round] = []
    try:
        tree = work / "data"
        aside("bench.corpus", "noise", tree, "--mb", chosen.mb)
        for number in range(chosen.runs):
            rounds.append(one_round(tree, work, number % 2 == 0))
    finally:
        shutil.rmtree(work)
    if chosen.json:
        chosen.json.write_text(json.dumps(rounds, default=dataclasses.asdict, indent=1))
    versions = f"{first_line('openssl', 'version')}; {first_line('mastodon-agent', '--version')}"
    print(f"{about_machine()}; {versions}. Runs: {chosen.runs}.\n", *table(rounds, chosen.mb), sep="\n")
    return 1 if any(one.restore.differences for one in rounds) else 0


if __name__ == "__main__":
    command(main)
