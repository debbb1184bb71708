"""The ledger's writer: the same bytes everywhere, many entries to one fsync, errors that stay."""

import errno
import os
from pathlib import Path

from twisted.internet.defer import Deferred, fail, gatherResults, succeed
from twisted.trial.unittest import SynchronousTestCase

from mastodon.catalogue.interface import CatalogueError
from mastodon.catalogue.lane import OwnMainland
from mastodon.daemon import ledger_writer
from mastodon.daemon.config import SpoolConfig
from mastodon.daemon.errors import Unavailable
from mastodon.daemon.heads import HeadsFile
from mastodon.daemon.ledger_copies import find_chain, join_copies
from mastodon.daemon.ledger_writer import LedgerWriter
from mastodon.daemon.spool import Spool, make_spool
from mastodon.daemon.spools import SpoolMemory, Spools
from mastodon.host.ledger_reader import ChainReader
from mastodon.host.spool_layout import chains, segments
from mastodon.sealed.errors import Forged, FormatError, Malformed
from mastodon.sealed.ledger import GENESIS, Head, LedgerEntry
from mastodon.sealed.ledger_entries import ChainStarted, Event
from tests.store_case import SECOND, Clock, FaultyDisk, Setting

CHAIN = b"c" * 16


def event(number: int, detail: str = "") -> Event:
    return Event(number, b"", b"", detail)


class WriterCase(SynchronousTestCase):
    """A writer on two spools, without a store."""

    def setUp(self) -> None:
        self.directory = Path(self.mktemp()).resolve()
        self.directory.mkdir()
        self.mainland = OwnMainland()
        self.clock = Clock()
        self.disk = FaultyDisk()
        self.failed: list[Spool] = []
        self.followed: list[LedgerEntry] = []
        self.refusing = False
        self.paths = [self.directory / "one", self.directory / "two"]
        for number, path in enumerate(self.paths):
            make_spool(path, bytes([number]) * 16)
        self.memory = SpoolMemory(self.directory)
        self.heads = HeadsFile(self.directory, Setting(self.directory / "keys", 0).ledger_key)
        self.open(Head(CHAIN, 0, GENESIS))
        self.addCleanup(lambda: self.mainland.wait(self.writer.stop()))

    def open(self, head: Head) -> None:
        self.spools = Spools([SpoolConfig(path, 1, 0) for path in self.paths], self.memory, self.disk)
        for spool in self.spools.look():
            spool.adopt(())
        self.writer = LedgerWriter(
            self.spools, self.heads, self.mainland, self.clock, self.follow, lambda spool, _: self.failed.append(spool)
        )
        self.writer.vouches = True
        self.mainland.wait(self.writer.open(head, 0))

    def follow(self, entries: list[tuple[LedgerEntry, Head]]) -> "Deferred[None]":
        if self.refusing:
            return fail(CatalogueError("no space left"))
        self.followed += [entry for entry, _ in entries]
        return succeed(None)

    def append(self, *numbers: int) -> list[LedgerEntry]:
        return self.mainland.wait(gatherResults([self.writer.append(event(number)) for number in numbers]))

    def read(self, path: Path) -> list[int]:
        """Codes of the events in a spool's copy."""
        reader = ChainReader(CHAIN, segments(path, CHAIN))
        return [entry.body.code for entry, _ in reader.entries() if isinstance(entry.body, Event)]

    def break_disk(self, call: str, part: str) -> None:
        def before(one: str, path: str) -> None:
            if one == call and part in path:
                raise OSError(errno.EIO, os.strerror(errno.EIO))

        self.disk.before = before


class WriterTests(WriterCase):
    """Appending."""

    def test_promise_p9_a_catalogue_that_fell_behind(self) -> None:
        """What the catalogue did not take is durable; nothing more is taken until it has caught up, in order, since it
        would be judged by an older state than the ledger's."""
        self.append(1)
        self.refusing = True
        self.append(2)
        self.flushLoggedErrors(CatalogueError)
        for _ in range(2):
            self.assertRaises(Unavailable, self.mainland.wait, self.writer.append(event(3)))
        self.refusing = False
        self.assertRaises(Unavailable, self.mainland.wait, self.writer.append(event(3)))
        self.append(4)
        self.assertEqual([entry.sequence for entry in self.followed], [1, 2, 3])
        self.assertEqual([self.read(path) for path in self.paths], [[1, 2, 4]] * 2)

    def test_same_bytes_everywhere(self) -> None:
        """Every spool holds the same segments."""
        self.append(1, 2)
        self.append(3)
        one, two = (segments(path, CHAIN) for path in self.paths)
        self.assertEqual([path.name for path in one], [path.name for path in two])
        self.assertEqual([path.read_bytes() for path in one], [path.read_bytes() for path in two])
        self.assertEqual(self.read(self.paths[0]), [1, 2, 3])

    def test_entries_come_in_order(self) -> None:
        """Sequences and followers go by the order of the calls, each entry with the time of its writing."""
        entries = self.append(1, 2, 3)
        self.assertEqual([entry.sequence for entry in entries], [1, 2, 3])
        self.assertEqual(self.followed, entries)
        self.assertEqual(sorted({entry.time_ns for entry in entries}), [entry.time_ns for entry in entries])
        self.assertEqual(self.writer.durable_head.sequence, 3)

    def test_group_commit(self) -> None:
        """A hundred entries asked for at once cost a few fsyncs, not hundreds."""
        self.append(0)
        self.disk.calls.clear()
        self.append(*range(100))
        self.assertLess(self.disk.count("fsync", "/one/ledger/"), 50)
        self.assertEqual(self.disk.count("fsync", "/one/ledger/"), self.disk.count("fsync", "/two/ledger/"))

    def test_segments_roll(self) -> None:
        """A segment that has reached its limit is followed by another; the chain goes through."""
        self.patch(ledger_writer, "SEGMENT_LIMIT", 4096)
        details = [self.writer.append(event(number, "x" * 1000)) for number in range(20)]
        self.mainland.wait(gatherResults(details))
        names = [path.name for path in segments(self.paths[0], CHAIN)]
        self.assertGreater(len(names), 3)
        self.assertEqual(names, sorted(names))
        self.assertEqual(self.read(self.paths[0]), list(range(20)))
        self.assertEqual(self.read(self.paths[1]), list(range(20)))

    def test_goes_on_after_a_restart(self) -> None:
        """The next writer goes on in the same segment, or begins the next one."""
        for limit in (1 << 20, 100):
            self.patch(ledger_writer, "SEGMENT_LIMIT", limit)
            self.append(1)
            head = self.writer.durable_head
            self.mainland.wait(self.writer.stop())
            self.open(head)
        self.append(2)
        self.assertEqual(self.read(self.paths[0]), [1, 1, 2])
        self.assertEqual(self.read(self.paths[1]), [1, 1, 2])
        self.assertEqual(len(segments(self.paths[0], CHAIN)), 3)

    def test_clock_that_went_back_is_not_trusted(self) -> None:
        """An entry before the one before it says so."""
        (first,) = self.append(1)
        self.clock.now -= 100 * SECOND
        (second,) = self.append(2)
        self.clock.now += 200 * SECOND
        (third,) = self.append(3)
        self.assertEqual([one.clock_trusted for one in (first, second, third)], [True, False, True])

    def test_one_spool_fails(self) -> None:
        """It goes offline for good and is told of once; entries are durable on the other."""
        self.append(1)
        self.break_disk("fsync", "/one/ledger/")
        self.append(2)
        self.disk.before = lambda call, path: None
        self.append(3)
        self.assertEqual(self.failed, [self.spools.all[0]])
        self.assertEqual([spool.online for spool in self.spools.all], [False, True])
        self.assertEqual(self.read(self.paths[1]), [1, 2, 3])
        self.assertNotIn(3, self.read(self.paths[0]))

    def test_promise_p9_no_spool_no_ack(self) -> None:
        """When no spool takes an entry it fails, so does every later one, and nobody is told of it."""
        self.append(1)
        self.break_disk("fsync", "/ledger/")
        self.assertRaises(Unavailable, self.mainland.wait, self.writer.append(event(2)))
        self.disk.before = lambda call, path: None
        self.assertRaises(Unavailable, self.mainland.wait, self.writer.append(event(3)))
        self.assertEqual([entry.sequence for entry in self.followed], [1])
        self.assertEqual(self.writer.durable_head.sequence, 1)

    def test_what_cannot_be_written_ends_the_writer(self) -> None:
        """A body that no reader would take is not chained, and nothing behind it either."""
        self.append(1)
        self.assertRaises(Unavailable, self.mainland.wait, self.writer.append(event(1 << 20)))
        self.assertRaises(Unavailable, self.mainland.wait, self.writer.append(event(2)))
        self.assertEqual(self.read(self.paths[0]), [1])

    def test_head_is_kept_at_the_end(self) -> None:
        """After a clean stop the signed head is the last entry's."""
        self.append(1, 2)
        head = self.writer.durable_head
        self.mainland.wait(self.writer.stop())
        self.assertEqual(self.heads.read(), head)
        self.assertEqual(self.memory.spools[b"\1" * 16].sequence, 2)
        self.open(head)

    def test_forged_head_is_none(self) -> None:
        """A head that another key signed, or that is damaged, vouches for nothing."""
        self.append(1)
        self.mainland.wait(self.writer.stop())
        data = self.heads.path.read_bytes()
        self.heads.path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
        self.assertIsNone(self.heads.read())
        self.open(self.writer.durable_head)


class ReaderTests(WriterCase):
    """What the reader of a copy takes for torn, and what for damage."""

    def setUp(self) -> None:
        super().setUp()
        self.patch(ledger_writer, "SEGMENT_LIMIT", 100)
        for number in range(6):
            self.append(number)
        self.files = segments(self.paths[0], CHAIN)

    def read_all(self, floor: int = 0) -> ChainReader:
        reader = ChainReader(CHAIN, self.files, floor)
        for _ in reader.entries():
            pass
        return reader

    def test_damage_inside(self) -> None:
        """A flipped byte in any segment but the last is damage, naming the file."""
        data = self.files[0].read_bytes()
        for position in range(0, len(data), 7):
            self.files[0].write_bytes(data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :])
            error = self.assertRaises(FormatError, self.read_all)
            self.assertIn(".ledger", str(error))

    def test_missing_segment(self) -> None:
        """A segment taken out of the middle breaks the chain."""
        del self.files[1]
        self.assertRaises(Forged, self.read_all)

    def test_torn_end(self) -> None:
        """Whatever is left of the last entry is left out; but not one that is known to have been whole."""
        data = self.files[-1].read_bytes()
        for cut in range(len(data)):
            self.files[-1].write_bytes(data[:cut])
            reader = self.read_all()
            self.assertLess(reader.tail.head.sequence, 6)
            if reader.tail.torn:
                self.assertRaises((Malformed, Forged), self.read_all, 6)

    def test_chain_is_found_by_its_key(self) -> None:
        """The chain that was begun under the daemon's ledger key is its own, wherever else there are others."""
        spool = self.spools.all[0]
        self.assertEqual(find_chain([spool], self.heads.public_key), (CHAIN, False))
        for chain, key in ((b"d" * 16, self.heads.public_key), (b"e" * 16, b"x" * 32)):
            self.mainland.wait(self.writer.stop())
            self.open(Head(chain, 0, GENESIS))
            self.mainland.wait(self.writer.append(ChainStarted((b"v" * 32,), key, "test")))
        self.assertEqual(sorted(chains(spool.path)), [CHAIN, b"d" * 16, b"e" * 16])
        self.assertEqual(find_chain([spool], self.heads.public_key), (b"d" * 16, True))
        self.assertEqual(find_chain([spool], b"y" * 32), (None, False))
        self.mainland.wait(self.writer.stop())
        self.open(Head(b"f" * 16, 0, GENESIS))
        self.mainland.wait(self.writer.append(ChainStarted((b"v" * 32,), self.heads.public_key, "begun anew")))
        for chain in (b"d" * 16, b"f" * 16):
            self.assertEqual(find_chain([spool], self.heads.public_key, Head(chain, 7, b"h" * 32)), (chain, True))

    def test_copies_are_joined(self) -> None:
        """A copy that is behind gets the missing segments and entries; both are the same afterwards."""
        copies = segments(self.paths[1], CHAIN)
        for path in copies[2:]:
            path.unlink()
        copies[1].write_bytes(copies[1].read_bytes()[:-5])
        joined = join_copies(self.spools.all, CHAIN, self.memory, None)
        self.assertEqual(joined.head, self.writer.durable_head)
        self.assertEqual(
            [path.read_bytes() for path in segments(self.paths[1], CHAIN)], [path.read_bytes() for path in self.files]
        )
        self.assertEqual(len(list(self.paths[1].glob("ledger/*/*.cut-after-*"))), 1)
