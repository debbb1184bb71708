"""The agent's state is a hint: lost, damaged, old or foreign, it changes speed and nothing else."""

import os
import secrets
import shutil
from unittest import mock

from twisted.trial.unittest import SynchronousTestCase

from mastodon.sealed.entry import Entry, EntryType
from mastodon.sealed.entry_codec import pack_entry
from mastodon.sealed.listing import decode_page
from mastodon.sealed.machine_secret import MachineSecret
from mastodon.sealed.snapshot import Notice, SnapshotStatus
from mastodon_agent import state
from mastodon_agent.content_map import HEAD, SLOT, ContentMap
from mastodon_agent.kept_entries import Kept, PageEntries
from mastodon_agent.records import ROW_SIZE
from mastodon_agent.trust_memory import TrustMemory
from tests.agent_runs import AgentCase
from tests.fake_append_server import FolderSession, Vault


class StaleStateTests(AgentCase):
    """Whatever becomes of the state directory, the snapshot is right."""

    def setUp(self) -> None:
        super().setUp()
        for number in range(400):
            self.write(f"d{number % 4}/{number:03}", os.urandom(2000))
        self.back_up()

    def right(self, session: FolderSession | None = None) -> None:
        """The next run is complete and holds what is there, and so is the one after it."""
        for name in ("d1/001", "new"):
            self.write(name, os.urandom(100))
        for _ in range(2):
            self.assertEqual(self.back_up(session=session).status, SnapshotStatus.COMPLETE)
            session = None
            entries = self.entries()
            self.assertEqual(len(entries), 400 + 4 + 1)
            for name in ("d1/001", "new", "d3/003"):
                self.assertEqual(self.content(name), (self.tree / name).read_bytes())

    def test_lost(self):
        """Without any state everything is read, offered, and hardly anything sent."""
        before = self.vault.received
        shutil.rmtree(self.state)
        self.state.mkdir()
        self.assertEqual(self.back_up().tally.read_files, 400)
        self.assertLess(self.vault.received - before, 50_000)
        self.right()

    def test_lost_state_is_told(self):
        """A machine that had snapshots and no memory of them says so in its record."""
        shutil.rmtree(self.state)
        self.state.mkdir()
        outcome = self.back_up()
        self.assertIn(Notice.STATE_LOST, outcome.notices)
        self.assertIn(Notice.TRUST_MEMORY_LOST, Notice(self.vault.record().notices))

    def test_cut(self):
        """A listing cut anywhere is good up to there."""
        path = self.state / state.NAME
        whole = path.read_bytes()
        for length in (0, 10, state.HEAD.size, len(whole) // 2, len(whole) - 1):
            path.write_bytes(whole[:length])
            self.assertEqual(self.back_up().status, SnapshotStatus.COMPLETE)
            self.assertEqual(len(self.entries()), 404)
        self.right()

    def test_damaged(self):
        """A flipped byte anywhere in listing or content map is noticed."""
        for name in (state.NAME, "contents"):
            path = self.state / name
            whole = path.read_bytes()
            for at in range(0, len(whole), max(1, len(whole) // 9)):
                path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x40]) + whole[at + 1 :])
                self.assertEqual(self.back_up().status, SnapshotStatus.COMPLETE)
        self.right()

    def test_rubbish(self):
        """Files of rubbish are no state."""
        for name in os.listdir(self.state):
            (self.state / name).write_bytes(os.urandom(5000))
        self.right()

    def test_old_copy_put_back(self):
        """A state from before, as after a disk that fell back in time."""
        old = self.work / "old"
        shutil.copytree(self.state, old)
        self.write("d0/000", b"meanwhile")
        self.back_up()
        shutil.rmtree(self.state)
        shutil.copytree(old, self.state)
        self.right()

    def test_a_disk_that_went_back_is_told(self):
        """P7: what is remembered is older than the server's head."""
        old = self.work / "old"
        shutil.copytree(self.state, old)
        self.back_up()
        shutil.rmtree(self.state)
        shutil.copytree(old, self.state)
        outcome = self.back_up()
        self.assertIn(Notice.STATE_LOST, outcome.notices)
        record = self.vault.record()
        self.assertNotEqual(record.predecessor, record.remembered)
        self.assertTrue(any("back in time" in text for text in self.heard.said))

    def test_of_another_machine(self):
        """Another machine's state is none."""
        other = self.secret
        self.secret = MachineSecret(secrets.token_bytes(32))
        self.vault = Vault(self.secret)
        self.vault.opens_envelopes = False
        self.assertNotEqual(other.machine_id, self.secret.machine_id)
        self.right()

    def test_server_that_lost_everything(self):
        """A server without a blob gets everything, whatever the state says."""
        self.vault.blobs.clear()
        self.vault.packs.clear()
        self.right()

    def test_state_directory_on_a_full_disk(self):
        """The backup goes on when its state cannot be written."""
        with mock.patch("os.pwrite", side_effect=OSError(28, "No space left on device")):
            self.right()

    def test_listing_on_a_full_disk(self):
        """A listing that cannot be written is not published, and the run is complete."""

        def refuse(writer, data):
            writer.failure = OSError(28, "No space left on device")

        with mock.patch.object(state.ListingWriter, "_write", refuse):
            self.right()
        self.assertTrue(any("No space left" in text for text in self.heard.said))


class MissingTests(AgentCase):
    """What the server has lost is noticed at the commit, read again and sent."""

    def setUp(self) -> None:
        super().setUp()
        for number in range(300):
            self.write(f"d{number % 3}/{number:03}", os.urandom(3000))
        self.write("big", os.urandom(3_000_000))
        self.write("huge", os.urandom(20_000_000))
        fewer_places = mock.patch("mastodon_agent.chunk.PLACES_LIMIT", 5)  # so that there are maps
        fewer_places.start()
        self.addCleanup(fewer_places.stop)
        self.back_up()

    def heals_without(self, kind_name: str) -> None:
        ids = [id for id, blob in self.vault.blobs.items() if blob.header.kind.name == kind_name]
        self.assertTrue(ids)
        for id in ids[:3]:
            del self.vault.blobs[id]
        self.write("new", b"something")
        outcome = self.back_up()
        self.assertEqual(outcome.status, SnapshotStatus.COMPLETE)
        self.assertEqual(self.vault.missing(self.vault.record().root), [])
        for name in ("big", "huge", "d0/000", "d2/002", "new"):
            self.assertEqual(self.content(name), (self.tree / name).read_bytes())
        self.assertLessEqual(self.back_up().sent_blobs, 2)  # a page and the root, if others touched / or /tmp

    def test_bundle(self):
        """A lost bundle: the files in it are read again."""
        self.heals_without("BUNDLE")

    def test_chunk(self):
        """A lost chunk, named in a map or not."""
        self.heals_without("CHUNK")

    def test_map(self):
        """A lost map."""
        self.heals_without("MAP")

    def test_more_than_the_server_can_name(self):
        """All blobs but a few are gone: everything is read and offered again, in one more pass."""
        for id in list(self.vault.blobs)[5:]:
            del self.vault.blobs[id]
        with mock.patch("tests.fake_append_server.MISSING_SHOWN", 3):
            outcome = self.back_up()
        self.assertEqual(outcome.status, SnapshotStatus.COMPLETE)
        self.assertEqual(self.vault.missing(self.vault.record().root), [])
        self.assertEqual(self.content("huge"), (self.tree / "huge").read_bytes())

    def test_page(self):
        """A lost page is sent again from the state."""
        self.heals_without("PAGE")


class InterruptedTests(AgentCase):
    """A run that ends in the middle leaves what the next one goes on with."""

    def setUp(self) -> None:
        super().setUp()
        for number in range(3000):
            self.write(f"d{number % 10}/{number:04}", os.urandom(1200))

    def interrupted(self, after: int, **options) -> None:
        """A run whose session fails at a pack."""

        class Failing(FolderSession):
            packs = 0

            def send_pack(self, pack):
                self.packs += 1
                if self.packs > after:
                    raise ConnectionError("cut")
                super().send_pack(pack)

        with (
            mock.patch("mastodon_agent.packing.TARGET", 100_000),
            mock.patch("mastodon_agent.bundle.MINIMUM", 20_000),
            mock.patch("mastodon_agent.bundle.SPREAD", 20_000),
        ):
            self.assertRaises(ConnectionError, self.back_up, session=Failing(self.vault), **options)

    def test_what_was_acknowledged_is_not_sent_again(self):
        """Bytes sent in both runs together are about those of one."""
        self.interrupted(after=18)
        first = self.vault.received
        self.assertGreater(first, 1_500_000)
        self.back_up()
        self.assertLess(self.vault.received, 3000 * 1200 * 1.2)
        self.assertEqual(self.content("d9/2999"), (self.tree / "d9/2999").read_bytes())

    def test_what_was_listed_is_not_read_again(self):
        """Pages that the server has are taken up from the unfinished listing."""
        self.interrupted(after=25)
        outcome = self.back_up()
        self.assertLess(outcome.tally.read_files, 2700)
        self.assertEqual(len(self.entries()), 3010)
        self.assertEqual(self.content("d0/0000"), (self.tree / "d0/0000").read_bytes())

    def test_the_rest_of_an_older_listing_stays_good(self):
        """Behind the point where the run ended, what the run before it left still counts."""
        self.back_up()
        for number in range(0, 3000, 2):
            self.write(f"d{number % 10}/{number:04}", os.urandom(1200))
        self.interrupted(after=12)
        outcome = self.back_up()
        self.assertLess(outcome.tally.read_files, 1500)
        self.assertEqual(self.content("d8/2998"), (self.tree / "d8/2998").read_bytes())
        self.assertEqual(len(self.entries()), 3010)

    def test_checkpoints(self):
        """A first run that lasts commits what it has; then it ends with a complete snapshot."""
        ticks = iter(range(100_000))
        with mock.patch("mastodon_agent.packing.TARGET", 200_000), mock.patch("mastodon_agent.backup.TICK_S", 0.0):
            outcome = self.back_up(steady=lambda: float(next(ticks)), checkpoint_s=2500.0)
        self.assertGreaterEqual(outcome.checkpoints, 1)
        statuses = [self.vault.record(number).status for number in range(len(self.vault.snapshots))]
        self.assertEqual(statuses[:-1], [SnapshotStatus.CHECKPOINT] * outcome.checkpoints)
        self.assertEqual(statuses[-1], SnapshotStatus.COMPLETE)
        listed = self.entries(0)
        self.assertTrue(0 < len(listed) < 3010)
        name = max(name for name in listed if "/" in name)
        self.assertEqual(self.content(name, 0), (self.tree / name).read_bytes())
        self.assertEqual(len(self.entries()), 3010)

    def test_later_runs_make_no_checkpoints(self):
        """Once a run has gone through, a part of the files is no snapshot any more."""
        self.back_up()
        ticks = iter(range(1_000_000))
        with mock.patch("mastodon_agent.backup.TICK_S", 0.0):
            outcome = self.back_up(steady=lambda: float(next(ticks)), checkpoint_s=10.0, reread=True)
        self.assertEqual(outcome.checkpoints, 0)

    def test_reader_that_dies(self):
        """A reader process that is killed ends the run with an error, not with a hole in the snapshot."""
        from mastodon_agent.ring import OtherEnded

        def die(step: str, name: bytes) -> None:
            if name == b"1555":
                os._exit(9)

        self.assertRaises(OtherEnded, self.back_up, watch=die)
        self.assertEqual(self.vault.snapshots, [])

    def test_reader_that_crashes(self):
        """An unforeseen error in the reader process is told, and nothing is committed."""
        from mastodon_agent.refusals import ReaderCrashed

        def crash(step: str, name: bytes) -> None:
            if name == b"1555":
                raise RuntimeError("unforeseen")

        error = self.assertRaises(ReaderCrashed, self.back_up, watch=crash)
        self.assertIn("unforeseen", str(error))
        self.assertEqual(self.vault.snapshots, [])


class ListingTests(SynchronousTestCase):
    """The file itself."""

    MACHINE, PAIR = b"m" * 32, b"p" * 16

    def setUp(self) -> None:
        self.directory = os.path.abspath(self.mktemp())
        os.mkdir(self.directory)

    def page(self, number: int) -> state.NewPage:
        names = [b"%03d-%d" % (number, n) for n in range(3)]
        return state.NewPage(
            bytes([number]) * 32, [((b"dir",), names)], [bytes([number + 1]) * ROW_SIZE] * 3,
            PageEntries({0: "root"}, {0: ""}, [[self.kept(name) for name in names]]), [b"r" * 32], [0], 3, 30, True,
        )  # fmt: skip

    @staticmethod
    def kept(name: bytes) -> Kept:
        entry = Entry(name, EntryType.FILE, size=10, hash=b"h" * 32)
        return Kept(*pack_entry(entry), True, 10, 0, 0, [0, int(name[-1:]), 10], {})

    def write(self, *numbers: int, publish: bool = True) -> None:
        writer = state.ListingWriter(self.directory, self.MACHINE, self.PAIR)
        for number in numbers:
            writer.add(self.page(number))
        if publish:
            writer.publish()
        writer.close()

    def read(self, name: str = state.NAME) -> list[int]:
        pages = state.read_pages(os.path.join(self.directory, name), self.MACHINE, self.PAIR)
        return [page.id[0] for page in pages]

    def test_round_trip(self):
        """Everything that was written of a page is read."""
        self.write(1, 2)
        (first, second) = state.read_pages(os.path.join(self.directory, state.NAME), self.MACHINE, self.PAIR)
        self.assertEqual((first.count, first.files, first.content_bytes, first.whole), (3, 3, 30, True))
        self.assertEqual(first.sections(), [((b"dir",), [b"001-0", b"001-1", b"001-2"])])
        self.assertEqual(second.rows(), bytes([3]) * ROW_SIZE * 3)
        self.assertEqual((second.references(), second.maps()), ([b"r" * 32], [0]))
        self.assertEqual(second.entries(), self.page(2).entries)
        (section,) = decode_page(second.plaintext(), 1)
        self.assertEqual([entry.places[0].offset for entry in section.entries], [0, 1, 2])
        self.assertEqual((section.directory, section.entries[0].hash), ((b"dir",), b"h" * 32))
        self.assertEqual((first.first_key(), first.last_key()), (((b"dir",), b"001-0"), ((b"dir",), b"001-2")))

    def test_other_machine_or_pair(self):
        """It is of one machine and one pair."""
        self.write(1)
        path = os.path.join(self.directory, state.NAME)
        self.assertEqual(list(state.read_pages(path, b"x" * 32, self.PAIR)), [])
        self.assertEqual(list(state.read_pages(path, self.MACHINE, b"x" * 16)), [])
        self.assertEqual(len(list(state.read_pages(path, self.MACHINE, None))), 1)

    def test_unfinished_listing_comes_in_front(self):
        """Pages that the server has, then the older listing's behind them."""
        self.write(1, 3, 5, 7)
        self.write(2, 4, 6, publish=False)
        known = {bytes([2]) * 32, bytes([4]) * 32}
        self.assertTrue(state.adopt_unfinished(self.directory, self.MACHINE, self.PAIR, known.__contains__))
        self.assertEqual(self.read(), [2, 4, 5, 7])
        self.assertFalse(os.path.exists(os.path.join(self.directory, state.PART)))

    def test_unfinished_listing_of_which_nothing_arrived(self):
        """Nothing is taken from it."""
        self.write(1, 3)
        self.write(2, publish=False)
        self.assertFalse(state.adopt_unfinished(self.directory, self.MACHINE, self.PAIR, lambda _: False))
        self.assertEqual(self.read(), [1, 3])


class ContentMapTests(SynchronousTestCase):
    """The table of what the server has."""

    def setUp(self) -> None:
        self.directory = os.path.abspath(self.mktemp())
        os.mkdir(self.directory)
        self.table = self.open()

    def open(self, machine: bytes = b"m" * 32, pair: bytes = b"p" * 16) -> ContentMap:
        table = ContentMap(self.directory, machine, pair)
        self.addCleanup(table.close)
        return table

    def test_many(self):
        """Thousands of entries are found again, also after it has grown and was opened anew."""
        ids = [secrets.token_bytes(32) for _ in range(200)]
        hashes = [secrets.token_bytes(32) for _ in range(12_000)]
        for number, hash in enumerate(hashes):
            self.table.add_contents(ids[number % 200], [(hash, number, 7)])
        for id in ids:
            self.table.add_blob(id)
        self.table.flush()
        for table in (self.table, self.open()):
            for number, hash in enumerate(hashes):
                self.assertEqual(table.place(hash, 7), (ids[number % 200], number))
            self.assertTrue(all(table.knows(id) for id in ids))
            self.assertFalse(table.knows(secrets.token_bytes(32)))
            self.assertIsNone(table.place(hashes[0], 8))

    def test_forgotten_until_sent_again(self):
        """What the server lacks is not known, nor anything in it, until it is acknowledged again."""
        id, hash = secrets.token_bytes(32), secrets.token_bytes(32)
        self.table.add_blob(id)
        self.table.add_contents(id, [(hash, 0, 5)])
        self.table.forget([id])
        self.assertFalse(self.table.knows(id))
        self.assertIsNone(self.table.place(hash, 5))
        self.table.add_blob(id)
        self.assertEqual(self.table.place(hash, 5), (id, 0))

    def test_of_another_pair(self):
        """A table of another machine or pair is made anew."""
        id = secrets.token_bytes(32)
        self.table.add_blob(id)
        self.table.flush()
        self.assertFalse(self.open(pair=b"q" * 16).knows(id))
        self.assertFalse(self.open().knows(id))

    def test_damaged_slot_is_empty(self):
        """A slot whose check does not fit is not believed."""
        id = secrets.token_bytes(32)
        self.table.add_blob(id)
        self.table.flush()
        self.assertTrue(self.table.knows(id))
        path = os.path.join(self.directory, "contents")
        with open(path, "r+b") as file:
            data = file.read()
            at = data.index(id)
            self.assertGreaterEqual(at, HEAD.size)
            file.seek(at + SLOT.size - 30)
            file.write(b"\xff")
        self.assertFalse(self.table.knows(id))


class TrustMemoryTests(SynchronousTestCase):
    """What has to be remembered for safety."""

    def setUp(self) -> None:
        self.directory = os.path.abspath(self.mktemp())
        os.mkdir(self.directory)

    def test_remembers(self):
        """The newest head is there after a restart; another machine's is not."""
        memory = TrustMemory(self.directory, b"m" * 32)
        self.assertTrue(memory.was_lost)
        memory.remember_head(7, b"h" * 32)
        again = TrustMemory(self.directory, b"m" * 32)
        self.assertFalse(again.was_lost)
        self.assertEqual((again.remembered.sequence, again.remembered.hash), (7, b"h" * 32))
        self.assertTrue(TrustMemory(self.directory, b"x" * 32).was_lost)

    def test_damage_is_noticed(self):
        """A flipped byte makes it a lost one."""
        TrustMemory(self.directory, b"m" * 32).remember_head(7, b"h" * 32)
        path = os.path.join(self.directory, "trust")
        with open(path, "rb") as file:
            whole = file.read()
        for at in range(len(whole)):
            with open(path, "wb") as file:
                file.write(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
            self.assertTrue(TrustMemory(self.directory, b"m" * 32).was_lost)
