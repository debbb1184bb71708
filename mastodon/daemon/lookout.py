"""Looks out for what else an admin or operator should know of, and puts it together from parts with a rule each.

New pairs, anomalies, clocks, old agents, wrong credentials, certificates that expire, spools and quotas. Promises: it
changes nothing but what is told; no connection and no commit waits for it, or fails with it; what fails is logged.
"""

from typing import Any

from cryptography import x509
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from mastodon.catalogue.interface import Certificate
from mastodon.daemon.check_ins import CheckIns
from mastodon.daemon.edges import Condition, Edges
from mastodon.daemon.errands import Errands
from mastodon.daemon.expiry import Expiry, Term, term_of
from mastodon.daemon.heard import Heard
from mastodon.daemon.new_pairs import NewPairs
from mastodon.daemon.spool_room import room_of, tell_rooms
from mastodon.daemon.store import Store
from mastodon.daemon.usual import Usual
from mastodon.daemon.wrong_credentials import WrongCredentials
from mastodon.sealed.events import EventCode
from mastodon.wire.messages import Hello

ROOM_EVERY_S = 60.0
DATES_EVERY_S = 3600.0
PORTS = ("append port", "restore port")


class Lookout(Heard):
    """Lives in the reactor's thread, over a store that is open. ``server`` is the term of its certificate."""

    log = Logger()

    def __init__(self, store: Store, clock: IReactorTime, server: Term) -> None:
        self._store = store
        self._catalogue = store.catalogue
        self._edges = Edges(self._catalogue, store.record, store.now_ns)
        self._check_ins = CheckIns(self._edges, store.now_ns)
        self._expiry = Expiry(self._catalogue, self._edges, store.now_ns, server)
        self._new_pairs = NewPairs(self._catalogue, store.record)
        self._refused = {port: WrongCredentials() for port in PORTS}
        self.usual = Usual(self._catalogue, self._edges)
        self._errands = Errands(self.log, "what else is to be told was not looked at")
        self._loops = [LoopingCall(self._begin_rooms), LoopingCall(self._begin_dates)]
        for loop in self._loops:
            loop.clock = clock

    def start(self) -> None:
        """Tell what was not when the daemon stopped, and look around from now on; not while the store is locked, since
        nothing can be told then."""
        if self._store.locked:
            return
        self._store.committed_watchers.append(self.usual.committed)
        self._store.pair_watchers.append(self.paired)
        self._errands.begin(self._new_pairs.tell())
        self._errands.begin(self.usual.start())
        for loop, seconds in zip(self._loops, (ROOM_EVERY_S, DATES_EVERY_S), strict=True):
            loop.start(seconds)

    def stop(self) -> "Deferred[Any]":
        """Ask nothing more of the store."""
        self._errands.stop()
        for loop in self._loops:
            if loop.running:
                loop.stop()
        self.usual.stop()
        return self.settled()

    def settled(self) -> "Deferred[Any]":
        """Fires when what was begun is done."""
        return Deferred.fromCoroutine(self._errands.settled()).addCallback(lambda _: self.usual.settled())

    # What the ports tell

    def checked_in(self, hello: Hello) -> None:
        """A machine proved who it is."""
        self._errands.begin(self._check_ins.good(hello))

    def too_old(self, hello: Hello) -> None:
        """A machine proved who it is, and cannot be spoken with."""
        self._errands.begin(self._check_ins.too_old(hello))

    def refused(self, port: str, host: str) -> None:
        """Somebody's credentials were wrong."""
        text = self._refused[port].refused(host, self._store.now_ns())
        if text:
            self._errands.begin(self._edges.settle(_credentials(port), lambda is_told: True, text))

    def came(self, registered: Certificate, shown: x509.Certificate) -> None:
        """A client with a registered key came."""
        try:
            term = term_of(shown)
        except ValueError:
            return  # dates that are none: they mean nothing to us
        self._errands.begin(self._expiry.came(registered, term))

    def paired(self, machine: bytes) -> None:
        """A machine's pair was taken."""
        self._errands.begin(self._new_pairs.tell(machine))

    # What passes by itself

    def _begin_rooms(self) -> None:
        self._errands.begin(self._look_at_rooms())

    def _begin_dates(self) -> None:
        self._errands.begin(self._look_at_dates())

    async def _look_at_rooms(self) -> None:
        await tell_rooms(await self._store.look_at_spools(room_of), self._edges)

    async def _look_at_dates(self) -> None:
        await self._expiry.look()
        self._store.quotas().look_around()
        for port, refused in self._refused.items():
            told_ns = await self._edges.told_ns(_credentials(port))
            if told_ns is not None and refused.is_over(told_ns, self._store.now_ns()):
                await self._edges.settle(_credentials(port), lambda is_told: False, "none in bulk for a day")


def _credentials(port: str) -> Condition:
    return Condition(EventCode.WRONG_CREDENTIALS, EventCode.CREDENTIALS_QUIET, subject=port)
