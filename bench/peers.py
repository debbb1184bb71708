"""The tools a user would pick instead. docs/development.md says how to get current versions of them."""

import json
import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import Protocol

from bench.installation import free_port
from bench.measure import Command

PASSWORD = "x" * 20
# Long enough for a busy machine to start a server.
START_SECONDS = 30


class Tool(Protocol):
    """One tool with a repository of its own in a folder of its own."""

    def start(self) -> int | None:
        """Makes the repository, starts the server; its process, or None where each command brings its own."""

    def stop(self) -> None:
        """Ends what `start` started."""

    def backup(self, data: Path) -> Command:
        """Backs up ``data`` as it is now."""

    def restore(self, to: Path, first: bool = False) -> Command:
        """Brings the newest backup, or the first, back below ``to``."""

    def single(self, to: Path, inner: str) -> Command:
        """Brings one file back, by its path inside the data."""

    def restored(self, to: Path) -> Path:
        """Where below ``to`` the data's top has come to lie."""

    def kept(self) -> int:
        """Bytes that the server now keeps."""

    def gpg_seconds(self) -> float | None:
        """How long gpg ran since this was last asked; None where the tool has nothing to do with it."""

    def versions(self) -> list[str]:
        """What it is made of, as the programs say."""


def wait_for_port(port: int) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def bytes_below(folder: Path) -> int:
    return sum(os.lstat(os.path.join(root, name)).st_size for root, _, names in os.walk(folder) for name in names)


def end(server: subprocess.Popen[bytes] | None) -> None:
    if server is not None:
        server.send_signal(signal.SIGTERM)
        server.wait()


def first_line(*argv: str) -> str:
    """What a program says of its version."""
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout.partition("\n")[0].strip()


def run(argv: list[str], env: dict[str, str] | None = None) -> None:
    subprocess.run(argv, env={**os.environ, **(env or {})}, check=True, capture_output=True)


def make_certificate(key: Path, certificate: Path) -> None:
    """A self-signed one for 127.0.0.1."""
    argv = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    argv += ["-keyout", str(key), "-out", str(certificate), "-days", "30", "-subj", "/CN=localhost"]
    run([*argv, "-addext", "subjectAltName=IP:127.0.0.1"])


def require(*names: str) -> None:
    """Refuses to start half a comparison."""
    missing = [name for name in names if shutil.which(name) is None]
    if missing:
        raise SystemExit(f"not on the path: {', '.join(missing)}; docs/development.md says how to get them")


class Restic:
    """restic over TLS to `rclone serve restic --append-only`."""

    def __init__(self, work: Path) -> None:
        require("restic", "rclone", "openssl")
        self.repository, self.key, self.certificate = work / "repo", work / "key.pem", work / "cert.pem"
        self.env = {"RESTIC_PASSWORD": PASSWORD, "RESTIC_CACHE_DIR": str(work / "cache"), "RESTIC_PROGRESS_FPS": "0.1"}
        self.server: subprocess.Popen[bytes] | None = None
        self.base: list[str] = []

    def start(self) -> int:
        make_certificate(self.key, self.certificate)
        self.repository.mkdir()
        port = free_port()
        argv = ["rclone", "serve", "restic", "--append-only", "--addr", f"127.0.0.1:{port}"]
        argv += ["--cert", str(self.certificate), "--key", str(self.key), str(self.repository)]
        self.server = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_for_port(port)
        self.base = ["restic", "--cacert", str(self.certificate), "-r", f"rest:https://127.0.0.1:{port}/", "-q"]
        run([*self.base, "init"], self.env)
        return self.server.pid

    def stop(self) -> None:
        end(self.server)

    def backup(self, data: Path) -> Command:
        return Command([*self.base, "backup", "."], self.env, str(data))

    def restore(self, to: Path, first: bool = False) -> Command:
        snapshot = self._first() if first else "latest"
        return Command([*self.base, "restore", snapshot, "--sparse", "--target", str(to)], self.env)

    def _first(self) -> str:
        argv = [*self.base, "snapshots", "--json"]
        said = subprocess.run(argv, env={**os.environ, **self.env}, check=True, capture_output=True).stdout
        return str(min(json.loads(said), key=lambda snapshot: str(snapshot["time"]))["id"])

    def single(self, to: Path, inner: str) -> Command:
        return Command([*self.base, "restore", "latest", "--target", str(to), "--include", "/" + inner], self.env)

    def restored(self, to: Path) -> Path:
        return to

    def kept(self) -> int:
        return bytes_below(self.repository)

    def gpg_seconds(self) -> None:
        return None

    def versions(self) -> list[str]:
        return [first_line("restic", "version"), first_line("rclone", "version"), first_line("openssl", "version")]


class Borg:
    """borg to `borg serve --append-only` through a local pipe: no TLS, nothing on lo, one sum of CPU for both sides."""

    def __init__(self, work: Path) -> None:
        require("borg")
        self.work, self.count = work, 0
        self.repository = f"ssh://localhost{work}/repo"
        self.env = {
            "BORG_PASSPHRASE": PASSWORD,
            "BORG_BASE_DIR": str(work / "base"),
            "BORG_RSH": str(work / "shell"),
            "BORG_REMOTE_PATH": str(work / "serve"),
        }

    def start(self) -> None:
        for name, body in (("shell", 'shift\nexec "$@"'), ("serve", "exec borg serve --append-only")):
            script = self.work / name
            script.write_text(f"#!/bin/sh\n{body}\n")
            script.chmod(0o755)
        run(["borg", "init", "-e", "repokey-blake2", self.repository], self.env)

    def stop(self) -> None:
        """Nothing: the server ended with its command."""

    def _command(self, argv: list[str], cwd: Path) -> Command:
        # 1 is borg's "with warnings"; the compare tells whether they mattered.
        return Command(["borg", *argv], self.env, str(cwd), good=(0, 1))

    def backup(self, data: Path) -> Command:
        self.count += 1
        return self._command(["create", "--compression", "zstd,3", f"{self.repository}::a{self.count}", "."], data)

    def restore(self, to: Path, first: bool = False) -> Command:
        archive = f"{self.repository}::a{1 if first else self.count}"
        return self._command(["extract", "--sparse", "--numeric-ids", archive], to)

    def single(self, to: Path, inner: str) -> Command:
        return self._command(["extract", f"{self.repository}::a{self.count}", inner], to)

    def restored(self, to: Path) -> Path:
        return to

    def kept(self) -> int:
        return bytes_below(self.work / "repo")

    def gpg_seconds(self) -> None:
        return None

    def versions(self) -> list[str]:
        return [first_line("borg", "--version")]


class Bare:
    """What the machine itself takes: tar into a file and out of it, `find` for a run without changes. No network, no
    encryption, nothing durable. What is no tool's to beat, but what each can be measured by."""

    def __init__(self, work: Path) -> None:
        require("tar", "find")
        self.archives, self.data = work / "archives", Path()
        self.count = 0

    def start(self) -> None:
        self.archives.mkdir()

    def stop(self) -> None:
        """Nothing was started."""

    def backup(self, data: Path) -> Command:
        """The first time tar, then `find`, with an eye on each inode."""
        self.count += 1
        if self.count == 1:
            return Command(["tar", "--xattrs", "-S", "-cf", str(self.archives / "tar"), "."], cwd=str(data))
        return Command(["find", ".", "-printf", "%T@ %C@ %i %s %p\\n"], cwd=str(data))

    def restore(self, to: Path, first: bool = False) -> Command:
        return Command(["tar", "--xattrs", "--numeric-owner", "-xpf", str(self.archives / "tar"), "-C", str(to)])

    def single(self, to: Path, inner: str) -> Command:
        return Command(["tar", "-xpf", str(self.archives / "tar"), "-C", str(to), f"./{inner}"])

    def restored(self, to: Path) -> Path:
        return to

    def kept(self) -> int:
        return bytes_below(self.archives)

    def gpg_seconds(self) -> None:
        return None

    def versions(self) -> list[str]:
        return [first_line("tar", "--version"), first_line("find", "--version")]
