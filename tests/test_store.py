"""The store as the ports see it: snapshots, pairs, isolation of tenants, and what a restore finds."""

from collections.abc import Callable
from typing import Any
from unittest import mock

from twisted.internet.defer import fail

from mastodon.catalogue.interface import CatalogueDamaged, CatalogueError
from mastodon.catalogue.sqlite import SqliteCatalogue
from mastodon.daemon import commits
from mastodon.daemon.errors import (
    LimitReached,
    NotFound,
    PairRefused,
    SnapshotRefused,
    Unavailable,
)
from mastodon.sealed.blob import BlobKind
from mastodon.sealed.ledger_head import LedgerHeadRecord
from mastodon.sealed.record import raw_public_key, record_hash
from mastodon.sealed.run import run_id
from mastodon.sealed.statement import (
    MachineContent,
    PinContent,
    StatementVerb,
    encode_content,
)
from tests.store_case import SECOND, Admin, Machine, StoreCase


class CommitTests(StoreCase):
    """Snapshots and pairs."""

    def test_commit(self) -> None:
        """A snapshot is committed with the server's time, and can be listed."""
        blobs = self.machine.tree(b"one")
        self.send(blobs)
        result = self.commit(blobs[-1][0])
        self.assertEqual(result.missing, ())
        ((record, time_ns),) = self.wait(self.store.snapshots(self.admin.tenant, self.machine.id, 0, 10))
        self.assertEqual((record_hash(record), time_ns), (result.hash, result.time_ns))
        account = self.account()
        self.assertEqual((account.head_sequence, account.head_hash), (1, result.hash))

    def test_missing_is_named(self) -> None:
        """What a snapshot reaches and is not there is named, and nothing is committed."""
        bundle, page, root = self.machine.tree(b"one")
        self.assertEqual(self.commit(root[0]).missing, (root[0],))
        self.send([root])
        self.assertEqual(self.commit(root[0]).missing, (page[0],))
        self.send([page])
        self.assertEqual(self.commit(root[0]).missing, (bundle[0],))
        self.send([bundle])
        self.assertEqual(self.commit(root[0]).missing, ())
        self.assertEqual(len(self.snapshots()), 1)

    def test_same_record_again(self) -> None:
        """A record whose answer was lost is answered as it was the first time, also after a restart."""
        blobs = self.machine.tree(b"one")
        self.send(blobs)
        record = self.machine.snapshot(blobs[-1][0])
        first = self.wait(self.store.commit(self.machine.id, record, self.epoch))
        self.assertEqual(self.wait(self.store.commit(self.machine.id, record, self.epoch)), first)
        self.restart()
        self.assertEqual(self.wait(self.store.commit(self.machine.id, record, self.epoch)), first)
        self.assertEqual(len(self.snapshots()), 1)

    def test_record_must_follow(self) -> None:
        """Other sequence, predecessor, pair, machine, signature or root kind: refused, and the head stays."""
        blobs = self.machine.tree(b"one")
        self.send(blobs)
        root = blobs[-1][0]
        self.commit(root)
        stranger = Machine(9)
        stranger.sequence, stranger.head = self.machine.sequence, self.machine.head
        for record in (
            self.machine.snapshot(root, sequence=1, predecessor=b""),
            self.machine.snapshot(root, sequence=3),
            self.machine.snapshot(root, sequence=(1 << 64) - 1),
            self.machine.snapshot(root, predecessor=b"x" * 32),
            self.machine.snapshot(root, pair=b"x" * 16),
            self.machine.snapshot(root, machine=stranger.id),
            self.machine.snapshot(blobs[0][0]),
            stranger.snapshot(root),
            b"not a record",
        ):
            self.refused(SnapshotRefused, self.store.commit, self.machine.id, record, self.epoch)
        self.assertEqual(len(self.snapshots()), 1)
        self.assertEqual(self.commit(root).missing, ())

    def test_commits_are_bounded(self) -> None:
        """So many commits in an hour, then a refusal; an hour later they go on."""
        self.patch(commits, "COMMITS_PER_HOUR", 3)
        blobs = self.machine.tree(b"one")
        self.send(blobs)
        for _ in range(3):
            self.commit(blobs[-1][0])
        self.refused(LimitReached, lambda: self.commit(blobs[-1][0]))
        self.clock.now += 3600 * SECOND
        self.commit(blobs[-1][0])

    def test_attempts_are_bounded(self) -> None:
        """Commits that lack something are bounded too: they cost the same."""
        self.patch(commits, "ATTEMPTS_PER_HOUR", 2)
        for _ in range(2):
            self.commit(b"x" * 32)
        self.refused(LimitReached, lambda: self.commit(b"x" * 32))

    def test_pairs(self) -> None:
        """A pair that does not follow, or whose envelope is another, is refused; the same again is answered."""
        name = record_hash(self.machine.pair_record)
        again = self.store.add_pair(self.machine.id, self.machine.pair_record, self.machine.envelope, self.epoch)
        self.assertEqual(self.wait(again), name)
        first = self.machine.newest
        self.machine.new_pair()
        good, envelope = self.machine.pair_record, self.machine.envelope
        stranger = Machine(9)
        wrong = [(good, b"another envelope"), (stranger.pair_record, stranger.envelope), (b"no record", envelope)]
        odd: list[dict[str, Any]] = [{"previous": b"x" * 32}, {"pair": b"\1" * 16}, {"number": 1, "previous": b""}]
        for changes in odd:
            self.machine.newest, self.machine.number = first, 1
            self.machine.new_pair(**changes)
            wrong.append((self.machine.pair_record, self.machine.envelope))
        for record, message in wrong:
            self.refused(PairRefused, self.store.add_pair, self.machine.id, record, message, self.epoch)
        self.wait(self.store.add_pair(self.machine.id, good, envelope, self.epoch))
        rows = self.wait(self.store.pairs(self.admin.tenant, self.machine.id, 0, 10))
        self.assertEqual([(row.number, row.hash) for row in rows], [(1, name), (2, record_hash(good))])
        self.assertEqual(self.wait(self.store.pairs(self.admin.tenant, self.machine.id, 2, 10)), rows[1:])
        self.assertEqual(self.wait(self.store.pairs(self.admin.tenant, self.machine.id, 0, 1)), rows[:1])
        found = self.wait(self.store.envelopes(self.admin.tenant, self.machine.id, rows[1].pair))
        self.assertEqual(found, [(good, envelope, False)])
        self.assertEqual(self.account().pair, good)

    def test_pairs_are_bounded(self) -> None:
        """So many pairs in a day, then a refusal; the day after they go on."""
        self.patch(commits, "PAIRS_PER_DAY", 2)
        self.machine.new_pair()
        pair = self.machine.pair_record, self.machine.envelope
        self.wait(self.store.add_pair(self.machine.id, *pair, self.epoch))
        self.machine.new_pair()
        pair = self.machine.pair_record, self.machine.envelope
        self.refused(LimitReached, lambda: self.wait(self.store.add_pair(self.machine.id, *pair, self.epoch)))
        self.clock.now += 24 * 3600 * SECOND
        self.wait(self.store.add_pair(self.machine.id, *pair, self.epoch))

    def test_head_is_signed(self) -> None:
        """The ledger's head that clients remember bears the ledger key's signature, and grows."""
        public = raw_public_key(self.setting.ledger_key)
        first = LedgerHeadRecord.verify(self.store.signed_head(), public)
        blobs = self.machine.tree(b"one")
        self.send(blobs)
        self.commit(blobs[-1][0])
        second = LedgerHeadRecord.verify(self.store.signed_head(), public)
        self.assertEqual(second.heads[0][1], first.heads[0][1] + 1)


class IsolationTests(StoreCase):
    """P6: what one tenant asks is never answered from another's."""

    def setUp(self) -> None:
        super().setUp()
        self.other = Admin("bob", 2)
        self.wait(self.store.add_admin(self.other.name, self.other.request()))
        self.theirs = Machine(2)
        self.enrol(self.theirs, self.other)
        epoch = self.store.machine_session(self.theirs.id)
        self.wait(self.store.add_pair(self.theirs.id, self.theirs.pair_record, self.theirs.envelope, epoch))
        self.their_blobs = self.theirs.tree(b"one")
        self.send(self.their_blobs, self.theirs, epoch)

    def test_promise_p6_foreign_is_unknown(self) -> None:
        """For another tenant's machine and for one that nobody has, every question gets the same answer."""
        ids = [one[0] for one in self.their_blobs]
        answers = []
        for machine in (self.theirs.id, b"nobody's" * 4):
            for ask in (
                lambda machine: self.store.snapshots(self.admin.tenant, machine, 0, 10),
                lambda machine: self.store.pairs(self.admin.tenant, machine, 0, 10),
                lambda machine: self.store.envelopes(self.admin.tenant, machine, b"p" * 16),
                lambda machine: self.store.runs(self.admin.tenant, machine, ids),
                lambda machine: self.store.locate(self.admin.tenant, machine, ids),
            ):
                error = self.refused(NotFound, ask, machine)
                answers.append((error.code, error.text))
            content = encode_content(MachineContent(machine))
            error = self.refused(NotFound, self.execute, StatementVerb.DISABLE_MACHINE, content)
            answers.append((error.code, error.text))
        self.assertEqual(answers[: len(answers) // 2], answers[len(answers) // 2 :])
        self.assertEqual([row.machine for row in self.wait(self.store.machines(self.admin.tenant))], [self.machine.id])

    def test_promise_p6_ids_do_not_cross_machines(self) -> None:
        """Another machine's blob is neither had, nor closes a snapshot, nor is located under one's own machine."""
        ids = [one[0] for one in self.their_blobs]
        self.assertEqual(self.wait(self.store.stored(self.machine.id, ids)), set())
        page = self.machine.blob(BlobKind.PAGE, [ids[0]], b"names a foreign blob")
        root = self.machine.blob(BlobKind.ROOT, [page[0]], b"root")
        self.send([page, root])
        self.assertEqual(self.commit(root[0]).missing, (ids[0],))
        located = self.wait(self.store.locate(self.admin.tenant, self.machine.id, ids))
        self.assertEqual((located.ranges, located.missing), ([], ids))

    def test_promise_p6_certificates_of_others(self) -> None:
        """An admin cannot remove another's certificate, nor speak through it."""
        content = encode_content(PinContent(self.other.pin))
        self.refused(NotFound, lambda: self.execute(StatementVerb.REMOVE_CERTIFICATE, content))
        statement = self.admin.statement(StatementVerb.ENROL, Machine(3).enrolment(self.admin), self.clock.now)
        self.refused(
            NotFound, lambda: self.wait(self.store.execute(self.admin.tenant, self.other.pin, statement, b""))
        )
        self.assertEqual(self.wait(self.store.who(self.other.tenant)).name, "bob")


class LocateTests(StoreCase):
    """Where a restore reads."""

    def test_each_sealing_has_its_place(self) -> None:
        """What is wanted is located in the order of its pack, what is not wanted is left out."""
        blobs = [self.machine.blob(BlobKind.BUNDLE, [], b"%d" % number) for number in range(5)]
        self.send(blobs)
        wanted = [blobs[number][0] for number in (4, 0, 1, 3)]
        located = self.wait(self.store.locate(self.admin.tenant, self.machine.id, [*wanted, b"x" * 32]))
        self.assertEqual(located.missing, [b"x" * 32])
        self.assertEqual([size for _, _, size in located.ranges], [len(blobs[number][2]) for number in (0, 1, 3, 4)])
        self.assertEqual(self.fetch(wanted), b"".join(blobs[number][2] for number in (0, 1, 3, 4)))

    def test_many_ids(self) -> None:
        """As many ids as the wire allows are looked up at once."""
        blobs = [self.machine.blob(BlobKind.CHUNK, [], b"%d" % number) for number in range(3)]
        self.send(blobs)
        ids = [number.to_bytes(32, "big") for number in range(8189)] + [one[0] for one in blobs]
        located = self.wait(self.store.locate(self.admin.tenant, self.machine.id, ids))
        self.assertEqual(len(located.missing), 8189)
        self.assertEqual(self.wait(self.store.stored(self.machine.id, ids)), {one[0] for one in blobs})

    def test_runs(self) -> None:
        """The run records that packs brought are found by id."""
        self.send(self.machine.tree(b"one"))
        found = self.wait(self.store.runs(self.admin.tenant, self.machine.id, [run_id(self.machine.run), b"x" * 32]))
        self.assertEqual(found, [self.machine.run])

    def test_machines_row(self) -> None:
        """An admin sees of a machine when it was seen, its snapshots, and how much it keeps."""
        blobs = self.machine.tree(b"one")
        self.send(blobs)
        self.commit(blobs[-1][0])
        (row,) = self.wait(self.store.machines(self.admin.tenant))
        self.assertEqual((row.machine, row.snapshots), (self.machine.id, 1))
        self.assertEqual(row.kept_bytes, self.packs()[0].stat().st_size)
        self.assertGreater(row.seen_ns, 0)


class CatalogueTests(StoreCase):
    """The catalogue refuses."""

    def test_unavailable(self) -> None:
        """A catalogue that cannot be used, for a full disk or damage, is the server's affair: others try again."""
        for error in (CatalogueError("catalogue.sqlite: disk I/O error"), CatalogueDamaged("catalogue.sqlite: torn")):
            self.patch(SqliteCatalogue, "account", lambda *_, error=error: fail(error))
            refused = self.refused(Unavailable, self.store.account, self.machine.id)
            self.assertNotIn("sqlite", str(refused))

    def test_packs_are_unavailable_too(self) -> None:
        """A pack that cannot be judged without the catalogue is refused for now; it comes again."""
        tree = self.machine.tree(b"one")
        with self.patched(lambda _self, _pack, _pair: fail(CatalogueError("catalogue.sqlite: full"))):
            self.refused(Unavailable, self.send, tree)
        self.send(tree)
        self.assertEqual(len(self.packs()), 1)

    def patched(self, offending: Callable[..., object]) -> Any:
        """Another judgement of packs, for a while."""
        return mock.patch.object(SqliteCatalogue, "offending", offending)
