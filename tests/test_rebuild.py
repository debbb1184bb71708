"""P10: the spool is the truth. The catalogue is made anew from the spools alone, and says the same as before."""

import shutil
from collections.abc import Callable
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from mastodon.daemon.errors import NotAllowed, StoreError, Unavailable
from mastodon.daemon.events import EventCode
from mastodon.sealed.book import BookContent, make_book
from mastodon.sealed.ledger_entries import Role
from mastodon.sealed.record import record_hash
from mastodon.sealed.statement import CertificateContent, MachineContent, PinContent, StatementVerb, encode_content
from tests.store_case import Machine, StoreCase


class RebuildTests(StoreCase):
    """A server with everything on it: two machines, two pairs, snapshots, a book, a removed certificate."""

    def setUp(self) -> None:
        super().setUp()
        secret = self.admin.secret
        self.blobs = self.machine.tree(b"one", b"two")
        self.send(self.blobs)
        self.commit(self.blobs[-1][0])
        self.machine.new_pair()
        self.wait(self.store.add_pair(self.machine.id, self.machine.pair_record, self.machine.envelope, self.epoch))
        self.newer = self.machine.tree(b"one", b"three")
        self.send(self.newer)
        self.commit(self.newer[-1][0])
        self.disabled = Machine(2)
        self.enrol(self.disabled)
        self.execute(StatementVerb.CLOSE_GENERATION, encode_content(MachineContent(self.disabled.id)))
        self.book = make_book(BookContent(()), secret.tenant, 1, b"", secret.book_key, secret.order_key, b"s" * 16)
        self.execute(StatementVerb.SWAP_BOOK, record_hash(self.book), self.book)
        self.removed = encode_content(CertificateContent(b"c" * 32, Role.ADMIN, "lost laptop"))
        self.execute(StatementVerb.REGISTER_CERTIFICATE, self.removed)
        self.execute(StatementVerb.REMOVE_CERTIFICATE, encode_content(PinContent(b"c" * 32)))

    def everything(self) -> dict[str, object]:
        """All that the ports and the operator can ask."""
        tenant, machine = self.admin.tenant, self.machine.id
        ids = [one[0] for one in (*self.blobs, *self.newer)]
        return {
            "admins": self.wait(self.store.list_admins()),
            "machines": [(row.machine, row.state, row.snapshots, row.kept_bytes)
                         for row in self.wait(self.store.machines(tenant))],
            "accounts": [self.wait(self.store.account(one.id)) for one in (self.machine, self.disabled)],
            "snapshots": self.wait(self.store.snapshots(tenant, machine, 0, 100)),
            "pairs": self.wait(self.store.pairs(tenant, machine, 0, 256)),
            "envelopes": [
                self.wait(self.store.envelopes(tenant, machine, one.pair))
                for one in self.wait(self.store.pairs(tenant, machine, 0, 256))
            ],
            "runs": len(self.wait(self.store.runs(tenant, machine, ids))),
            "stored": self.wait(self.store.stored(machine, ids)),
            "bytes": sorted(self.fetch([one]) for one in ids),
            "book": self.wait(self.store.book(tenant)),
            "certificates": [self.wait(self.store.certificate(pin)) for pin in (self.admin.pin, b"c" * 32)],
            "totals": self.wait(self.store.totals()),
        }  # fmt: skip

    def assert_same_after(self, harm: str) -> None:
        before = self.everything()
        self.stop()
        catalogue = self.setting.state / "catalogue.sqlite"
        if harm == "deleted":
            catalogue.unlink()
        elif harm == "garbage":
            catalogue.write_bytes(b"not a database" * 1000)
        elif harm == "damaged inside":
            data = bytearray(catalogue.read_bytes())
            data[len(data) // 2 : len(data) // 2 + 8192] = b"\xa5" * 8192
            catalogue.write_bytes(bytes(data))
        elif harm == "cut short":
            catalogue.write_bytes(catalogue.read_bytes()[:5000])
        elif harm == "emptied":
            catalogue.write_bytes(b"")
        self.start_again()
        self.assertEqual(self.everything(), before)

    def test_promise_p10_catalogue_deleted(self) -> None:
        """The next start makes it anew; everything that can be asked is answered as before."""
        self.assert_same_after("deleted")

    def test_promise_p10_catalogue_corrupt(self) -> None:
        """Garbage, damage in the middle, a file cut short or emptied: the same."""
        for harm in ("garbage", "damaged inside", "cut short", "emptied"):
            self.assert_same_after(harm)

    def test_catalogue_that_fell_behind(self) -> None:
        """An older catalogue catches up with entries and packs, without being made anew."""
        self.stop()
        catalogue = self.setting.state / "catalogue.sqlite"
        old = catalogue.read_bytes()
        self.start_again()
        more = self.machine.tree(b"four")
        self.send(more)
        self.commit(more[-1][0])
        before = self.everything()
        self.stop()
        catalogue.write_bytes(old)
        self.start_again()
        self.assertEqual(self.everything(), before)

    def test_catalogue_of_the_future(self) -> None:
        """A catalogue that knows what the ledger does not is not believed."""
        self.stop()
        copy = self.setting.directory / "copy"
        shutil.copytree(self.setting.directory, copy)
        self.start_again()
        before = self.everything()
        more = self.machine.tree(b"four")
        self.send(more)
        self.commit(more[-1][0])
        self.stop()
        for name in ("heads", "spools.json", "lock"):
            shutil.copy(copy / "state" / name, self.setting.state / name)
        for spool in self.setting.spools:
            shutil.rmtree(spool)
            shutil.copytree(copy / spool.name, spool)
        self.start_again()
        self.assertEqual(self.everything(), before)

    def test_promise_p10_state_lost(self) -> None:
        """With only the spools, all is known again, but credentials stay disabled until the head is confirmed."""
        before = self.everything()
        self.stop()
        shutil.rmtree(self.setting.state)
        self.start_again()
        self.assertIn("rebuild --confirm", self.store.locked)
        asked: tuple[Callable[[], Any], ...] = (
            lambda: self.store.certificate(self.admin.pin),
            lambda: self.store.account(self.machine.id),
            lambda: self.store.machines(self.admin.tenant),
            self.store.list_admins,
        )
        for ask in asked:
            self.assertRaises(Unavailable, ask)
        self.assertRaises(NotAllowed, lambda: self.wait(self.store.confirm("12:" + "ab" * 32)))
        self.wait(self.store.confirm(self.store.head_text()))
        self.assertEqual(self.everything(), before)
        self.restart()
        self.assertEqual(self.store.locked, "")
        self.assertEqual(self.everything(), before)
        self.assertIn(EventCode.LEDGER_CONFIRMED, self.events())

    def test_promise_p7_all_ledgers_went_back(self) -> None:
        """When every spool went back to before a revocation, credentials stay disabled: the signed head says so."""
        self.stop()
        shutil.copytree(self.setting.directory, self.setting.directory / "image", ignore=lambda *_: ["image"])
        self.start_again()
        self.execute(StatementVerb.REGISTER_CERTIFICATE, encode_content(CertificateContent(b"d" * 32, Role.ADMIN, "d")))
        self.execute(StatementVerb.REMOVE_CERTIFICATE, encode_content(PinContent(b"d" * 32)))
        self.stop()
        (self.setting.state / "spools.json").unlink()
        for spool in self.setting.spools:
            shutil.rmtree(spool)
            shutil.copytree(self.setting.directory / "image" / spool.name, spool)
        self.start_again()
        self.assertIn("does not bear the head", self.store.locked)
        self.assertRaises(Unavailable, lambda: self.store.certificate(self.admin.pin))

    def test_promise_p10_removal_is_terminal(self) -> None:
        """After a rebuild a removed key is still refused."""
        self.assert_same_after("deleted")
        self.assertRaises(NotAllowed, lambda: self.execute(StatementVerb.REGISTER_CERTIFICATE, self.removed))

    def test_other_ledger_key(self) -> None:
        """With another ledger key the only chain is taken up, once it is confirmed."""
        self.stop()
        self.setting.ledger_key = Ed25519PrivateKey.from_private_bytes(b"n" * 32)
        self.start_again()
        self.assertIn("vouches", self.store.locked)
        self.wait(self.store.confirm(self.store.head_text()))
        self.assertEqual(len(self.snapshots()), 2)

    def test_ledger_gone(self) -> None:
        """Spools without the ledger that the daemon wrote: it does not begin another one."""
        self.stop()
        kept = []
        for spool in self.setting.spools:
            kept.append((spool / "ledger").rename(self.setting.directory / f"ledger of {spool.name}"))
            (spool / "ledger").mkdir()
        (self.setting.state / "spools.json").unlink()
        error = self.assertRaises(StoreError, lambda: self.wait(self.setting.store().start()))
        self.assertIn("mount its spools", str(error))
        for spool, ledger in zip(self.setting.spools, kept, strict=True):
            (spool / "ledger").rmdir()
            ledger.rename(spool / "ledger")
        self.start_again()

    def test_strange_packs_are_left_alone(self) -> None:
        """A file that is no sound pack of a known machine is reported and not counted, and harms nothing."""
        before = self.everything()
        stranger = Machine(9)
        id, data = stranger.pack(stranger.tree(b"one"))
        day = self.packs()[0].parent
        foreign = day / f"{id.hex()}.pack"
        foreign.write_bytes(data)
        damaged = day / f"{'ab' * 32}.pack"
        damaged.write_bytes(self.packs()[0].read_bytes()[:-7])
        (day / f"{'cd' * 32}.pack").write_bytes(b"")
        self.restart()
        self.assertEqual(self.everything(), before)
        self.assertTrue(foreign.exists() and damaged.exists())
        self.assertIn(EventCode.PACK_STRANGE, self.events())
