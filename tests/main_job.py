"""The main job by the commands that a user types: server, admin, machine, two backups over TLS, two restores, compared.

Everything lives in a directory of its own (``--work``, else a temporary one) and listens on loopback. Exit status 0
only if both restored trees are the same as what was backed up, byte for byte and attribute for attribute.
"""

import argparse
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from tests.compare_trees import UNPRIVILEGED, compare_trees

START_S = 30.0
STOP_S = 20.0
USUAL = "/usr/share"


class Failed(Exception):
    """A step did not do what it should; the text says which and shows what it said."""


class MainJob:
    """One whole run in one directory."""

    def __init__(self, tree: Path, work: Path) -> None:
        self.tree = tree
        self.work = work
        self.daemon: subprocess.Popen[bytes] | None = None
        self.log = work / "twistd.log"

    def say(self, text: str) -> None:
        print(text, flush=True)

    def call(self, what: str, *command: str | Path, allowed: Sequence[int] = (0,)) -> str:
        """Run a command, show what it was and how long it took, return its standard output."""
        words = [str(word) for word in command]
        start = time.monotonic()
        done = subprocess.run(words, capture_output=True, text=True, errors="replace", cwd=self.work, check=False)
        took = time.monotonic() - start
        if done.returncode not in allowed:
            raise Failed(f"{what}: {' '.join(words)}\nexit {done.returncode}\n{done.stdout}{done.stderr}")
        self.say(f"  {took:6.2f} s  {what}")
        if done.returncode:
            self.say(f"            (exit {done.returncode}: {done.stderr.strip().splitlines()[-1:]})")
        return done.stdout

    def set_up(self) -> None:
        """A server with one admin, and the daemon running."""
        append, restore = free_port(), free_port()
        server, admin = self.work / "server", self.work / "admin"
        passphrase = self.work / "admin.passphrase"
        passphrase.touch(mode=0o600)
        passphrase.write_text("only for this demonstration\n", "ascii")
        os.environ["MASTODON_ADMIN_PASSPHRASE_FILE"] = str(passphrase)
        os.environ["MASTODON_ADMIN_HOME"] = str(admin)
        self.call(
            "mastodon init: keys, offline spare, configuration, one spool",
            "mastodon", "init", server, "--name", "127.0.0.1", "--listen", "127.0.0.1",
            "--append-port", str(append), "--restore-port", str(restore),
        )  # fmt: skip
        self.config = server / "mastodon.toml"
        self.call("mastodon-admin init: admin secret, client certificate, request", "mastodon-admin", "init")
        self.call(
            "mastodon admin add: the operator takes the request",
            "mastodon", "--config", self.config, "admin", "add", "demo",
            "--request", admin / "request", "--out", self.work / "invitation",
        )  # fmt: skip
        self.start_daemon([append, restore])
        invitation = (self.work / "invitation").read_text("ascii").strip()
        self.call("mastodon-admin connect", "mastodon-admin", "connect", invitation)
        self.call("mastodon-admin machine add", "mastodon-admin", "machine", "add", "web01", "--out", self.work)

    def start_daemon(self, ports: Sequence[int]) -> None:
        """Start twistd and wait until both ports answer."""
        start = time.monotonic()
        with self.log.open("wb") as log:
            self.daemon = subprocess.Popen(
                ["twistd", "--nodaemon", "--pidfile=", "mastodon", "--config", str(self.config)],
                stdout=log, stderr=log, cwd=self.work,
            )  # fmt: skip
        while not all(answers(port) for port in ports):
            if self.daemon.poll() is not None or time.monotonic() - start > START_S:
                raise Failed(f"the daemon did not start:\n{self.log.read_text(errors='replace')[-3000:]}")
            time.sleep(0.1)
        self.say(f"  {time.monotonic() - start:6.2f} s  twistd mastodon: both ports answer")

    def stop_daemon(self) -> None:
        """SIGTERM, as systemd would."""
        if self.daemon is not None and self.daemon.poll() is None:
            self.daemon.send_signal(signal.SIGTERM)
            try:
                self.daemon.wait(STOP_S)
            except subprocess.TimeoutExpired:
                self.daemon.kill()
                self.daemon.wait()

    def back_up(self, what: str, *paths: Path) -> None:
        """One run of the agent, as cron does it; an ordinary user may leave unreadable files out (exit 1)."""
        before = spool_bytes(self.work)
        self.call(
            what, *self.agent_words(), *paths,
            allowed=(0,) if os.geteuid() == 0 else (0, 1),
        )  # fmt: skip
        self.say(f"            {spool_bytes(self.work) - before:,} bytes more in the spool")

    def agent_words(self) -> list[str | Path]:
        """The agent's command without the paths."""
        url, passkey = self.work / "web01.url", self.work / "web01.passkey"
        state = self.work / "agent-state"
        return ["mastodon-agent", "-q", "--url-file", url, "--passkey-file", passkey, "--state", state]

    def restore(self, snapshot: str, to: Path) -> None:
        """Everything in a snapshot, with the admin's certificate."""
        self.call(
            f"mastodon-admin restore, snapshot {snapshot}",
            "mastodon-admin", "restore", "web01", "--snapshot", snapshot, "--to", to,
            "--passkey-file", self.work / "web01.passkey",
            allowed=(0,) if os.geteuid() == 0 else (0, 1),
        )  # fmt: skip

    def compare(self, original: Path, restored_top: Path) -> int:
        """Differences between an original and what was restored of it."""
        restored = restored_top / original.relative_to("/")
        left_out = () if os.geteuid() == 0 else (*UNPRIVILEGED, "missing", "unreadable")
        differences = compare_trees(str(original), str(restored), leave_out=left_out)
        for difference in differences[:20]:
            self.say(f"            {difference}")
        self.say(f"            {original}: {len(differences)} differences")
        return len(differences)

    def run(self) -> int:
        """All steps; the number of differences."""
        count, size = tree_size(self.tree)
        self.say(f"Mastodon's main job on {self.tree}: {count:,} entries, {size:,} bytes, in {self.work}")
        self.set_up()
        self.back_up("first backup over TLS", self.tree)
        copy = self.work / "copy"
        self.call("a copy, in which a few files change", "cp", "-a", self.tree, copy)
        self.say(f"            changed: {', '.join(change_a_few(copy)) or 'nothing, there are no files'}")
        self.back_up("second backup, of both (identical files are not sent again)", self.tree, copy)
        self.back_up("third backup, nothing changed", self.tree, copy)
        self.say(self.call("mastodon-admin snapshots", "mastodon-admin", "snapshots", "web01").rstrip())
        self.restore("1", self.work / "restored-1")
        wrong = self.compare(self.tree, self.work / "restored-1")
        self.restore("latest", self.work / "restored-latest")
        wrong += self.compare(self.tree, self.work / "restored-latest")
        wrong += self.compare(copy, self.work / "restored-latest")
        if os.geteuid():
            self.say("Not root: owners, devices, setuid bits and what cannot be read were left out of the compare.")
        return wrong

    def how_to_go_on(self) -> None:
        """What a user does next."""
        words = " ".join(str(word) for word in self.agent_words()).replace(str(self.work), "/etc/mastodon-agent")
        minute = (self.work / "web01.url").read_bytes()[-2] % 60
        self.say(
            f"\nThe crontab line of a real machine:\n{minute} * * * *  {words} /\n"
            "\nHow to go on: README.md, then `mastodon --help`, `mastodon-admin --help`, `mastodon-agent --help`;\n"
            "docs/recovery.md says how to restore from a spool alone."
        )


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


def spool_bytes(work: Path) -> int:
    """Bytes of all packs and ledgers."""
    return sum(file.stat().st_size for file in work.glob("server/spool*/**/*") if file.is_file())


def tree_size(tree: Path) -> tuple[int, int]:
    """Entries and bytes of regular files."""
    count = size = 0
    for folder, folders, files in os.walk(tree):
        count += len(folders) + len(files)
        for name in files:
            status = os.lstat(os.path.join(folder, name))
            size += status.st_size
    return count, size


def change_a_few(copy: Path) -> list[str]:
    """Edit, grow, remove, rename and add; says what it did."""
    files = sorted(path for path in copy.rglob("*") if path.is_file() and not path.is_symlink())[:2000:97]
    said = []
    for path, verb in zip(files, ("edited", "grown", "removed", "renamed"), strict=False):
        said.append(f"{verb} {path.relative_to(copy)}")
        path.chmod(path.stat().st_mode | 0o200)
        if verb == "edited":
            path.write_bytes(b"changed\n" + path.read_bytes())
        elif verb == "grown":
            with path.open("ab") as file:
                file.write(b"more\n" * 1000)
        elif verb == "removed":
            path.unlink()
        else:
            path.rename(path.with_name(path.name + ".renamed"))
    if files:
        (copy / "added by the demonstration").write_text("new\n", "ascii")
    return said


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", nargs="?", default=USUAL, help=f"what to back up (default: {USUAL})")
    parser.add_argument("--keep", action="store_true", help="leave the daemon running and everything in place")
    parser.add_argument("--work", help="where to work (default: a new temporary directory)")
    options = parser.parse_args()
    tree = Path(options.directory).resolve()
    if not tree.is_dir():
        parser.error(f"{tree} is not a directory")
    work = Path(options.work or tempfile.mkdtemp(prefix="mastodon-")).resolve()
    work.mkdir(parents=True, exist_ok=True)
    if any(work.iterdir()):
        parser.error(f"{work} is not empty: name another directory")
    if work.is_relative_to(tree):
        parser.error(f"{work} lies in {tree}, which is to be backed up: name another directory with --work")
    job = MainJob(tree, work)
    try:
        wrong = job.run()
        job.how_to_go_on()
    except Failed as failure:
        print(f"FAILED: {failure}", file=sys.stderr)
        wrong = -1
    finally:
        if not options.keep:
            job.stop_daemon()
    if options.keep:
        print(f"Kept: {work}" + (f", daemon {job.daemon.pid}" if job.daemon else ""))
    elif wrong == 0 and not options.work:
        shutil.rmtree(work)
    else:
        print(f"Left for you to look at: {work}")
    print("CLEAN: both snapshots came back exactly" if wrong == 0 else "NOT CLEAN")
    return 0 if wrong == 0 else 1


if __name__ == "__main__":
    sys.exit(main())
