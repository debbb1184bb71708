"""Packs on their way into the store, and spools that fail under them."""

import errno
import os
from threading import Event, Thread, get_ident

from twisted.internet.defer import gatherResults

from mastodon.daemon.config import SpoolConfig
from mastodon.daemon.errors import (
    Displaced,
    PackRefused,
    SpoolFull,
    StoreError,
    TooLarge,
    Unavailable,
)
from mastodon.daemon.events import EventCode
from mastodon.daemon.pack_receiver import WRITTEN_AT_ONCE
from mastodon.daemon.spool import Spool
from mastodon.sealed.blob import BlobKind
from mastodon.sealed.pack import PACK_LIMIT
from tests.store_case import Machine, StoreCase


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

    def test_promise_p2_another_machines_pack_is_not_known(self) -> None:
        """Announcing the id of another machine's pack tells nothing of it: what was sent is judged for itself."""
        pack = self.send(self.machine.tree(b"one"))
        other = Machine(2)
        self.enrol(other)
        epoch = self.store.machine_session(other.id)
        self.wait(self.store.add_pair(other.id, other.pair_record, other.envelope, epoch))
        _, data = other.pack(other.tree(b"one"))
        for id in (pack, b"7" * 32):
            error = self.refused(PackRefused, self.send_bytes, id, data, other, epoch)
            self.assertEqual(error.text, "the pack is not the one that was announced")

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
            self.refused(PackRefused, self.send_bytes, announced, sent)
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
        self.refused(TooLarge, lambda: self.wait(receiver.write(bytes(WRITTEN_AT_ONCE))))
        self.refused(TooLarge, lambda: self.wait(receiver.finish(b"i" * 32)))
        self.assertEqual([list(spool.glob("incoming/*")) for spool in self.setting.spools], [[], []])

    def test_pieces_are_written_together(self) -> None:
        """Small pieces wait for each other, and are written in order; the last ones when the pack is whole."""
        pack, data = self.machine.pack([self.machine.blob(BlobKind.BUNDLE, [], os.urandom(WRITTEN_AT_ONCE))])
        receiver = self.store.begin_pack(self.machine.id, self.epoch)
        first = receiver.write(data[:1000])
        self.assertEqual(self.disk.count("write", "incoming"), 0)
        receiver.write(memoryview(data)[1000:WRITTEN_AT_ONCE])
        self.wait(first)
        receiver.write(data[WRITTEN_AT_ONCE:])
        self.wait(receiver.finish(pack))
        (path,) = self.packs()
        self.assertEqual(path.read_bytes(), data)

    def test_abandoned(self) -> None:
        """A pack that is not finished leaves nothing behind, nor do pieces that were not written yet."""
        receiver = self.store.begin_pack(self.machine.id, self.epoch)
        self.wait(receiver.write(bytes(WRITTEN_AT_ONCE)))
        receiver.write(b"more")
        receiver.abandon()
        self.stop()
        self.assertEqual([list(spool.glob("incoming/*")) for spool in self.setting.spools], [[], []])
        self.start_again()

    def test_same_id_again_is_refused(self) -> None:
        """Another sealing of an id that is there is refused whole, naming it, also while the first is in flight."""
        bundle, page, _ = self.machine.tree(b"one")
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
        refusals = [one for one in done if one is not None]
        self.assertEqual([type(getattr(one, "value", None)) for one in refusals], [PackRefused])

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
            refusal = self.refused(PackRefused, self.send, [blob])
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
        self.assertEqual(self.account().stored_blobs, 0)
        self.assertEqual(self.commit(old[-1][0]).missing, (old[-1][0],))
        lie = self.machine.blob(BlobKind.CHUNK, [], b"one", old[0][0])
        self.refused(PackRefused, lambda: self.send([lie]))
        new = self.machine.tree(b"one")
        self.send(new)
        self.assertEqual(self.commit(new[-1][0]).missing, ())
        self.assertEqual(self.fetch([old[0][0]]), new[0][2] + old[0][2])
        self.assertEqual(self.account().stored_blobs, 3)

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
        receiver.write(data).addErrback(lambda _: None)
        late = self.store.begin_pack(self.machine.id, self.epoch)
        old = self.epoch
        self.epoch = self.store.machine_session(self.machine.id)
        self.refused(Displaced, lambda: self.wait(late.write(bytes(WRITTEN_AT_ONCE))))
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

    def test_packs_of_many_machines_share_an_fsync(self) -> None:
        """What becomes durable while the directory is being fsynced shares the next fsync of it; none of them, nor of
        the packs' own, is done in the reactor's thread."""
        machines = [Machine(number) for number in range(2, 22)]
        for machine in machines:
            self.enrol(machine)
            epoch = self.store.machine_session(machine.id)
            self.wait(self.store.add_pair(machine.id, machine.pair_record, machine.envelope, epoch))
        for number in range(2):
            self.send([self.machine.blob(BlobKind.BUNDLE, [], b"makes the directories of spool %d" % number)])
        self.disk.calls.clear()
        all_named, reactor_thread, threads = Event(), get_ident(), set()

        def before(call: str, path: str) -> None:
            if call == "rename" and self.disk.count("rename", "/packs/") == len(machines):
                all_named.set()
            if call == "fsync":
                threads.add(get_ident())
                if path.endswith("packs/2027/01/15"):
                    all_named.wait(30)

        self.disk.before = before
        outcomes = []
        for machine in machines:
            pack, data = machine.pack([machine.blob(BlobKind.BUNDLE, [], b"a pack")])
            receiver = self.store.begin_pack(machine.id, self.store.machine_session(machine.id))
            receiver.write(data)
            outcomes.append(receiver.finish(pack))
        self.wait(gatherResults(outcomes))
        for spool in self.setting.spools:
            self.assertLessEqual(self.disk.count("fsync", f"{spool}/packs/2027/01/15"), 4)
        self.assertEqual(self.disk.count("fsync", "/incoming/"), len(machines))
        self.assertNotIn(reactor_thread, threads)

    def test_promise_p9_directories_left_by_a_crash(self) -> None:
        """Directories that are there already may not be durable yet: their names are fsynced before the first ack."""
        for spool in self.setting.spools:
            (spool / "packs/2027/01/15").mkdir(parents=True)
        self.disk.calls.clear()
        self.send(self.machine.tree(b"one"))
        for part in ("packs", "packs/2027", "packs/2027/01", "packs/2027/01/15"):
            self.assertTrue(any(call == "fsync" and path.endswith(part) for call, path in self.disk.calls), part)

    def test_promise_p9_a_directory_that_another_thread_makes(self) -> None:
        """Nobody goes on in a directory whose name another thread has yet to make durable."""
        spool = Spool(SpoolConfig(self.setting.spools[0], 1, 0), self.disk)
        second = Thread(target=spool.directory, args=("packs/2027/02/01",))

        def before(call: str, path: str) -> None:
            if call == "fsync" and path.endswith("packs/2027/02") and second.ident is None:
                second.start()
                second.join(0.2)
                self.assertTrue(second.is_alive())

        self.disk.before = before
        spool.directory("packs/2027/02/01")
        second.join()

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
