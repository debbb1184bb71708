"""The store as the ports see it: packs, pairs, snapshots, statements, and what a restore finds."""

import errno
import os

from twisted.internet.defer import gatherResults

from mastodon.daemon import commits
from mastodon.daemon.errors import (
    Conflict,
    Disabled,
    Displaced,
    LimitReached,
    NotAllowed,
    NotFound,
    PackRefused,
    PairRefused,
    SnapshotRefused,
    SpoolFull,
    StoreError,
    TooLarge,
    Unavailable,
)
from mastodon.daemon.events import EventCode
from mastodon.sealed.blob import BlobKind
from mastodon.sealed.book import BookContent, make_book
from mastodon.sealed.ledger import LedgerHeadRecord
from mastodon.sealed.ledger_entries import MachineState, Role
from mastodon.sealed.pack import PACK_LIMIT
from mastodon.sealed.record import raw_public_key, record_hash
from mastodon.sealed.run import run_id
from mastodon.sealed.statement import (
    CertificateContent,
    MachineContent,
    PinContent,
    StatementVerb,
    encode_content,
)
from tests.store_case import SECOND, Admin, Machine, StoreCase


class PackTests(StoreCase):
    """Packs on their way in."""

    def test_pack_is_stored_verbatim(self) -> None:
        """An acknowledged pack lies under its day and id, byte for byte, in one of the spools."""
        pack, data = self.machine.pack(self.machine.tree(b"one", b"two"))
        self.send_bytes(pack, data)
        (path,) = self.packs()
        self.assertEqual(path.read_bytes(), data)
        self.assertEqual(path.relative_to(path.parents[4]).as_posix(), f"packs/2027/01/15/{pack.hex()}.pack")

    def test_packs_are_shared_out(self) -> None:
        """Two equal spools take turns."""
        for number in range(6):
            self.send([self.machine.blob(BlobKind.BUNDLE, [], b"%d" % number)])
        counts = [len(list(spool.glob("packs/**/*.pack"))) for spool in self.setting.spools]
        self.assertEqual(counts, [3, 3])

    def test_resent_pack_is_acknowledged(self) -> None:
        """A pack whose ack was lost is taken for done, and kept once."""
        pack, data = self.machine.pack(self.machine.tree(b"one"))
        self.send_bytes(pack, data)
        self.send_bytes(pack, data)
        self.restart()
        self.send_bytes(pack, data)
        self.assertEqual(len(self.packs()), 1)

    def test_stored(self) -> None:
        """Blobs that are there need not be sent; a page counts only with all below it."""
        bundle, page, root = self.machine.tree(b"one")
        self.send([page])
        ids = [bundle[0], page[0], root[0]]
        self.assertEqual(self.wait(self.store.stored(self.machine.id, ids)), set())
        self.send([bundle])
        self.assertEqual(self.wait(self.store.stored(self.machine.id, ids)), {bundle[0], page[0]})

    def test_promise_p9_acked_is_never_asked_for_again(self) -> None:
        """At the very moment of the ack, and after a restart, what was acked counts as stored."""
        blobs = self.machine.tree(b"one", b"two", b"three")
        self.send(blobs)
        ids = [one[0] for one in blobs]
        self.assertEqual(self.wait(self.store.stored(self.machine.id, ids)), set(ids))
        self.restart()
        self.assertEqual(self.wait(self.store.stored(self.machine.id, ids)), set(ids))

    def test_refused_pack_leaves_nothing(self) -> None:
        """Damage, another announced id, a foreign run, nothing at all: refused, and no file stays."""
        pack, data = self.machine.pack(self.machine.tree(b"one"))
        stranger = Machine(9)
        foreign = stranger.pack(stranger.tree(b"one"))
        forged = Machine(1)
        forged.secret = Machine(9).secret
        forged.id = self.machine.id
        forged.new_run()
        for announced, sent in (
            (pack, data[:-1] + bytes([data[-1] ^ 1])),
            (pack, data[:-1]),
            (pack, b"x"),
            (b"i" * 32, data),
            foreign,
            forged.pack(forged.tree(b"one")),
        ):
            self.refused(PackRefused, lambda announced=announced, sent=sent: self.send_bytes(announced, sent))
        receiver = self.store.begin_pack(self.machine.id, self.epoch)
        self.refused(PackRefused, lambda: self.wait(receiver.finish(pack)))
        self.assertEqual(self.packs(), [])
        self.assertEqual([list(spool.glob("incoming/*")) for spool in self.setting.spools], [[], []])
        self.assertIn(EventCode.PACK_REFUSED, self.events())

    def test_too_large(self) -> None:
        """A pack beyond the bound is cut off while it is received."""
        receiver = self.store.begin_pack(self.machine.id, self.epoch)
        piece = bytes(PACK_LIMIT // 2)
        for _ in range(2):
            self.wait(receiver.write(piece))
        self.refused(TooLarge, lambda: self.wait(receiver.write(b"x")))
        self.refused(TooLarge, lambda: self.wait(receiver.finish(b"i" * 32)))
        self.assertEqual([list(spool.glob("incoming/*")) for spool in self.setting.spools], [[], []])

    def test_abandoned(self) -> None:
        """A pack that is not finished leaves nothing behind."""
        receiver = self.store.begin_pack(self.machine.id, self.epoch)
        self.wait(receiver.write(b"the beginning"))
        receiver.abandon()
        self.stop()
        self.assertEqual([list(spool.glob("incoming/*")) for spool in self.setting.spools], [[], []])
        self.start_again()

    def test_same_id_again_is_refused(self) -> None:
        """Another sealing of an id that is there is refused whole, naming it, also while the first is in flight."""
        bundle, page, root = self.machine.tree(b"one")
        again = self.machine.blob(BlobKind.BUNDLE, [], b"one")
        self.assertEqual(again[0], bundle[0])
        self.send([bundle])
        refusal = self.refused(PackRefused, lambda: self.send([again, page]))
        self.assertEqual(refusal.context, (bundle[0],))
        self.assertEqual(self.wait(self.store.stored(self.machine.id, [page[0]])), set())
        packs = [self.machine.pack([self.machine.blob(BlobKind.BUNDLE, [], b"two")]) for _ in range(2)]
        receivers = [self.store.begin_pack(self.machine.id, self.epoch) for _ in packs]
        for receiver, (_, data) in zip(receivers, packs, strict=True):
            receiver.write(data)
        outcomes = [receiver.finish(id) for receiver, (id, _) in zip(receivers, packs, strict=True)]
        done: list[object] = []
        for outcome in outcomes:
            outcome.addBoth(done.append)
        self.wait(gatherResults(outcomes))
        self.assertEqual(sorted(type(getattr(one, "value", None)).__name__ for one in done), ["NoneType", "PackRefused"])

    def test_other_header_is_refused(self) -> None:
        """Kind and references of an id stay what its first sealing said, whatever happened to that one's pack."""
        bundle, page, _ = self.machine.tree(b"one")
        self.send([bundle, page])
        as_chunk = self.machine.blob(BlobKind.CHUNK, [], b"one", bundle[0])
        other_references = self.machine.blob(BlobKind.PAGE, [b"x" * 32], b"y", page[0])
        for path in self.packs():
            path.unlink()
        self.restart()
        for blob in (as_chunk, other_references):
            refusal = self.refused(PackRefused, lambda blob=blob: self.send([blob]))
            self.assertEqual(refusal.context, (blob[0],))

    def test_lost_pack_is_asked_for_and_healed(self) -> None:
        """When a pack is gone its blobs are missing, also for a commit; another sealing heals; both sealings stay."""
        blobs = self.machine.tree(b"one")
        self.send(blobs)
        self.commit(blobs[-1][0])
        (path,) = self.packs()
        kept = path.read_bytes()
        path.unlink()
        self.restart()
        self.assertIn(EventCode.PACK_LOST, self.events())
        self.assertEqual(self.wait(self.store.stored(self.machine.id, [one[0] for one in blobs])), set())
        self.assertEqual(self.commit(blobs[-1][0]).missing, (blobs[-1][0],))
        again = [self.machine.blob(BlobKind(kind), [], b"one") for _, kind, _ in blobs[:1]]
        self.send([*again, *blobs[1:]])
        self.assertEqual(self.commit(blobs[-1][0]).missing, ())
        path.write_bytes(kept)
        self.restart()
        self.assertEqual(self.fetch([again[0][0]]), again[0][2] + blobs[0][2])

    def test_older_pairs_sealings_do_not_count(self) -> None:
        """Under a new pair nothing is there; the same ids are taken again, with the same header; both are kept."""
        old = self.machine.tree(b"one")
        self.send(old)
        self.commit(old[-1][0])
        self.machine.new_pair()
        self.wait(self.store.add_pair(self.machine.id, self.machine.pair_record, self.machine.envelope, self.epoch))
        ids = [one[0] for one in old]
        self.assertEqual(self.wait(self.store.stored(self.machine.id, ids)), set())
        self.assertEqual(self.wait(self.store.account(self.machine.id)).stored_blobs, 0)
        self.assertEqual(self.commit(old[-1][0]).missing, (old[-1][0],))
        lie = self.machine.blob(BlobKind.CHUNK, [], b"one", old[0][0])
        self.refused(PackRefused, lambda: self.send([lie]))
        new = self.machine.tree(b"one")
        self.send(new)
        self.assertEqual(self.commit(new[-1][0]).missing, ())
        self.assertEqual(self.fetch([old[0][0]]), new[0][2] + old[0][2])
        self.assertEqual(self.wait(self.store.account(self.machine.id)).stored_blobs, 3)

    def test_run_of_another_pair_is_refused(self) -> None:
        """After a new pair, packs under the old one are refused."""
        late = self.machine.pack(self.machine.tree(b"late"))
        self.machine.new_pair()
        self.wait(self.store.add_pair(self.machine.id, self.machine.pair_record, self.machine.envelope, self.epoch))
        self.refused(PackRefused, lambda: self.send_bytes(*late))

    def test_displaced_session_writes_nothing(self) -> None:
        """Once a newer session began, pieces, packs, pairs and commits of the older are refused."""
        blobs = self.machine.tree(b"one")
        self.send(blobs)
        pack, data = self.machine.pack([self.machine.blob(BlobKind.BUNDLE, [], b"two")])
        receiver = self.store.begin_pack(self.machine.id, self.epoch)
        self.wait(receiver.write(data))
        old = self.epoch
        self.epoch = self.store.machine_session(self.machine.id)
        self.refused(Displaced, lambda: self.wait(receiver.finish(pack)))
        record = self.machine.snapshot(blobs[-1][0])
        self.refused(Displaced, lambda: self.wait(self.store.commit(self.machine.id, record, old)))
        self.machine.new_pair()
        pair = self.machine.pair_record, self.machine.envelope
        self.refused(Displaced, lambda: self.wait(self.store.add_pair(self.machine.id, *pair, old)))
        self.assertEqual(len(self.packs()), 1)


class DiskTests(StoreCase):
    """Spools that fail or are full."""

    def break_disk(self, call: str, part: str, number: int) -> None:
        def before(one: str, path: str) -> None:
            if one == call and part in path:
                raise OSError(number, os.strerror(number))

        self.disk.before = before

    def test_full_disk_is_no_failure(self) -> None:
        """ENOSPC refuses the pack, and the spool stays in use."""
        self.break_disk("write", "/incoming/", errno.ENOSPC)
        self.refused(SpoolFull, lambda: self.send(self.machine.tree(b"one")))
        self.assertEqual([one.offline for one in self.store.list_spools()], ["", ""])
        self.disk.before = lambda call, path: None
        self.send(self.machine.tree(b"one"))

    def test_reserve_stays_free(self) -> None:
        """A spool whose free space is down to its reserve takes no pack."""
        self.stop()
        self.store = self.setting.store(reserve=1 << 60)
        self.wait(self.store.start())
        self.epoch = self.store.machine_session(self.machine.id)
        self.refused(SpoolFull, lambda: self.send(self.machine.tree(b"one")))

    def test_failing_spool_goes_offline(self) -> None:
        """An I/O error refuses the pack as retryable, takes the spool offline with an event; the other one goes on."""
        self.break_disk("fsync", "spool0/incoming/", errno.EIO)
        blobs = [self.machine.blob(BlobKind.BUNDLE, [], b"%d" % number) for number in range(4)]
        outcomes = []
        for blob in blobs:
            try:
                self.send([blob])
                outcomes.append("stored")
            except Unavailable:
                outcomes.append("refused")
        self.assertEqual(sorted(outcomes), ["refused", "stored", "stored", "stored"])
        self.assertEqual([bool(one.offline) for one in self.store.list_spools()], [True, False])
        self.assertIn(EventCode.SPOOL_OFFLINE, self.events())
        self.assertEqual({path.parents[4].name for path in self.packs()}, {"spool1"})

    def test_promise_p9_no_ack_without_the_directory(self) -> None:
        """When the directory cannot be fsynced the pack is not acknowledged."""
        self.break_disk("open", "/packs/2027/01/15", errno.EIO)
        self.refused(Unavailable, lambda: self.send(self.machine.tree(b"one")))

    def test_promise_p9_order_of_an_ack(self) -> None:
        """Bytes are fsynced before the rename, the directory behind it, and the ack comes last."""
        self.send([self.machine.blob(BlobKind.BUNDLE, [], b"makes the directories")])
        self.send([self.machine.blob(BlobKind.BUNDLE, [], b"on both spools")])
        self.disk.calls.clear()
        pack = self.send(self.machine.tree(b"one"))
        name = f"{pack.hex()}.pack"
        calls = [(call, "/packs/" in path, path.endswith(name)) for call, path in self.disk.calls if call != "open"]
        renamed = calls.index(("rename", True, True))
        self.assertIn(("fsync", False, False), calls[:renamed])
        self.assertIn(("fsync", True, False), calls[renamed:])

    def test_store_without_spools_refuses(self) -> None:
        """With no spool left, everything that would have to be durable is refused."""
        self.break_disk("fsync", "", errno.EIO)
        self.machine.new_pair()
        pair = self.machine.pair_record, self.machine.envelope
        self.refused(Unavailable, lambda: self.wait(self.store.add_pair(self.machine.id, *pair, self.epoch)))
        self.disk.before = lambda call, path: None
        self.refused(Unavailable, lambda: self.wait(self.store.add_pair(self.machine.id, *pair, self.epoch)))
        self.refused(Unavailable, lambda: self.send(self.machine.tree(b"one")))

    def test_only_one_has_the_state(self) -> None:
        """A second store on the same state directory says that it is in use."""
        error = self.refused(StoreError, lambda: self.wait(self.setting.store().start()))
        self.assertIn("in use", str(error))


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
        account = self.wait(self.store.account(self.machine.id))
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
            self.refused(
                SnapshotRefused,
                lambda record=record: self.wait(self.store.commit(self.machine.id, record, self.epoch)),
            )
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
        for changes in ({"previous": b"x" * 32}, {"pair": b"\1" * 16}, {"number": 1, "previous": b""}):
            self.machine.newest, self.machine.number = first, 1
            self.machine.new_pair(**changes)
            wrong.append((self.machine.pair_record, self.machine.envelope))
        for record, message in wrong:
            self.refused(
                PairRefused,
                lambda record=record, message=message: self.wait(
                    self.store.add_pair(self.machine.id, record, message, self.epoch)
                ),
            )
        self.wait(self.store.add_pair(self.machine.id, good, envelope, self.epoch))
        rows = self.wait(self.store.pairs(self.admin.tenant, self.machine.id))
        self.assertEqual([row[0] for row in rows], [first, good])
        self.assertEqual(self.wait(self.store.account(self.machine.id)).pair, good)

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


class StatementTests(StoreCase):
    """What admins sign."""

    def test_statements_are_checked(self) -> None:
        """Another signer, tenant, server, counter or time, an unknown verb, an attachment too many: refused."""
        content = Machine(2).enrolment(self.admin)
        other = Admin("alice", 7)
        other.counter = 100
        for statement in (
            other.statement(StatementVerb.ENROL, content, self.clock.now, tenant=self.admin.tenant),
            self.admin.statement(StatementVerb.ENROL, content, self.clock.now, tenant=other.tenant),
            self.admin.statement(StatementVerb.ENROL, content, self.clock.now, server=b"x" * 32),
            self.admin.statement(StatementVerb.ENROL, content, self.clock.now, counter=1),
            self.admin.statement(StatementVerb.ENROL, content, self.clock.now, counter=1 << 63),
            self.admin.statement(StatementVerb.ENROL, content, self.clock.now, expires_ns=self.clock.now),
            self.admin.statement(StatementVerb.ENROL, b"no enrolment", self.clock.now),
            self.admin.statement(StatementVerb.ERASE, b"", self.clock.now),
            self.admin.statement(StatementVerb.REGISTER_TICKET, b"", self.clock.now),
            b"no statement",
        ):
            self.refused(
                NotAllowed,
                lambda statement=statement: self.wait(
                    self.store.execute(self.admin.tenant, self.admin.pin, statement, b"")
                ),
            )
        attached = self.admin.statement(StatementVerb.ENROL, content, self.clock.now)
        self.refused(
            NotAllowed, lambda: self.wait(self.store.execute(self.admin.tenant, self.admin.pin, attached, b"x"))
        )
        self.assertIsNone(self.wait(self.store.account(Machine(2).id)))

    def test_a_statement_works_once(self) -> None:
        """A replayed statement is refused."""
        statement = self.admin.statement(StatementVerb.ENROL, Machine(2).enrolment(self.admin), self.clock.now)
        self.wait(self.store.execute(self.admin.tenant, self.admin.pin, statement, b""))
        self.refused(
            NotAllowed, lambda: self.wait(self.store.execute(self.admin.tenant, self.admin.pin, statement, b""))
        )

    def test_enrol_again_changes_nothing(self) -> None:
        """The same machine again is answered as done; by another tenant it is a conflict."""
        before = self.store.head
        self.enrol(self.machine)
        self.assertEqual(self.store.head, before)
        other = Admin("bob", 2)
        self.wait(self.store.add_admin(other.name, other.request()))
        self.refused(Conflict, lambda: self.enrol(self.machine, other))
        self.refused(NotAllowed, lambda: self.execute(StatementVerb.ENROL, self.machine.enrolment(self.admin), admin=other))

    def test_book_is_swapped_against_its_predecessor(self) -> None:
        """A book must follow the newest; who was second reads again."""
        secret = self.admin.secret

        def book(version: int, previous: bytes, salt: bytes) -> bytes:
            content = BookContent(())
            return make_book(content, secret.tenant, version, previous, secret.book_key, secret.order_key, salt * 16)

        first = book(1, b"", b"a")
        second, rival = book(2, record_hash(first), b"b"), book(2, record_hash(first), b"c")
        self.assertEqual(self.wait(self.store.book(self.admin.tenant)), b"")
        for one in (first, second):
            self.execute(StatementVerb.SWAP_BOOK, record_hash(one), one)
        self.execute(StatementVerb.SWAP_BOOK, record_hash(second), second)
        self.refused(Conflict, lambda: self.execute(StatementVerb.SWAP_BOOK, record_hash(rival), rival))
        self.refused(NotAllowed, lambda: self.execute(StatementVerb.SWAP_BOOK, record_hash(first), second))
        self.restart()
        self.assertEqual(self.wait(self.store.book(self.admin.tenant)), second)

    def test_removed_certificate_is_out_for_ever(self) -> None:
        """A removed key is not found, may say nothing, and is never registered again, by admin or operator."""
        content = encode_content(CertificateContent(b"c" * 32, Role.ADMIN, "second"))
        self.execute(StatementVerb.REGISTER_CERTIFICATE, content)
        self.assertEqual(self.wait(self.store.certificate(b"c" * 32)).role, Role.ADMIN)
        remove = encode_content(PinContent(b"c" * 32))
        self.execute(StatementVerb.REMOVE_CERTIFICATE, remove)
        self.assertIsNone(self.wait(self.store.certificate(b"c" * 32)))
        self.refused(NotAllowed, lambda: self.execute(StatementVerb.REGISTER_CERTIFICATE, content))
        self.refused(NotFound, lambda: self.execute(StatementVerb.REMOVE_CERTIFICATE, remove))
        statement = self.admin.statement(StatementVerb.ENROL, Machine(2).enrolment(self.admin), self.clock.now)
        self.refused(NotFound, lambda: self.wait(self.store.execute(self.admin.tenant, b"c" * 32, statement, b"")))
        self.refused(
            NotAllowed, lambda: self.wait(self.store.add_admin("alice", self.admin.request(client=b"c" * 32)))
        )
        self.restart()
        self.assertIsNone(self.wait(self.store.certificate(b"c" * 32)))

    def test_one_key_one_tenant_one_role(self) -> None:
        """A registered key is not registered for another role, and tickets come another way."""
        other = encode_content(CertificateContent(self.admin.pin, Role.MONITOR, "again"))
        self.refused(Conflict, lambda: self.execute(StatementVerb.REGISTER_CERTIFICATE, other))
        ticket = encode_content(CertificateContent(b"t" * 32, Role.TICKET, "t", b"m" * 32, b"r" * 32, 1))
        self.refused(NotAllowed, lambda: self.execute(StatementVerb.REGISTER_CERTIFICATE, ticket))

    def test_machine_states(self) -> None:
        """A disabled machine may not append until it is enabled; a closed one never again; all stays restorable."""
        blobs = self.machine.tree(b"one")
        self.send(blobs)
        self.commit(blobs[-1][0])
        content = encode_content(MachineContent(self.machine.id))
        self.execute(StatementVerb.DISABLE_MACHINE, content)
        self.refused(Disabled, lambda: self.send(self.machine.tree(b"two")))
        self.refused(Disabled, lambda: self.commit(blobs[-1][0]))
        self.execute(StatementVerb.ENABLE_MACHINE, content)
        self.send(self.machine.tree(b"two"))
        self.execute(StatementVerb.CLOSE_GENERATION, content)
        self.refused(NotAllowed, lambda: self.execute(StatementVerb.ENABLE_MACHINE, content))
        self.refused(Disabled, lambda: self.send(self.machine.tree(b"three")))
        self.assertIs(self.wait(self.store.account(self.machine.id)).state, MachineState.CLOSED)
        self.assertEqual(self.fetch([blobs[0][0]]), blobs[0][2])


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
                lambda machine: self.store.pairs(self.admin.tenant, machine),
                lambda machine: self.store.runs(self.admin.tenant, machine, ids),
                lambda machine: self.store.locate(self.admin.tenant, machine, ids),
            ):
                error = self.refused(NotFound, lambda ask=ask, machine=machine: self.wait(ask(machine)))
                answers.append((error.code, error.text))
            content = encode_content(MachineContent(machine))
            error = self.refused(NotFound, lambda content=content: self.execute(StatementVerb.DISABLE_MACHINE, content))
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

    def test_neighbours_are_read_at_once(self) -> None:
        """Blobs that lie side by side and are both wanted are one range; an unwanted one between them is left out."""
        blobs = [self.machine.blob(BlobKind.BUNDLE, [], b"%d" % number) for number in range(5)]
        self.send(blobs)
        wanted = [blobs[number][0] for number in (4, 0, 1, 3)]
        located = self.wait(self.store.locate(self.admin.tenant, self.machine.id, [*wanted, b"x" * 32]))
        self.assertEqual(located.missing, [b"x" * 32])
        self.assertEqual(len(located.ranges), 2)
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
