"""Mastodon itself, run as its users run it: the console scripts, the daemon under twistd, everything over TLS."""

import subprocess
import sys
from pathlib import Path

from bench.measure import Command
from bench.peers import bytes_below, end, free_port, run, wait_for_port

SCRIPTS = Path(sys.executable).parent
MACHINE = "bench"
ADMIN = "bench"


class Commands:
    """The command lines, and where they leave what the next one needs; all that depends on options stands here."""

    def __init__(self, work: Path) -> None:
        self.server = work / "server"
        self.config = self.server / "mastodon.toml"
        self.spool = work / "spool"
        self.client = work / "client"
        self.request = self.client / "request"
        self.cards = work / "cards"
        self.state = work / "state"
        self.passphrase = work / "passphrase"

    def _argv(self, script: str, *rest: object) -> list[str]:
        return [str(SCRIPTS / script), *map(str, rest)]

    def init(self, append: int, restore: int) -> list[str]:
        ports = ["--append", f"127.0.0.1:{append}", "--restore", f"127.0.0.1:{restore}"]
        return self._argv("mastodon", "init", self.server, *ports, "--spool", self.spool)

    def daemon(self) -> list[str]:
        return self._argv("twistd", "--nodaemon", "--pidfile=", "mastodon", "--config", self.config)

    def client_init(self) -> list[str]:
        options = ["--passphrase-file", self.passphrase, "--request", self.request]
        return self._argv("mastodon-admin", "--home", self.client, "init", *options)

    def admin_add(self) -> list[str]:
        options = ["--config", self.config, "--request", self.request, "--out", self.client / "server"]
        return self._argv("mastodon", "admin", "add", ADMIN, *options)

    def machine_add(self) -> list[str]:
        options = ["--passphrase-file", self.passphrase, "--out", self.cards]
        return self._argv("mastodon-admin", "--home", self.client, "machine", "add", MACHINE, *options)

    def backup(self, data: Path) -> list[str]:
        keys = ["--url-file", self.cards / f"{MACHINE}.url", "--passkey-file", self.cards / f"{MACHINE}.passkey"]
        return self._argv("mastodon-agent", *keys, "--state", self.state, "-q", data)

    def restore(self, to: Path, *inner: Path) -> list[str]:
        options = ["--passphrase-file", self.passphrase, "--to", to]
        return self._argv("mastodon-admin", "--home", self.client, "restore", MACHINE, *inner, *options)


class Mastodon:
    """A server with one spool, one admin and one machine."""

    def __init__(self, work: Path) -> None:
        self.commands = Commands(work)
        self.server: subprocess.Popen[bytes] | None = None
        self.data = Path()

    def start(self) -> int:
        commands, append, restore = self.commands, free_port(), free_port()
        commands.passphrase.write_text("x" * 20 + "\n")
        commands.passphrase.chmod(0o600)
        run(commands.init(append, restore))
        self.server = subprocess.Popen(commands.daemon(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_for_port(append)
        run(commands.client_init())
        run(commands.admin_add())
        run(commands.machine_add())
        return self.server.pid

    def stop(self) -> None:
        end(self.server)

    def backup(self, data: Path) -> Command:
        self.data = data
        return Command(self.commands.backup(data))

    def restore(self, to: Path) -> Command:
        return Command(self.commands.restore(to))

    def single(self, to: Path, inner: str) -> Command:
        return Command(self.commands.restore(to, self.data / inner))

    def restored(self, to: Path) -> Path:
        return to / self.data.relative_to("/")

    def kept(self) -> int:
        return bytes_below(self.commands.spool)
