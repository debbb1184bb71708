"""P1: a hostile machine, with all its keys, adds what it likes; its older snapshots stay listable and restorable."""

import contextlib
from typing import Any

from mastodon.daemon.errors import PackRefused, PairRefused, Refused, SnapshotRefused
from mastodon.sealed.blob import HEAD, BlobKind
from mastodon.sealed.pack import INDEX_ROW, TRAILER, pack_checksum
from tests.store_case import SECOND, Blob, StoreCase


class AdditionsTests(StoreCase):
    """Each attack comes after a good snapshot, and must leave it as it was."""

    def setUp(self) -> None:
        super().setUp()
        self.good = self.machine.tree(b"one", b"two")
        self.send(self.good)
        self.commit(self.good[-1][0])
        self.record = self.snapshots()[0]
        self.kept = self.restored()
        self.envelopes = self.first_envelopes()

    def restored(self) -> bytes:
        return self.fetch([one[0] for one in self.good])

    def first_envelopes(self) -> list[tuple[bytes, bytes, bool]]:
        """The record of the pair that is listed first, and its envelope."""
        (first,) = self.wait(self.store.pairs(self.admin.tenant, self.machine.id, 0, 1))
        return self.wait(self.store.envelopes(self.admin.tenant, self.machine.id, first.pair))

    def assert_unharmed(self) -> None:
        """The snapshot is listed first, its pair and envelope too, and all its bytes are served, also after a rebuild
        of the catalogue from the spools."""
        for _ in range(2):
            self.assertEqual(self.snapshots()[0], self.record)
            self.assertEqual(self.first_envelopes(), self.envelopes)
            self.assertIn(self.kept, self.restored())
            self.stop()
            (self.setting.state / "catalogue.sqlite").unlink()
            self.start_again()

    def attempt(self, blobs: list[Blob]) -> None:
        """Send a pack, whatever the store says."""
        with contextlib.suppress(Refused):
            self.send(blobs)

    def test_promise_p1_extra_pages(self) -> None:
        """Pages that no snapshot names, of whatever references, change nothing."""
        ids = [one[0] for one in self.good]
        self.attempt([self.machine.blob(BlobKind.PAGE, [ids[0]], b"%d" % number) for number in range(50)])
        self.attempt([self.machine.blob(BlobKind.PAGE, [ids[-1], b"x" * 32], b"upwards and into nothing")])
        self.assert_unharmed()

    def test_promise_p1_same_ids_with_other_content(self) -> None:
        """What a blob's id stands for is not replaced, neither with another header nor with the same."""
        for number in range(len(self.good)):
            id, kind, _ = self.good[number]
            for lie in (BlobKind.CHUNK, kind):
                references = [b"x" * 32] if lie > 0 and lie in (BlobKind.ROOT, BlobKind.PAGE) else []
                blob = self.machine.blob(lie, references, b"rubbish", id)
                self.assertRaises(PackRefused, self.send, [blob])
        self.assert_unharmed()

    def test_promise_p1_same_ids_under_another_pair(self) -> None:
        """Under a new pair the same ids may be sealed again, with the same header alone; the old sealings stay."""
        self.machine.new_pair()
        self.wait(self.store.add_pair(self.machine.id, self.machine.pair_record, self.machine.envelope, self.epoch))
        bundle, page = self.good[0], self.good[2]
        self.assertRaises(PackRefused, self.send, [self.machine.blob(BlobKind.PAGE, [], b"rubbish", page[0])])
        self.send([self.machine.blob(BlobKind.BUNDLE, [], b"rubbish", bundle[0])])
        self.assertIn(bundle[2], self.fetch([bundle[0]]))
        for one in self.good[1:]:
            self.assertEqual(self.fetch([one[0]]), one[2])
        self.assertEqual(self.snapshots()[0], self.record)

    def test_promise_p1_envelopes_beyond_the_bound(self) -> None:
        """Further envelopes for a pair, and pair records out of the chain, are refused; the first envelope stays."""
        first = self.machine.newest
        wrong: list[dict[str, Any]] = [
            {"pair": b"\1" * 16}, {"previous": b"x" * 32}, {"number": 1, "previous": b""}, {"number": (1 << 32) - 1},
        ]  # fmt: skip
        for changes in wrong:
            self.machine.newest, self.machine.number = first, 1
            self.machine.new_pair(**changes)
            self.assertRaises(
                PairRefused, self.wait,
                self.store.add_pair(self.machine.id, self.machine.pair_record, self.machine.envelope, self.epoch),
            )  # fmt: skip
        self.assert_unharmed()

    def test_promise_p1_many_pairs(self) -> None:
        """As many pairs as are taken in a day leave the older ones listed before them."""
        taken = 0
        for _ in range(40):
            self.machine.new_pair()
            pair = self.machine.pair_record, self.machine.envelope
            try:
                self.wait(self.store.add_pair(self.machine.id, *pair, self.epoch))
                taken += 1
            except Refused:
                break
        self.assertTrue(0 < taken < 40)
        self.assert_unharmed()

    def test_promise_p1_odd_snapshot_records(self) -> None:
        """Backdated, future-dated, from the far end of all sequences, replacing the first: times and order stay the
        server's, and only what follows the head is taken."""
        root = self.good[-1][0]
        wrong: list[dict[str, Any]] = [
            {"sequence": 1, "predecessor": b""}, {"sequence": (1 << 64) - 1}, {"sequence": 3},
            {"predecessor": b"x" * 32},
        ]  # fmt: skip
        for changes in wrong:
            self.assertRaises(SnapshotRefused, self.commit, root, **changes)
        for time_ns in (0, (1 << 64) - 1):
            self.commit(root, time_ns=time_ns)
        rows = self.wait(self.store.snapshots(self.admin.tenant, self.machine.id, 0, 10))
        times = [time_ns for _, time_ns in rows]
        self.assertEqual(times, sorted(times))
        self.assertTrue(all(0 <= self.clock.now - one < 60 * SECOND for one in times))
        self.assert_unharmed()

    def test_promise_p1_lying_index(self) -> None:
        """A pack whose index says other than its blobs is refused whole."""
        blobs = [self.machine.blob(BlobKind.BUNDLE, [], b"%d" % number) for number in range(2)]
        _, data = self.machine.pack(blobs)
        index = len(data) - TRAILER.size - 2 * INDEX_ROW.size
        for position, lie in (
            (index, self.good[0][0]),  # an id that is stored
            (index + 32, bytes([BlobKind.CHUNK])),
            (index + 33, bytes(4)),  # the offset
            (index + 37, b"\xff\xff\xff\xff"),  # the size
        ):
            lying = bytearray(data)
            lying[position : position + len(lie)] = lie
            checksum = pack_checksum(bytes(lying[:-32]))
            lying[-32:] = checksum
            self.assertRaises(PackRefused, self.send_bytes, checksum, bytes(lying))
        self.assertEqual(len(self.packs()), 1)
        self.assert_unharmed()

    def test_promise_p1_pack_that_brings_stored_ids(self) -> None:
        """A pack with one stored id among new ones is refused whole, naming it; nothing of it is there."""
        new = self.machine.blob(BlobKind.BUNDLE, [], b"new")
        again = self.machine.blob(BlobKind.BUNDLE, [], b"one")
        refusal = self.refused(PackRefused, lambda: self.send([new, again]))
        self.assertEqual(refusal.context, (again[0],))
        self.assertEqual(self.wait(self.store.stored(self.machine.id, [new[0]])), set())
        self.assert_unharmed()

    def test_promise_p1_page_naming_missing_blobs(self) -> None:
        """A snapshot over a page that names what is not there is not committed."""
        page = self.machine.blob(BlobKind.PAGE, [b"x" * 32], b"names nothing")
        root = self.machine.blob(BlobKind.ROOT, [page[0]], b"root")
        self.send([page, root])
        self.assertEqual(self.commit(root[0]).missing, (b"x" * 32,))
        self.assertEqual(len(self.snapshots()), 1)
        self.assert_unharmed()

    def test_promise_p1_references_that_do_not_descend(self) -> None:
        """A snapshot over references to the same or a higher level is refused."""
        page = self.machine.blob(BlobKind.PAGE, [self.good[-1][0]], b"names a root")
        sideways = self.machine.blob(BlobKind.PAGE, [page[0]], b"names a page")
        self.send([page, sideways])
        for number, wrong in enumerate((page, sideways)):
            root = self.machine.blob(BlobKind.ROOT, [wrong[0]], b"root %d" % number)
            self.send([root])
            self.assertRaises(SnapshotRefused, self.commit, root[0])
        self.assert_unharmed()

    def test_promise_p1_snapshot_of_another_kind(self) -> None:
        """A snapshot whose root is a page is refused."""
        self.assertRaises(SnapshotRefused, self.commit, self.good[2][0])
        self.assert_unharmed()

    def test_promise_p1_flipped_bytes(self) -> None:
        """A pack altered in any single byte is refused, and nothing of it stays."""
        _, data = self.machine.pack([self.machine.blob(BlobKind.BUNDLE, [], b"new")])
        before = self.packs()
        for position in range(0, len(data), max(1, len(data) // 60)):
            altered = bytearray(data)
            altered[position] ^= 1
            self.assertRaises(PackRefused, self.send_bytes, pack_checksum(bytes(altered[:-32])), bytes(altered))
        self.assertEqual(self.packs(), before)
        self.assertGreater(len(data), HEAD.size)
        self.assert_unharmed()
