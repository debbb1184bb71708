"""The status query of a server that knows many machines: how long it, a scrape and a check of Nagios take.

    python -m bench.status --work DIR [--machines N] [--snapshots N] [--times N] [--json FILE]

A daemon on loopback gets N machines of one admin, and as many snapshots shared out among them (at most 60 each, the
bound of an hour). Then it is asked for the status of all of them, and for its metrics; `check_mastodon` is run as a
program. What is told: the median and the longest of the time from the request to the answer's last frame (connected
already), of a whole scrape, and of a whole check with its start and TLS handshake.

The usual 500 machines with 10,000 snapshots take about 3 minutes and 200 MB.
"""

import argparse
import datetime
import json
import shutil
import statistics
import subprocess
import time
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

from bench.blocking_peers import AppendPeer, RestorePeer, TinyMachine
from bench.installation import Installation, command, free_port
from bench.report import machine as about_machine
from bench.run import prepare
from bench.tenant import Tenant
from mastodon.host.certificates import make_identity, pin_text, write_identity
from mastodon.sealed.enrolment import Role
from mastodon.sealed.entry import Entry, EntryType
from mastodon.sealed.listing import Section
from mastodon.sealed.machine_secret import MachineSecret
from mastodon.sealed.statement import CertificateContent, StatementVerb, encode_content
from mastodon.sealed.url import parse_url
from mastodon.wire.messages import Committed
from mastodon.wire.restore_messages import Done, StateRequest
from mastodon.wire.restore_verbs import RestoreReply
from mastodon.wire.status_messages import StatusRequest

BOUND_S = 0.1
AN_HOURS = 60
AT_ONCE = 8


@dataclass(frozen=True, slots=True)
class Figures:
    """Seconds; median and longest."""

    machines: int
    snapshots: int
    query: tuple[float, float]
    one: tuple[float, float]
    scrape: tuple[float, float]
    check: tuple[float, float]
    answer_bytes: int

    @property
    def kept(self) -> bool:
        return self.query[0] < BOUND_S


def back_up(port: int, secret: MachineSecret, snapshots: int) -> None:
    """A pair, a pack, and so many snapshots of what is in it."""
    machine = TinyMachine(secret)
    entry = Entry(b"etc", EntryType.DIRECTORY, 0o755)
    blobs = machine.listing([Section((), (entry,))], [])
    head = b""
    with AppendPeer(port) as peer:
        peer.enter(secret)
        machine.send_pair(peer)
        machine.send_pack(peer, machine.pack(blobs))
        for number in range(1, snapshots + 1):
            answer = machine.commit(peer, machine.snapshot(blobs[-1][0], number, head, remembered=head))
            if not isinstance(answer, Committed):
                raise AssertionError(f"a commit was answered by {answer}")
            head = answer.hash


def timed(work: Callable[[], object], times: int) -> tuple[float, float]:
    """Median and longest, after one that does not count."""
    work()
    taken = []
    for _ in range(times):
        start = time.perf_counter()
        work()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken), max(taken)


class Asker:
    """A monitor's connection."""

    def __init__(self, peer: RestorePeer) -> None:
        self._peer = peer
        self._number = 0
        self.bytes = 0

    def ask(self, machine: bytes = b"") -> None:
        """One query, up to its last frame."""
        self._number += 1
        self.bytes = 0
        self._peer.send(StatusRequest(self._number, machine))
        while (frame := self._peer.frame()) is not None:
            self.bytes += 5 + len(frame[1])
            if frame[0] == RestoreReply.DONE:
                return
        raise AssertionError("the server closed the connection")


def measure_status(work: Path, machines: int, snapshots: int, times: int) -> Figures:
    """A server of its own below ``work``."""
    here, tenant, metrics = Installation(work), Tenant("crowd"), free_port()
    try:
        here.set_up()
        here.stop_daemon()
        with here.config.open("a", encoding="utf-8") as config:
            config.write(f"\n[metrics]\nport = {metrics}\n")
        here.start_daemon()
        here.add_tenant(tenant.name, tenant.request())
        names = [f"machine{number}" for number in range(machines)]
        urls = tenant.enrol(here.restore_port, here.append_port, names, work)
        secrets = [MachineSecret(parse_url(url.read_text("ascii")).secret) for url in urls]
        with ThreadPoolExecutor(AT_ONCE) as threads:
            list(threads.map(lambda one: back_up(here.append_port, one, snapshots // machines), secrets))
        home = make_monitor(here, tenant, work)
        with RestorePeer(here.restore_port, tenant.identity) as peer:
            asker = Asker(peer)
            one = timed(lambda: asker.ask(secrets[0].machine_id), times)
            query = timed(asker.ask, times)
        scrape = timed(lambda: read(f"http://127.0.0.1:{metrics}/metrics"), times)
        check = timed(lambda: run_check(here, home), min(times, 10))
    finally:
        here.stop_daemon()
    return Figures(machines, snapshots // machines * machines, query, one, scrape, check, asker.bytes)


def make_monitor(here: Installation, tenant: Tenant, work: Path) -> Path:
    """A home for check_mastodon."""
    home = work / "monitor"
    home.mkdir()
    identity = make_identity("nagios", datetime.datetime.now(datetime.UTC))
    write_identity(identity, home / "client.key", home / "client.crt")
    content = encode_content(CertificateContent(identity.pin, Role.MONITOR, "nagios"))
    with RestorePeer(here.restore_port, tenant.identity) as peer:
        statement = tenant.statement(peer.pin, StatementVerb.REGISTER_CERTIFICATE, content)
        if not isinstance(peer.ask(StateRequest, statement, b"")[-1], Done):
            raise AssertionError("the monitor was not registered")
        pin = pin_text(peer.pin)
    (home / "invitation").write_text(f"mastodon+admin://crowd@127.0.0.1:{here.restore_port}/?server={pin}", "ascii")
    return home


def read(url: str) -> bytes:
    """A scrape."""
    with urllib.request.urlopen(url, timeout=60) as answer:
        return bytes(answer.read())


def run_check(here: Installation, home: Path) -> None:
    """check_mastodon as Nagios runs it."""
    words = ["check_mastodon", "--home", str(home), "-t", "60"]
    done = subprocess.run(words, capture_output=True, text=True, check=False, env=here.environment)
    if done.returncode != 0:
        raise AssertionError(f"check_mastodon: {done.returncode}: {done.stdout}{done.stderr}")


def table(figures: Figures) -> list[str]:
    """As Markdown."""
    rows = (
        ("status of all machines", figures.query), ("status of one", figures.one),
        ("scrape of the metrics", figures.scrape), ("check_mastodon, with its start", figures.check),
    )  # fmt: skip
    missed = "" if figures.kept else f" MISSED: the first bound is {BOUND_S * 1e3:.0f} ms"
    return [
        f"{figures.machines} machines, {figures.snapshots} snapshots; all are {figures.answer_bytes} bytes.{missed}",
        "",
        "| | median ms | longest ms |",
        "| --- | --- | --- |",
        *(f"| {name} | {median * 1e3:.1f} | {longest * 1e3:.1f} |" for name, (median, longest) in rows),
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="an empty or new directory")
    parser.add_argument("--machines", type=int, default=500)
    parser.add_argument("--snapshots", type=int, default=10_000)
    parser.add_argument("--times", type=int, default=50)
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    if not 1 <= chosen.machines <= chosen.snapshots <= AN_HOURS * chosen.machines:
        parser.error(f"--snapshots: 1 to {AN_HOURS} for each machine")
    work = chosen.work.resolve() / "status"
    prepare()
    work.mkdir(parents=True)
    try:
        figures = measure_status(work, chosen.machines, chosen.snapshots, chosen.times)
    finally:
        shutil.rmtree(work)
    if chosen.json:
        chosen.json.write_text(json.dumps(asdict(figures), indent=1))
    print(f"{about_machine()}.\n", *table(figures), sep="\n")
    return 0 if figures.kept else 1


if __name__ == "__main__":
    command(main)
