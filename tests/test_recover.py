"""Recovery from spools alone: by the tool as a user runs it, from whole and damaged spools, by every road."""

import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from twisted.trial.unittest import SkipTest, SynchronousTestCase

from mastodon.host.openpgp import export_minimal, seal
from mastodon.host.spool_layout import LEDGER, PACKS
from mastodon.sealed.admin_secret import AdminSecret, encrypt_secret
from mastodon.sealed.book import BookContent, make_book
from mastodon.sealed.ledger_entries import BookSwapped
from mastodon.sealed.pack import INDEX_ROW, TRAILER
from tests.commands import run_command
from tests.restore_case import FILES, listed
from tests.tiny_backup import PASSPHRASE, TinyBackup


class RecoverCase(SynchronousTestCase):
    """A spool with one machine's two snapshots, and the tool."""

    def setUp(self) -> None:
        self.top = Path(tempfile.mkdtemp(prefix="recover-"))
        self.addCleanup(shutil.rmtree, self.top)
        self.backup = TinyBackup()
        self.backup.small(listed(FILES))
        self.backup.small(listed(FILES | {"etc/new": b"new"}))
        self.spool = self.top / "spool"
        self.write("passkey", PASSPHRASE)
        self.write("url", str(self.backup.url).encode())

    def write(self, name: str, data: bytes) -> Path:
        """A file for an option."""
        path = self.top / name
        path.write_bytes(data)
        return path

    def run_tool(self, *words: object, code: int = 0) -> str:
        """Run the tool; stdout and stderr together."""
        done = run_command("mastodon.recover.main", words, os.environ, self.top, merge=True)
        self.assertEqual(done.returncode, code, done.stdout)
        self.assertNotIn("Traceback", done.stdout)
        return done.stdout

    def keys(self) -> tuple[object, ...]:
        """The usual options: URL and passkey."""
        return "--url-file", self.top / "url", "--passkey-file", self.top / "passkey"

    def recover(self, *words: object, code: int = 0, spool: Path | None = None) -> str:
        """Restore the latest snapshot into `out`."""
        shutil.rmtree(self.top / "out", ignore_errors=True)
        return self.run_tool("restore", spool or self.spool, *words, "--to", self.top / "out", code=code)

    def files(self) -> dict[str, bytes]:
        """What was restored."""
        out = self.top / "out"
        return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}


class RoadsTests(RecoverCase):
    """What proves the machine's key, and what opens its envelope."""

    def setUp(self) -> None:
        super().setUp()
        self.admin = AdminSecret(b"a" * 32)
        self.write("admin.secret", encrypt_secret(b"a" * 32, b"master", b"s" * 16, log_n=15).encode())
        self.write("master", b"master\n")
        self.backup.write_spool(self.spool, self.backup.book(self.admin))

    def test_promise_p10_url_and_passkey(self):
        """With the URL and the passkey the newest snapshot comes back, or the one that is named."""
        self.assertIn("snapshot 2 of", self.recover(*self.keys()))
        self.assertEqual(self.files(), FILES | {"etc/new": b"new"})
        self.recover(*self.keys(), "--snapshot", "1", "--path", "/etc")
        self.assertEqual(list(self.files()), ["etc/hostname", "etc/passwd"])

    def test_promise_p10_machine_id_and_passkey(self):
        """With the whole machine id the origin is proven; with its beginning, or none, it is told as unproven."""
        machine = self.backup.machine.hex()
        passkey = ("--passkey-file", self.top / "passkey")
        self.assertNotIn("UNPROVEN", self.recover("--machine", machine, *passkey))
        self.assertEqual(self.files(), FILES | {"etc/new": b"new"})
        self.assertIn("ORIGIN UNPROVEN", self.recover("--machine", machine[:10], *passkey))
        self.assertIn("ORIGIN UNPROVEN", self.recover(*passkey))
        self.assertIn("know no machine", self.recover("--machine", "0" * 64, *passkey, code=2))

    def test_promise_p10_admin_secret_alone(self):
        """The admin secret is enough: names, ids and passkeys stand in the book, which lies in the ledger."""
        secret = ("--admin-secret", self.top / "admin.secret", "--admin-passphrase-file", self.top / "master")
        self.assertIn("web01", self.run_tool("list", self.spool, *secret))
        self.recover("--machine", "web01", *secret)
        self.assertEqual(self.files(), FILES | {"etc/new": b"new"})
        self.assertIn("the book has: web01", self.recover("--machine", "web02", *secret, code=2))

    def test_promise_p5_foreign_book_is_not_taken(self):
        """A book by somebody else in the ledger is passed over, however new it calls itself."""
        evil = AdminSecret(b"e" * 32)
        card = TinyBackup(secret=b"o" * 32).card()
        book = make_book(BookContent((card,)), evil.tenant, 9, b"h" * 32, evil.book_key, evil.order_key, b"z" * 16)
        self.backup.write_spool(self.spool, self.backup.book(self.admin), [BookSwapped(book, b"")])
        secret = ("--admin-secret", self.top / "admin.secret", "--admin-passphrase-file", self.top / "master")
        self.recover("--machine", "web01", *secret)
        self.assertEqual(self.files(), FILES | {"etc/new": b"new"})

    def test_wrong_keys_are_told(self):
        """A wrong passkey, passphrase or URL is one clear line."""
        self.write("wrong", b"wrong")
        url = ("--url-file", self.top / "url")
        said = self.recover(*url, "--passkey-file", self.top / "wrong", code=2)
        self.assertIn("the passphrase does not open the envelope", said)
        secret = ("--admin-secret", self.top / "admin.secret", "--admin-passphrase-file", self.top / "wrong")
        self.assertIn("wrong passphrase", self.recover(*secret, code=2))
        self.assertIn("not a machine URL", self.recover("--url-file", self.top / "wrong", code=2))
        self.assertIn("No such file", self.recover("--url-file", self.top / "nowhere", code=2))
        self.assertIn("no directory", self.run_tool("list", self.top / "nowhere", code=2))

    def test_lists(self):
        """list, snapshots and ls show what there is, as lines and as JSON; no key is needed for the first two."""
        listed_machines = json.loads(self.run_tool("list", self.spool, "--json"))
        self.assertEqual((listed_machines["machine"], listed_machines["snapshots"]), (self.backup.machine.hex(), 2))
        lines = self.run_tool("snapshots", self.spool, "--url-file", self.top / "url", "--json").splitlines()
        self.assertEqual([json.loads(line)["sequence"] for line in lines], [1, 2])
        said = self.run_tool("ls", self.spool, *self.keys(), "--path", "/etc", "-q")
        self.assertEqual([line.split()[-1] for line in said.splitlines()], ["hostname", "new", "passwd"])
        said = self.run_tool("ls", self.spool, *self.keys(), "-R", "--json")
        self.assertIn("/srv/index.html", [json.loads(line)["path"] for line in said.splitlines()])


class DamageTests(RecoverCase):
    """Spools that are not whole any more."""

    def setUp(self) -> None:
        super().setUp()
        self.backup.write_spool(self.spool)

    def ledger(self) -> Path:
        """The one segment."""
        return next((self.spool / LEDGER).rglob("*.ledger"))

    def packs(self) -> list[Path]:
        """The packs."""
        return sorted((self.spool / PACKS).rglob("*.pack"))

    def test_promise_p10_pack_without_its_end(self):
        """A pack whose index and trailer are cut off is walked blob by blob."""
        for path in self.packs():
            data = path.read_bytes()
            path.write_bytes(data[: -60 - len(FILES)])
        self.recover(*self.keys())
        self.assertEqual(self.files(), FILES | {"etc/new": b"new"})

    def test_promise_p10_pack_cut_in_a_blob(self):
        """Of a pack that is cut in the middle the whole blobs are used; what is lost is named."""
        top = self.top / "from"
        top.mkdir()
        for name in ("a", "b", "c"):
            (top / name).write_bytes(os.urandom(400_000))
        backup = TinyBackup()
        backup.tree(top)
        spool = backup.write_spool(self.top / "cut")
        (path,) = (spool / PACKS).rglob("*.pack")
        lost = max(backup.made.blobs.items(), key=lambda item: len(item[1][0]))[1][0]
        data = path.read_bytes()
        at = data.index(lost)
        path.write_bytes(data[:at] + data[at + len(lost) :])
        said = self.recover(*self.keys(), spool=spool, code=1)
        self.assertEqual(len(self.files()), 2)
        self.assertIn("it is missing where the backup is kept, or cannot be read there", said)

    def test_promise_p10_index_that_lies(self):
        """An index that names other places is found out, and the pack is walked instead."""
        for path in self.packs():
            data = bytearray(path.read_bytes())
            second_row = len(data) - TRAILER.size - INDEX_ROW.size * 2
            data[second_row + 36] ^= 8  # the lowest byte of its offset
            path.write_bytes(data)
        said = self.recover(*self.keys())
        self.assertEqual(self.files(), FILES | {"etc/new": b"new"})
        self.assertIn("damaged, or its index does not tell the truth", said)

    def test_promise_p10_damaged_ledger(self):
        """Entries behind a damaged one are found; what the damage hit is one snapshot, and its absence is told."""
        data = bytearray(self.ledger().read_bytes())
        record = self.backup.made.snapshots[0][0]
        data[data.index(record) + 40] ^= 1
        self.ledger().write_bytes(data)
        said = self.recover(*self.keys())
        self.assertIn("damaged", said)
        self.assertIn("snapshot 1 withheld or lost", said)
        self.assertEqual(self.files(), FILES | {"etc/new": b"new"})

    def test_promise_p10_torn_ledger(self):
        """A ledger that ends in the middle of an entry gives all entries before."""
        data = self.ledger().read_bytes()
        self.ledger().write_bytes(data[:-10])
        said = self.recover(*self.keys())
        self.assertIn("cut short", said)
        self.assertEqual(self.files(), FILES)

    def test_promise_p10_half_of_everything_on_two_spools(self):
        """Packs on one spool and the ledger on another make one backup."""
        other = self.top / "other"
        shutil.copytree(self.spool, other)
        shutil.rmtree(self.spool / LEDGER)
        shutil.rmtree(other / PACKS)
        (other / "mastodon-spool.json").unlink()
        shutil.rmtree(self.top / "out", ignore_errors=True)
        said = self.run_tool("restore", self.spool, other, *self.keys(), "--to", self.top / "out")
        self.assertEqual(self.files(), FILES | {"etc/new": b"new"})
        self.assertIn("no ledger there", said)

    def test_damaged_copy_does_not_hide_the_good_one(self):
        """Of a pack on two spools the copy that is whole is used."""
        other = self.top / "other"
        shutil.copytree(self.spool, other)
        for path in self.packs():
            data = bytearray(path.read_bytes())
            for at in range(3000, len(data) - 400, 50):
                data[at] ^= 1
            path.write_bytes(data)
        shutil.rmtree(self.top / "out", ignore_errors=True)
        self.run_tool("restore", self.spool, other, *self.keys(), "--to", self.top / "out")
        self.assertEqual(self.files(), FILES | {"etc/new": b"new"})

    def test_rubbish_in_the_spool_is_passed_over(self):
        """Files that are no packs or segments hinder nothing."""
        day = self.packs()[0].parent
        (day / ("0" * 64 + ".pack")).write_bytes(b"rubbish")
        (day / ("1" * 64 + ".pack")).write_bytes(b"")
        (day / "notes.txt").write_bytes(b"hello")
        (self.ledger().parent / "99999999999999999999.ledger").write_bytes(b"rubbish")
        self.recover(*self.keys())
        self.assertEqual(self.files(), FILES | {"etc/new": b"new"})

    def test_two_machines_have_to_be_told_apart(self):
        """With two machines in the spool the tool asks which."""
        other = TinyBackup(secret=b"o" * 32)
        other.small(listed({"x": b"y"}))
        both = other.write_spool(self.top / "both")
        shutil.copytree(self.spool, both, dirs_exist_ok=True, ignore=shutil.ignore_patterns(LEDGER))
        shutil.copytree(self.spool / LEDGER, both / LEDGER.replace("ledger", "copied"))
        said = self.run_tool("list", both)
        self.assertEqual(len(said.splitlines()), 2, said)


class PaperKeyTests(RecoverCase):
    """A backup sealed to an OpenPGP key of which only a paperkey print is left."""

    def gpg(self, home: Path, *words: str, data: bytes | None = None) -> bytes:
        """gpg in a home of its own."""
        command = ["gpg", "--homedir", str(home), "--batch", "--quiet", "--yes", "--pinentry-mode", "loopback"]
        done = subprocess.run([*command, *words], input=data, capture_output=True, check=False)
        self.assertEqual(done.returncode, 0, done.stderr.decode())
        return done.stdout

    def home(self, name: str) -> Path:
        """A gpg home with a short path, whose agent is stopped at the end."""
        home = Path(tempfile.mkdtemp(prefix=name, dir="/tmp"))
        self.addCleanup(shutil.rmtree, home, True)
        self.addCleanup(subprocess.run, ["gpgconf", "--homedir", str(home), "--kill", "gpg-agent"], check=False)
        return home

    def test_promise_p10_paper_key_as_the_only_key(self):
        """The print, and the public key from the pair record in the spool, make the private key that restores."""
        if shutil.which("paperkey") is None:
            raise SkipTest("paperkey is not installed")
        home = self.home("paper-")
        self.gpg(home, "--passphrase", "", "--quick-gen-key", "admin <a@example.org>", "rsa3072", "default", "never")
        self.gpg(home, "--passphrase", "", "--quick-add-key", self.fingerprint(home), "rsa3072", "encr", "never")
        secret = self.write("secret.gpg", self.gpg(home, "--export-secret-keys"))
        (public,) = export_minimal(self.gpg(home, "--export"))
        paper = subprocess.run(["paperkey", "--secret-key", secret], capture_output=True, check=True).stdout
        print_out = self.write("paper.txt", paper)
        secret.unlink()
        backup = TinyBackup(recipients=[public], envelope_of=lambda payload: seal(payload, recipients=[public]))
        backup.small(listed(FILES))
        backup.write_spool(self.spool)
        url = self.write("url", str(backup.url).encode())

        said = self.run_tool("public-keys", self.spool, "--url-file", url, "--out", self.top / "keys")
        public_file = self.top / "keys" / "recipient-1.gpg"
        self.assertIn(str(public_file), said)
        rebuilt = subprocess.run(
            ["paperkey", "--pubring", public_file, "--secrets", print_out], capture_output=True, check=True
        )
        key = self.write("rebuilt.gpg", rebuilt.stdout)
        self.recover("--url-file", url, "--key-file", key)
        self.assertEqual(self.files(), FILES)
        self.write("passkey", b"some passphrase")
        said = self.recover("--url-file", url, "--passkey-file", self.top / "passkey", code=2)
        self.assertIn("no passphrase opens it", said)

    def fingerprint(self, home: Path) -> str:
        """The one key's."""
        lines = self.gpg(home, "--with-colons", "--list-keys").decode().splitlines()
        return next(line.split(":")[9] for line in lines if line.startswith("fpr"))
