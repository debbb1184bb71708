"""One installation to be tormented: a server, an admin, machines with their trees; and what was acknowledged.

The record of what was acknowledged is the rig's own: for each snapshot that an agent was told is committed, what the
tree was like when the run began. Machines take turns, so that none comes near the commits that it may make in an hour.
"""

import contextlib
import os
import random
import select
import shutil
import signal
import socket
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bench.faults import programs
from bench.faults.programs import Program, start
from bench.faults.steps import Plan
from bench.faults.tree import Manifest, change_tree, make_tree, take_manifest

START_S, RUN_S, STOP_S = 60.0, 120.0, 60.0
PARTIAL = 1
POINTS_EACH = 3
"""Points for each machine: few, since after each all its snapshots are restored, and commits an hour are bounded."""


class Broken(Exception):
    """Something did not do what it should; the text says what, with the end of its log."""


@dataclass(slots=True)
class Machine:
    """A machine, its tree, and what was acknowledged to it."""

    name: str
    tree: Path
    state: Path
    url: Path
    passkey: Path
    acks: Path
    acked: dict[int, Manifest] = field(default_factory=dict)
    """By number of the snapshot."""
    packs: set[str] = field(default_factory=set)
    partial: set[int] = field(default_factory=set)
    """Snapshots in which something could not be read: not compared."""


class Site:
    """Everything below ``work``."""

    def __init__(self, work: Path, rng: random.Random, spools: int, machines: int) -> None:
        self.work = work
        self.rng = rng
        self.server = work / "server"
        self.config = self.server / "mastodon.toml"
        self.state = self.server / "state"
        self.spools = [work / f"spool{number}" for number in range(spools)]
        self.machines = [self._machine(number) for number in range(machines)]
        self.append_port, self.restore_port = free_port(rng), free_port(rng)
        self.daemon: Program | None = None
        self._logs = 0
        self._first_s = 0.0
        passphrase = work / "passphrase"
        self.environment = {
            "MASTODON_ADMIN_HOME": str(work / "admin"), "MASTODON_ADMIN_PASSPHRASE_FILE": str(passphrase),
            "NO_COLOR": "1", "MASTODON_DEBUG": "1", "TMPDIR": str(work),
        }  # fmt: skip
        self.told: list[tuple[float, str]] = []
        """How long each program took, and what it was."""

    def _machine(self, number: int) -> Machine:
        name, home = f"m{number:02}", self.work / "machines" / f"m{number:02}"
        return Machine(
            name, home / "tree", home / "state", self.work / f"{name}.url", self.work / f"{name}.passkey",
            home / "acks",
        )  # fmt: skip

    def set_up(self) -> None:
        """A server with its daemon running, an admin, machines that are ready to back up."""
        passphrase = self.work / "passphrase"
        passphrase.touch(mode=0o600)
        passphrase.write_text("of the fault rig\n", "ascii")
        spools = [word for spool in self.spools for word in ("--spool", spool)]
        self.do(programs.operator(
            "init", self.server, "--name", "127.0.0.1", "--listen", "127.0.0.1", "--no-recovery",
            "--append-port", self.append_port, "--restore-port", self.restore_port, *spools,
        ))  # fmt: skip
        text = self.config.read_text("utf-8")
        self.config.write_text(text.replace('reserve = "1 GiB"', 'reserve = "1 MiB"'), "utf-8")
        self.do(programs.admin(["init"]))
        request, invitation = self.work / "admin/request", self.work / "invitation"
        self.do(programs.operator(
            "--config", self.config, "admin", "add", "rig", "--request", request, "--out", invitation
        ))  # fmt: skip
        self.start_daemon()
        adding = [["machine", "add", one.name, "--out", self.work] for one in self.machines]
        self.do(programs.admin(["connect", invitation.read_text("ascii").strip()], *adding))
        for machine in self.machines:
            machine.tree.mkdir(parents=True)
            make_tree(machine.tree, self.rng)

    # Programs

    def log(self, what: str) -> Path:
        """A new log."""
        self._logs += 1
        return self.work / f"{self._logs:05}-{what}.log"

    def do(self, main: object, expected: Sequence[int] = (0,), what: str = "command") -> Program:
        """Run a program to its end; raises Broken unless it ends as expected."""
        program = start(main, self.log(what), self.environment)  # type: ignore[arg-type]
        return self.ended(program, expected, what)

    def ended(self, program: Program, expected: Sequence[int], what: str, seconds: float = RUN_S) -> Program:
        """Wait for a program; raises Broken unless it ends as expected."""
        try:
            status = program.end(seconds)
        except programs.TooLong as error:
            raise Broken(f"{what}: {error}") from None
        self.told.append((program.took, f"{what}: {program.log.name}"))
        if status not in expected:
            raise Broken(f"{what}: ended with {status}, expected {list(expected)}; it said:\n{program.said()}")
        return program

    def begin_daemon(self, plan: Plan | None = None) -> tuple[Program, int]:
        """Start the daemon; with it the descriptor that tells when it is ready."""
        ready, tell = os.pipe()
        program = start(programs.daemon(self.config, tell), self.log("daemon"), self.environment, plan, keep=(tell,))
        os.close(tell)
        self.daemon = program
        return program, ready

    def start_daemon(self, plan: Plan | None = None) -> bool:
        """Start the daemon, wait until it is ready; False where it ended before, which is an error without a plan."""
        program, ready = self.begin_daemon(plan)
        try:
            is_ready = _reads_byte(ready, START_S)
        finally:
            os.close(ready)
        if not is_ready:
            program.wait(STOP_S)
            program.kill()
            if plan is None:
                raise Broken(f"the daemon does not start: {program.said()}")
        return is_ready

    def stop_daemon(self) -> None:
        """SIGTERM, and wait."""
        if self.daemon is not None:
            daemon, self.daemon = self.daemon, None
            daemon.signal(signal.SIGTERM)
            if not daemon.wait(STOP_S):
                daemon.kill()
                raise Broken(f"the daemon does not stop; it said:\n{daemon.said()}")

    def kill_daemon(self) -> None:
        """SIGKILL."""
        if self.daemon is not None:
            self.daemon.kill()
            self.daemon = None

    @property
    def daemon_runs(self) -> bool:
        """Whether a daemon runs."""
        return self.daemon is not None and self.daemon.running

    def begin_agent(
        self, machine: Machine, plan: Plan | None = None, url: Path | None = None, retry_s: float = 60
    ) -> "Run":
        """Start the agent of a machine."""
        words = [
            "-v", "--url-file", url or machine.url, "--passkey-file", machine.passkey, "--state", machine.state,
            "--retry-for", str(retry_s), machine.tree,
        ]  # fmt: skip
        machine.acks.unlink(missing_ok=True)
        manifest = take_manifest(machine.tree)
        program = start(programs.agent(words), self.log("agent"), self.environment, plan, machine.acks)
        return Run(self, machine, program, manifest)

    def back_up(self, machine: Machine, expected: Sequence[int] = (0,)) -> Program:
        """A run of the agent, to its end."""
        run = self.begin_agent(machine)
        return run.end(expected)

    def change(self, machine: Machine) -> None:
        """A day passes on a machine."""
        change_tree(machine.tree, self.rng)

    def restore_words(self, machine: Machine, number: int, to: Path, *more: object) -> list[object]:
        """The admin's restore of a snapshot."""
        words = ["restore", machine.name, "--snapshot", number, "--to", to, "--passkey-file", machine.passkey, "-q"]
        return [*words, *more]

    def recover_words(self, machine: Machine, number: int, to: Path) -> list[object]:
        """The same from the spools alone."""
        keys = ["--url-file", machine.url, "--passkey-file", machine.passkey]
        there = [spool for spool in self.spools if spool.is_dir()]
        return ["restore", *there, *keys, "--snapshot", number, "--to", to, "-q"]

    def close(self) -> None:
        """Nothing runs any more."""
        self.kill_daemon()

    def remove(self) -> None:
        """And nothing is left."""
        self.close()
        shutil.rmtree(self.work, ignore_errors=True)


@dataclass(slots=True)
class Run:
    """A run of the agent under way."""

    site: Site
    machine: Machine
    program: Program
    manifest: Manifest

    def end(self, expected: Sequence[int] = (0,)) -> Program:
        """Wait for it, take down what was acknowledged; raises Broken unless it ends as expected."""
        try:
            return self.site.ended(self.program, expected, "agent")
        finally:
            self.note()

    def kill(self) -> None:
        """SIGKILL, and take down what was acknowledged before."""
        self.program.kill()
        self.note()

    def note(self) -> None:
        """Take down what was acknowledged."""
        with contextlib.suppress(FileNotFoundError):
            for line in self.machine.acks.read_text("ascii").splitlines():
                word, what, *_ = line.split()
                if word == "snapshot" and self.program.status == PARTIAL:
                    self.machine.partial.add(int(what))
                elif word == "snapshot":
                    self.machine.acked[int(what)] = self.manifest
                else:
                    self.machine.packs.add(what)


def free_port(rng: random.Random) -> int:
    """A loopback port that nobody listens on, outside the range from which the system takes its own."""
    while True:
        port = rng.randrange(15_000, 32_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            return port


def _reads_byte(descriptor: int, seconds: float) -> bool:
    poll = select.poll()
    poll.register(descriptor, select.POLLIN | select.POLLHUP)
    return bool(poll.poll(seconds * 1000)) and os.read(descriptor, 1) == b"r"
