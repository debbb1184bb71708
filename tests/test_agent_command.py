"""The command as users meet it: exit codes, what is printed and what is not, and where its secrets come from."""

import contextlib
import datetime
import fcntl
import json
import os
import pty
import secrets
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from mastodon.host.certificates import make_identity
from mastodon.sealed.machine_secret import MachineSecret
from mastodon.sealed.snapshot import SnapshotStatus
from mastodon.sealed.url import MachineUrl, encode_key
from mastodon.wire.messages import Finish
from mastodon_agent.options import UsageError, parse_options
from mastodon_agent.progress import duration_text, line, size_text
from tests.commands import run_command
from tests.fake_append_server import FakeAppendServer, Vault

PASSKEY = b"open sesame"


class CommandCase(SynchronousTestCase):
    """A server, a machine's URL and passkey in files, a small tree."""

    def setUp(self) -> None:
        self.work = Path(os.path.abspath(self.mktemp()))
        self.tree = self.work / "tree"
        self.tree.mkdir(parents=True)
        (self.tree / "a").write_bytes(b"content of a")
        (self.tree / "b.o").write_bytes(b"object")
        self.raw = secrets.token_bytes(32)
        self.vault = Vault(MachineSecret(self.raw), PASSKEY)
        identity = make_identity("server", datetime.datetime.now(datetime.UTC))
        self.server = FakeAppendServer(self.vault, identity, self.work)
        self.addCleanup(self.server.close)
        self.url = MachineUrl("web01", self.raw, (("127.0.0.1", self.server.port),), (identity.pin,))
        for name, data in (("url", str(self.url).encode() + b"\n"), ("passkey", PASSKEY + b"\n")):
            path = self.work / name
            path.write_bytes(data)
            path.chmod(0o600)
        self.given = ["--url-file", self.work / "url", "--passkey-file", self.work / "passkey"]

    def agent(self, *words: object, env: dict[str, str] | None = None) -> "subprocess.CompletedProcess[str]":
        """One run of the command; no secret and no traceback may ever show."""
        given = ["--state", self.work / "state", *words]
        done = run_command("mastodon_agent.main", given, self.environment(env), self.work)
        for secret in (encode_key(self.raw), PASSKEY.decode(), "Traceback"):
            self.assertNotIn(secret, done.stdout + done.stderr)
        return done

    def words(self, *words: object) -> list[str]:
        state = ["--state", str(self.work / "state")]
        return [sys.executable, "-m", "mastodon_agent.main", *state, *map(str, words)]

    def wait_for_connection(self, process: "subprocess.Popen[Any]", before: int = 0) -> None:
        """Until the command has connected."""
        while self.server.connections == before:
            if process.poll() is not None:
                self.fail(f"the command ended with {process.returncode}")
            time.sleep(0.01)

    @staticmethod
    def environment(more: dict[str, str] | None = None) -> dict[str, str]:
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("MASTODON", "CREDENTIALS", "JOURNAL"))
        }
        return {**kept, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), **(more or {})}


class RunTests(CommandCase):
    """Runs against a server."""

    def test_promise_p3_no_name_in_the_last_word(self) -> None:
        """How a run ended is told to the server without the names that an error of the system's holds."""
        state = self.work / "state"
        state.mkdir(mode=0o700)
        (state / "contents").symlink_to(self.tree / "a")
        done = self.agent(*self.given, self.tree)
        self.assertEqual(done.returncode, 2)
        self.assertIn(str(state), done.stderr)
        (last,) = [one for one in self.server.heard if isinstance(one, Finish)]
        self.assertEqual((last.exit_code, last.text), (2, "OSError"))

    def test_complete(self):
        """Exit 0, one line on standard error, nothing on standard output; the envelope opens with the passkey."""
        done = self.agent(*self.given, "-v", self.tree)
        self.assertEqual((done.returncode, done.stdout), (0, ""), done.stderr)
        self.assertIn("snapshot 1 is complete", done.stderr)
        self.assertEqual(self.vault.content(os.fsencode(self.tree / "a")), b"content of a")
        done = self.agent(*self.given, "-q", self.tree)
        self.assertEqual((done.returncode, done.stdout + done.stderr), (0, ""))

    def test_cron_mails_nothing_when_all_is_well(self):
        """Where nobody looks, a complete run is silent; under systemd it leaves a line in the journal."""
        done = self.agent(*self.given, self.tree)
        self.assertEqual((done.returncode, done.stdout + done.stderr), (0, ""))
        done = self.agent(*self.given, self.tree, env={"JOURNAL_STREAM": "8:1"})
        self.assertIn("snapshot 2 is complete", done.stderr)

    def test_partial(self):
        """A missing path: exit 1, named also with -q."""
        done = self.agent(*self.given, "-q", self.tree, self.work / "absent")
        self.assertEqual(done.returncode, 1)
        self.assertIn(str(self.work / "absent"), done.stderr)
        self.assertEqual(self.vault.record().status, SnapshotStatus.PARTIAL)

    def test_no_connection(self):
        """Nobody listens: exit 4 and the reason."""
        self.server.close()
        done = self.agent(*self.given, "--retry-for", "0.1", self.tree)
        self.assertEqual(done.returncode, 4)
        self.assertIn("127.0.0.1", done.stderr)

    def test_wrong_pin(self):
        """Another key than the URL names: exit 4, at once."""
        wrong = MachineUrl("web01", self.raw, self.url.hosts, (b"p" * 32,))
        (self.work / "url").write_text(str(wrong))
        done = self.agent(*self.given, self.tree)
        self.assertEqual(done.returncode, 4)
        self.assertIn("nothing was sent", done.stderr)

    def test_json(self):
        """Only JSON lines on standard output, the last one a summary; odd names are told whole."""
        odd = os.path.join(os.fsencode(self.tree), b"odd\xff\n")
        os.symlink("x", odd)
        done = self.agent(*self.given, "--json", self.tree, self.work / "absent")
        events = [json.loads(text) for text in done.stdout.splitlines()]
        summary = events[-1]
        self.assertEqual(
            (summary["event"], summary["status"], summary["snapshot"], summary["counts"]),
            ("summary", "partial", 1, {"missing_path": 1}),
        )  # fmt: skip
        notes = [one for one in events if one["event"] == "note"]
        self.assertEqual([(one["reason"], one["path"]) for one in notes], [("missing_path", str(self.work / "absent"))])

    def test_json_errors(self):
        """An error is an event too."""
        self.server.close()
        done = self.agent(*self.given, "--json", "--retry-for", "0.1", self.tree)
        self.assertEqual(json.loads(done.stdout.splitlines()[-1])["event"], "error")

    def test_second_run_says_so(self):
        """While one run holds the lock, another does nothing and exits 0."""
        (self.work / "state").mkdir()
        with open(self.work / "state/lock", "w") as held:
            fcntl.flock(held, fcntl.LOCK_EX)
            done = self.agent(*self.given, self.tree)
        self.assertEqual(done.returncode, 0)
        self.assertIn("another run", done.stderr)
        self.assertEqual(self.vault.snapshots, [])

    def test_url_and_passkey_from_everywhere(self):
        """Argument, environment, files named there, systemd credentials."""
        credentials = self.work / "credentials"
        credentials.mkdir()
        for name in ("url", "passkey"):
            (credentials / name).write_bytes((self.work / name).read_bytes())
        passkey = {"MASTODON_PASSKEY_FILE": str(self.work / "passkey")}
        for words, environment in (
            ([str(self.url), "--passkey-file", self.work / "passkey"], {}),
            ([], {"MASTODON_URL": str(self.url), **passkey}),
            ([], {"MASTODON_URL_FILE": str(self.work / "url"), **passkey}),
            ([], {"CREDENTIALS_DIRECTORY": str(credentials)}),
        ):
            done = self.agent(*words, self.tree, env=environment)
            self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(len(self.vault.snapshots), 4)
        self.assertEqual(len(self.vault.pairs), 1)

    def test_another_passkey_makes_a_new_pair(self):
        """The server's pair is taken back only if it fits the present passkey; all is sent again, and opens."""
        self.agent(*self.given, self.tree)
        (self.work / "passkey").write_bytes(b"another one\n")
        done = self.agent(*self.given, self.tree)
        self.assertEqual(done.returncode, 0)
        self.assertIn("new sealing pair", done.stderr)
        self.assertEqual(len(self.vault.pairs), 2)
        self.vault.passphrase = b"another one"
        self.assertEqual(self.vault.content(os.fsencode(self.tree / "a")), b"content of a")

    def test_interrupted(self):
        """SIGTERM and SIGINT end a run with exit 2 and a line, and leave no process behind."""
        self.server.faults.silent = True
        for number in (signal.SIGTERM, signal.SIGINT):
            process = subprocess.Popen(
                self.words(*self.given, self.tree), env=self.environment(), stderr=subprocess.PIPE, text=True
            )
            before = self.server.connections
            self.wait_for_connection(process, before)
            process.send_signal(number)
            _, said = process.communicate(timeout=60)
            self.assertEqual(process.returncode, 2, said)
            self.assertIn("interrupted", said)

    def test_killed_at_once(self):
        """kill -9 of the run ends its reader too, and the next run is complete."""
        self.server.faults.silent = True
        process = subprocess.Popen(
            self.words(*self.given, self.tree), env=self.environment(), stderr=subprocess.DEVNULL
        )
        self.wait_for_connection(process)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        process.kill()
        process.wait()
        for child in children:
            for _ in range(200):
                with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                    if "Z" not in Path(f"/proc/{child}/stat").read_text().split(")")[1]:
                        time.sleep(0.05)
                        continue
                break
            else:
                self.fail("the reader process is still there")
        self.server.faults.silent = False
        self.assertEqual(self.agent(*self.given, self.tree).returncode, 0)

    def test_progress_bar_on_a_terminal(self):
        """On a terminal there is a bar that goes away; NO_COLOR takes the color out of it."""
        for number in range(200):
            (self.tree / f"f{number}").write_bytes(os.urandom(30_000))
        for environment in ({}, {"NO_COLOR": "1"}):
            with contextlib.suppress(FileNotFoundError):
                for name in os.listdir(self.work / "state"):
                    os.unlink(self.work / "state" / name)
            master, slave = pty.openpty()
            process = subprocess.Popen(
                self.words(*self.given, self.tree), env=self.environment({"TERM": "xterm", **environment}), stderr=slave
            )
            os.close(slave)
            shown = b""
            with contextlib.suppress(OSError):
                while piece := os.read(master, 4096):
                    shown += piece
            os.close(master)
            self.assertEqual(process.wait(), 0)
            self.assertIn(b"\r\x1b[K", shown)
            self.assertEqual(b"\x1b[36m" in shown, not environment)


class LocalTests(CommandCase):
    """What needs no server."""

    def test_dry_run(self):
        """It names what would be read, reads and sends nothing, and needs no passkey."""
        done = self.agent("--dry-run", "--exclude", "*.o", self.tree)
        self.assertEqual(done.returncode, 0)
        self.assertIn(str(self.tree / "a"), done.stdout)
        self.assertNotIn("b.o", done.stdout)
        self.assertIn("1 files with 12 bytes", done.stdout)
        self.assertEqual(self.server.connections, 0)
        done = self.agent("--dry-run", "--json", self.tree)
        events = [json.loads(text) for text in done.stdout.splitlines()]
        self.assertEqual(events[-1]["files"], 2)

    def test_dry_run_after_a_run(self):
        """With the URL it knows the state: what did not change would not be read."""
        old = time.time() - 100
        for name in ("a", "b.o"):
            os.utime(self.tree / name, (old, old))
        time.sleep(2.1)
        self.agent(*self.given, self.tree)
        (self.tree / "new").write_bytes(b"new")
        done = self.agent(*self.given, "--dry-run", self.tree)
        self.assertIn("1 files with 3 bytes", done.stdout)

    def test_explain(self):
        """One line that names the rule."""
        done = self.agent("--explain", self.tree / "b.o", "--exclude", "*.o", self.tree)
        self.assertEqual(done.returncode, 0)
        self.assertIn("left out by the pattern *.o", done.stdout)

    def test_usage(self):
        """What is wrong or missing: exit 3, and what to do."""
        for words, said in (
            ([], "path"),
            ([self.tree], "--url-file"),
            (["--url-file", self.work / "url"], "path"),
            (["--url-file", self.work / "url", self.tree], "without encryption"),
            (["--url-file", self.work / "absent", self.tree], "absent"),
            (["mastodon://web01:short@host/", self.tree], "43 characters"),
            ([*self.given, "--exclude", "[a", self.tree], "not closed"),
            ([*self.given, "--recipient", self.work / "absent", self.tree], "absent"),
            ([*self.given, "--no-such-option", self.tree], "--no-such-option"),
            ([*self.given, "--retry-for", "soon", self.tree], "--retry-for"),
            ([*self.given, "--exclude-if-present", "a/b", self.tree], "without slashes"),
            (["--state", self.tree / "a", *self.given, self.tree], "--state"),
        ):
            done = self.agent(*words)
            self.assertEqual(done.returncode, 3, (words, done.stderr))
            self.assertIn(said, done.stderr)

    def test_bad_passkeys(self):
        """Empty, with a line break or a zero byte inside, or too long: refused before anything is done."""
        for passkey in (b"", b"\n", b"a\nb\n", b"a\r\n", b"a\0b", b"x" * 300):
            (self.work / "passkey").write_bytes(passkey)
            self.assertEqual(self.agent(*self.given, self.tree).returncode, 3, passkey)

    def test_recipient_that_is_no_key(self):
        """gpg's refusal becomes a line."""
        (self.work / "key").write_bytes(b"not a key")
        done = self.agent(*self.given, "--recipient", self.work / "key", self.tree)
        self.assertEqual(done.returncode, 2)
        self.assertIn("no OpenPGP public key", done.stderr)

    def test_secret_files_that_others_may_read(self):
        """They are used, and the user is told."""
        (self.work / "url").chmod(0o644)
        self.assertIn("chmod 600", self.agent(*self.given, self.tree).stderr)

    def test_secret_leaves_the_command_line(self):
        """A URL given as an argument does not stay where ps shows it."""
        self.server.faults.silent = True
        process = subprocess.Popen(
            self.words(self.url, "--passkey-file", self.work / "passkey", self.tree),
            env=self.environment(), stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            self.wait_for_connection(process)
            shown = Path(f"/proc/{process.pid}/cmdline").read_bytes()
        finally:
            process.kill()
            process.wait()
        self.assertIn(b"mastodon://web01:xxxxxxxx", shown)
        self.assertNotIn(encode_key(self.raw).encode(), shown)


class OptionsTests(SynchronousTestCase):
    """Details of the command line."""

    def test_precedence(self):
        """What is named on the command line wins over the environment."""
        work = Path(os.path.abspath(self.mktemp()))
        work.mkdir()
        urls = [MachineUrl(name, secrets.token_bytes(32), (("h", 1),)) for name in ("one", "two")]
        (work / "url").write_text(str(urls[0]))
        environment = {"MASTODON_URL": str(urls[1])}
        given = parse_options(["--dry-run", "--url-file", str(work / "url"), "/x"], environment)
        self.assertEqual(given.url, urls[0])
        self.assertEqual(parse_options(["--dry-run", "/x"], environment).url, urls[1])

    def test_relative_paths_are_made_absolute(self):
        """Also with symlinks on the way, while the last name is kept as it is."""
        work = Path(os.path.realpath(self.mktemp()))
        (work / "real/dir").mkdir(parents=True)
        (work / "link").symlink_to("real")
        (work / "real/last").symlink_to("dir")
        given = parse_options(["--dry-run", str(work / "link/last"), str(work / "link/dir/")], {})
        parts = tuple(map(os.fsencode, work.parts[1:]))
        self.assertEqual(given.roots(), ((*parts, b"real", b"dir"), (*parts, b"real", b"last")))

    def test_bad_numbers(self):
        """Times are positive."""
        for value in ("-1", "0", "x", "inf"):
            self.assertRaises(UsageError, parse_options, ["--dry-run", "--retry-for", value, "/x"], {})


class ProgressTests(SynchronousTestCase):
    """The bar's text."""

    def test_line(self):
        """With a total there is a bar, a share and the time left; without, what is known."""
        self.assertEqual(
            line(10, 500, 1000, 5.0), "[############............]  50% 10 files, 500 B, 100 B/s, 0:05 left"
        )
        self.assertEqual(line(10, 500, 0, 5.0), "10 files, 500 B, 100 B/s")
        self.assertIn("100%", line(10, 2000, 1000, 5.0))

    def test_units(self):
        """Sizes and durations as people read them."""
        self.assertEqual([size_text(n) for n in (0, 999, 1500, 2 * 10**12)], ["0 B", "999 B", "1.5 kB", "2.0 TB"])
        self.assertEqual([duration_text(n) for n in (5, 65, 3725)], ["0:05", "1:05", "1:02:05"])
