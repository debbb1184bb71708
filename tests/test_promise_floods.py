"""P1: what a hostile machine adds in great number, over days, leaves its older snapshots restorable."""

from mastodon.daemon.commits import PAIRS_PER_DAY
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

    def test_promise_p1_an_id_sealed_again_and_again(self) -> None:
        """An id sealed anew under ever more pairs is served in as many sealings as a client takes, and its oldest and
        newest ones are among them."""
        good = self.machine.blob(BlobKind.BUNDLE, [], b"one")
        self.send([good])
        for number in range(SEALINGS_LIMIT + 3):
            self.add_pair()
            rubbish = self.machine.blob(BlobKind.BUNDLE, [], b"rubbish %d" % number, good[0])
            self.send([rubbish])
        data = self.fetch([good[0]])
        served, at = [], 0
        while at < len(data):
            size = parse_header(data[at:]).size
            served.append(data[at : at + size])
            at += size
        self.assertEqual(len(served), SEALINGS_LIMIT)
        self.assertIn(good[2], served)
        self.assertIn(rubbish[2], served)
