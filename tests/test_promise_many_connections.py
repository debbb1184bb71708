"""Thousands of connections at once, beside an honest machine (P12): client and daemon in processes of their own."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

from twisted.internet.defer import Deferred

from bench.blocking_peers import AppendPeer, TinyMachine
from mastodon.sealed.blob import BlobKind
from mastodon.sealed.enrolment import Enrolment
from mastodon.sealed.machine_secret import MachineSecret
from mastodon.sealed.statement import StatementVerb
from tests.long import extent, long_test
from tests.running_server import ServerTestCase

BYTES_EACH = 100 * 1024
"""Growth of the daemon's resident memory for each connection, at most; generous: about half is measured."""
START_S = 60.0


@long_test(share=True)
class ManyConnectionsTests(ServerTestCase):
    """The daemon starts in this process, for the accounts, and then once more in a process of its own."""

    timeout = 1800

    def test_promise_p12_ten_thousand_connections(self) -> Deferred[None]:
        """Half of them machines that checked in, half strangers: an honest machine backs up meanwhile, memory is
        bounded for each, and all end by themselves."""
        count = extent(share=500, whole=10_000)
        return Deferred.fromCoroutine(self.attack(count))

    async def attack(self, count: int) -> None:
        honest = await self.thread(lambda: self.server.new_machine(self.tenant))
        secrets = [os.urandom(32) for _ in range(count // 2)]
        for secret in secrets:
            await self.server.running.store.execute(
                self.tenant.secret.tenant, self.tenant.identity.pin, self.enrolment(MachineSecret(secret)), b""
            )
        await self.server.stop()
        await self.thread(lambda: self.crowd(honest, secrets, count))

    def enrolment(self, secret: MachineSecret) -> bytes:
        record = Enrolment(
            secret.machine_id, secret.public_key, self.tenant.secret.tenant, (self.server.identity.pin,),
            os.urandom(16), 0, time.time_ns(),
        ).sign(secret.signing_key)  # fmt: skip
        return self.tenant.statement(self.server.identity.pin, StatementVerb.ENROL, record)

    def crowd(self, honest: TinyMachine, secrets: list[bytes], count: int) -> None:
        """In a thread."""
        file = Path(self.mktemp()).resolve()
        file.write_bytes(b"".join(secrets))
        daemon, port = self.start_daemon(count)
        try:
            self.back_up(port, honest)
            before = resident(daemon.pid)
            client = subprocess.Popen(
                [sys.executable, "-m", "tests.many_connections", str(port), str(file)],
                stdout=subprocess.PIPE, text=True, env=environment(),
            )  # fmt: skip
            assert client.stdout is not None
            with client.stdout:
                found = re.fullmatch(r"open (\d+) entered (\d+)\n", client.stdout.readline())
                assert found is not None
                # On a slow machine the first strangers' time is over before the last one has come.
                still_open, entered = int(found[1]), int(found[2])
                self.assertEqual(entered, count // 2)
                self.assertGreaterEqual(still_open, entered)
                each = (resident(daemon.pid) - before) / still_open
                print(f"\n{still_open} connections: {each / 1024:.1f} KiB of the daemon's memory each")
                self.assertLess(each, BYTES_EACH)
                self.back_up(port, honest)
                self.assertEqual(client.stdout.readline(), f"closed {count}\n")
            self.assertEqual(client.wait(), 0)
            self.back_up(port, honest)
        finally:
            daemon.terminate()
            self.assertEqual(daemon.wait(), -signal.SIGTERM)  # twistd stops cleanly, then says what stopped it

    def start_daemon(self, count: int) -> "tuple[subprocess.Popen[bytes], int]":
        config = self.server.directory / "mastodon.toml"
        silence = extent(share=20, whole=120)
        config.write_text(f"{config.read_text()}\n[limits]\nhandshakes = {count}\nsilence_seconds = {silence}\n")
        ports = self.server.config.state / "ports"
        ports.unlink()
        twistd = Path(sys.executable).with_name("twistd")
        daemon = subprocess.Popen(
            [sys.executable, twistd, "--nodaemon", "--pidfile=", "--logfile", self.server.directory / "log",
             "mastodon", "--config", config], env=environment(),
        )  # fmt: skip
        until = time.monotonic() + START_S
        while not ports.exists() or not ports.read_text():
            if daemon.poll() is not None or time.monotonic() > until:
                raise AssertionError((self.server.directory / "log").read_text()[-2000:])
            time.sleep(0.05)
        return daemon, int(ports.read_text().split()[0])

    def back_up(self, port: int, machine: TinyMachine) -> None:
        with AppendPeer(port) as peer:
            peer.enter(machine.secret, os.urandom(16))
            machine.send_pack(peer, machine.pack([machine.blob(BlobKind.CHUNK, (), os.urandom(1_000_000))]))


def environment() -> dict[str, str]:
    """For processes that import what this one does."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}


def resident(pid: int) -> int:
    """Bytes of memory that a process has now."""
    found = re.search(r"^VmRSS:\s+(\d+) kB$", Path(f"/proc/{pid}/status").read_text(), re.M)
    assert found is not None
    return 1024 * int(found[1])
