"""``mastodon-admin machine add --names-from``: a fleet in one go, taken whole or not at all."""

import json
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from click.testing import CliRunner, Result
from twisted.trial.unittest import SynchronousTestCase

from mastodon.admin import options
from mastodon.admin.home import Home, Identity
from mastodon.admin.machine_add import machine_add
from mastodon.admin.names import NAME_LIMIT, parse_names, why_no_name
from mastodon.admin.office import Office
from mastodon.restore.errors import Refused, RestoreError
from mastodon.sealed.admin_secret import AdminSecret
from mastodon.sealed.book import open_book
from mastodon.sealed.enrolment import Enrolment, Role
from mastodon.sealed.statement import Statement, StatementVerb
from mastodon.sealed.url import parse_url
from mastodon.wire.restore_messages import WhoItem
from tests.test_admin_client import AdminCase, in_thread

SERVER = b"v" * 32


class Names(SynchronousTestCase):
    """What can be a machine's name, and lists of them."""

    def mistakes(self, *lines: bytes) -> list[str]:
        error = self.assertRaises(RestoreError, parse_names, lines, "names.txt")
        first, *rest = str(error).split("\n")
        self.assertIn("names.txt: nothing was done", first)
        return [line.strip() for line in rest]

    def test_lists(self):
        """A name a line, in the file's order; blanks around it, empty lines, comments and line ends of DOS are passed
        over."""
        lines = b"# the web servers\r\nweb02 \n\n  web01\nb\xc3\xbccher\n".split(b"\n")
        self.assertEqual(parse_names(lines, "x"), ["web02", "web01", "bücher"])

    def test_every_mistake_is_named(self):
        """Each bad name is told with its line: what cannot be one, is too long, stands there twice, or is no UTF-8."""
        said = self.mistakes(b"good", b"../etc", b"two words", b"good", b"\xff", b"x" * (NAME_LIMIT + 1), b"50%")
        self.assertEqual([line.split(":")[0] for line in said], [f"line {n}" for n in range(2, 8)])
        parts = ("'../etc'", "'two words'", "in line 1", "UTF-8", "too long", "'50%'")
        for line, part in zip(said, parts, strict=True):
            self.assertIn(part, line)

    def test_many_mistakes_are_cut_short(self):
        """A file that is something else is not printed back whole."""
        said = self.mistakes(*[b"a b"] * 1000)
        self.assertEqual((len(said), said[-1]), (21, "and 980 more"))

    def test_empty_list(self):
        """A list without a name is a mistake, not a success."""
        self.assertIn("no name in it", str(self.assertRaises(RestoreError, parse_names, [b"", b"# x"], "-")))

    def test_the_longest_name_fits_everywhere(self):
        """Of the longest names that are taken, the files that bear them can be made."""
        name = "ü" * (NAME_LIMIT // 2)
        self.assertEqual(why_no_name(name), "")
        self.assertLessEqual(len(Home(Path("/")).pending(name).name), 255)


class Server:
    """The server's side: keeps the book, counts what it is told, and fails when the test says so."""

    server_pin = SERVER

    def __init__(self, secret: AdminSecret) -> None:
        self._secret = secret
        self._counter = 0
        self._book = b""
        self.swaps = 0
        self.enrolled: list[bytes] = []
        self.fails_at = -1

    def who(self) -> WhoItem:
        tenant = self._secret.tenant
        return WhoItem(1, tenant, "alice", Role.ADMIN, (SERVER,), 1, self._counter, ("backup.example.org:7410",))

    def book(self) -> bytes:
        return self._book

    def state(self, statement: bytes, attachment: bytes = b"") -> None:
        said = Statement.verify(statement, self._secret.order_public)
        if said.counter <= self._counter:
            raise Refused("not newer")
        self._counter = said.counter
        if said.verb is StatementVerb.SWAP_BOOK:
            self.swaps += 1
            self._book = attachment
            return
        if len(self.enrolled) == self.fails_at:
            self.fails_at = -1
            raise Refused("the connection was lost")
        self.enrolled.append(Enrolment.open(said.content).machine)

    def close(self) -> None:
        """Nothing to let go of."""

    def names(self) -> list[str]:
        keys = self._secret.tenant, self._secret.order_public, self._secret.book_key
        return [card.name for card in open_book(self._book, *keys)[1].cards] if self._book else []


class FleetTests(SynchronousTestCase):
    """The command on a server that is only played."""

    def setUp(self) -> None:
        self.top = Path(self.mktemp()).resolve()
        self.home = Home(self.top / "home")
        self.home.make()
        self.secret = AdminSecret(b"a" * 32)
        self.home.save_identity(Identity(self.secret.tenant, self.secret.order_public, b"s" * 32))
        self.server = Server(self.secret)
        self.out = self.top / "out"
        self.patch(options, "Office", self.office)

    def office(self, *_: Any) -> Office:
        office = Office(self.home, lambda: b"", secrets.token_bytes, self.server)  # type: ignore[arg-type]
        office.__dict__["secret"] = self.secret
        return office

    def run_with(self, names: str, *words: str) -> Result:
        arguments = ["--names-from", "-", "--out", str(self.out), *words]
        return CliRunner().invoke(machine_add, arguments, input=names, obj=self.home.path, standalone_mode=False)

    def add(self, names: str, *words: str) -> list[dict[str, Any]]:
        done = self.run_with(names, "--json", *words)
        if done.exception is not None:
            raise done.exception
        return [json.loads(line) for line in done.stdout.splitlines()]

    def files(self) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in sorted(self.out.iterdir())} if self.out.exists() else {}

    def refused(self, names: str, *words: str) -> str:
        done = self.run_with(names, *words)
        self.assertIsInstance(done.exception, RestoreError)
        return str(done.exception)

    def test_a_fleet(self):
        """A thousand machines: one book swap, an enrolment each, files 0600, minutes spread, nothing kept back."""
        names = [f"web{number:04}" for number in range(1000)]
        said = self.add("\n".join(names))
        self.assertEqual([one["name"] for one in said], names)
        self.assertEqual((self.server.swaps, self.server.names()), (1, names))
        self.assertEqual(sorted(self.server.enrolled), sorted(bytes.fromhex(one["machine"]) for one in said))
        self.assertEqual(len(self.files()), 2000)
        self.assertEqual({stat.S_IMODE(path.stat().st_mode) for path in self.out.iterdir()}, {0o600})
        self.assertEqual(len({(self.out / f"{name}.passkey").read_bytes() for name in names}), 1000)
        self.assertEqual({int(one["crontab"].split()[0]) for one in said}, set(range(60)))
        self.assertEqual(parse_url(self.files()["web0007.url"].decode()).name, "web0007")
        self.assertEqual(list(self.home.path.glob("adding-*")), [])

    def test_again_with_more(self):
        """The same list with a name more adds that one alone, and says of the others what they are."""
        first = self.add("a\nb\n")
        before = self.files()
        again = self.add("c\nb\na\n")
        self.assertEqual([one["added"] for one in again], [True, False, False])
        self.assertEqual([one["machine"] for one in again[1:]], [first[1]["machine"], first[0]["machine"]])
        self.assertEqual({name: data for name, data in self.files().items() if name[0] != "c"}, before)
        self.assertEqual((self.server.swaps, len(self.server.enrolled)), (2, 3))

    def test_goes_on_after_an_interruption(self):
        """Broken off between two enrolments, the same command completes it: no secret is made twice or lost."""
        self.server.fails_at = 2
        self.assertIn("connection was lost", self.refused("a\nb\nc\nd\n"))
        self.assertEqual(self.files(), {})
        pending = {path.name: path.read_bytes() for path in self.home.path.glob("adding-*")}
        self.assertEqual(len(pending), 4)
        said = self.add("a\nb\nc\nd\n")
        self.assertEqual([one["added"] for one in said], [True] * 4)
        made = {json.loads(data)["url"].encode() + b"\n" for data in pending.values()}
        self.assertEqual({data for name, data in self.files().items() if name.endswith(".url")}, made)
        self.assertEqual(set(self.server.enrolled), {bytes.fromhex(one["machine"]) for one in said})
        self.assertEqual((self.server.swaps, self.server.names()), (1, ["a", "b", "c", "d"]))

    def test_bad_list_does_nothing(self):
        """One bad name among good ones: nothing is asked of the server, and nothing is written."""
        said = self.refused("a\nb\n../c\n")
        self.assertIn("line 3: '../c'", said)
        self.assertEqual((self.server.swaps, self.files(), list(self.home.path.glob("adding-*"))), (0, {}, []))

    def test_file_in_the_way(self):
        """A file of that name with other content is not overwritten; moved away, the same command goes on."""
        self.out.mkdir()
        (self.out / "b.url").write_bytes(b"precious")
        self.assertIn("b.url is there with another content", self.refused("a\nb\nc\n"))
        self.assertEqual((self.out / "b.url").read_bytes(), b"precious")
        (self.out / "b.url").unlink()
        self.assertEqual([one["added"] for one in self.add("a\nb\nc\n")], [False, True, True])
        self.assertEqual(len(self.files()), 6)

    def test_name_taken_meanwhile(self):
        """A name that another device took between our reading and our swap stays that device's; the others are
        added."""
        self.add("x\n")
        taken = self.server._book
        self.server._book, self.server.swaps = b"", 0
        self.home.heads.unlink()
        self.server.fails_at = 1
        self.refused("x\ny\n")
        self.server._book = taken
        self.home.heads.unlink()
        self.assertIn("another device has added x meanwhile", self.refused("x\ny\n"))
        self.assertEqual((self.server.names(), list(self.home.path.glob("adding-*"))), (["x", "y"], []))

    def test_options_that_do_not_fit(self):
        """A shared passkey, no directory, no name or two ways of naming are refused with what to give instead."""
        (self.top / "key").write_bytes(b"shared")
        self.assertIn("a passkey of its own", self.refused("a\n", "--passkey-file", str(self.top / "key")))
        self.assertIn("or give --names-from", self.refused("a\n", "web01"))
        for words, said in (([], "--names-from"), (["--names-from", "-"], "--out DIR")):
            done = CliRunner().invoke(machine_add, words, input="a\n", obj=self.home.path, standalone_mode=False)
            self.assertIn(said, str(done.exception))
        self.assertEqual(self.server.swaps, 0)

    def test_for_people(self):
        """Without --json stdout is lines for a crontab, each machine named above its own."""
        done = self.run_with("a\nb\n", "--no-passkey")
        lines = done.stdout.splitlines()
        self.assertEqual([line.split(",")[0] for line in lines[::2]], ["# a", "# b"])
        for line in lines[1::2]:
            self.assertRegex(line, r"^\d+ \* \* \* \* root mastodon-agent .* --recipient ")
        self.assertIn("2 machines were added, 0 were there already", done.stderr)
        self.assertEqual(sorted(self.files()), ["a.url", "b.url"])


class RealFleetTests(AdminCase):
    """The command as it is typed, on a real server."""

    @in_thread
    def test_fleet_on_a_server(self):
        """The machines are the server's from then on, and a second time changes nothing."""
        (self.top / "names").write_text("web01\nweb02\n")
        words = ("machine", "add", "--names-from", "names", "--out", "cards", "--json")
        first = [json.loads(line) for line in self.admin(*words).splitlines()]
        before = {path: path.read_bytes() for path in self.directory_files()}
        again = [json.loads(line) for line in self.admin(*words).splitlines()]
        self.assertEqual([one["machine"] for one in again], [one["machine"] for one in first])
        self.assertEqual({path: path.read_bytes() for path in self.directory_files()}, before)
        listed = [json.loads(line) for line in self.admin("machine", "list", "--json").splitlines()]
        self.assertEqual([(one["name"], one["enrolled"]) for one in listed], [("web01", True), ("web02", True)])

    def directory_files(self) -> Iterator[Path]:
        yield from self.home.iterdir()
        yield from (self.top / "cards").iterdir()
