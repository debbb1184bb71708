"""check_mastodon from its command line to its exit code, against servers good, bad and absent."""

import io
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from mastodon.host.certificates import Identity, pin_text, write_identity
from mastodon.host.socket_tls import ConnectionLost
from mastodon.monitor import check as check_module
from mastodon.monitor import main as main_module
from mastodon.monitor.arguments import Arguments, Aspect, Mistake, parse
from mastodon.monitor.check import check, in_time
from mastodon.monitor.question import NoAnswer, ask
from mastodon.sealed.ledger_entries import CertificateAdded, Role
from mastodon.sealed.statement import CertificateContent, StatementVerb, encode_content
from mastodon.wire.errors import ErrorCode
from mastodon.wire.messages import Keepalive, Message, make_error
from mastodon.wire.restore_messages import BookItem, Done
from tests.running_server import ServerTestCase
from tests.test_promise_restore_port import fresh_identity
from tests.test_verdict import machine, server

UNKNOWN = 3
PIN = pin_text(b"p" * 32)
ASKED = Arguments((("host", 1),), (b"p" * 32,), Path("crt"), Path("key"), 0)


class ArgumentsTests(SynchronousTestCase):
    """The command line."""

    def setUp(self) -> None:
        self.home = Path(self.mktemp()).resolve()
        self.home.mkdir()
        self.invitation = self.home / "invitation"
        self.invitation.write_text(f"mastodon+admin://alice@host:1234/?server={PIN}\n")

    def test_invitation(self) -> None:
        """Host and pins come from the invitation in the home; options win over it."""
        given = parse(["--home", str(self.home)])
        self.assertEqual((given.hosts, given.pins), ((("host", 1234),), (b"p" * 32,)))
        self.assertEqual((given.certificate, given.key), (self.home / "client.crt", self.home / "client.key"))
        given = parse(["--invitation", str(self.invitation), "-H", "[::1]", "--key", "k", "--cert", "c"])
        self.assertEqual((given.hosts, given.pins, given.key), ((("::1", 7411),), (b"p" * 32,), Path("k")))
        given = parse(["-H", "other:7", "--server", PIN, "--server", pin_text(b"q" * 32)])
        self.assertEqual((given.hosts, given.pins), ((("other", 7),), (b"p" * 32, b"q" * 32)))

    def test_what_to_judge(self) -> None:
        """Machine, aspects, thresholds and time."""
        words = ["--home", str(self.home), "--stale", "-w", "26h", "-c", "2d", "-t", "5", "--machine", "AB" * 32]
        given = parse([*words, "--quota"])
        self.assertEqual((given.warning_s, given.critical_s, given.timeout_s), (93600, 172800, 5))
        self.assertEqual(parse([*words, "-w", "90"]).warning_s, 90)
        self.assertEqual((given.machine, given.aspects), (b"\xab" * 32, {Aspect.STALE, Aspect.QUOTA}))

    def test_mistakes(self) -> None:
        """Each is UNKNOWN, and says in one line what to do."""
        home = ["--home", str(self.home)]
        for words, said in (
            (["--home", "/no/such"], "/no/such/invitation: No such file or directory: put the invitation there"),
            (["-H", "host"], "put the invitation there, or give -H HOST and --server PIN"),
            (["--server", "x"], "--server: "),
            ([*home, "-H", "host:0"], "no HOST or HOST:PORT"),
            ([*home, "-H", "a|b"], "no HOST or HOST:PORT"),
            ([*home, "-H", "host:99999"], "no HOST or HOST:PORT"),
            ([*home, "--machine", "web01"], "expected the whole id"),
            ([*home, "-w", "soon"], "give a time such as 90s, 15m, 6h or 2d, or a number of seconds"),
            ([*home, "-w", "3h", "-c", "2h"], "-w is more than -c"),
            ([*home, "-w", "3h", "--quota"], "-w and -c are ages"),
            ([*home, "--machine", "ab" * 32, "--spools"], "without --machine"),
            ([*home, "-t", "0"], "expected 1 to 600 seconds"),
            ([*home, "-t", "x"], "invalid int value"),
            ([*home, "--stal"], "unrecognized arguments"),
            ([*home, "extra\nline"], "unrecognized arguments: extra line"),
        ):
            code, line = check(words)
            self.assertEqual(code, UNKNOWN, words)
            self.assertTrue(line.startswith("MASTODON UNKNOWN - "), line)
            self.assertIn(said, line)
            self.assertTrue(line.isprintable() and "|" not in line, line)
        self.invitation.write_text("https://host/")
        self.assertRaises(Mistake, parse, home)

    def test_shown(self) -> None:
        """Help and version are shown without anything else being given."""
        self.assertEqual(check(["-V"])[0], 0)
        self.assertIn("check_mastodon ", check(["--version"])[1])
        self.assertIn("--stale", check(["--help"])[1])


class Scripted:
    """A connection on which the server says what the test wrote, whatever it is asked."""

    server_pin = b"p" * 32

    def __init__(self, parts: Iterable[bytes | Exception]) -> None:
        self._parts = iter(parts)
        self.sent = b""

    def __enter__(self) -> "Scripted":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def send(self, data: bytes) -> None:
        self.sent += data

    def receive(self) -> bytes:
        part = next(self._parts, b"")
        if isinstance(part, Exception):
            raise part
        return part


class HostileServerTests(SynchronousTestCase):
    """Answers that no honest server gives are UNKNOWN, never OK."""

    def ask(self, *parts: bytes | Message | Exception, machine: bytes = b"") -> Any:
        said = [part.encode() if isinstance(part, Message) else part for part in parts]
        asked = Arguments(ASKED.hosts, ASKED.pins, ASKED.certificate, ASKED.key, 1, machine)
        return ask(asked, lambda *_: Scripted(said))  # type: ignore[arg-type]

    def test_honest(self) -> None:
        """What fits the question is taken, however it comes."""
        answer = server().encode() + Keepalive().encode() + machine(1).encode() + machine(2).encode() + Done(1).encode()
        for parts in ([answer], [answer[at : at + 1] for at in range(len(answer))]):
            item, machines = self.ask(*parts)
            self.assertEqual((item, machines), (server(), [machine(1), machine(2)]))

    def test_garbage(self) -> None:
        """Garbage, cut answers and answers to other questions."""
        one, other = machine(1), machine(2)
        for parts in (
            [b"HTTP/1.1 400 Bad Request\r\n\r\n"],
            [b"\xff" * 64],
            [b"\0\0\0\0"],
            [server(), Done(1)][1:],
            [server(), server(), Done(1)],
            [server(), one, one, Done(1)],
            [server(request=7), Done(1)],
            [server(), BookItem(1, b"book"), Done(1)],
            [server(), one],
            [server(), b"\0\0\0\5\xa9ab"],
            [server(), one, Done(1, b"m" * 32)],
            [make_error(ErrorCode.NOT_AUTHENTICATED, "who | are you")],
            [make_error(ErrorCode.NOT_FOUND, "no such machine", request=1)],
            [server(), ConnectionLost("cut")],
        ):
            self.assertRaises(NoAnswer, self.ask, *parts)
        for parts in ([server(), other, Done(1)], [server(), one, other, Done(1)], [server(), Done(1)]):
            self.assertRaises(NoAnswer, self.ask, *parts, machine=one.machine)
        self.assertEqual(self.ask(server(), one, Done(1), machine=one.machine)[1], [one])

    def test_every_flip(self) -> None:
        """An answer with a bit flipped is an answer or UNKNOWN, never a traceback."""
        answer = b"".join(one.encode() for one in (server(), machine(1), Done(1)))
        for at in range(len(answer)):
            bent = bytearray(answer)
            bent[at] ^= 1 << at % 8
            try:
                self.ask(bytes(bent))
            except NoAnswer:
                continue

    def test_no_end(self) -> None:
        """A server that never comes to an end is left when the time is over."""
        over = threading.Event()

        def endless(asked: Arguments) -> Any:
            def keepalives() -> Iterator[bytes]:
                while not over.is_set():
                    yield Keepalive().encode()

            return ask(asked, lambda *_: Scripted(keepalives()))  # type: ignore[arg-type]

        error = self.assertRaises(NoAnswer, in_time, ASKED, endless)
        over.set()
        self.assertEqual(str(error), "host:1: no answer within 0 s")

    def test_bug(self) -> None:
        """A bug is UNKNOWN too: a traceback's exit code would be a WARNING."""

        def broken(words: list[str]) -> Any:
            raise RuntimeError("a | b\nc")

        self.patch(check_module, "check", broken)
        out = io.StringIO()
        self.patch(sys, "stdout", out)
        left = self.assertRaises(SystemExit, main_module.main)
        self.assertEqual(left.code, UNKNOWN)
        self.assertEqual(out.getvalue(), "MASTODON UNKNOWN - internal error: RuntimeError: a / b c (a bug)\n")


class RunningServerTests(ServerTestCase):
    """Against a daemon."""

    def setUp(self) -> Any:
        self.home = Path(self.mktemp()).resolve()
        self.home.mkdir()
        return super().setUp()

    def make_home(self, identity: Identity, pin: bytes = b"") -> None:
        write_identity(identity, self.home / "client.key", self.home / "client.crt")
        pin = pin or self.server.identity.pin
        invitation = f"mastodon+admin://alice@127.0.0.1:{self.server.restore_port}/?server={pin_text(pin)}"
        (self.home / "invitation").write_text(invitation)

    def make_monitor(self) -> None:
        """A monitor of the tenant's."""
        watch = fresh_identity("nagios")
        content = encode_content(CertificateContent(watch.pin, Role.MONITOR, "nagios"))
        self.server.state(self.tenant, StatementVerb.REGISTER_CERTIFICATE, content)
        self.make_home(watch)

    def check(self, *words: str) -> tuple[int, str]:
        return check(["--home", str(self.home), *words])

    def test_as_a_program(self) -> Deferred[None]:
        """The program prints one line with figures, and its exit code is the level."""

        def work() -> None:
            self.make_monitor()
            self.server.new_machine(self.tenant)
            words = [sys.executable, "-m", "mastodon.monitor.main", "--home", str(self.home), "-t", "30"]
            done = subprocess.run(words, capture_output=True, text=True, check=False, env=dict(os.environ))
            self.assertEqual((done.returncode, done.stderr), (0, ""))
            self.assertRegex(done.stdout, r"\AMASTODON OK - 1 machine: 1 seeding \| kept=\d+B;;;0 [^\n|]*\n\Z")

        return self.thread(work)

    def test_machines(self) -> Deferred[None]:
        """All, one, one that is foreign; thresholds; what a tenant's monitor cannot see."""

        def work() -> None:
            self.make_monitor()
            name = self.server.new_machine(self.tenant).secret.machine_id.hex()
            self.assertEqual(self.check("--stale")[0], 0)
            self.assertEqual(self.check("--machine", name)[0], 0)
            self.assertEqual(self.check("--quota"), (0, "MASTODON OK - no quotas are set"))
            code, line = self.check("--machine", "ab" * 32)
            self.assertEqual((code, line), (UNKNOWN, "MASTODON UNKNOWN - the server refused: no such machine"))
            code, line = self.check("--spools")
            self.assertEqual((code, "needs the operator's monitor" in line), (UNKNOWN, True))

        return self.thread(work)

    def test_operators_monitor(self) -> Deferred[None]:
        """It checks the spools."""
        watch = fresh_identity("nagios")
        self.make_home(watch)
        ledger = self.server.running.store._ready().ledger
        added = ledger.append(CertificateAdded(watch.pin, b"", Role.MONITOR, "nagios", b""))

        def work() -> None:
            code, line = self.check("--spools")
            self.assertEqual(code, 0, line)
            self.assertIn(f"'spool {self.server.spools[0]}'=", line)

        return added.addCallback(lambda _: self.thread(work))

    def test_not_let_in(self) -> Deferred[None]:
        """A key that is not registered, a server with another key, and no certificate at all are UNKNOWN."""

        def work() -> None:
            code, line = self.check("-H", f"127.0.0.1:{self.server.restore_port}", "--server", PIN)
            self.assertEqual((code, "client certificate" in line), (UNKNOWN, True), line)
            self.make_home(fresh_identity("stranger"))
            code, line = self.check()
            self.assertEqual((code, "is not registered" in line), (UNKNOWN, True), line)
            code, line = self.check("--server", PIN)
            self.assertEqual((code, "the server's key is" in line), (UNKNOWN, True), line)

        return self.thread(work)

    def test_daemon_down(self) -> Deferred[None]:
        """No daemon is UNKNOWN, and says where it was looked for."""

        async def stop() -> None:
            self.make_home(fresh_identity("nagios"))
            await self.server.stop()

        def work(_: object) -> None:
            code, line = self.check()
            self.assertEqual(code, UNKNOWN)
            self.assertRegex(line, r"127\.0\.0\.1:\d+: Connection refused")

        return Deferred.fromCoroutine(stop()).addCallback(lambda _: self.thread(lambda: work(None)))

    def test_something_else_answers(self) -> Deferred[None]:
        """A service that speaks no TLS is told from Mastodon."""

        def work() -> None:
            self.make_home(fresh_identity("nagios"))
            with socket.create_server(("127.0.0.1", 0)) as listener:
                port = listener.getsockname()[1]

                def serve() -> None:
                    peer, _ = listener.accept()
                    with peer:
                        peer.sendall(b"220 mail.example.org ESMTP\r\n")
                        peer.recv(4096)

                thread = threading.Thread(target=serve, daemon=True)
                thread.start()
                code, line = self.check("-H", f"127.0.0.1:{port}")
                thread.join()
            self.assertEqual(code, UNKNOWN)
            self.assertIn(f"127.0.0.1:{port}", line)

        return self.thread(work)
