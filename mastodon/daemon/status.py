"""The figures of the status query and of the metrics: one home for both.

Promises: an admin's certificate sees that admin's machines alone, and of the server nothing that others make (P6); a
query costs a few reads of the catalogue, however many snapshots there are; nothing waits for a disk in the reactor.
"""

import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence

from twisted.internet.defer import Deferred

from mastodon import __version__
from mastodon.catalogue.interface import Catalogue, Certificate, Holding, WatchRow
from mastodon.catalogue.interface import Condition as OpenCondition
from mastodon.daemon.errors import NotFound
from mastodon.daemon.spool import Spool
from mastodon.daemon.standing import standing
from mastodon.daemon.store import Store
from mastodon.daemon.watch import OF_THE_WATCH
from mastodon.sealed.ledger_entries import Role
from mastodon.sealed.schema import clean_text
from mastodon.sealed.settings import GRACE, INTERVAL, QUOTA, Settings
from mastodon.wire.status_messages import (
    CONDITIONS_LIMIT,
    SPOOLS_LIMIT,
    TENANTS_LIMIT,
    Condition,
    ServerStatusItem,
    SpoolState,
    StatusItem,
    TenantUse,
)

ALL = None
Figures = tuple[ServerStatusItem, list[StatusItem]]
Conditions = Mapping[tuple[bytes, bytes], Sequence[OpenCondition]]
"""What is open, by tenant and machine; (b"", b"") is the server."""


def scope(asker: Certificate) -> bytes | None:
    """Whose machines a certificate sees: its admin's; ALL for the operator's monitor."""
    return ALL if asker.role is Role.MONITOR and not asker.tenant else asker.tenant


class Status:
    """Answers from a store. ``expires_ns`` is when the server's certificate ends, ``is_running`` says whether a machine
    has an open session."""

    def __init__(self, store: Store, expires_ns: int, is_running: Callable[[bytes], bool]) -> None:
        self._store = store
        self._expires_ns = expires_ns
        self._is_running = is_running

    def read(self, tenant: bytes | None, machine: bytes = b"", number: int = 0) -> Deferred[Figures]:
        """The server, and the machines of a tenant or (ALL) of every one: all, or one. Fails with Refused."""
        return self._store.ask(lambda catalogue: self._read(catalogue, tenant, machine, number))

    async def _read(self, catalogue: Catalogue, tenant: bytes | None, machine: bytes, number: int) -> Figures:
        rows = await catalogue.watch_rows(tenant, machine or None)
        if machine and not rows:
            raise NotFound("no such machine")
        values = await catalogue.setting_rows((INTERVAL, GRACE, QUOTA))
        settings = Settings((row.name, row.tenant, row.machine, row.value) for row in values)
        conditions = _by_place(await catalogue.conditions(tenant))
        server = await self._server(catalogue, tenant, settings, conditions, number)
        holdings = await catalogue.holdings(tenant, machine or None)
        return server, [self._machine(row, settings, conditions, holdings, number) for row in rows]

    async def _server(
        self, catalogue: Catalogue, tenant: bytes | None, settings: Settings, conditions: Conditions, number: int
    ) -> ServerStatusItem:
        tenants = tuple(
            TenantUse(
                one.tenant, one.name, one.machines, one.kept_bytes, _shown(conditions.get((one.tenant, b""), ())),
                _quota(settings, one.tenant),
            )
            for one in await catalogue.tenant_holdings(tenant)
        )  # fmt: skip
        spools: Sequence[SpoolState] = await self._store.look_at_spools(spool_state) if tenant is ALL else ()
        telling = self._store.telling if tenant is ALL else None
        waiting = telling.waiting() if telling is not None else (0, 0)
        about_server = conditions.get((b"", b""), ()) if tenant is ALL else ()
        head = self._store.head
        return ServerStatusItem(
            number, self._store.now_ns(), __version__, head.sequence, head.hash, self._expires_ns, *waiting,
            tuple(spools[:SPOOLS_LIMIT]), tenants[:TENANTS_LIMIT], _shown(about_server),
        )  # fmt: skip

    def _machine(
        self, row: WatchRow, settings: Settings, conditions: Conditions, holdings: Mapping[bytes, Holding], number: int
    ) -> StatusItem:
        opened = [one for one in conditions.get((row.tenant, row.machine), ()) if not _is_over(one, row)]
        session_ns = self._store.seen_ns(row.machine)
        running_ns = session_ns if self._is_running(row.machine) else 0
        watch, since_ns = standing(row, {one.code: one.time_ns for one in opened}, running_ns)
        holding = holdings.get(row.machine, Holding(0, 0))
        return StatusItem(
            number, row.machine, row.tenant, row.state, watch, since_ns, max(row.seen_ns, session_ns),
            row.complete_ns, row.newest_ns, row.partial_since_ns, settings.number(INTERVAL, row.tenant, row.machine),
            settings.number(GRACE, row.tenant, row.machine), holding.snapshots, holding.kept_bytes, _shown(opened),
            row.newest_status, _quota(settings, row.tenant, row.machine),
        )  # fmt: skip


def spool_state(spool: Spool) -> SpoolState:
    """A spool as it is; asks the file system, so in a thread."""
    try:
        found = os.statvfs(spool.path)
        size = found.f_blocks * found.f_frsize
    except OSError:
        size = 0
    usable = spool.usable() if spool.online else 0
    return SpoolState(clean_text(str(spool.path.absolute()), 1024), clean_text(spool.offline, 1024), usable, size)


def _is_over(condition: OpenCondition, row: WatchRow) -> bool:
    """Whether a complete snapshot ended it, though that is not told before the next look of the watch."""
    return condition.code in OF_THE_WATCH and condition.sequence < row.complete_entry


def _quota(settings: Settings, tenant: bytes, machine: bytes = b"") -> int | None:
    """What is set at just this place: an admin's quota is not that of each machine."""
    value = settings.at(QUOTA, tenant, machine)
    return int(value) if value else None


def _by_place(conditions: Iterable[OpenCondition]) -> Conditions:
    found: dict[tuple[bytes, bytes], list[OpenCondition]] = defaultdict(list)
    for one in conditions:
        found[one.tenant, one.machine].append(one)
    return found


def _shown(conditions: Sequence[OpenCondition]) -> tuple[Condition, ...]:
    """The newest of them."""
    return tuple((int(one.code), one.subject, one.time_ns) for one in conditions[-CONDITIONS_LIMIT:])
