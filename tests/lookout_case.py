"""A store with somebody on the lookout, and a clock that the test turns."""

from twisted.internet.task import Clock as ReactorClock

from mastodon.daemon.expiry import Term
from mastodon.daemon.lookout import Lookout
from mastodon.sealed.events import EventCode
from tests.store_case import START_NS, StoreCase

HOUR_NS = 3600 * 10**9
DAY_NS = 24 * HOUR_NS
FOR_EVER = Term(START_NS, START_NS + 36_500 * DAY_NS)


class LookoutCase(StoreCase):
    """``told`` gives what is new in the ledger, by code and detail."""

    SPOOLS = 1
    SERVER_TERM = FOR_EVER

    def setUp(self) -> None:
        super().setUp()
        self.reactor = ReactorClock()
        self._read = 0
        self.look_out()

    def look_out(self) -> None:
        """As the daemon does at its start."""
        self.lookout = Lookout(self.store, self.reactor, self.SERVER_TERM)
        self.lookout.start()

    def stop(self) -> None:
        self.wait(self.lookout.stop())
        super().stop()

    def start_again(self) -> None:
        super().start_again()
        self.look_out()

    def told(self) -> list[tuple[EventCode, str]]:
        """Events that came since this was asked last, of all that was begun."""
        self.wait(self.lookout.settled())
        rows = self.wait(self.store.catalogue.events(self._read, 1000))
        if rows:
            self._read = rows[-1].sequence
        return [(EventCode(row.code), row.detail) for row in rows]

    def codes(self) -> list[EventCode]:
        """Of what was told."""
        return [code for code, _ in self.told()]

    def pass_time(self, time_ns: int) -> None:
        """On the server's clock."""
        self.clock.now += time_ns
