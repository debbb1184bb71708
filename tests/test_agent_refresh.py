"""Blobs of which little is used any more: counted, noted, and made anew in the next run."""

import errno
import os
import random
from collections import defaultdict
from collections.abc import Mapping
from types import MappingProxyType
from unittest import mock

from twisted.trial.unittest import SynchronousTestCase

from mastodon.sealed.snapshot import SnapshotStatus
from mastodon_agent import reader, refresh, state
from mastodon_agent.listing_parts import listing_version
from mastodon_agent.refresh import LITTLE, LITTLE_OF_PIECES, MOST, SHARE, Census, Noted
from mastodon_agent.uses import NUMBER, Use, Uses, pack_uses, unpack_uses
from tests.agent_runs import AgentCase
from tests.fake_append_server import FolderSession

MACHINE = b"m" * 32


def blob(number: int) -> bytes:
    """An id."""
    return number.to_bytes(32, "big")


def census(*uses: Use, most: int = 1 << 16) -> Census:
    """One of these uses."""
    counted = Census(0, most)
    for use in uses:
        counted.add(use)
    return counted


class UsesTests(SynchronousTestCase):
    """How much of each reference a page uses."""

    def test_counted_and_kept(self):
        """Bytes add up, the reach is the farthest end; a reference that nobody counted is zero."""
        uses = Uses()
        for place in ((1, 100, 50), (1, 0, 10), (0, 7, 3)):
            uses.add(*place)
        ids = [blob(0), blob(1), blob(2)]
        expected = [(blob(0), 3, 10), (blob(1), 60, 150), (blob(2), 0, 0)]
        self.assertEqual(list(uses.of(ids)), expected)
        self.assertEqual(list(unpack_uses(ids, pack_uses(expected))), expected)

    def test_large_numbers(self):
        """What does not fit is as much as fits."""
        self.assertEqual(
            list(unpack_uses([blob(0)], pack_uses([(blob(0), 1 << 40, 1 << 41)]))), [(blob(0), NUMBER, NUMBER)]
        )


class CensusTests(SynchronousTestCase):
    """Which blobs are chosen."""

    def test_least_used_first(self):
        """Those below the bound, the least used one first, whatever page uses them."""
        counted = census(
            (blob(1), 400_000, 1_000_000), (blob(2), 100_000, 500_000), (blob(2), 100_000, 1_000_000),
            (blob(3), 700_000, 1_000_000), (blob(4), 1_500_000, 1_000_000), (blob(5), 0, 0),
        )  # fmt: skip
        self.assertEqual(counted.choose(LITTLE, SHARE), [blob(2), blob(1)])
        self.assertEqual(counted.choose(0.25, SHARE), [blob(2)])

    def test_a_share_a_run(self):
        """However much there is to do, no more than a hundredth of what is in use is sent again, and a MiB at least."""
        counted = census(*((blob(number), 400_000, 1_000_000) for number in range(1000)))
        self.assertEqual(len(counted.choose(LITTLE, SHARE)), 10)
        counted = census(*((blob(number), 400_000, 1_000_000) for number in range(20)))
        self.assertEqual(len(counted.choose(LITTLE, SHARE)), 2)
        counted = census(*((blob(number), 1, 10) for number in range(3 * MOST)))
        self.assertEqual(len(counted.choose(LITTLE, SHARE)), MOST)

    def test_tiny_ones(self):
        """Full bundles that are tiny are joined where there are many for the pages; never a few, so that it ends."""
        counted = census(*((blob(number), 1000, 1000) for number in range(100)), (blob(100), 700_000, 700_000))
        self.assertEqual(len(counted.choose(LITTLE, SHARE, pages=20)), 100)
        self.assertEqual(counted.choose(LITTLE, SHARE, pages=300), [])
        self.assertEqual(counted.choose(LITTLE_OF_PIECES, SHARE), [])
        few = census(*((blob(number), 1000, 1000) for number in range(10)))
        self.assertEqual(few.choose(LITTLE, SHARE, pages=1), [])

    def test_memory_is_bounded(self):
        """Of very many blobs only some are looked at, and those count for all in what a run may send."""
        counted = census(*((blob(number), 400_000, 1_000_000) for number in range(5000)), most=100)
        self.assertLessEqual(len(counted._counts), 100)
        chosen = counted.choose(LITTLE, SHARE)
        self.assertTrue(20 <= len(chosen) <= 50, len(chosen))
        self.assertEqual(counted.choose(0.1, SHARE), [])


class NotedTests(SynchronousTestCase):
    """The file between two runs."""

    def setUp(self) -> None:
        self.top = os.path.abspath(self.mktemp())
        os.mkdir(self.top)
        self.path = os.path.join(self.top, refresh.NAME)
        self.noted = Noted((blob(1), blob(2)), (blob(3),))

    def test_kept(self):
        """What was noted comes back, and nothing leaves no file."""
        self.assertEqual(refresh.load(self.top, MACHINE), Noted())
        refresh.keep(self.top, MACHINE, self.noted)
        self.assertEqual(refresh.load(self.top, MACHINE), self.noted)
        self.assertEqual(refresh.load(self.top, b"o" * 32), Noted())
        refresh.keep(self.top, MACHINE, Noted())
        refresh.keep(self.top, MACHINE, Noted())
        self.assertEqual(os.listdir(self.top), [])

    def test_any_damage(self):
        """A file that is cut, longer, or has another bit is no file."""
        refresh.keep(self.top, MACHINE, self.noted)
        with open(self.path, "rb") as file:
            good = file.read()
        damaged = [good[:end] for end in range(len(good))] + [good + b"x", good + blob(4), b"x" * (3 * MOST * 32)]
        damaged += [good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :] for at in range(len(good))]
        for data in damaged:
            with open(self.path, "wb") as file:
                file.write(data)
            self.assertEqual(refresh.load(self.top, MACHINE), Noted())

    def test_a_link_is_not_followed(self):
        """Neither to read nor to write."""
        os.symlink(os.path.join(self.top, "elsewhere"), self.path + ".new")
        self.assertRaises(OSError, refresh.keep, self.top, MACHINE, self.noted)
        os.symlink("/dev/zero", self.path)
        self.assertEqual(refresh.load(self.top, MACHINE), Noted())

    def test_pieces_stay_noted(self):
        """Until newer ones push them out: their file is read when it changes, which may be later."""
        renewed = self.noted.renewed([blob(9)], [blob(4), blob(3)])
        self.assertEqual(renewed, Noted((blob(9),), (blob(4), blob(3))))
        many = [blob(number) for number in range(100, 100 + MOST)]
        self.assertEqual(renewed.renewed([], many), Noted((), tuple(many)))


class RunCase(AgentCase):
    """A tree of which most has gone, so that its bundles are used little: each of them, as this secret cuts them."""

    raw_secret = b"this cuts where it suits all of "

    def setUp(self) -> None:
        super().setUp()
        random_bytes = random.Random(5).randbytes
        self.kept = {f"d{number % 7}/f{number:03}": random_bytes(20_000) for number in range(0, 90, 3)}
        for name, content in self.kept.items():
            self.write(name, content)
        for number in range(90):
            if number % 3:
                self.write(f"d{number % 7}/f{number:03}", random_bytes(20_000))
        self.back_up()
        for number in range(90):
            if number % 3:
                (self.tree / f"d{number % 7}/f{number:03}").unlink()

    def read(self) -> int:
        """How many files a run reads that is complete and says nothing."""
        outcome = self.back_up()
        self.assertEqual((outcome.status, self.heard.notes), (SnapshotStatus.COMPLETE, []))
        return outcome.tally.read_files

    def overhead(self) -> float:
        """How much would be fetched for what is used."""
        used: defaultdict[bytes, int] = defaultdict(int)
        reach: defaultdict[bytes, int] = defaultdict(int)
        for page in state.read_pages(str(self.state / state.NAME), self.secret.machine_id, None):
            for id, count, end in page.uses():
                used[id] += count
                reach[id] = max(reach[id], end)
        return sum(reach.values()) / sum(used.values())

    def check(self, changed: Mapping[str, bytes] = MappingProxyType({}), number: int = -1) -> None:
        """Every file is in a snapshot as it should be."""
        for name, content in {**self.kept, **changed}.items():
            self.assertEqual(self.content(name, number), content, name)


class RefreshTests(RunCase):
    """Runs that make bundles anew."""

    def test_made_anew_once(self):
        """The run after the one that removed files reads what is left, and then there is peace; all snapshots stay."""
        self.assertEqual(self.read(), 0)
        self.assertGreater(self.overhead(), 2.5)
        self.assertEqual(self.read(), len(self.kept))
        self.assertLess(self.overhead(), 1.2)
        self.assertEqual([self.read(), self.read()], [0, 0])
        for number in range(len(self.vault.snapshots)):
            self.check(number=number)

    def test_a_share_each_run(self):
        """What is too much for one run comes in several, none of which sends more than its share."""
        with mock.patch("mastodon_agent.refresh.LEAST", 420_000):
            self.read()
            rounds = 0
            while self.overhead() > 1.2 and rounds < 10:
                self.write("other", b"%d" % rounds)
                self.assertLess(self.back_up().sent_bytes, 500_000)
                rounds += 1
        self.assertGreater(rounds, 1)
        self.assertLess(self.overhead(), 1.2)
        self.check()

    def test_hard_links(self):
        """Both names move, and are links still."""
        os.link(self.tree / "d0/f000", self.tree / "d1/link")
        self.read()
        self.read()
        self.check({"d1/link": self.kept["d0/f000"]})
        entries = self.entries()
        self.assertEqual(entries["d0/f000"].link_group, entries["d1/link"].link_group)

    def test_lost_note(self):
        """Without it a run makes nothing anew, and nothing is lost; when something changes it is counted again."""
        self.read()
        (self.state / refresh.NAME).write_bytes(b"rubbish")
        self.assertEqual(self.read(), 0)
        self.write("new", b"new")
        self.read()
        self.read()
        self.assertLess(self.overhead(), 1.2)
        self.check()

    def test_forged_note(self):
        """One that names everything makes a run read and send again, no more."""
        self.read()
        ids = {id for page in self.pages() for id in page.references()}
        refresh.keep(str(self.state), self.secret.machine_id, Noted(tuple(ids), (*ids, blob(7))))
        self.assertEqual(self.read(), len(self.kept))
        self.check()

    def pages(self) -> list[state.StatePage]:
        return list(state.read_pages(str(self.state / state.NAME), self.secret.machine_id, None))

    def test_server_that_lost_the_old_bundles(self):
        """What is missing at the commit is read again beside what is made anew."""
        self.read()
        for page in self.pages():
            for id in page.references():
                self.vault.blobs.pop(id, None)
        self.assertEqual(self.back_up().status, SnapshotStatus.COMPLETE)
        self.check()

    def test_full_disk(self):
        """A note that cannot be written is told; the snapshot is there."""
        with mock.patch("mastodon_agent.refresh.keep", side_effect=OSError(errno.ENOSPC, "No space left on device")):
            self.assertEqual(self.back_up().status, SnapshotStatus.COMPLETE)
        self.assertIn("restores become slower", self.heard.said[-1])


class TinyTests(AgentCase):
    """Runs that find little to send, often."""

    def test_joined(self):
        """The tiny bundles of many runs become one, once."""
        for number in range(6):
            self.write(f"f{number}", os.urandom(1000))
            self.back_up()
        with mock.patch("mastodon_agent.refresh.FEW_TINY", 5):
            self.write("f6", os.urandom(1000))
            self.assertEqual(self.back_up().tally.read_files, 1)
            self.assertEqual(self.back_up().tally.read_files, 7)
            self.assertEqual(self.back_up().tally.read_files, 0)
        (page,) = state.read_pages(str(self.state / state.NAME), self.secret.machine_id, None)
        self.assertEqual(len(page.references()), 1)
        self.assertEqual(self.content("f3"), (self.tree / "f3").read_bytes())


class ObstacleTests(RunCase):
    """Files that are to be read again for a refresh alone, and are not what they were, or out of reach."""

    def setUp(self) -> None:
        super().setUp()
        self.read()

    def test_cannot_be_opened(self):
        """It keeps its place; nobody is told, and the snapshot is complete, since nothing about the file changed."""
        original = reader.open_quietly

        def refuse(name: bytes, dir_fd: int) -> int:
            if name == b"f003":
                raise PermissionError(errno.EACCES, "Permission denied")
            return original(name, dir_fd)

        with mock.patch("mastodon_agent.reader.open_quietly", refuse):
            for _ in range(2):
                self.read()
                self.check()
        self.assertLessEqual(self.read(), 1)
        self.assertLess(self.overhead(), 1.2)

    def test_cannot_be_read(self):
        """The same for an error of the disk while it is read."""
        original = reader.read_into

        def fail(fd: int, view: memoryview, offset: int) -> int:
            if os.path.basename(os.readlink(f"/proc/self/fd/{fd}")) == "f003":
                raise OSError(errno.EIO, "Input/output error")
            return original(fd, view, offset)

        with mock.patch("mastodon_agent.reader.read_into", fail):
            self.read()
        self.check()

    def test_changed_as_well(self):
        """A file that cannot be opened and has changed is carried over and told, as ever."""
        original = reader.open_quietly

        def refuse(name: bytes, dir_fd: int) -> int:
            if name == b"f003":
                raise PermissionError(errno.EACCES, "Permission denied")
            return original(name, dir_fd)

        self.write("d3/f003", b"changed")
        with mock.patch("mastodon_agent.reader.open_quietly", refuse):
            self.assertEqual(self.back_up().status, SnapshotStatus.PARTIAL)
        self.check()

    def test_gone_and_changed_meanwhile(self):
        """Files that vanish or change between the look and the reading are what they are in any run."""

        def meddle(step: str, name: bytes) -> None:
            if (step, name) == ("open", b"f003"):
                (self.tree / "d3/f003").unlink()
            if (step, name) == ("open", b"f006"):
                (self.tree / "d6/f006").write_bytes(b"another")

        self.assertEqual(self.back_up(watch=meddle).status, SnapshotStatus.COMPLETE)
        self.assertNotIn("d3/f003", self.entries())
        del self.kept["d3/f003"]
        self.check({"d6/f006": b"another"})

    def test_interrupted(self):
        """A run that ends amid a refresh leaves what was; the next one goes on, and nothing is sent twice."""

        class Broken(FolderSession):
            def commit(self, record: bytes):
                raise ConnectionError("cut")

        before = len(self.vault.snapshots)
        self.assertRaises(ConnectionError, self.back_up, session=Broken(self.vault))
        self.assertEqual(len(self.vault.snapshots), before)
        self.check()
        received = self.vault.received
        self.assertEqual(self.back_up().status, SnapshotStatus.COMPLETE)
        self.assertLess(self.vault.received - received, 100_000)
        self.check()
        self.read()
        self.assertLess(self.overhead(), 1.2)


class PiecesTests(AgentCase):
    """Large files that change in place."""

    def overhead_after(self, rounds: int) -> float:
        """How much is fetched for what is used of the pieces' blobs, when the file was edited so often."""
        random_source = random.Random(3)
        content = bytearray(random_source.randbytes(6_000_000))
        counted: list[Census] = []
        original = refresh.renew

        def renew(listing: str, machine: bytes, pair: bytes, noted: Noted, pieces: Census) -> None:
            counted.append(pieces)
            original(listing, machine, pair, noted, pieces)

        with mock.patch("mastodon_agent.refresh.renew", renew):
            for _ in range(rounds):
                for _ in range(60):
                    at = random_source.randrange(len(content) - 8)
                    content[at : at + 8] = random_source.randbytes(8)
                self.write("db", bytes(content))
                self.assertEqual(self.back_up().status, SnapshotStatus.COMPLETE)
        self.assertEqual(self.content("db"), content)
        counts = list(counted[-1]._counts.values())
        return sum(count & NUMBER for count in counts) / sum(count >> 32 for count in counts)

    def test_old_blobs_are_left(self):
        """Pieces move out of blobs of which little is used, as their file is read; else it would be 2.4."""
        self.assertLess(self.overhead_after(8), 1.9)


class CostTests(RunCase):
    """What it costs where there is nothing to do."""

    def test_unchanged_listing_is_not_counted(self):
        """A run that finds nothing changed opens no page for it."""
        path = str(self.state / state.NAME)
        for _ in range(50):  # directories above the tree are in the listing as well, and anybody may change those
            before = listing_version(path)
            with mock.patch("mastodon_agent.refresh.renew", side_effect=refresh.renew) as renew:
                self.read()
            self.assertEqual(renew.call_count, int(listing_version(path) != before))
            if not renew.call_count:
                return
        self.fail("the listing was never left alone")
