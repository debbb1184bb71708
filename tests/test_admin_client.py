"""mastodon-admin as a user runs it, against a real daemon over TLS."""

import datetime
import json
import os
import stat
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred

from mastodon.daemon.heads import load_ledger_key
from mastodon.host.certificates import make_identity, pin_text, write_identity
from mastodon.sealed.ledger_head import LedgerHeadRecord
from mastodon.sealed.url import parse_url
from mastodon.wire.messages import Ack, Committed, NewPair, NewSnapshot, PackEnd, Piece
from tests.commands import run_command
from tests.restore_case import FILES, listed
from tests.running_server import ServerTestCase
from tests.tiny_backup import TinyBackup

MADE: dict[str, bytes] = {}
"""The files of an admin's new home."""


class AdminCase(ServerTestCase):
    """An admin's home beside a running server. All blocking work runs in one thread beside the reactor."""

    def setUp(self):
        self.top = Path(self.mktemp()).resolve()
        self.top.mkdir(parents=True)
        (self.top / "master").write_bytes(b"master passphrase\n")
        self.home = self.top / "admin"
        return super().setUp()

    async def _start(self) -> None:
        await super()._start()
        await self.thread(self.make_home)
        await self.server.running.store.add_admin("demo", (self.home / "request").read_bytes())
        await self.thread(lambda: self.admin("connect", self.invitation()))

    def make_home(self) -> None:
        """What `init` makes; once for all tests."""
        if not MADE:
            self.admin("init", "--label", "laptop")
            MADE.update({path.name: path.read_bytes() for path in self.home.iterdir()})
            return
        self.home.mkdir(mode=0o700)
        for name, content in MADE.items():
            (self.home / name).touch(mode=0o600)
            (self.home / name).write_bytes(content)

    def invitation(self, pin: bytes = b"") -> str:
        """What the operator hands back."""
        pin = pin or self.server.identity.pin
        return f"mastodon+admin://demo@127.0.0.1:{self.server.restore_port}/?server={pin_text(pin)}"

    def admin(self, *words: object, code: int = 0, home: Path | None = None) -> str:
        """Run mastodon-admin; what it said on stdout and stderr."""
        environment = {
            **os.environ,
            "MASTODON_ADMIN_HOME": str(home or self.home),
            "MASTODON_ADMIN_PASSPHRASE_FILE": str(self.top / "master"),
        }
        done = run_command("mastodon.admin.main", words, environment, self.top, merge=True)
        said = done.stdout
        self.assertEqual(done.returncode, code, said)
        self.assertNotIn("Traceback", said)
        return said

    def add_machine(self) -> TinyBackup:
        """web01, added and with a pair, but without a snapshot."""
        self.admin("machine", "add", "web01", "--out", "cards")
        url = parse_url((self.top / "cards/web01.url").read_text())
        passkey = (self.top / "cards/web01.passkey").read_bytes().removesuffix(b"\n")
        return TinyBackup(secret=url.secret, passphrase=passkey)

    def append(self, backup: TinyBackup) -> None:
        """Send everything that a tiny backup has made."""
        with self.server.append_peer() as peer:
            peer.enter(backup.secret)
            for record, envelope, _ in backup.made.pairs:
                peer.send(NewPair(record, envelope))
                peer.expect(Ack)
            for pack, data in backup.made.packs.items():
                peer.send(*(Piece(data[at : at + 100_000]) for at in range(0, len(data), 100_000)), PackEnd(pack))
                peer.expect(Ack)
            for record, _ in backup.made.snapshots:
                peer.send(NewSnapshot(record))
                peer.expect(Committed)

    def backed_up(self) -> TinyBackup:
        """web01 with two snapshots."""
        backup = self.add_machine()
        backup.small(listed(FILES))
        backup.small(listed(FILES | {"etc/new": b"new"}))
        self.append(backup)
        return backup

    def files(self, name: str = "out") -> dict[str, bytes]:
        """What was restored."""
        out = self.top / name
        return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}


def in_thread(test: Any) -> Any:
    """A test whose body blocks: it runs in a thread, the daemon in the reactor."""

    def run(self: AdminCase) -> Deferred[Any]:
        return self.thread(lambda: test(self))

    run.__doc__ = test.__doc__
    return run


class HomeTests(AdminCase):
    """init, connect, machine add."""

    @in_thread
    def test_files_are_private(self):
        """Every file of the home, and what machine add writes, is readable by its owner alone."""
        self.add_machine()
        for path in (*self.home.iterdir(), *(self.top / "cards").iterdir()):
            self.assertEqual(stat.S_IMODE(path.stat().st_mode), 0o600, path)

    @in_thread
    def test_successor_key_is_in_no_file(self):
        """The successor key is printed once and written nowhere; init does not run twice."""
        other = self.top / "other"
        said = self.admin("init", home=other)
        key = said.split("successor key: ")[1].split()[0]
        self.assertEqual(len(key), 43)
        for path in other.iterdir():
            self.assertNotIn(key.encode(), path.read_bytes())
        self.assertIn("is there already", self.admin("init", home=other, code=2))

    @in_thread
    def test_machine_add_twice_changes_nothing(self):
        """Adding again changes neither book, enrolment nor files."""
        first = json.loads(self.admin("machine", "add", "web01", "--out", "cards", "--json").splitlines()[-1])
        before = {path: path.read_bytes() for path in (*self.home.iterdir(), *(self.top / "cards").iterdir())}
        second = json.loads(self.admin("machine", "add", "web01", "--out", "cards", "--json").splitlines()[-1])
        after = {path: path.read_bytes() for path in (*self.home.iterdir(), *(self.top / "cards").iterdir())}
        self.assertEqual((first["machine"], first["added"], second["added"]), (second["machine"], True, False))
        self.assertEqual(before, after)
        self.assertRegex(first["crontab"], r"^\d+ \* \* \* \* root mastodon-agent --url-file ")

    @in_thread
    def test_machine_add_goes_on_after_an_interruption(self):
        """Stopped after the card is in the book and before the enrolment, the same command completes it."""
        self.admin("machine", "add", "web01", "--out", "cards")
        taken = next(path for path in (self.top / "cards").iterdir() if path.suffix == ".url").read_text().strip()
        passkey = (self.top / "cards/web01.passkey").read_bytes().strip()
        pending = {"url": taken, "passkey": passkey.hex(), "handle": "00" * 16, "time_ns": 1}
        (self.home / f"adding-{b'web01'.hex()}.json").write_text(json.dumps(pending))
        said = self.admin("machine", "add", "web01", "--out", "again")
        self.assertIn("machine id", said)
        self.assertEqual((self.top / "again/web01.url").read_text().strip(), taken)
        self.assertFalse(list(self.home.glob("adding-*")))

    @in_thread
    def test_passkey_options(self):
        """A passkey of one's own, none at all, and nonsense."""
        (self.top / "mine").write_bytes(b"my own passkey")
        self.admin("machine", "add", "a", "--passkey-file", "mine", "--out", "cards")
        self.assertEqual((self.top / "cards/a.passkey").read_bytes(), b"my own passkey\n")
        said = self.admin("machine", "add", "b", "--no-passkey", "--out", "cards")
        self.assertIn("--recipient", said)
        self.assertFalse((self.top / "cards/b.passkey").exists())
        self.admin("machine", "add", "c", "--no-passkey", "--passkey-file", "mine", code=2)
        self.admin("machine", "add", "../etc", code=2)
        (self.top / "mine").write_bytes(b"two\nlines")
        self.assertIn("line break", self.admin("machine", "add", "d", "--passkey-file", "mine", code=2))

    @in_thread
    def test_list_and_show(self):
        """Names come from the cards, states from the server."""
        self.backed_up()
        fields = json.loads(self.admin("machine", "list", "--json"))
        self.assertEqual((fields["name"], fields["state"], fields["snapshots"]), ("web01", "active", 2))
        shown = json.loads(self.admin("machine", "show", "web01", "--json"))
        self.assertEqual([pair["number"] for pair in shown["pairs"]], [1])
        self.assertIn("no machine 'web02' is known here", self.admin("machine", "show", "web02", code=2))

    @in_thread
    def test_certificates_of_further_devices(self):
        """A device that another one has added may read; once removed it may not, and cannot be added again."""
        self.backed_up()
        other = self.top / "other"
        pin = self.admin("certificate", "make", "--label", "desk", home=other).strip()
        for name in ("admin.json", "server.json", "cards.json"):
            (other / name).write_bytes((self.home / name).read_bytes())
        self.assertIn("refused", self.admin("snapshots", "web01", home=other, code=2))
        self.admin("certificate", "add", pin, "--label", "desk")
        self.admin("certificate", "add", pin, "--label", "desk")
        self.assertEqual(len(self.admin("snapshots", "web01", "-q", home=other).splitlines()), 2)
        self.admin("certificate", "remove", pin)
        self.assertIn("refused", self.admin("snapshots", "web01", home=other, code=2))
        self.assertIn("for ever", self.admin("certificate", "add", pin, code=2))
        self.assertIn("is no pin", self.admin("certificate", "remove", "nonsense", code=2))
        (own,) = [json.loads(line)["pin"] for line in self.admin("certificate", "list", "--json").splitlines()]
        self.assertIn("this very device", self.admin("certificate", "remove", own, code=2))
        lines = [json.loads(line) for line in self.admin("certificate", "list", "--json").splitlines()]
        self.assertEqual([(one["label"], one["role"], one["own"]) for one in lines], [("laptop", "admin", True)])

    @in_thread
    def test_machine_is_disabled(self):
        """Disabled and enabled by name; the list shows it; a name that is not known is told."""
        self.backed_up()
        self.assertIn("web01 is disabled", self.admin("machine", "disable", "web01"))
        self.assertEqual(json.loads(self.admin("machine", "list", "--json"))["state"], "disabled")
        self.assertEqual(len(self.admin("snapshots", "web01", "-q").splitlines()), 2)
        self.admin("machine", "enable", "web01")
        self.assertEqual(json.loads(self.admin("machine", "list", "--json"))["state"], "active")
        self.assertIn("no machine 'web02'", self.admin("machine", "disable", "web02", code=2))

    @in_thread
    def test_lost_laptop(self):
        """A new home with the admin secret and a registered certificate reads the book and restores."""
        self.backed_up()
        other = self.top / "other"
        other.mkdir(mode=0o700)
        for name in ("admin.secret", "admin.json", "client.key", "client.crt", "server.json"):
            (other / name).write_bytes((self.home / name).read_bytes())
            (other / name).chmod(0o600)
        self.assertIn("has no card here", self.admin("machine", "list", home=other))
        self.assertIn("web01", self.admin("machine", "list", "--book", home=other))
        self.admin("restore", "web01", "--to", "out", home=other)
        self.assertEqual(self.files(), FILES | {"etc/new": b"new"})


class ServerTests(AdminCase):
    """What the client demands of the server."""

    @in_thread
    def test_promise_p5_wrong_pin(self):
        """A server with another key than the invitation names is sent nothing."""
        said = self.admin("connect", self.invitation(b"p" * 32), code=3)
        self.assertIn("nothing was sent", said)

    @in_thread
    def test_promise_p6_unregistered_key(self):
        """A client whose key the server does not know is told so."""

        for name in ("client.key", "client.crt"):
            (self.home / name).unlink()
        stranger = make_identity("stranger", datetime.datetime.now(datetime.UTC))
        write_identity(stranger, self.home / "client.key", self.home / "client.crt")
        said = self.admin("machine", "list", code=2)
        self.assertIn("refused", said)

    @in_thread
    def test_not_an_invitation(self):
        """Anything else than an invitation is refused with what was expected."""
        for line in ("", "mastodon+admin://demo@host:1/", "https://host/", "mastodon+admin://d@h:1/?server=AAAA"):
            self.admin("connect", line, code=2)

    @in_thread
    def test_server_that_is_down(self):
        """No server is one clear line and exit code 2."""
        line = f"mastodon+admin://demo@127.0.0.1:1/?server={pin_text(b'p' * 32)}"
        self.assertIn("127.0.0.1:1: Connection refused", self.admin("connect", line, code=2))


class ReadingTests(AdminCase):
    """snapshots, ls, find, restore, download."""

    @in_thread
    def test_everyday_reading(self):
        """With the cache and the passkey alone everything is listed, found and restored: no admin secret."""
        self.backed_up()
        (self.home / "admin.secret").unlink()
        key = ("--passkey-file", "cards/web01.passkey")
        lines = [json.loads(line) for line in self.admin("snapshots", "web01", "--json").splitlines()]
        self.assertEqual([(one["sequence"], one["status"]) for one in lines], [(1, "complete"), (2, "complete")])
        said = self.admin("ls", "web01", "/etc", *key, "-q")
        self.assertEqual([line.split()[-1] for line in said.splitlines()], ["hostname", "new", "passwd"])
        said = self.admin("find", "web01", "*.html", *key, "--json")
        self.assertEqual(json.loads(said)["path"], "/srv/index.html")
        self.admin("restore", "web01", *key, "--to", "out")
        self.assertEqual(self.files(), FILES | {"etc/new": b"new"})

    @in_thread
    def test_passkey_from_the_card(self):
        """Without a passkey file the card's passkey is used, from the book."""
        self.backed_up()
        self.admin("restore", "web01", "/etc/new", "--to", "out")
        self.assertEqual(self.files(), {"etc/new": b"new"})

    @in_thread
    def test_snapshot_by_number_and_time(self):
        """A snapshot is named by number, time or hash."""
        self.backed_up()
        lines = [json.loads(line) for line in self.admin("snapshots", "web01", "--json").splitlines()]
        taken_ns = max(lines[0]["time_ns"], lines[0]["server_time_ns"])
        second = datetime.datetime.fromtimestamp(taken_ns // 10**9, datetime.UTC)
        stamp = (second + datetime.timedelta(microseconds=taken_ns // 1000 % 10**6 + 1)).isoformat()
        for wanted in ("1", stamp, lines[0]["hash"][:12]):
            said = self.admin("ls", "web01", "/etc", "--snapshot", wanted, "-q").splitlines()
            # The second snapshot is older than that by the machine's clock alone, which is told.
            told = [line for line in said if "name it by its number" in line]
            self.assertEqual(len(told), wanted == stamp)
            self.assertEqual([line.split()[-1] for line in said if line not in told], ["hostname", "passwd"], wanted)
        self.assertIn("there is no snapshot 7: there are 1 (", self.admin("ls", "web01", "--snapshot", "7", code=2))
        self.assertIn("names no snapshot", self.admin("ls", "web01", "--snapshot", "soon", code=2))
        self.assertIn("or before", self.admin("ls", "web01", "--snapshot", "1999-01-01", code=2))

    @in_thread
    def test_dry_run_and_missing_path(self):
        """A dry run writes nothing; a PATH that is not there is exit code 1."""
        self.backed_up()
        said = self.admin("restore", "web01", "--to", "out", "--dry-run")
        self.assertIn("nothing was written", said)
        self.assertFalse((self.top / "out").exists())
        said = self.admin("restore", "web01", "/etc/new", "/no/such", "--to", "out", code=1)
        self.assertIn("/no/such: there is nothing of that name", said)
        self.assertEqual(self.files(), {"etc/new": b"new"})

    @in_thread
    def test_restore_says_json(self):
        """--json gives one object that says what was done and what was not."""
        self.backed_up()
        fields = json.loads(self.admin("restore", "web01", "--to", "out", "--json"))
        self.assertEqual((fields["complete"], fields["files"], fields["lost"]), (True, 4, []))
        again = json.loads(self.admin("restore", "web01", "--to", "out", "--json"))
        self.assertEqual((again["files"], again["kept_files"]), (0, 4))

    @in_thread
    def test_download(self):
        """One file, to a file of its name, a named one, or stdout."""
        self.backed_up()
        self.admin("download", "web01", "/etc/passwd", "-q")
        self.assertEqual((self.top / "passwd").read_bytes(), FILES["etc/passwd"])
        self.admin("download", "web01", "/etc/passwd", "-q", "-o", "elsewhere")
        self.assertEqual((self.top / "elsewhere").read_bytes(), FILES["etc/passwd"])
        self.assertEqual(self.admin("download", "web01", "/etc/hostname", "-q", "-o", "-"), "web01\n")
        self.assertIn("a directory, not a file", self.admin("download", "web01", "/etc", code=2))
        self.assertIn("nothing of that name", self.admin("download", "web01", "/nowhere", code=2))

    @in_thread
    def test_promise_p5_older_book_is_refused(self):
        """A server that shows an older book than was seen is refused."""
        self.add_machine()
        heads = json.loads((self.home / "heads.json").read_text())
        heads["book"]["version"] += 1
        (self.home / "heads.json").write_text(json.dumps(heads))
        self.assertIn("the server went back", self.admin("machine", "list", "--book", code=3))
        heads["book"] = {"version": 1, "hash": "00" * 32}
        (self.home / "heads.json").write_text(json.dumps(heads))
        self.assertIn("was exchanged", self.admin("machine", "add", "web02", code=3))

    @in_thread
    def test_promise_p5_older_ledger_is_told(self):
        """A server whose ledger is behind what it showed before is told, each time, until it is told to be taken."""
        self.backed_up()
        self.assertNotIn("ledger", self.admin("snapshots", "web01"))
        heads = json.loads((self.home / "heads.json").read_text())
        shown = LedgerHeadRecord.open(bytes.fromhex(heads["ledger"]))
        key = load_ledger_key(self.server.config.keys.ledger_key)
        ((chain, sequence, digest),) = shown.heads
        ahead = LedgerHeadRecord(((chain, sequence + 100, digest),), shown.time_ns, shown.ledger_key).sign(key)
        (self.home / "heads.json").write_text(json.dumps(heads | {"ledger": ahead.hex()}))
        for _ in range(2):
            self.assertIn("ledger is older", self.admin("snapshots", "web01"))
        self.admin("snapshots", "web01", "--allow-older")
        self.assertNotIn("ledger", self.admin("snapshots", "web01"))

    @in_thread
    def test_promise_p5_older_head_is_refused(self):
        """A server that shows older snapshots than were seen is refused, until it is told to be taken."""
        self.backed_up()
        self.admin("snapshots", "web01")
        heads = json.loads((self.home / "heads.json").read_text())
        for head in heads["machines"].values():
            head["sequence"] += 1
        (self.home / "heads.json").write_text(json.dumps(heads))
        self.assertIn("withheld", self.admin("restore", "web01", "--to", "out", code=3))
        self.assertFalse((self.top / "out").exists())
        self.admin("restore", "web01", "--to", "out", "--allow-older")
        self.assertEqual(self.files(), FILES | {"etc/new": b"new"})
