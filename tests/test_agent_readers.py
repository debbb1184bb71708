"""Runs of several reader processes that begin before the server answers, and runs that leave the state alone."""

import os
import shutil
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from unittest import mock

from mastodon.sealed.pair import PairRecord
from mastodon.sealed.snapshot import Notice, SnapshotStatus
from mastodon_agent import main, state
from mastodon_agent.dealing import Dealing
from mastodon_agent.listing_parts import cut_in_parts
from mastodon_agent.pairing import Credentials
from mastodon_agent.reader_process import PARTS_EACH, ReaderProcesses
from mastodon_agent.ring import OtherEnded, RingReader
from tests import test_agent_changes, test_agent_state
from tests.agent_runs import AgentCase
from tests.fake_append_server import Vault
from tests.long import long_test


class InShares(AgentCase):
    """Runs with three reader processes and many parts, however small the tree, that begin before the server answers."""

    readers = 3
    ahead = True

    def setUp(self) -> None:
        for name, value in (
            ("mastodon_agent.listing_parts.PART_MINIMUM", 1),
            ("mastodon.sealed.listing.PAGE_MINIMUM", 1024),
            ("mastodon.sealed.listing.CUT_ODDS", 64),
        ):
            patcher = mock.patch(name, value)
            patcher.start()
            self.addCleanup(patcher.stop)
        super().setUp()


class RunsInSharesTests(InShares):
    """Whole runs of several processes."""

    def setUp(self) -> None:
        super().setUp()
        for number in range(1500):
            self.write(f"d{number % 3}/{number:04}", os.urandom(50))
        self.back_up()

    def test_shares_are_used(self) -> None:
        """The second run is done by several processes, and finds what changed in each one's share and no more."""
        for name in ("d0/0000", "d1/0001", "d2/1499", "d2/new"):
            self.write(name, b"changed")
        (self.tree / "d1/0004").unlink()
        listing = str(self.state / state.NAME)
        parts = cut_in_parts(
            listing, self.secret.machine_id, PairRecord.read_unverified(self.vault.newest_pair()).pair, 3
        )
        self.assertGreater(len(parts), 1)
        self.assertEqual(self.back_up().tally.read_files, 4)
        self.assertEqual(len(self.entries()), 1503)
        self.assertEqual(self.content("d2/1499"), b"changed")

    def test_hard_links_across_shares(self) -> None:
        """Names of one inode in several shares have its content, each."""
        for number in range(0, 1500, 7):
            path = self.tree / f"d{number % 3}/{number:04}"
            path.unlink()
            path.hardlink_to(self.write("one", b"of many"))
        self.back_up()
        for number in (0, 7, 749, 1498):
            self.assertEqual(self.content(f"d{number % 3}/{number:04}"), b"of many")

    def test_a_torn_seam(self) -> None:
        """Processes that saw different things where they meet: one process does it again, and the listing is right."""
        self.write("new", b"new")
        with mock.patch("mastodon_agent.share.Seam.digest", lambda _: b"%d" % os.getpid()):
            outcome = self.back_up()
        self.assertEqual(outcome.status, SnapshotStatus.COMPLETE)
        self.assertEqual(len(self.entries()), 1504)
        self.assertEqual(outcome.tally.read_files, 1)
        self.assertEqual(self.content("new"), b"new")

    def test_damage_costs_one_share(self) -> None:
        """Behind a damaged page only the rest of its own share is read again."""
        path = self.state / state.NAME
        data = bytearray(path.read_bytes())
        data[2000] ^= 1
        path.write_bytes(data)
        outcome = self.back_up()
        self.assertEqual(outcome.status, SnapshotStatus.COMPLETE)
        self.assertEqual(len(self.entries()), 1503)
        self.assertGreater(outcome.tally.read_files, 100)
        self.assertLess(outcome.tally.read_files, 1400)

    def test_begun_ahead(self) -> None:
        """What was begun before the answer is gone on with: on a run as usual, and on the first one of all."""
        with mock.patch.object(ReaderProcesses, "_drain", side_effect=AssertionError("begun anew")):
            self.assertEqual(self.back_up().tally.read_files, 0)
            shutil.rmtree(self.state)
            self.state.mkdir()
            self.assertEqual(self.back_up().tally.read_files, 1500)
        self.assertEqual(len(self.entries()), 1503)

    def test_begun_ahead_in_vain(self) -> None:
        """Where the answer is another than expected, all begins anew: the server is empty, or the pair is a new one."""
        vault = self.vault
        self.vault = Vault(self.secret)
        self.vault.opens_envelopes = False
        self.assertEqual(self.back_up().tally.read_files, 1500)
        self.assertEqual(len(self.entries()), 1503)
        self.vault = vault
        outcome = self.back_up(credentials=Credentials(b"another passphrase", ()))
        self.assertIn(Notice.NEW_PAIR, outcome.notices)
        self.assertEqual(outcome.tally.read_files, 1500)
        self.assertEqual(self.vault.missing(self.vault.record().root), [])

    def test_a_process_that_is_long_in_coming(self) -> None:
        """While one process is held up in its first part, the others take all that is left, more than one part each."""
        self.write("d0/0000", b"changed")
        released = self.state / "released"
        taken = self.state / "taken"
        take = Dealing.take

        def noted(dealing: Dealing, round: int, process: int) -> int | None:
            part = take(dealing, round, process)
            if part is not None:
                with open(taken, "ab") as file:
                    file.write(b"%d %d\n" % (part, process))
            return part

        def held_up(_step: str, _name: bytes) -> None:
            while not released.exists():
                lines = taken.read_bytes().splitlines()
                if len(lines) == parts:
                    released.touch()
                time.sleep(0.001)

        listing = str(self.state / state.NAME)
        pair = PairRecord.read_unverified(self.vault.newest_pair()).pair
        parts = len(cut_in_parts(listing, self.secret.machine_id, pair, 3 * PARTS_EACH))
        self.assertGreater(parts, 3)
        with mock.patch.object(Dealing, "take", noted):
            self.assertEqual(self.back_up(watch=held_up).tally.read_files, 1)
        owners = dict(map(bytes.split, taken.read_bytes().splitlines()))
        self.assertEqual(list(owners.values()).count(owners[b"0"]), 1)
        self.assertEqual(len(self.entries()), 1503)

    def test_nothing_is_looked_at_too_late(self) -> None:
        """A record is not looked at once the next one is asked for, or no more are: its slot is written anew."""
        records = RingReader.records

        def wiping(ring: RingReader, idle: Callable[[], None]) -> Iterator[tuple[int, memoryview, memoryview]]:
            for kind, data, meta in records(ring, idle):
                copies = bytearray(data), bytearray(meta)
                try:
                    yield kind, memoryview(copies[0]), memoryview(copies[1])
                finally:
                    for copy in copies:
                        copy[:] = bytes(len(copy))

        large = os.urandom(3_000_000)
        self.write("d1/large", large)
        self.write("d2/1499", b"changed")
        with mock.patch.object(RingReader, "records", wiping):
            self.assertEqual(self.back_up().tally.read_files, 2)
        self.assertEqual(self.content("d1/large"), large)
        self.assertEqual(self.content("d2/1499"), b"changed")

    def test_all_processes_are_gone(self) -> None:
        """Where no process is left to take a part, the run ends."""
        with mock.patch.object(Dealing, "take", lambda *_: os._exit(1)):
            self.assertRaises(OtherEnded, self.back_up)

    def test_process_that_dies(self) -> None:
        """A reader that is killed ends the run, and never a listing without its share."""
        before = len(self.vault.snapshots)
        with mock.patch("mastodon_agent.share.Seam.digest", lambda _: os.kill(os.getpid(), 9)):
            self.assertRaises(OtherEnded, self.back_up)
        self.assertEqual(len(self.vault.snapshots), before)


@long_test(share=False)
class StaleStateInSharesTests(InShares, test_agent_state.StaleStateTests):
    """The state is a hint for several processes, too."""


@long_test(share=False)
class MissingInSharesTests(InShares, test_agent_state.MissingTests):
    """What the server lost is read again by several processes, too."""


@long_test(share=False)
class ChangedInSharesTests(InShares, test_agent_changes.ChangedWhileReadTests):
    """What happens to a file while it is read is told by several processes as by one."""


class UntouchedStateTests(AgentCase):
    """A run that finds nothing changed writes no listing."""

    def setUp(self) -> None:
        super().setUp()
        for number in range(1500):
            self.write(f"d{number % 3}/{number:04}", os.urandom(50))
        self.back_up()
        self.listing = self.state / state.NAME

    def steady(self) -> None:
        """Run until the directories that lead to the tree, which others use too, hold still for a run."""
        for _ in range(20):
            before = self.listing.stat().st_ino
            sent = self.back_up().sent_blobs
            if sent <= 1:
                self.assertEqual(self.listing.stat().st_ino, before)
                return
        self.fail("the directories above the tree never held still")

    def test_all_is_as_it_was(self) -> None:
        """The listing's file is the same one, also when its last page ended with it, and the snapshot is whole."""
        self.steady()
        self.assertEqual(os.listdir(self.state).count(state.PART), 0)
        self.assertEqual(len(self.entries()), 1503)

    def test_an_entry_behind_the_last_page(self) -> None:
        """What comes behind the last page belongs to that page."""
        self.write("zzz", b"last")
        self.back_up()
        self.assertEqual(len(self.entries()), 1504)
        pages = list(state.read_pages(str(self.listing), self.secret.machine_id, None))
        self.assertTrue(all(page.whole for page in pages[:-1]))
        self.steady()

    def test_an_entry_in_front(self) -> None:
        """Pages behind a change are copied, and are good."""
        self.write("d0/0000", b"changed")
        self.back_up()
        self.assertEqual(self.back_up().tally.read_files, 0)
        self.assertEqual(self.content("d0/0000"), b"changed")
        self.assertEqual(len(self.entries()), 1503)

    def test_the_last_files_gone(self) -> None:
        """A listing that is only shorter is written anew."""
        for number in range(1, 1500, 3):
            (self.tree / f"d1/{number:04}").unlink()
        for number in range(2, 1500, 3):
            (self.tree / f"d2/{number:04}").unlink()
        self.back_up()
        self.assertEqual(len(self.entries()), 503)
        self.assertEqual(self.back_up().tally.read_files, 0)
        self.assertEqual(len(self.entries()), 503)


class BegunAheadTests(AgentCase):
    """When the command has its readers begin before the server has answered."""

    def begins(self, reread: bool = False) -> bool:
        options = SimpleNamespace(state=str(self.state), reread=reread)
        readers = mock.Mock()
        main._begin_ahead(options, self.secret, readers)  # type: ignore[arg-type]
        return bool(readers.begin_ahead.called)

    def test_only_where_it_will_hardly_be_in_vain(self) -> None:
        """On a first run, and with a good state; not where all would be read in vain if the answer is another one."""
        self.write("a")
        self.assertTrue(self.begins())
        self.back_up()
        self.assertTrue(self.begins())
        self.assertFalse(self.begins(reread=True))
        (self.state / state.PART).touch()
        self.assertFalse(self.begins())
        (self.state / state.PART).unlink()
        (self.state / state.NAME).write_bytes(b"of an older release")
        self.assertFalse(self.begins())
