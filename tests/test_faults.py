"""Faults, by the commands that a user types: whatever dies, what was acknowledged is there (P9), and the next run
completes. After each fault everything is restored twice, by the admin's client and from the spools alone (P10).

Here trees and packs are larger than in the fault rig (bench/faults); agent and daemon are started as a user does it.
"""

import os
import random
import shutil
import signal
import socket
import subprocess
import threading
import time
from pathlib import Path

from twisted.trial.unittest import SkipTest, SynchronousTestCase

from bench.faults.proxy import Cut, CuttingProxy
from tests.commands import QuickInstallation
from tests.compare_trees import compare_trees
from tests.long import extent, long_test

SEED = 20261124
# Points are bounded by the 60 commits that a machine may make in an hour.
FILES = 1500


def make_tree(top: Path, rng: random.Random) -> None:
    """Small files, a large one, some that compress."""
    for number in range(FILES):
        folder = top / f"d{number % 30:02}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"f{number}").write_bytes(rng.randbytes(rng.randrange(200, 20_000)))
    (top / "large").write_bytes(rng.randbytes(24 << 20))


def change_tree(top: Path, rng: random.Random) -> None:
    """Some files new, some changed, the large one in its middle."""
    for _ in range(40):
        (top / f"d{rng.randrange(30):02}" / f"n{rng.getrandbits(40)}").write_bytes(rng.randbytes(9000))
    with (top / "large").open("r+b") as file:
        file.seek(rng.randrange(20 << 20))
        file.write(rng.randbytes(3 << 20))


class FaultTests(SynchronousTestCase):
    """One installation a test."""

    def setUp(self) -> None:
        self.work = Path(self.mktemp()).resolve()
        self.work.mkdir(parents=True)
        self.rng = random.Random(SEED)
        self.tree = self.work / "tree"
        make_tree(self.tree, self.rng)
        self.here = QuickInstallation(self.work)
        self.addCleanup(self.here.stop_daemon)

    def agent(self, url: Path | None = None) -> "subprocess.CompletedProcess[str]":
        return self.here.run(*self.here.agent_words(url), self.tree)

    def agent_process(self, url: Path | None = None) -> "subprocess.Popen[bytes]":
        words = [str(word) for word in (*self.here.agent_words(url), self.tree)]
        log = (self.work / "agent.log").open("ab")
        self.addCleanup(log.close)
        return subprocess.Popen(words, cwd=self.work, env=self.here.environment, stdout=log, stderr=log)

    def complete(self, done: "subprocess.CompletedProcess[str]") -> None:
        self.assertEqual(done.returncode, 0, f"{done.stdout}\n{done.stderr}")

    def check_restores(self, snapshot: str = "latest", original: Path | None = None) -> None:
        """Both roads give the tree back, exactly."""
        for name, words in (
            ("restored", self.here.restore_words(self.work / "restored", snapshot)),
            ("recovered", self.here.recover_words(self.work / "recovered", snapshot)),
        ):
            self.complete(self.here.run(*words))
            to = self.work / name / self.tree.relative_to("/")
            self.assertEqual([str(one) for one in compare_trees(str(original or self.tree), str(to))], [])
            shutil.rmtree(self.work / name)

    def a_run_takes(self) -> float:
        """Seconds of a whole first run; leaves one snapshot behind."""
        start = time.monotonic()
        self.complete(self.agent())
        return time.monotonic() - start

    def test_promise_p9_daemon_killed(self) -> None:
        """The daemon is killed at random points of runs: the run goes on when it is back, and all is there."""
        self.here.set_up()
        takes = self.a_run_takes()
        for _ in range(extent(share=3, whole=50)):
            shutil.rmtree(self.work / "agent-state")
            change_tree(self.tree, self.rng)
            agent = self.agent_process()
            time.sleep(self.rng.uniform(0.0, takes))
            self.here.kill_daemon()
            time.sleep(self.rng.uniform(0.0, 0.5))
            self.here.start_daemon()
            self.assertEqual(agent.wait(120), 0, (self.work / "agent.log").read_text(errors="replace")[-3000:])
        self.check_restores()
        self.complete(self.here.run("mastodon", "--config", self.here.config, "check"))

    def test_promise_p9_agent_killed(self) -> None:
        """The agent is killed at random points: the next run completes, and what was acked is not sent again."""
        self.here.set_up()
        hits, points, sent = 0, extent(share=3, whole=50), 0
        while hits < points:
            agent = self.agent_process()
            time.sleep(self.rng.uniform(0.2, 1.0))
            if agent.poll() is None:
                hits += 1
                agent.kill()
                agent.wait()
            else:  # it was done before: give the next one something to do
                (self.tree / "large").write_bytes(self.rng.randbytes(24 << 20))
                sent += 24 << 20
        self.complete(self.agent())
        self.check_restores()
        packs = sum(file.stat().st_size for spool in self.here.spools() for file in spool.glob("packs/**/*.pack"))
        content = sum(file.stat().st_size for file in self.tree.rglob("*") if file.is_file()) + sent
        # What a killed run had under way comes on top: a few packs at the most.
        self.assertLess(packs, 1.3 * content, "what was acknowledged was sent again")

    def test_promise_p9_connection_cut(self) -> None:
        """Runs, each with its connection cut at a random point: each takes it up again and completes."""
        self.here.set_up()
        proxy = CuttingProxy(self.here.append_port)
        threading.Thread(target=proxy.serve, daemon=True).start()
        self.addCleanup(proxy.close)
        url = self.work / "through-proxy.url"
        text = self.here.url.read_text("ascii").replace(f":{self.here.append_port}", f":{proxy.port}")
        url.touch(mode=0o600)
        url.write_text(text, "ascii")
        for number in range(1, 1 + extent(share=4, whole=10)):
            (self.tree / "large").write_bytes(self.rng.randbytes(12 << 20))
            proxy.cuts.append(Cut(up=self.rng.randrange(1000, 12 << 20), reset=bool(number % 2)))
            self.complete(self.agent(url))
            self.assertEqual(proxy.cut, number)
        self.check_restores()

    def test_server_is_away(self) -> None:
        """No server at all: the run says so in a line, exits 4, and the next one completes."""
        self.here.set_up()
        self.here.stop_daemon()
        done = self.here.run(*self.here.agent_words(), "--retry-for", "1", self.tree)
        self.assertEqual(done.returncode, 4, done.stderr)
        self.assertNotIn("Traceback", done.stderr)
        self.here.start_daemon()
        self.complete(self.agent())
        self.check_restores()

    def test_full_disk(self) -> None:
        """A spool without room refuses in clear words, what was there restores; with room the next run completes."""
        spool = self.work / "server" / "small"
        spool.mkdir(parents=True)
        if (
            os.geteuid()
            or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=110m", "none", spool], check=False).returncode
        ):
            raise SkipTest("needs root and mounting for a small file system")
        self.addCleanup(subprocess.run, ["umount", "-l", str(spool)], check=False)
        self.here.set_up([spool], reserve="4 MiB")
        self.complete(self.agent())
        before = self.work / "before"
        subprocess.run(["cp", "-a", self.tree, before], check=True)
        (self.tree / "more").write_bytes(self.rng.randbytes(48 << 20))
        done = self.here.run(*self.here.agent_words(), "--retry-for", "1", self.tree)
        self.assertEqual(done.returncode, 2, done.stderr)
        self.assertIn("room", done.stderr)
        self.check_restores("1", before)
        subprocess.run(["mount", "-o", "remount,size=600m", spool], check=True)
        self.complete(self.agent())
        self.check_restores()
        self.check_restores("1", before)

    @long_test(share=True)
    def test_promise_p9_both_killed(self) -> None:
        """Daemon and agent are killed in turn, many times; whatever was committed restores."""
        self.here.set_up()
        takes = self.a_run_takes()
        for _ in range(extent(share=4, whole=40)):
            change_tree(self.tree, self.rng)
            agent = self.agent_process()
            time.sleep(self.rng.uniform(0.0, takes))
            (agent.kill if self.rng.random() < 0.5 else self.here.kill_daemon)()
            time.sleep(self.rng.uniform(0.0, 0.3))
            agent.kill()
            agent.wait()
            self.here.kill_daemon()
            self.here.start_daemon()
        self.complete(self.agent())
        self.check_restores()

    def test_no_port_is_left_open(self) -> None:
        """SIGTERM stops the daemon cleanly: everything is closed, and the ports are free."""
        self.here.set_up()
        # twistd ends by the signal that stopped it, after it has shut down.
        self.assertIn(self.here.stop_daemon(), (0, -signal.SIGTERM))
        self.assertIn("Server Shut Down", self.here.log.read_text("utf-8"))
        for port in (self.here.append_port, self.here.restore_port):
            with socket.socket() as probe:
                self.assertNotEqual(probe.connect_ex(("127.0.0.1", port)), 0)
