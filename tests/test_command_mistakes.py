"""Mistakes at the command line: a line that says what to do, the right exit code, and nothing changed."""

import os
import subprocess
import sys
from pathlib import Path

from click.testing import CliRunner
from twisted.trial.unittest import SynchronousTestCase

from mastodon.host.socket_tls import ConnectError
from mastodon.operator.main import main as operator
from mastodon.restore.errors import Unreachable
from mastodon.restore.server_source import ServerSource
from mastodon.sealed.admin_secret import AdminSecret, encrypt_secret
from mastodon.sealed.book import BookContent, make_book
from tests.restore_case import FILES, listed
from tests.running_server import Tenant
from tests.test_admin_client import AdminCase, in_thread
from tests.test_agent_command import CommandCase
from tests.test_recover import RecoverCase


class OperatorMistakes(SynchronousTestCase):
    """``mastodon`` and ``twistd mastodon``."""

    def setUp(self) -> None:
        self.top = Path(self.mktemp()).resolve()
        self.top.mkdir()
        self.server = self.top / "server"

    def refused(self, *words: object) -> str:
        """What is said by a command that fails."""
        done = CliRunner().invoke(operator, [str(word) for word in words])
        self.assertEqual(done.exit_code, 1, done.output)
        self.assertNotIsInstance(done.exception, OSError)
        return done.output

    def test_init_that_is_refused_makes_nothing(self):
        """A mistake in the spools or ports is told before anything is made, so that the command can be repeated."""
        (self.top / "full").mkdir()
        (self.top / "full" / "file").write_bytes(b"")
        same = ("--spool", self.top / "a", "--spool", self.top / "a")
        for said, words in (
            ("is not empty (file)", ("--spool", self.top / "full")),
            ("is a file", ("--spool", self.top / "full" / "file")),
            ("the same directory twice", same),
            ("is the append port too", ("--append-port", 7000, "--restore-port", 7000)),
        ):
            self.assertIn(said, self.refused("init", self.server, "--name", "localhost", *words))
            self.assertEqual(sorted(path.name for path in self.top.iterdir()), ["full"])
        self.assertIn("is a file", self.refused("init", self.top / "full" / "file", "--name", "localhost"))

    def test_spool_add_of_a_file(self):
        """A file is no directory, and is told apart from a spool that exists."""
        self.make_server()
        (self.top / "file").write_bytes(b"")
        config = ("--config", self.server / "mastodon.toml", "spool", "add", "--no-recovery")
        self.assertIn("is a file", self.refused(*config, self.top / "file"))
        self.assertIn("is a spool already", self.refused(*config, self.server / "spool"))

    def test_admin_add_of_something_else(self):
        """A file that is no request, and a name that cannot be written down."""
        self.make_server()
        request = self.top / "request"
        request.write_bytes(b"root:x:0:0")
        words = ("--config", self.server / "mastodon.toml", "admin", "add")
        self.assertIn("mastodon-admin init", self.refused(*words, "alice", "--request", request))
        request.write_bytes(Tenant("alice").request())
        self.assertIn("printable characters", self.refused(*words, os.fsdecode(b"b\xff"), "--request", request))

    def test_daemon_that_cannot_start(self):
        """It says why in a line, and its exit code is not 0, so that systemd sees a failure."""
        self.make_server()
        (self.server / "spool" / "mastodon-spool.json").unlink()
        done = subprocess.run(
            [
                sys.executable, "-c", "from twisted.scripts.twistd import run; run()", "--nodaemon", "--pidfile=",
                "mastodon", "--config", str(self.server / "mastodon.toml"),
            ],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}, cwd=self.top,
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        self.assertEqual(done.returncode, 1, done.stdout)
        self.assertIn("cannot start: no spool can be used", done.stdout)
        self.assertNotIn("Traceback", done.stdout + done.stderr)

    def make_server(self) -> None:
        """A server on ports that the system chooses."""
        words = ["init", str(self.server), "--name", "localhost", "--listen", "127.0.0.1", "--no-recovery"]
        done = CliRunner().invoke(operator, [*words, "--append-port", "0", "--restore-port", "0"])
        self.assertEqual(done.exit_code, 0, done.output)


class AdminMistakes(AdminCase):
    """``mastodon-admin``."""

    @in_thread
    def test_passphrase_without_a_terminal(self):
        """Nobody can be asked: the option is named, in one line."""
        empty = self.top / "none"
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        environment.pop("MASTODON_ADMIN_PASSPHRASE_FILE", None)
        done = subprocess.run(
            [sys.executable, "-m", "mastodon.admin.main", "--home", str(empty), "init"], env=environment, check=False,
            stdin=subprocess.DEVNULL, capture_output=True, text=True, start_new_session=True,
        )  # fmt: skip
        self.assertEqual(done.returncode, 2)
        self.assertIn("no terminal to ask at: give --passphrase-file", done.stderr)
        self.assertEqual(len(done.stderr.splitlines()), 1)
        self.assertFalse(empty.exists())

    @in_thread
    def test_names_that_cannot_be(self):
        """Also one whose bytes are no text."""
        for name in ("a b", "", ".hidden", os.fsdecode(b"x\xff"), "a/b"):
            self.assertIn("cannot be a machine's name", self.admin("machine", "add", name, code=2))

    @in_thread
    def test_certificate_make_where_a_key_is(self):
        """The key that is there stays, and the way to another is told."""
        before = (self.home / "client.key").read_bytes()
        self.assertIn("away for a new one", self.admin("certificate", "make", code=2))
        self.assertEqual((self.home / "client.key").read_bytes(), before)

    @in_thread
    def test_append_port_in_the_invitation(self):
        """The wrong port of the right server is called that."""
        line = self.invitation().replace(str(self.server.restore_port), str(self.server.append_port))
        self.assertIn("is it the right port?", self.admin("connect", line, code=2))

    @in_thread
    def test_wrong_pin(self):
        """The server is not believed, and what it has seen of us is told: in TLS 1.3, the certificate."""
        said = self.admin("connect", self.invitation(b"x" * 32), code=3)
        self.assertIn("nothing was sent but this client's certificate", said)

    @in_thread
    def test_wrong_passkey(self):
        """A key that does not fit is the user's mistake, not the server's: exit code 2, not 3."""
        self.backed_up()
        (self.top / "wrong").write_bytes(b"wrong\n")
        said = self.admin("ls", "web01", "--passkey-file", "wrong", code=2)
        self.assertIn("the passphrase does not open the envelope", said)

    @in_thread
    def test_download_replaces_only_what_was_named(self):
        """A file that happens to have the name is left alone; one named with -o is replaced."""
        self.backed_up()
        (self.top / "new").write_bytes(b"mine")
        passkey = ("--passkey-file", "cards/web01.passkey")
        self.assertIn("there already", self.admin("download", "web01", "/etc/new", *passkey, code=2))
        self.assertEqual((self.top / "new").read_bytes(), b"mine")
        self.admin("download", "web01", "/etc/new", *passkey, "-o", "new")
        self.assertEqual((self.top / "new").read_bytes(), b"new")


class OutputTests(RecoverCase):
    """Where results go."""

    def test_reader_that_has_seen_enough(self):
        """`| head` ends the command quietly, and is no failure."""
        self.backup.small(listed({f"etc/{number:05}": b"" for number in range(5000)}))
        tool = [sys.executable, "-m", "mastodon.recover.main"]
        words = [*tool, "ls", self.spool, *self.keys(), "--path", "/etc", "-R"]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        self.backup.write_spool(self.spool)
        with subprocess.Popen(
            list(map(str, words)), env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as process:
            assert process.stdout is not None and process.stderr is not None
            self.assertTrue(process.stdout.readline())
            process.stdout.close()
            said = process.stderr.read().decode()
        self.assertEqual(process.returncode, 0, said)
        self.assertNotIn("rror", said)

    def test_standard_output_that_is_closed(self):
        """`>&-` is no bug of ours."""
        self.backup.small(listed(FILES))
        self.backup.write_spool(self.spool)
        tool = [sys.executable, "-m", "mastodon.recover.main"]
        words = [*tool, "snapshots", str(self.spool), "--url-file", str(self.top / "url"), "-q"]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        done = subprocess.run(
            ["sh", "-c", 'exec "$@" >&-', "sh", *words], env=environment, capture_output=True, text=True, check=False
        )
        self.assertEqual((done.returncode, done.stderr), (0, ""))

    def test_book_without_cards(self):
        """The option that is missing is named, with the names to choose from."""
        admin = AdminSecret(b"a" * 32)
        book = make_book(BookContent(()), admin.tenant, 1, b"", admin.book_key, admin.order_key, b"s" * 16)
        self.backup.write_spool(self.spool, book)
        secret = self.write("admin.secret", encrypt_secret(b"a" * 32, b"master", b"s" * 16, log_n=15).encode())
        words = ("--admin-secret", secret, "--admin-passphrase-file", self.write("master", b"master\n"))
        self.assertIn("give --machine NAME; the book has: no machine", self.run_tool("ls", self.spool, *words, code=2))


class AgentMistakes(CommandCase):
    """``mastodon-agent``."""

    def test_empty_path(self):
        """What an unset variable leaves behind is not the current directory."""
        done = self.agent(*self.given, "")
        self.assertEqual(done.returncode, 3)
        self.assertIn("a PATH is empty", done.stderr)

    def test_numbers(self):
        """A number of seconds is asked for by that name."""
        for value in ("x", "-1", "0", "nan", "inf"):
            done = self.agent(*self.given, self.tree, "--retry-for", value)
            self.assertEqual(done.returncode, 3, value)
            self.assertIn("expected a number of seconds above 0", done.stderr)


class WaitingTests(SynchronousTestCase):
    """A restore whose server went away."""

    def test_each_wait_is_told(self):
        """Who waits for us is told what we wait for, before each pause, and at the end that we gave up."""
        said: list[str] = []
        source = ServerSource(self.connect, sleep=lambda _: said.append("sleeps"), tell=said.append)
        self.connected = False
        error = self.assertRaises(Unreachable, source.who)
        self.assertIn("6 times in a row", str(error))
        self.assertEqual(said[:2], ["the server closed the connection; trying again in 1 s", "sleeps"])
        self.assertEqual(said[-2:], ["down; trying again in 16 s", "sleeps"])

    def connect(self) -> "ClosingStream":
        """Once a connection that ends at once, then none."""
        if self.connected:
            raise ConnectError("down")
        self.connected = True
        return ClosingStream()


class ClosingStream:
    """A connection that the server closes."""

    server_pin = b"p" * 32

    def send(self, data: bytes) -> None:
        """Taken, and lost."""

    def receive_pieces(self) -> list[bytes]:
        """The end."""
        return []

    def close(self) -> None:
        """Nothing to let go."""
