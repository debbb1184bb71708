"""The catalogue's interface: one suite, over every back end."""

import threading
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from twisted.internet.defer import Deferred, gatherResults
from twisted.trial.unittest import SynchronousTestCase

from mastodon.catalogue.interface import Account, Catalogue, CatalogueDamaged, CatalogueError, StoredPack
from mastodon.catalogue.lane import Lane, OwnMainland
from mastodon.catalogue.sqlite import SqliteCatalogue, remove_files
from mastodon.sealed.blob import BlobKind
from mastodon.sealed.errors import FormatError
from mastodon.sealed.ledger import GENESIS, Head, LedgerEntry
from mastodon.sealed.ledger_entries import (
    AdminAdded,
    CertificateAdded,
    CertificateRemoved,
    EntryBody,
    Event,
    MachineEnrolled,
    MachineState,
    MachineStateSet,
    PairAdded,
    Role,
    SnapshotCommitted,
)
from mastodon.sealed.pack import parse_pack
from mastodon.sealed.pair import EnvelopeMode, ReenvelopeRecord, envelope_hash
from mastodon.sealed.record import record_hash
from mastodon.sealed.run import RunRecord
from tests.store_case import Admin, Blob, Machine

T = TypeVar("T")
CHAIN = b"c" * 16
SPOOL, OTHER = b"s" * 16, b"o" * 16
DAY = "2027/01/15"


if TYPE_CHECKING:
    Case = SynchronousTestCase
else:
    Case = object  # the suite itself is not run, only what a back end makes of it


class CatalogueMixin(Case):
    """What every back end has to do. ``make`` gives a catalogue on what an earlier one left."""

    mainland: OwnMainland
    catalogue: Catalogue

    def make(self) -> Catalogue:
        raise NotImplementedError

    def setUp(self) -> None:
        self.mainland = OwnMainland()
        self.catalogue = self.make()
        self.wait(self.catalogue.open())
        self.addCleanup(lambda: self.wait(self.catalogue.close()))
        self.head = Head(CHAIN, 0, GENESIS)
        self.admin, self.machine = Admin("alice", 1), Machine(1)
        self.follow(
            AdminAdded(self.admin.tenant, "alice", self.admin.request()),
            CertificateAdded(self.admin.pin, self.admin.tenant, Role.ADMIN, "laptop", b""),
            MachineEnrolled(self.machine.enrolment(self.admin), b""),
            PairAdded(self.machine.id, self.machine.pair_record, self.machine.envelope),
        )

    def wait(self, outcome: "Deferred[T]") -> T:
        return self.mainland.wait(outcome)

    def entries(self, *bodies: EntryBody) -> list[tuple[LedgerEntry, Head]]:
        found = []
        for body in bodies:
            sequence = self.head.sequence + 1
            self.head = Head(CHAIN, sequence, sequence.to_bytes(32, "big"))
            found.append((LedgerEntry(sequence, sequence * 1000, True, body), self.head))
        return found

    def follow(self, *bodies: EntryBody) -> None:
        self.wait(self.catalogue.apply(self.entries(*bodies)))

    def stored(self, blobs: list[Blob], spool: bytes = SPOOL) -> StoredPack:
        _, data = self.machine.pack(blobs)
        pack = parse_pack(data, self.machine.id)
        pairs = {run: RunRecord.read_unverified(record).pair for run, record in pack.runs.items()}
        return StoredPack(pack, pairs, spool, DAY, len(data), 5000)

    def add(self, blobs: list[Blob], spool: bytes = SPOOL) -> StoredPack:
        stored = self.stored(blobs, spool)
        self.refused = self.wait(self.catalogue.add_pack(stored))
        return stored

    def account(self) -> Account:
        found = self.wait(self.catalogue.account(self.machine.id))
        assert found is not None
        return found

    def present(self, *ids: bytes) -> set[bytes]:
        states = self.wait(self.catalogue.blob_states(self.machine.id, ids))
        return {one for one, state in states.items() if state.present}


class CatalogueTests(CatalogueMixin):
    """The suite."""

    def test_reopened(self) -> None:
        """What was followed is there when it is opened again, with the head up to which it was."""
        self.wait(self.catalogue.close())
        self.catalogue = self.make()
        self.assertEqual(self.wait(self.catalogue.open()), self.head)
        self.assertEqual(self.account().public_key, self.machine.secret.public_key)

    def test_entries_are_followed_once(self) -> None:
        """Entries that were followed already are passed over."""
        first = self.entries(SnapshotCommitted(self.machine.snapshot(b"r" * 32)))
        for _ in range(2):
            self.wait(self.catalogue.apply(first))
        self.assertEqual(self.wait(self.catalogue.machines(self.admin.tenant))[0].snapshots, 1)

    def test_promise_p9_no_entry_is_left_out(self) -> None:
        """Entries behind one that was not followed are refused, and followed once it was."""
        skipped = self.entries(Event(1, b"", b"", "skipped"))
        later = self.entries(Event(2, b"", b"", "later"))
        self.assertRaises(CatalogueError, self.wait, self.catalogue.apply(later))
        self.wait(self.catalogue.apply(skipped + later))
        self.wait(self.catalogue.close())
        self.catalogue = self.make()
        self.assertEqual(self.wait(self.catalogue.open()), self.head)

    def test_removal_is_terminal(self) -> None:
        """A removed certificate does not come back, whatever later entries say; nor one removed before it was added."""
        for pin in (self.admin.pin, b"n" * 32):
            self.follow(CertificateRemoved(pin, b""))
            self.follow(CertificateAdded(pin, self.admin.tenant, Role.ADMIN, "again", b""))
            self.assertIsNone(self.wait(self.catalogue.certificate(pin)))
            self.assertTrue(self.wait(self.catalogue.is_removed(pin)))

    def test_first_enrolment_stays(self) -> None:
        """A machine belongs to the tenant that enrolled it first; a closed one stays closed."""
        other = Admin("bob", 2)
        self.follow(MachineEnrolled(self.machine.enrolment(other), b""))
        self.assertEqual(self.wait(self.catalogue.owner(self.machine.id)), self.admin.tenant)
        self.follow(
            MachineStateSet(self.machine.id, MachineState.CLOSED, b""),
            MachineStateSet(self.machine.id, MachineState.ACTIVE, b""),
        )
        self.assertIs(self.account().state, MachineState.CLOSED)

    def test_unknown_is_none(self) -> None:
        """Nobody's machine, tenant, pin and blobs."""
        self.assertIsNone(self.wait(self.catalogue.account(b"x" * 32)))
        self.assertIsNone(self.wait(self.catalogue.owner(b"x" * 32)))
        self.assertIsNone(self.wait(self.catalogue.tenant(b"x" * 32)))
        self.assertIsNone(self.wait(self.catalogue.certificate(b"x" * 32)))
        self.assertEqual(self.wait(self.catalogue.blob_states(b"x" * 32, [b"y" * 32])), {})
        self.assertEqual(self.wait(self.catalogue.locate(b"x" * 32, [b"y" * 32], [SPOOL])), [])
        self.assertEqual(self.wait(self.catalogue.book(b"x" * 32)), (0, b"", b""))

    def test_entries_about_nobody(self) -> None:
        """Entries about machines that were never enrolled, and events, harm nothing."""
        stranger = Machine(9)
        self.follow(
            PairAdded(stranger.id, stranger.pair_record, stranger.envelope),
            SnapshotCommitted(stranger.snapshot(b"r" * 32)),
            Event(1, b"", b"", "something happened"),
        )
        self.assertIsNone(self.wait(self.catalogue.account(stranger.id)))

    def test_packs(self) -> None:
        """Blobs of a pack are present, counted, located, and their references known."""
        blobs = self.machine.tree(b"one", b"two")
        stored = self.add(blobs)
        ids = [one[0] for one in blobs]
        self.assertEqual(self.present(*ids, b"x" * 32), set(ids))
        self.assertEqual(self.account().stored_blobs, 4)
        found = self.wait(self.catalogue.references(self.machine.id, ids))
        self.assertEqual(found, {ids[2]: (ids[0], ids[1]), ids[3]: (ids[2],)})
        places = self.wait(self.catalogue.locate(self.machine.id, ids, [SPOOL]))
        self.assertEqual([place.blob for place in places], ids)
        self.assertEqual([place.start for place in places], [one.offset for one in stored.pack.blobs])
        self.assertEqual(self.wait(self.catalogue.locate(self.machine.id, ids, [OTHER])), [])
        self.assertEqual(self.wait(self.catalogue.runs(self.machine.id, list(stored.pairs))), [self.machine.run])

    def test_same_pack_twice(self) -> None:
        """On another spool it is a second place; a blob is missing only when both are gone."""
        blobs = self.machine.tree(b"one")
        pack = self.machine.pack(blobs)
        stored = self.add(blobs)
        self.assertEqual(stored.pack.id, pack[0])
        self.wait(self.catalogue.add_pack(self.stored(blobs, OTHER)))
        self.wait(self.catalogue.add_pack(self.stored(blobs, OTHER)))
        self.assertEqual(len(self.wait(self.catalogue.locate(self.machine.id, [blobs[0][0]], [SPOOL, OTHER]))), 1)
        for spool, left in ((SPOOL, {blobs[0][0]}), (OTHER, set())):
            self.wait(self.catalogue.set_lost(spool, DAY, [stored.pack.id], True))
            self.assertEqual(self.present(blobs[0][0]), left)
        self.assertEqual(self.account().stored_blobs, 0)
        self.assertFalse(self.wait(self.catalogue.has_pack(self.machine.id, stored.pack.id)))
        self.wait(self.catalogue.set_lost(OTHER, DAY, [stored.pack.id], False))
        self.assertEqual(self.account().stored_blobs, 3)
        day = self.wait(self.catalogue.packs_of_day(SPOOL, DAY))
        self.assertEqual((day.there, day.lost), (frozenset(), frozenset({stored.pack.id})))
        self.assertEqual(self.wait(self.catalogue.days(SPOOL)), [DAY])

    def test_offending(self) -> None:
        """Ids that are there, and ids with another header, are named; when the pack is lost only the latter."""
        bundle, page, root = self.machine.tree(b"one")
        stored = self.add([bundle, page])
        again = self.machine.blob(BlobKind.BUNDLE, [], b"one")
        lie = self.machine.blob(BlobKind.PAGE, [root[0]], b"lie", page[0])
        attempt = self.stored([again, lie, root]).pack
        pair = self.machine.pair.pair
        self.assertEqual(self.wait(self.catalogue.offending(attempt, pair)), (again[0], page[0]))
        self.wait(self.catalogue.set_lost(SPOOL, DAY, [stored.pack.id], True))
        self.assertEqual(self.wait(self.catalogue.offending(attempt, pair)), (page[0],))
        self.assertEqual(self.wait(self.catalogue.add_pack(self.stored([again, lie, root]))), (page[0],))
        self.assertEqual(self.present(again[0], page[0], root[0]), {again[0], root[0]})

    def test_pairs_count(self) -> None:
        """Under a new pair older sealings do not count, unless the admin re-enveloped the pair that they are under."""
        blobs = self.machine.tree(b"one")
        self.add(blobs)
        old = self.machine.pair.pair
        self.machine.new_pair()
        self.follow(PairAdded(self.machine.id, self.machine.pair_record, self.machine.envelope))
        self.assertEqual(self.present(blobs[0][0]), set())
        self.assertEqual(self.account().pair, self.machine.pair_record)
        record = ReenvelopeRecord(
            self.machine.id, old, 1, envelope_hash(b"new"), self.admin.secret.order_public,
            EnvelopeMode.PASSPHRASE, (),
        ).sign(self.admin.secret.order_key)  # fmt: skip
        self.follow(PairAdded(self.machine.id, record, b"new", 1))
        self.assertEqual(self.present(blobs[0][0]), {blobs[0][0]})
        self.assertEqual(self.account().pair, self.machine.pair_record)
        rows = self.wait(self.catalogue.pairs(self.machine.id, 0, 10))
        self.assertEqual([row.number for row in rows], [1, 2])
        found = self.wait(self.catalogue.envelopes(self.machine.id, old, 15))
        self.assertEqual([again for _, _, again in found], [True, False])
        self.assertEqual(found[0][:2], (record, b"new"))

    def test_closed(self) -> None:
        """"Closed" is kept until a pack is lost or a pair is new; a mark that comes too late does nothing."""
        blobs = self.machine.tree(b"one")
        ids = [one[0] for one in blobs[1:]]
        stored = self.add(blobs)

        def closed() -> list[bool]:
            states = self.wait(self.catalogue.blob_states(self.machine.id, ids))
            return [states[one].closed for one in ids]

        before = self.wait(self.catalogue.closure(self.machine.id))
        self.assertTrue(self.wait(self.catalogue.mark_closed(self.machine.id, ids, before)))
        self.assertEqual(closed(), [True, True])
        self.wait(self.catalogue.set_lost(SPOOL, DAY, [stored.pack.id], True))
        self.assertEqual(closed(), [False, False])
        self.assertFalse(self.wait(self.catalogue.mark_closed(self.machine.id, ids, before)))
        self.assertEqual(closed(), [False, False])
        self.wait(self.catalogue.mark_closed(self.machine.id, ids, self.wait(self.catalogue.closure(self.machine.id))))
        self.machine.new_pair()
        self.follow(PairAdded(self.machine.id, self.machine.pair_record, self.machine.envelope))
        self.assertEqual(closed(), [False, False])

    def test_snapshots(self) -> None:
        """Records come from a sequence on, a bounded number; one is found by its hash, and the recent are counted."""
        records = []
        for number in range(5):
            record = self.machine.snapshot(bytes([number]) * 32)
            self.machine.sequence, self.machine.head = number + 1, record_hash(record)
            records.append(record)
        self.follow(*(SnapshotCommitted(record) for record in records))
        found = self.wait(self.catalogue.snapshots(self.machine.id, 2, 3))
        self.assertEqual([record for record, _ in found], records[1:4])
        self.assertEqual(self.wait(self.catalogue.snapshots(self.machine.id, (1 << 64) - 1, 3)), [])
        name, last = record_hash(records[2]), found[2][1]
        one, recent = self.wait(self.catalogue.committed(self.machine.id, name, found[1][1], 1 << 62))
        self.assertEqual(self.wait(self.catalogue.committed(self.machine.id, name, found[1][1], last)), (one, 1))
        assert one is not None
        self.assertEqual((one.hash, one.time_ns, recent), (record_hash(records[2]), found[1][1], 2))
        self.assertEqual(self.wait(self.catalogue.committed(self.machine.id, b"x" * 32, 0, 1 << 62)), (None, 5))
        self.assertEqual((self.account().head_sequence, self.account().head_hash), (5, record_hash(records[-1])))

    def test_behind_writes(self) -> None:
        """A read behind writes sees what was asked for before it."""
        blobs = [self.machine.blob(BlobKind.CHUNK, [], b"%d" % number) for number in range(2000)]
        ids = [one[0] for one in blobs]
        adding = self.catalogue.add_pack(self.stored(blobs))
        asking = self.catalogue.blob_states(self.machine.id, ids, behind_writes=True)
        self.assertEqual(len(self.wait(asking)), 2000)
        self.assertEqual(self.wait(adding), ())

    def test_a_failed_write_changes_nothing(self) -> None:
        """An entry that cannot be followed takes the whole batch back, and the next one is followed."""
        good, bad = Event(1, b"", b"", "x"), SnapshotCommitted(b"no record")
        head = self.head
        self.assertRaises(FormatError, self.wait, self.catalogue.apply(self.entries(good, bad)))
        self.head = head
        self.follow(good)
        self.wait(self.catalogue.close())
        self.catalogue = self.make()
        self.assertEqual(self.wait(self.catalogue.open()), self.head)


class SqliteTests(CatalogueTests, SynchronousTestCase):
    """SQLite."""

    def setUp(self) -> None:
        self.path = Path(self.mktemp()).resolve()
        super().setUp()

    def make(self) -> Catalogue:
        return SqliteCatalogue(self.path, self.mainland)

    def again(self) -> None:
        self.wait(self.catalogue.close())
        self.catalogue = self.make()

    def test_damage(self) -> None:
        """A file that is no database, no catalogue, or damaged, is told from one of a later release."""
        self.wait(self.catalogue.close())
        whole = self.path.read_bytes()
        for data, error in (
            (b"garbage" * 1000, CatalogueDamaged),
            (whole[:68] + b"\0\0\0\1" + whole[72:], CatalogueDamaged),  # another application's
            (whole[:5000], CatalogueDamaged),
            (whole[:60] + b"\0\0\0\x63" + whole[64:], CatalogueError),  # schema 99
        ):
            remove_files(self.path)
            self.path.write_bytes(data)
            self.catalogue = self.make()
            self.assertIs(type(self.assertRaises(CatalogueError, self.wait, self.catalogue.open())), error)
            self.wait(self.catalogue.close())
        remove_files(self.path)
        self.catalogue = self.make()
        self.assertIsNone(self.wait(self.catalogue.open()))


class LaneTests(SynchronousTestCase):
    """The threads that the work is done in."""

    def test_order_and_errors(self) -> None:
        """Jobs are done in order; one that raises fails alone; behind the end nothing is taken."""
        mainland = OwnMainland()
        lane = Lane(mainland, "test")
        done: list[int] = []
        jobs = [lane.run(done.append, number) for number in range(50)]
        failing = lane.run(lambda: 1 // 0)
        jobs += [lane.run(done.append, number) for number in range(50, 100)]
        self.assertRaises(ZeroDivisionError, mainland.wait, failing)
        mainland.wait(gatherResults(jobs))
        self.assertEqual(done, list(range(100)))
        mainland.wait(lane.stop())
        self.assertRaises(RuntimeError, mainland.wait, lane.run(done.append, 0))

    def test_promise_p12_units_take_turns(self) -> None:
        """Whoever asked for a hundred jobs does not keep others waiting for more than one of them; each unit's own stay
        in order, and the end comes behind all."""
        mainland = OwnMainland()
        lane = Lane(mainland, "test")
        started, let_go = threading.Event(), threading.Event()
        lane.run(started.set)
        lane.run(let_go.wait)
        started.wait()
        done: list[object] = []
        jobs = [lane.run_for("hostile", done.append, number) for number in range(100)]
        jobs += [lane.run_for(name, done.append, f"{name}{number}") for name in ("a", "b") for number in range(2)]
        over = lane.stop(lambda: done.append("over"))
        let_go.set()
        mainland.wait(over)
        self.assertEqual(done, [0, "a0", "b0", 1, "a1", "b1", *range(2, 100), "over"])
        mainland.wait(gatherResults(jobs))
