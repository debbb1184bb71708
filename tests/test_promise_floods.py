"""P1: what a hostile machine adds over days, or when a spool is away, leaves its older snapshots restorable."""

from mastodon.daemon.commits import PAIRS_PER_DAY
from mastodon.daemon.events import EventCode
from mastodon.sealed.blob import BlobKind, parse_header
from mastodon.wire.restore_client import SEALINGS_LIMIT
from tests.store_case import SECOND, StoreCase

DAY = 24 * 3600 * SECOND


class FloodTests(StoreCase):
    """A machine with all its keys, and all the time that it wants."""

    def add_pair(self) -> None:
        if self.machine.number % (PAIRS_PER_DAY - 1) == 0:
            self.clock.now += 2 * DAY
        self.machine.new_pair()
        self.wait(self.store.add_pair(self.machine.id, self.machine.pair_record, self.machine.envelope, self.epoch))

    def served(self, id: bytes) -> list[bytes]:
        """The sealings of an id that a restore is given."""
        data = self.fetch([id])
        found, at = [], 0
        while at < len(data):
            size = parse_header(data[at:]).size
            found.append(data[at : at + size])
            at += size
        return found

    def test_promise_p1_an_id_sealed_again_and_again(self) -> None:
        """An id sealed anew under ever more pairs is served in as many sealings as a client takes, and its oldest and
        newest ones are among them."""
        good = self.machine.blob(BlobKind.BUNDLE, [], b"one")
        self.send([good])
        for number in range(SEALINGS_LIMIT + 3):
            self.add_pair()
            rubbish = self.machine.blob(BlobKind.BUNDLE, [], b"rubbish %d" % number, good[0])
            self.send([rubbish])
        served = self.served(good[0])
        self.assertEqual(len(served), SEALINGS_LIMIT)
        self.assertIn(good[2], served)
        self.assertIn(rubbish[2], served)

    def test_promise_p1_another_kind_while_the_first_is_away(self) -> None:
        """An id sealed as something else while its pack's spool was away and the catalogue was made anew does not hide
        the sealing that comes back; that one is told as strange all the same."""
        good = self.machine.tree(b"one")
        page = good[1]
        self.send(good)
        self.commit(good[-1][0])
        (path,) = self.packs()
        home = next(one for one in self.setting.spools if one in path.parents)
        self.stop()
        home.rename(home.with_name("unmounted"))
        (self.setting.state / "catalogue.sqlite").unlink()
        self.start_again()
        rubbish = self.machine.blob(BlobKind.BUNDLE, [], b"rubbish", page[0])
        self.send([rubbish])
        self.stop()
        home.with_name("unmounted").rename(home)
        self.start_again()
        self.assertCountEqual(self.served(page[0]), [page[2], rubbish[2]])
        self.assertIn(EventCode.PACK_STRANGE, self.events())
