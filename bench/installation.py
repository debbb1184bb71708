"""A whole Mastodon by the commands that a user types, in a directory of its own, on loopback: a server with one admin
and one machine, the daemon in a process of its own. What the main job shows, and what the fault tests torment."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

START_S = 30.0
STOP_S = 20.0
CALL_S = 1800.0


class Failed(Exception):
    """A step did not do what it should; the text says which and shows what it said."""


@dataclass(frozen=True, slots=True)
class Machine:
    """A machine beside the first: the files that its agent needs."""

    name: str
    url: Path
    passkey: Path
    state: Path

    def agent_words(self, *more: str | Path) -> list[str | Path]:
        """Its agent's command; ``more`` has the paths."""
        files: list[str | Path] = ["--url-file", self.url, "--passkey-file", self.passkey, "--state", self.state]
        return ["mastodon-agent", "-q", *files, *more]


class Installation:
    """Everything below ``work``. ``say`` gets a line for each step."""

    def __init__(self, work: Path, say: Callable[[str], None] = lambda _: None) -> None:
        self.work = work
        self.say = say
        self.server = work / "server"
        self.config = self.server / "mastodon.toml"
        self.log = work / "twistd.log"
        self.url = work / "web01.url"
        self.passkey = work / "web01.passkey"
        self.daemon: subprocess.Popen[bytes] | None = None
        self.twistd: list[str] = ["twistd"]
        """What starts the daemon: twistd, or something that starts it on certain cores or at another time of day."""
        self.append_port, self.restore_port = free_port(), free_port()
        passphrase = work / "admin.passphrase"
        self.environment = {
            **os.environ,
            # The console scripts lie beside the interpreter.
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "MASTODON_ADMIN_HOME": str(work / "admin"),
            "MASTODON_ADMIN_PASSPHRASE_FILE": str(passphrase),
            "NO_COLOR": "1",
        }

    # Steps

    def set_up(self, spools: Sequence[Path] = (), reserve: str = "100 MiB") -> None:
        """A server with one admin, and the daemon running; a machine ready to back up."""
        passphrase = self.work / "admin.passphrase"
        passphrase.touch(mode=0o600)
        passphrase.write_text("only for this demonstration\n", "ascii")
        spool_words = [word for spool in spools for word in ("--spool", str(spool))]
        self.call(
            "mastodon init: keys, offline spare, configuration, one spool",
            "mastodon", "init", self.server, "--name", "127.0.0.1", "--listen", "127.0.0.1",
            "--append-port", str(self.append_port), "--restore-port", str(self.restore_port), *spool_words,
        )  # fmt: skip
        text = self.config.read_text("utf-8")
        self.config.write_text(text.replace('reserve = "1 GiB"', f'reserve = "{reserve}"'), "utf-8")
        self.call("mastodon-admin init: admin secret, client certificate, request", "mastodon-admin", "init")
        self.call(
            "mastodon admin add: the operator takes the request",
            "mastodon", "--config", self.config, "admin", "add", "demo",
            "--request", self.work / "admin/request", "--out", self.work / "invitation",
        )  # fmt: skip
        self.start_daemon()
        invitation = (self.work / "invitation").read_text("ascii").strip()
        self.call("mastodon-admin connect", "mastodon-admin", "connect", invitation)
        self.call("mastodon-admin machine add", "mastodon-admin", "machine", "add", "web01", "--out", self.work)

    def add_machine(self, name: str) -> Machine:
        """One more machine of the admin's."""
        self.call(f"machine {name}", "mastodon-admin", "machine", "add", name, "--out", self.work)
        files = [self.work / f"{name}.{kind}" for kind in ("url", "passkey", "state")]
        return Machine(name, *files)

    def add_tenant(self, name: str, request: bytes) -> None:
        """One more admin, whose request this is."""
        file = self.work / f"{name}.request"
        file.write_bytes(request)
        self.call(
            f"admin {name}", "mastodon", "--config", self.config, "admin", "add", name, "--request", file,
            "--out", self.work / f"{name}.invitation",
        )  # fmt: skip

    def start_daemon(self) -> None:
        """Start twistd and wait until both ports answer."""
        start = time.monotonic()
        with self.log.open("ab") as log:
            self.daemon = subprocess.Popen(
                [*self.twistd, "--nodaemon", "--pidfile=", "mastodon", "--config", str(self.config)],
                stdout=log, stderr=log, cwd=self.work, env=self.environment,
            )  # fmt: skip
        while not (answers(self.append_port) and answers(self.restore_port)):
            if self.daemon.poll() is not None or time.monotonic() - start > START_S:
                raise Failed(f"the daemon did not start:\n{self.log.read_text(errors='replace')[-3000:]}")
            time.sleep(0.05)
        self.say(f"  {time.monotonic() - start:6.2f} s  twistd mastodon: both ports answer")

    def stop_daemon(self) -> int | None:
        """SIGTERM, as systemd would; its exit status."""
        if self.daemon is None:
            return None
        daemon, self.daemon = self.daemon, None
        if daemon.poll() is None:
            daemon.send_signal(signal.SIGTERM)
            try:
                daemon.wait(STOP_S)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()
        return daemon.returncode

    def kill_daemon(self) -> None:
        """SIGKILL, as a power cut would."""
        if self.daemon is not None:
            self.daemon.kill()
            self.daemon.wait()
            self.daemon = None

    def call(self, what: str, *command: str | Path, allowed: Sequence[int] = (0,)) -> str:
        """Run a command, say what it was and how long it took, return its standard output. Raises Failed."""
        start = time.monotonic()
        done = self.run(*command)
        took = time.monotonic() - start
        if done.returncode not in allowed:
            words = " ".join(map(str, command))
            raise Failed(f"{what}: {words}\nexit {done.returncode}\n{done.stdout}{done.stderr}")
        self.say(f"  {took:6.2f} s  {what}")
        if done.returncode:
            last = (done.stderr.strip().splitlines() or [""])[-1]
            self.say(f"            exit {done.returncode}: {last}")
        return done.stdout

    def run(self, *command: str | Path, changes: Mapping[str, str] | None = None) -> "subprocess.CompletedProcess[str]":
        """Run a command to its end, whatever comes of it."""
        return subprocess.run(
            [str(word) for word in command], capture_output=True, text=True, errors="replace", cwd=self.work,
            env={**self.environment, **(changes or {})}, timeout=CALL_S, check=False,
        )  # fmt: skip

    # Commands

    def agent_words(self, url: Path | None = None) -> list[str | Path]:
        """The agent's command without the paths."""
        url_file, state = url or self.url, self.work / "agent-state"
        return ["mastodon-agent", "-q", "--url-file", url_file, "--passkey-file", self.passkey, "--state", state]

    def restore_words(self, to: Path, snapshot: str = "latest") -> list[str | Path]:
        """The admin's restore of everything in a snapshot."""
        words: list[str | Path] = ["mastodon-admin", "restore", "web01", "--snapshot", snapshot, "--to", to]
        return [*words, "--passkey-file", self.passkey]

    def recover_words(self, to: Path, snapshot: str = "latest") -> list[str | Path]:
        """The same from the spools alone."""
        keys: list[str | Path] = ["--url-file", self.url, "--passkey-file", self.passkey]
        return ["mastodon-recover", "restore", *self.spools(), *keys, "--snapshot", snapshot, "--to", to]

    def spools(self) -> list[Path]:
        """The spool directories below the server's."""
        return sorted(marker.parent for marker in self.server.glob("*/mastodon-spool.json"))

    def kept_bytes(self) -> int:
        """Bytes of all packs and ledgers."""
        folders = [spool / name for spool in self.spools() for name in ("packs", "ledger")]
        return sum(file.stat().st_size for folder in folders for file in folder.rglob("*") if file.is_file())


def command(main: Callable[[], int]) -> NoReturn:
    """The edge of a measuring command: its exit code, or what went wrong, without a traceback. SIGTERM ends it as an
    interrupt does: daemons are stopped, what it wrote is removed."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        sys.exit(main())
    except (Failed, OSError) as failure:
        print(f"FAILED: {failure}", file=sys.stderr)
        sys.exit(2)


def free_port() -> int:
    """A loopback port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
    return port


def answers(port: int) -> bool:
    """Whether somebody listens there."""
    try:
        socket.create_connection(("127.0.0.1", port), 1.0).close()
    except OSError:
        return False
    return True
