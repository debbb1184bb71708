"""The operator's commands, as they are typed: with and without a running daemon."""

import json
import os
import re
import sqlite3
from pathlib import Path
from typing import Any

from click.testing import CliRunner, Result
from twisted.internet import reactor
from twisted.internet.defer import Deferred, ensureDeferred
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import SynchronousTestCase, TestCase

from bench.blocking_peers import altered
from mastodon.catalogue.lane import OwnMainland
from mastodon.daemon.config import load_config
from mastodon.daemon.control import ControlPort, ask_daemon
from mastodon.daemon.errors import NotAllowed
from mastodon.daemon.store import open_store
from mastodon.host.certificates import load_identity, pin_text
from mastodon.host.spool_layout import read_marker
from mastodon.operator.initialise import initialise
from mastodon.operator.main import main
from mastodon.sealed.book import BookContent, make_book
from mastodon.sealed.enrolment import Enrolment
from mastodon.sealed.record import record_hash
from mastodon.sealed.statement import StatementVerb
from tests.store_case import Admin, Clock, Machine


def run(*words: str | Path) -> Result:
    """What the command says."""
    return CliRunner().invoke(main, [str(word) for word in words])


class InitTests(SynchronousTestCase):
    """``mastodon init``."""

    def setUp(self) -> None:
        self.directory = Path(self.mktemp()).resolve()

    def test_init(self) -> None:
        """A server that can be started: configuration, keys 0600, a spool, the catalogue; pins and next steps said."""
        done = run("init", self.directory, "--name", "backup.example.org")
        self.assertEqual(done.exit_code, 0, done.output)
        config = load_config(self.directory / "mastodon.toml")
        identity = load_identity(config.keys.server_key, config.keys.server_certificate)
        self.assertIn(pin_text(identity.pin), done.output)
        self.assertIn(pin_text(config.keys.spare_pins[0]), done.output)
        self.assertNotEqual(identity.pin, config.keys.spare_pins[0])
        self.assertIn("twistd mastodon", done.output)
        self.assertEqual((config.append.port, config.restore.port), (7410, 7411))
        self.assertEqual([spool.path for spool in config.spools], [self.directory / "spool"])
        self.assertTrue((config.state / "catalogue.sqlite").exists())
        for key in ("server.key", "spare.key", "ledger.key"):
            self.assertEqual((self.directory / "keys" / key).stat().st_mode & 0o777, 0o600)

    def test_never_overwrites(self) -> None:
        """A second time it is refused, and every file is as it was."""
        run("init", self.directory, "--name", "localhost")
        before = {path: path.read_bytes() for path in self.directory.rglob("*") if path.is_file()}
        done = run("init", self.directory, "--name", "localhost")
        self.assertEqual(done.exit_code, 1)
        self.assertIn("exists already", done.output)
        self.assertEqual({path: path.read_bytes() for path in self.directory.rglob("*") if path.is_file()}, before)

    def test_options(self) -> None:
        """Addresses, ports, several spools elsewhere, the recovery tool."""
        spools = [Path(self.mktemp()).resolve() for _ in range(2)]
        recovery = Path(self.mktemp())
        recovery.mkdir()
        (recovery / "protocol-spec.md").write_text("the format")
        done = run(
            "init", self.directory, "--name", "2001:db8::1", "--listen", "::1", "--append-port", "1", "--restore-port",
            "2", "--spool", spools[0], "--spool", spools[1], "--recovery", recovery,
        )  # fmt: skip
        self.assertEqual(done.exit_code, 0, done.output)
        config = load_config(self.directory / "mastodon.toml")
        self.assertEqual((config.append.address, config.append.port, config.restore.port), ("::1", 1, 2))
        self.assertEqual([spool.path for spool in config.spools], spools)
        self.assertEqual((spools[1] / "recovery/protocol-spec.md").read_text(), "the format")
        self.assertEqual(read_marker(spools[0]).siblings, (read_marker(spools[1]).spool,))

    def test_bad_input(self) -> None:
        """Bad names and addresses are refused before anything is made."""
        for words in (("--name", "two words"), ("--name", ""), ("--name", 'a"b'), ("--listen", "localhost")):
            done = run("init", self.directory, *words)
            self.assertEqual(done.exit_code, 1, done.output)
            self.assertNotIn("Traceback", done.output)
        self.assertFalse(self.directory.exists())


class CommandCase(SynchronousTestCase):
    """A server that was initialised; no daemon runs."""

    def setUp(self) -> None:
        self.directory = Path(self.mktemp()).resolve()
        initialise(self.directory, name="127.0.0.1", listen="127.0.0.1")
        self.config = self.directory / "mastodon.toml"
        self.admin = Admin("alice", 1)
        self.request = self.directory / "request"
        self.request.write_bytes(self.admin.request())

    def call(self, *words: str | Path, code: int = 0) -> str:
        done = run("--config", self.config, *words)
        self.assertEqual(done.exit_code, code, done.output)
        self.assertNotIn("Traceback", done.output)
        self.assertFalse(done.exception is not None and not isinstance(done.exception, SystemExit), done.exception)
        return done.output


class CommandTests(CommandCase):
    """Commands that open the store themselves."""

    def test_admin_add(self) -> None:
        """The invitation names the admin, the restore port and both pins; again it is the same."""
        out = self.directory / "invitation"
        line = self.call("admin", "add", "alice", "--request", self.request, "--out", out).strip()
        config = load_config(self.config)
        pins = [
            load_identity(config.keys.server_key, config.keys.server_certificate).pin, *config.keys.spare_pins
        ]  # fmt: skip
        query = "&".join(f"server={pin_text(pin)}" for pin in pins)
        self.assertEqual(line, f"mastodon+admin://alice@127.0.0.1:7411/?{query}")
        self.assertEqual(out.read_text(), line + "\n")
        self.assertEqual(self.call("admin", "add", "alice", "--request", self.request).strip(), line)
        self.assertIn("registered already", self.call("admin", "add", "bob", "--request", self.request, code=1))

    def test_a_new_operator(self) -> None:
        """Looking around where nothing is yet says what comes next, and -h helps."""
        self.assertIn("mastodon admin add NAME", self.call("quota", "show"))
        self.assertIn("Nothing was read", self.call("audit", "--since", "2d"))
        for command in ("audit", "events"):
            self.assertIn("90s, 15m, 6h or 2d", self.call(command, "--since", "yesterday", code=2))
            self.assertIn("--since", self.call(command, "-h"))

    def test_bad_requests(self) -> None:
        """A request that is damaged, or no request, is refused in one line."""
        for data in (b"", b"x", altered(self.request.read_bytes())):
            self.request.write_bytes(data)
            said = self.call("admin", "add", "alice", "--request", self.request, code=1)
            self.assertIn("cannot be taken", said)

    def test_admin_list_and_remove(self) -> None:
        """Admins are listed with their certificates; a removed one is gone, and refused for ever."""
        self.assertIn("No admins yet", self.call("admin", "list"))
        self.call("admin", "add", "alice", "--request", self.request)
        self.assertIn(pin_text(self.admin.pin), self.call("admin", "list"))
        (found,) = json.loads(self.call("admin", "list", "--json"))
        self.assertEqual((found["name"], found["machines"]), ("alice", 0))
        self.call("admin", "remove-certificate", pin_text(self.admin.pin))
        self.assertNotIn(pin_text(self.admin.pin), self.call("admin", "list"))
        self.assertIn("for ever", self.call("admin", "add", "alice", "--request", self.request, code=1))
        self.assertIn("no pin", self.call("admin", "remove-certificate", "nonsense", code=1))
        self.assertIn("no certificate", self.call("admin", "remove-certificate", pin_text(b"n" * 32), code=1))

    def test_spool_add_and_list(self) -> None:
        """A directory is prepared and its block printed; pasted, the spool is in use."""
        path = self.directory / "second disk"
        said = self.call("spool", "add", path)
        self.assertIn("[[spool]]", said)
        self.assertIn("already", self.call("spool", "add", path, code=1))
        with self.config.open("a") as file:
            file.write("\n" + said)
        self.call("admin", "list")
        spools = json.loads(self.call("spool", "list", "--json"))
        self.assertEqual([(one["path"], one["offline"]) for one in spools], [
            (str(self.directory / "spool"), ""), (str(path), ""),
        ])  # fmt: skip
        self.assertEqual(len(list(path.glob("ledger/*/*.ledger"))), 1)
        (path / "mastodon-spool.json").unlink()
        self.assertIn("OFFLINE", self.call("spool", "list"))

    def test_spool_let_in_again(self) -> None:
        """A spool that went back in time is taken again by --again."""
        path = self.directory / "spool"
        image = {file: file.read_bytes() for file in path.rglob("*") if file.is_file()}
        self.call("admin", "add", "alice", "--request", self.request)
        for file, data in image.items():
            file.write_bytes(data)
        self.assertIn("went back in time", self.call("admin", "list", code=1))
        self.call("spool", "add", path, "--again")
        self.assertIn("waits for its operator", self.call("admin", "list", code=1))
        self.assertIn("no mastodon-spool.json", self.call("spool", "add", self.directory, "--again", code=1))

    def test_rebuild(self) -> None:
        """The catalogue is made anew; without the state, only after the head was confirmed."""
        self.call("admin", "add", "alice", "--request", self.request)
        said = self.call("rebuild")
        self.assertIn("1 admins", said)
        for name in ("heads", "spools.json", "catalogue.sqlite"):
            (self.directory / "state" / name).unlink()
        said = self.call("rebuild", code=1)
        self.assertIn("credentials stay disabled", said)
        self.assertIn("waits for its operator", self.call("admin", "list", code=1))
        found = re.search(r"--confirm (\S+)", said)
        assert found is not None
        self.assertIn("is not that", self.call("rebuild", "--confirm", "1:" + "00" * 32, code=1))
        self.call("rebuild", "--confirm", found[1])
        self.assertIn("alice", self.call("admin", "list"))

    def test_configuration_errors(self) -> None:
        """A missing or wrong configuration, missing keys, a state in use: one line each."""
        self.assertIn("cannot be read", run("--config", "/nowhere.toml", "admin", "list").output)
        self.config.write_text(self.config.read_text().replace("[append]", "[apend]"))
        self.assertIn("append", self.call("admin", "list", code=1))
        self.config.write_text(self.config.read_text().replace("[apend]", "[append]"))
        (self.directory / "keys/ledger.key").unlink()
        for words in (("admin", "list"), ("rebuild",), ("check",)):
            self.assertIn("ledger.key", self.call(*words, code=1))


class BackupCase(CommandCase):
    """A server with one admin, one machine and one backup on it."""

    def setUp(self) -> None:
        super().setUp()
        self.call("admin", "add", "alice", "--request", self.request)
        config = load_config(self.config)
        mainland, clock = OwnMainland(), Clock()
        store = open_store(config, mainland, clock)
        pin = load_identity(config.keys.server_key, config.keys.server_certificate).pin
        mainland.wait(store.start())
        machine = Machine(1)
        record = Enrolment(machine.id, machine.secret.public_key, self.admin.tenant, (pin,), b"h" * 16, 0, 1)
        content = record.sign(machine.secret.signing_key)
        statement = self.admin.statement(StatementVerb.ENROL, content, clock.now, server=pin)
        mainland.wait(store.execute(self.admin.tenant, self.admin.pin, statement, b""))
        epoch = store.machine_session(machine.id)
        mainland.wait(store.add_pair(machine.id, machine.pair_record, machine.envelope, epoch))
        blobs = machine.tree(b"one", b"two")
        pack, data = machine.pack(blobs)
        receiver = store.begin_pack(machine.id, epoch)
        receiver.write(data)
        mainland.wait(receiver.finish(pack))
        mainland.wait(store.commit(machine.id, machine.snapshot(blobs[-1][0]), epoch))
        secret = self.admin.secret
        book = make_book(BookContent(()), secret.tenant, 1, b"", secret.book_key, secret.order_key, b"s" * 16)
        statement = self.admin.statement(StatementVerb.SWAP_BOOK, record_hash(book), clock.now, server=pin)
        mainland.wait(store.execute(self.admin.tenant, self.admin.pin, statement, book))
        mainland.wait(store.stop())
        (self.pack,) = (self.directory / "spool").glob("packs/**/*.pack")
        (self.ledger,) = (self.directory / "spool").glob("ledger/*/*.ledger")


class CheckTests(BackupCase):
    """``mastodon check``."""

    def test_all_is_well(self) -> None:
        """A sound server: what was read is said, exit 0; quiet says nothing."""
        said = self.call("check")
        self.assertIn("All is well", said)
        self.assertIn("1 packs", said)
        self.assertEqual(self.call("check", "--quiet"), "")

    def test_each_damage_is_named(self) -> None:
        """A flipped byte in pack or ledger, a pack gone or renamed, a missing marker, a damaged catalogue: exit 1."""
        catalogue = self.directory / "state/catalogue.sqlite"
        for path, harm in (
            (self.pack, lambda data: data[:2000] + bytes([data[2000] ^ 1]) + data[2001:]),
            (self.pack, lambda data: data[:-1]),
            (self.pack, None),
            (self.ledger, lambda data: data[:500] + bytes([data[500] ^ 1]) + data[501:]),
            (self.ledger, lambda data: data[:500]),
            (self.directory / "spool/mastodon-spool.json", None),
            (catalogue, lambda data: b"x" * len(data)),
            (catalogue, None),
        ):
            kept = path.read_bytes()
            if harm is None:
                path.unlink()
            else:
                path.write_bytes(harm(kept))
            self.assertIn("DAMAGE", self.call("check", code=1))
            path.write_bytes(kept)
            self.assertIn("All is well", self.call("check"))
        moved = self.pack.with_name(f"{'ab' * 32}.pack")
        self.pack.rename(moved)
        self.assertIn("not the pack's id", self.call("check", code=1))


    def test_misstated_records(self) -> None:
        """What SQLite cannot see, another run or snapshot record than was signed, is named; a rebuild mends it."""
        for table in ("runs", "snapshots"):
            connection = sqlite3.connect(self.directory / "state/catalogue.sqlite", isolation_level=None)
            another = "CAST(substr(record, 1, length(record) - 1) || x'00' AS BLOB)"
            connection.execute(f"UPDATE {table} SET record = {another}")
            connection.close()
            said = self.call("check", code=1)
            self.assertIn(f"misstates {'its runs' if table == 'runs' else '1 snapshots'}", said)
            self.assertIn("mastodon rebuild", said)
            self.call("rebuild")
            self.assertIn("All is well", self.call("check"))

    def test_misstated_pairs_and_books(self) -> None:
        """Pair records, their names, envelopes and books that are not as in the ledger are named."""
        for harm, said in (
            ("UPDATE envelopes SET envelope = x'00'", "1 pair records or envelopes of machine"),
            ("UPDATE envelopes SET record = CAST(record || x'00' AS BLOB)", "1 pair records or envelopes of machine"),
            ("UPDATE pairs SET nth = 7", "1 pair records or envelopes of machine"),
            ("UPDATE pairs SET hash = zeroblob(32)", "1 pair records or envelopes of machine"),
            ("DELETE FROM envelopes", "machines: the newest pair of one has no record"),
            ("UPDATE books SET book = x'00'", "the book of admin"),
            ("UPDATE books SET version = 0", "the book of admin"),
            ("DELETE FROM books", "the book of admin"),
        ):
            connection = sqlite3.connect(self.directory / "state/catalogue.sqlite", isolation_level=None)
            connection.execute(harm)
            connection.close()
            self.assertIn(f"the catalogue misstates {said}", self.call("check", code=1))
            self.call("rebuild")
            self.assertEqual(self.call("check", "--quiet"), "")


class ControlTests(TestCase):
    """Commands through the socket of a running daemon."""

    timeout = 60

    def setUp(self) -> Deferred[None]:  # type: ignore[override]
        self.directory = Path(self.mktemp()).resolve() / ("a directory with a long name " * 4)
        initialise(self.directory, name="127.0.0.1", listen="127.0.0.1")
        self.config = load_config(self.directory / "mastodon.toml")
        self.store = open_store(self.config, reactor, Clock())
        self.control = ControlPort(self.store, self.config.state)

        async def start() -> None:
            await self.store.start()
            await self.control.listen(reactor)

        return ensureDeferred(start())

    def tearDown(self) -> Deferred[None]:  # type: ignore[override]
        async def stop() -> None:
            await self.control.stop()
            await self.store.stop()

        return ensureDeferred(stop())

    def ask(self, command: Any, arguments: Any) -> Deferred[Any]:
        return deferToThread(ask_daemon, self.config.state, command, arguments)

    async def _commands(self) -> None:
        admin = Admin("alice", 1)
        request = self.directory / "request"
        request.write_bytes(admin.request())
        words = ["--config", str(self.config.file), "admin", "add", "alice", "--request", str(request)]
        done: Result = await deferToThread(CliRunner().invoke, main, words)
        self.assertEqual(done.exit_code, 0, done.output)
        self.assertEqual([one.name for one in await self.store.list_admins()], ["alice"])
        self.assertEqual([one["name"] for one in await self.ask("admin list", {})], ["alice"])
        self.assertEqual((await self.ask("spool list", {}))[0]["offline"], "")
        await self.ask("admin remove-certificate", {"pin": admin.pin.hex()})
        self.assertIsNone(await self.store.certificate(admin.pin))

    def test_commands_reach_the_daemon(self) -> Deferred[None]:
        """Adding an admin while the daemon has the store goes through the socket, at once."""
        return ensureDeferred(self._commands())

    async def _refusals(self) -> None:
        for command, arguments in (
            ("no such", {}), ("admin add", {}), ("admin add", {"name": "x", "request": "zz"}), (7, {}), ("x", []),
            ("admin remove-certificate", {"pin": "ab" * 32}), ("x" * 300_000, {}),
        ):  # fmt: skip
            with self.assertRaises(NotAllowed):
                await self.ask(command, arguments)
        self.assertEqual(await self.ask("admin list", {}), [])

    def test_bad_commands_are_answered(self) -> Deferred[None]:
        """Whatever comes, there is an answer, and the daemon goes on."""
        return ensureDeferred(self._refusals())

    async def _exclusive(self) -> None:
        done: Result = await deferToThread(CliRunner().invoke, main, ["--config", str(self.config.file), "rebuild"])
        self.assertEqual(done.exit_code, 1)
        self.assertIn("in use", done.output)
        done = await deferToThread(CliRunner().invoke, main, ["--config", str(self.config.file), "check"])
        self.assertEqual(done.exit_code, 0, done.output)

    def test_rebuild_needs_the_daemon_stopped(self) -> Deferred[None]:
        """While the daemon runs a rebuild is refused; a check is not."""
        return ensureDeferred(self._exclusive())

    def test_socket_is_private(self) -> None:
        """The socket is 0600, and gone when the daemon stops."""
        path = self.config.state / "control"
        self.assertEqual(path.stat().st_mode & 0o777, 0o600)
        self.assertEqual(os.stat(self.config.state).st_mode & 0o777, 0o700)
