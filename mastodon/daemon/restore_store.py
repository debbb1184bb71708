"""The store as the restore port uses it: what one tenant asks is never answered from another's machines (P6)."""

from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, TypeVar

from twisted.internet.defer import Deferred

from mastodon.catalogue.interface import (
    Catalogue,
    Certificate,
    ListedEvent,
    ListedPair,
    MachineRow,
    ReadRow,
    Tenant,
)
from mastodon.daemon.errors import NotAllowed, NotFound
from mastodon.daemon.reads import ReadLog
from mastodon.daemon.spool import Spool
from mastodon.daemon.store_core import StoreCore
from mastodon.daemon.telling.acknowledge import acknowledge
from mastodon.daemon.telling.telling import Told
from mastodon.host.spool_layout import pack_name
from mastodon.sealed.events import Audience, codes_for
from mastodon.wire.restore_messages import ENVELOPES_LIMIT

T = TypeVar("T")
OPERATOR = Tenant(b"", "", b"", 0)
"""Whose the monitor's certificate is that no admin made."""


@dataclass(frozen=True, slots=True)
class Located:
    """Where blobs lie: (path, offset, size) of each sealing; and what is not there."""

    ranges: list[tuple[str, int, int]]
    missing: list[bytes]


class RestoreStore(StoreCore):
    """Certificates, machines, snapshots, blobs, books, statements, events, reads."""

    def certificate(self, pin: bytes) -> "Deferred[Certificate | None]":
        """What is registered for a client key; None also for one that expired by the server's clock."""

        def judge(found: Certificate | None) -> Certificate | None:
            expired = found is not None and found.expires_ns and found.expires_ns <= self.now_ns()
            return None if expired else found

        return self._do(self._ready().catalogue.certificate(pin)).addCallback(judge)

    def who(self, tenant: bytes) -> "Deferred[Tenant]":
        """The admin. Fails with NotFound."""
        return self._do(self._who(tenant))

    async def _who(self, tenant: bytes) -> Tenant:
        found = await self._ready().catalogue.tenant(tenant) if tenant else OPERATOR
        if found is None:
            raise NotFound("unknown")
        return found

    def machines(self, tenant: bytes) -> "Deferred[list[MachineRow]]":
        """The tenant's machines."""
        return self._do(self._ready().catalogue.machines(tenant)).addCallback(self._with_seen)

    def _with_seen(self, rows: list[MachineRow]) -> list[MachineRow]:
        return [replace(row, seen_ns=max(row.seen_ns, self.seen_ns(row.machine))) for row in rows]

    def snapshots(self, tenant: bytes, machine: bytes, first: int, limit: int) -> "Deferred[list[tuple[bytes, int]]]":
        """Snapshot records from a sequence on, with the server's time of their commit."""
        return self._of_tenant(tenant, machine, lambda catalogue: catalogue.snapshots(machine, first, limit))

    def pairs(self, tenant: bytes, machine: bytes, first: int, limit: int) -> "Deferred[list[ListedPair]]":
        """The names of pairs from the machine's number ``first`` on."""
        return self._of_tenant(tenant, machine, lambda catalogue: catalogue.pairs(machine, first, limit))

    def envelopes(self, tenant: bytes, machine: bytes, pair: bytes) -> "Deferred[list[tuple[bytes, bytes, bool]]]":
        """The newest re-envelope records of a pair, then its own record, with their envelopes."""
        most = ENVELOPES_LIMIT - 1
        return self._of_tenant(tenant, machine, lambda catalogue: catalogue.envelopes(machine, pair, most))

    def runs(self, tenant: bytes, machine: bytes, ids: Sequence[bytes]) -> "Deferred[list[bytes]]":
        """Run records by id."""
        return self._of_tenant(tenant, machine, lambda catalogue: catalogue.runs(machine, ids))

    def locate(self, tenant: bytes, machine: bytes, ids: Sequence[bytes]) -> "Deferred[Located]":
        """Where sealings of the ids lie: newest pack first, in each the order of the pack."""
        return self._do(self._locate(tenant, machine, ids))

    async def _locate(self, tenant: bytes, machine: bytes, ids: Sequence[bytes]) -> Located:
        online = {spool.uuid: spool for spool in self._spools.online}
        places = await self._of_tenant(tenant, machine, lambda catalogue: catalogue.locate(machine, ids, list(online)))

        @cache  # many blobs lie in one pack, and to put a path together takes as long as all the rest
        def path(spool: bytes, day: str, pack: bytes) -> str:
            return str(online[spool].path / pack_name(day, pack))

        ranges = [(path(place.spool, place.day, place.pack), place.start, place.size) for place in places]
        there = {place.blob for place in places}
        return Located(ranges, [one for one in dict.fromkeys(ids) if one not in there])

    def certificates(self, tenant: bytes) -> "Deferred[list[Certificate]]":
        """The tenant's registered client keys; (b"") the operator's own."""
        return self._do(self._ready().catalogue.certificates(tenant))

    def book(self, tenant: bytes) -> "Deferred[bytes]":
        """The tenant's newest book, b"" before the first."""
        return self._do(self._ready().catalogue.book(tenant)).addCallback(lambda found: found[2])

    def execute(self, tenant: bytes, pin: bytes, statement: bytes, attachment: bytes) -> "Deferred[None]":
        """Do what a statement says."""
        return self._do(self._ready().authority.execute(tenant, pin, statement, attachment))

    def events(
        self, tenant: bytes | None, machine: bytes, after: int, since_ns: int, limit: int
    ) -> "Deferred[list[ListedEvent]]":
        """An admin's events, or (None) the operator's, the oldest first."""
        codes = codes_for(Audience.OPERATOR if tenant is None else Audience.ADMIN)
        return self._do(self._ready().catalogue.listed_events(after, since_ns, limit, tenant, machine, codes))

    @property
    def reads(self) -> ReadLog:
        """Who reads what, which the daemon starts."""
        return self._ready().reads

    def read_rows(
        self, tenant: bytes | None, machine: bytes, after: int, since_ns: int, limit: int
    ) -> "Deferred[list[ReadRow]]":
        """What was read behind a sequence: of a tenant (None: all), about a machine or (empty) all."""
        return self._do(self.reads.rows(after, limit, tenant, machine, since_ns))

    def acknowledge(self, tenant: bytes, pin: bytes, events: Sequence[int]) -> "Deferred[None]":
        """The admin knows of these events."""
        opened = self._ready()
        return self._do(acknowledge(opened.catalogue, opened.ledger, tenant, pin, events))

    def told(self, tenant: bytes, test: bool) -> "Deferred[list[Told]]":
        """Where an admin or (b"") the operator is told; each address is sent a test first, where asked."""
        if self.telling is None:
            raise NotAllowed("only a running daemon tells: start it, then try again")
        return self._do(self.telling.told(tenant, test))

    def ask(self, question: "Callable[[Catalogue], Coroutine[Deferred[Any], Any, T]]") -> "Deferred[T]":
        """What comes of a question to the catalogue."""
        return self._do(question(self._ready().catalogue))

    def seen_ns(self, machine: bytes) -> int:
        """When the machine's newest session began since the daemon runs; 0 for none."""
        return self._seen.get(machine, 0)

    def look_at_spools(self, look: Callable[[Spool], T]) -> "Deferred[list[T]]":
        """What ``look`` finds out of each configured spool, in a thread."""
        return self._in_thread(lambda: [look(spool) for spool in self._spools.all])
