"""The store: the one facade that the ports use. It joins spools, ledger writer and catalogue.

Promises: what a Deferred has acknowledged is durable (P9); a session that was displaced writes nothing more; what one
tenant asks is never answered from another's machines (P6). Every failure that a port may pass on is a Refused.

It is called from one thread, the reactor's; clock, randomness, disk and reactor are handed in.
"""

import os
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from twisted.internet.defer import Deferred, succeed
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger
from twisted.python.failure import Failure

from mastodon.catalogue.interface import (
    Account,
    BlobState,
    Catalogue,
    CatalogueDamaged,
    CatalogueError,
    Certificate,
    ListedEvent,
    ListedPair,
    MachineRow,
    ReadRow,
    Standing,
    Tenant,
    Totals,
)
from mastodon.daemon.background import background_pool
from mastodon.daemon.closure import Closure
from mastodon.daemon.commits import CommitResult
from mastodon.daemon.config import Config, SpoolConfig
from mastodon.daemon.errors import CATALOGUE_REFUSES, Disabled, Displaced, NotAllowed, NotFound, StoreError, Unavailable
from mastodon.daemon.events import EventBound, EventCode
from mastodon.daemon.followers import Followers
from mastodon.daemon.heads import HeadsFile, load_ledger_key
from mastodon.daemon.opened import Opened, Surroundings, open_parts, reconcile
from mastodon.daemon.opening import (
    OpenedLedger,
    StateLock,
    head_text,
    open_spools,
)
from mastodon.daemon.pack_receiver import PackReceiver
from mastodon.daemon.policies import Changes
from mastodon.daemon.quotas import Quotas
from mastodon.daemon.rates import RATE, RateSettings, rate_value
from mastodon.daemon.reads import ReadLog
from mastodon.daemon.spool import Spool
from mastodon.daemon.spools import SpoolMemory, Spools, SpoolStatus, spool_status
from mastodon.daemon.telling.acknowledge import acknowledge
from mastodon.daemon.telling.heartbeat import Beat
from mastodon.daemon.telling.telling import Parts, Telling, Told
from mastodon.daemon.watching import Watching
from mastodon.host.certificates import CertificateError, load_certificate, spki_pin
from mastodon.host.durable import SYSTEM_DISK, Disk, DiskError
from mastodon.host.spool_layout import pack_name
from mastodon.sealed.blob import LEVELS
from mastodon.sealed.events import Audience, codes_for
from mastodon.sealed.ledger import Head
from mastodon.sealed.ledger_entries import Event, MachineState, MachineStateSet, PolicySet, Role
from mastodon.sealed.snapshot import SnapshotStatus
from mastodon.wire.restore_messages import ENVELOPES_LIMIT

__all__ = [
    "Account", "Certificate", "CommitResult", "Located", "MachineRow", "PackReceiver", "Standing", "Store", "Tenant",
    "open_store",
]  # fmt: skip

THREADS = 8
LOOKED_UP_AT_ONCE = 1024
"""Ids of an offer between which other machines have their turn."""
CLOSING_BUDGET = 1 << 16
"""References that one offer may make the server look at, to find out that offered pages are whole."""
T = TypeVar("T")
STOPPED = 0
"""In place of the epoch of a machine that may not append."""
OPERATOR = Tenant(b"", "", b"", 0)
"""Whose the monitor's certificate is that no admin made."""


@dataclass(frozen=True, slots=True)
class Located:
    """Where blobs lie: (path, offset, size) of each sealing; and what is not there."""

    ranges: list[tuple[str, int, int]]
    missing: list[bytes]


class Store:
    """See the module's promises. ``locked`` says why credentials are disabled; empty in ordinary times."""

    log = Logger()

    def __init__(
        self, state: Path, spools: Sequence[SpoolConfig], servers: Sequence[bytes], ledger_key: Ed25519PrivateKey,
        reactor: Any, now_ns: Callable[[], int], random: Callable[[int], bytes], disk: Disk = SYSTEM_DISK,
    ) -> None:  # fmt: skip
        self.now_ns = now_ns
        self.locked = ""
        self.rates = RateSettings()
        self.followers = Followers()
        self.followers.add(MachineStateSet, self._state_set)
        self.committed_watchers: list[Callable[[bytes], object]] = []
        """Told of a machine that committed a complete snapshot."""
        self.pair_watchers: list[Callable[[bytes], object]] = []
        """Told of a machine that made a sealing pair."""
        self._state = state
        self._configs = tuple(spools)
        self._servers = tuple(servers)
        self._reactor = reactor
        self._random = random
        self._secret = ledger_key.private_bytes_raw()
        self.telling: Telling | None = None
        """Set while the daemon tells."""
        self._disk = disk
        self._heads = HeadsFile(state, ledger_key, disk)
        self._pool = background_pool(THREADS, "store")
        self._lock: StateLock | None = None
        self._spools = Spools((), SpoolMemory(state, disk))
        self._opened: Opened | None = None
        self._epoch = 0
        self._epochs: dict[bytes, int] = {}
        self._seen: dict[bytes, int] = {}
        self._bound = EventBound()
        self._names = 0

    # Life

    def start(self) -> "Deferred[None]":
        """Open everything, reconcile it. Fails with StoreError."""
        return Deferred.fromCoroutine(self._start())

    async def _start(self) -> None:
        self._lock = StateLock(self._state)
        self._pool.start()
        try:
            await self._open()
        except BaseException as error:
            await self._shut()
            if isinstance(error, DiskError | OSError | CatalogueError):
                raise StoreError(str(error)) from error
            raise

    async def _open(self) -> None:
        self._spools = Spools(self._configs, SpoolMemory(self._state, self._disk), self._disk)
        found: OpenedLedger = await self._in_thread(open_spools, self._spools, self._heads, self._random, self._lock)
        for spool in self._spools.all:
            if not spool.online:
                self.log.error("spool offline: {reason}", reason=spool.offline)
        self.locked = found.locked
        if self.locked:
            self.log.critical("{reason}", reason=self.locked)
        around = Surroundings(
            self._state, self._spools, self._disk, self._heads, self._servers, self._reactor, self.now_ns,
            self._in_thread, self._spool_failed, self._record_of_machine, self.record,
            lambda machine: machine in self._seen, lambda: not self.locked, self.followers,
        )  # fmt: skip
        self._opened = await open_parts(around, found)
        await reconcile(around, self._opened, found)
        await self._opened.quotas.start()
        self.rates.follow(await self._opened.catalogue.settings(RATE))

    def stop(self) -> "Deferred[None]":
        """Let the catalogue take in what was acknowledged, remember the head, close."""
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        if self._opened is not None:
            await self._opened.intake.drain()
        await self._shut()

    async def _shut(self) -> None:
        opened, self._opened = self._opened, None
        if opened is not None:
            await opened.close()
        await self._in_thread(lambda: None)
        self._pool.stop()
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    # The append port

    def account(self, machine: bytes) -> "Deferred[Account | None]":
        """The account, None for one that is not known."""
        return self._do(self._ready().catalogue.account(machine))

    def standing(self, machine: bytes) -> "Deferred[Standing | None]":
        """For a stranger who says that it is this machine: whether it is known, and may come in."""
        return self._do(self._ready().catalogue.standing(machine, stranger=True))

    def machine_session(self, machine: bytes) -> int:
        """A new session of the machine begins; what older ones still write is refused as Displaced."""
        self._epoch += 1
        self._epochs[machine] = self._epoch
        self._seen[machine] = self.now_ns()
        self._beat(machine, Beat.START)
        return self._epoch

    def stored(self, machine: bytes, ids: Sequence[bytes]) -> "Deferred[set[bytes]]":
        """The ids that need not be sent: there under the countable pairs; pages and maps only with all below them."""
        return self._do(self._stored(machine, ids))

    async def _stored(self, machine: bytes, ids: Sequence[bytes]) -> set[bytes]:
        opened = self._ready()
        catalogue, behind = opened.catalogue, opened.intake.is_behind(machine)
        states: dict[bytes, BlobState] = {}
        for at in range(0, len(ids), LOOKED_UP_AT_ONCE):
            states.update(await catalogue.blob_states(machine, ids[at : at + LOOKED_UP_AT_ONCE], behind))
        there = {one: state for one, state in states.items() if state.present}
        whole = {one for one, state in there.items() if state.closed or not LEVELS[state.kind]}
        unsure = [one for one in there if one not in whole]
        if unsure:
            whole |= (await Closure(catalogue, machine, CLOSING_BUDGET).walk(unsure)).whole
        return whole

    def begin_pack(self, machine: bytes, epoch: int) -> PackReceiver:
        """Begin to receive a pack."""
        opened = self._ready()
        self._names += 1
        name = f"{self._names}-{self._random(8).hex()}.pack"
        hold = opened.quotas.hold(machine)
        return PackReceiver(opened.intake, machine, name, self._demand_current(machine, epoch), hold)

    def add_pair(self, machine: bytes, record: bytes, envelope: bytes, epoch: int) -> "Deferred[bytes]":
        """Take a pair record and its envelope; fires with the record hash when they are durable."""

        def tell(name: bytes) -> bytes:
            for watcher in self.pair_watchers:
                watcher(machine)
            return name

        work = self._ready().commits.add_pair(machine, record, envelope, self._demand_current(machine, epoch))
        return self._do(work).addCallback(tell)

    def commit(self, machine: bytes, record: bytes, epoch: int) -> "Deferred[CommitResult]":
        """Commit a snapshot record, or say what it lacks."""

        def done(result: CommitResult) -> CommitResult:
            if not result.missing and result.status is SnapshotStatus.COMPLETE:
                self._beat(machine, Beat.SUCCESS)
                for watcher in self.committed_watchers:
                    watcher(machine)
            return result

        committed = self._do(self._ready().commits.commit(machine, record, self._demand_current(machine, epoch)))
        return committed.addCallback(done)

    def run_over(self, machine: bytes, exit_code: int, text: str) -> "Deferred[None]":
        """A machine's agent says that its run is over. Never fails."""
        if exit_code:
            self._beat(machine, Beat.FAIL)

        def lost(failure: Failure) -> None:
            self.log.failure("that a run is over was not looked at", failure)

        return self._do(self.watching.run_over(machine, exit_code, text)).addErrback(lost)

    @property
    def watching(self) -> Watching:
        """The watch, which the daemon starts."""
        return self._ready(unlocked=False).watching

    def signed_head(self) -> bytes:
        """The ledger's durable head, signed."""
        return self._ready().ledger.signed_head()

    @property
    def head(self) -> Head:
        """The ledger's durable head."""
        return self._ready(unlocked=False).ledger.durable_head

    # The restore port

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

    # Whoever reports how all is

    def ask(self, question: "Callable[[Catalogue], Coroutine[Deferred[Any], Any, T]]") -> "Deferred[T]":
        """What comes of a question to the catalogue."""
        return self._do(question(self._ready().catalogue))

    def seen_ns(self, machine: bytes) -> int:
        """When the machine's newest session began since the daemon runs; 0 for none."""
        return self._seen.get(machine, 0)

    def look_at_spools(self, look: Callable[[Spool], T]) -> "Deferred[list[T]]":
        """What ``look`` finds out of each configured spool, in a thread."""
        return self._in_thread(lambda: [look(spool) for spool in self._spools.all])

    # The operator

    def add_admin(self, name: str, request: bytes) -> "Deferred[Tenant]":
        """Take an admin's request."""
        return self._do(self._ready().authority.add_admin(name, request))

    def list_admins(self) -> "Deferred[list[Tenant]]":
        """All admins with their certificates."""
        return self._do(self._ready().catalogue.tenants())

    def add_certificate(self, name: str, pin: bytes, role: Role, label: str) -> "Deferred[None]":
        """Register a client key of the admin of this name, or (empty) the operator's own monitor."""
        return self._do(self._ready().authority.add_certificate(name, pin, role, label))

    def remove_certificate(self, pin: bytes) -> "Deferred[None]":
        """Remove a client key for ever."""
        return self._do(self._ready().authority.remove_certificate(pin))

    def list_machines(self) -> "Deferred[list[MachineRow]]":
        """All machines."""
        return self._do(self._ready().catalogue.machines(None)).addCallback(self._with_seen)

    def quotas(self) -> Quotas:
        """What admins and machines may keep, and do."""
        return self._ready().quotas

    def set_machine_state(self, machine: bytes, state: MachineState) -> "Deferred[None]":
        """Disable or enable a machine; a session that is open ends at once."""
        return self._do(self._ready().authority.set_state(machine, state))

    def totals(self) -> "Deferred[Totals]":
        """How much there is."""
        return self._do(self._ready(unlocked=False).catalogue.totals())

    def list_spools(self) -> list[SpoolStatus]:
        """The configured spools, as they are."""
        return [spool_status(spool) for spool in self._spools.all]

    def set_rate(self, machine: bytes, rate: int | None) -> "Deferred[None]":
        """Cap what a machine may send (b"": all together), in bytes a second; 0: no cap, None: as the configuration."""
        return self._do(self._set_rate(machine, rate_value(rate)))

    async def _set_rate(self, machine: bytes, value: str) -> None:
        opened = self._ready()
        if machine and await opened.catalogue.owner(machine) is None:
            raise NotFound("no machine with this id is enrolled")
        await opened.ledger.append(PolicySet(b"", machine, ((RATE, value),), b""))
        self.rates.follow([(machine, value)])

    def set_policy(self, tenant: bytes, machine: bytes, changes: Changes) -> "Deferred[None]":
        """The operator's settings: of the server (b"", b""), an admin, or a machine."""
        return self._do(self._ready().authority.set_policy(tenant, machine, changes))

    @property
    def catalogue(self) -> Catalogue:
        """For whoever only looks."""
        return self._ready(unlocked=False).catalogue

    def confirm(self, head: str) -> "Deferred[None]":
        """The operator's word that the ledger's head is the right one: credentials are enabled again."""
        return self._do(self._confirm(head))

    async def _confirm(self, head: str) -> None:
        if head.strip().lower() != self.head_text():
            raise NotAllowed(f"the ledger's head is not that, but {self.head_text()}")
        await self._in_thread(self._heads.write, self.head, self.now_ns())
        self.locked, self._ready().ledger.vouches = "", True
        await self.record(EventCode.LEDGER_CONFIRMED, detail=head)

    def head_text(self) -> str:
        """The ledger's head as the operator confirms it."""
        return head_text(self.head)

    def record(self, code: EventCode, tenant: bytes = b"", machine: bytes = b"", detail: str = "") -> "Deferred[None]":
        """Put an event into the ledger, unless there were too many of its kind in this hour. Never fails."""
        # While the store is locked the ledger stays as it is: its head is what the operator compares.
        if self._opened is None or self.locked or not self._bound.allows(code, machine or tenant, self.now_ns()):
            return succeed(None)
        plain = "".join(c if c.isprintable() else "?" for c in detail)
        text = plain.encode("utf-8", "replace")[:1000].decode("utf-8", "ignore")
        event = Event(int(code), tenant, machine, text)

        def lost(failure: Failure) -> None:
            self.log.error("an event was not written ({reason}): {detail}", reason=str(failure.value), detail=text)

        return self._opened.ledger.append(event).addCallbacks(lambda _: None, lost)

    def pack_unreadable(self, path: str, reason: str) -> None:
        """A restore came upon a pack that it could not read, or not whole."""
        self.log.error("a pack cannot be read, run `mastodon check`: {path}: {reason}", path=path, reason=reason)
        self.record(EventCode.PACK_LOST, detail=f"cannot be read: {path}: {reason}")

    # Inside

    def _state_set(self, body: MachineStateSet) -> None:
        """A machine that may append no more: what its session still writes is refused."""
        if body.state is not MachineState.ACTIVE:
            self._epochs[body.machine] = STOPPED

    def telling_parts(self) -> Parts:
        """What telling goes by; once the store is open."""
        opened = self._ready(unlocked=False)

        def failed(tenant: bytes, detail: str) -> None:
            self.record(EventCode.TELLING_FAILED, tenant, detail=detail)

        return Parts(
            opened.catalogue, opened.authority.policies, lambda: self.head.sequence, failed,
            lambda: not self.locked and bool(self._spools.online), self._state, self._secret, self.now_ns,
            self._in_thread,
        )  # fmt: skip

    def _beat(self, machine: bytes, beat: Beat) -> None:
        if self.telling is not None:
            self.telling.beat(machine, beat)

    def _record_of_machine(self, code: EventCode, machine: bytes, detail: str) -> "Deferred[None]":
        return self.record(code, machine=machine, detail=detail)  # the port logs the refusal that comes of it

    def _spool_failed(self, spool: Spool, reason: str) -> None:
        spool.offline = spool.offline or reason
        self.log.error("spool offline: {reason}", reason=reason)
        self.record(EventCode.SPOOL_OFFLINE, detail=f"{spool.uuid.hex()}: {reason}")

    def _in_thread(self, function: Callable[..., T], *args: Any) -> "Deferred[T]":
        return deferToThreadPool(self._reactor, self._pool, function, *args)

    def _demand_current(self, machine: bytes, epoch: int) -> Callable[[], None]:
        def check() -> None:
            current = self._epochs.get(machine)
            if current == STOPPED:
                raise Disabled("this machine may append no more")
            if current != epoch:
                raise Displaced("a newer session of this machine took over")

        return check

    def _ready(self, unlocked: bool = True) -> Opened:
        if self._opened is None:
            raise Unavailable("the store is not open: try again")
        if unlocked and self.locked:
            raise Unavailable("the server waits for its operator: see its log")
        return self._opened

    def _of_tenant(self, tenant: bytes, machine: bytes, ask: Callable[[Catalogue], "Deferred[T]"]) -> "Deferred[T]":
        async def answer() -> T:
            opened = self._ready()
            if not tenant or await opened.catalogue.owner(machine) != tenant:
                raise NotFound("no such machine")
            await opened.intake.settled(machine)
            return await ask(opened.catalogue)

        return self._do(answer())

    def _do(self, work: "Deferred[T] | Coroutine[Deferred[Any], Any, T]") -> "Deferred[T]":
        outcome = work if isinstance(work, Deferred) else Deferred.fromCoroutine(work)
        return outcome.addErrback(self._note_damage)

    def _note_damage(self, failure: Failure) -> Failure:
        if failure.check(CatalogueDamaged) is not None:
            self.log.critical("{reason}: restart the daemon, it makes the catalogue anew", reason=str(failure.value))
        elif failure.check(CatalogueError) is not None:
            self.log.error("{reason}", reason=str(failure.value))
        else:
            return failure
        return Failure(Unavailable(CATALOGUE_REFUSES))


def open_store(config: Config, reactor: Any, now_ns: Callable[[], int], disk: Disk = SYSTEM_DISK) -> Store:
    """The store that a configuration describes, not started yet. Raises StoreError."""
    ledger_key = load_ledger_key(config.keys.ledger_key)
    try:
        server = spki_pin(load_certificate(config.keys.server_certificate))
    except CertificateError as error:
        raise StoreError(str(error)) from None
    store = Store(
        config.state, config.spools, (server, *config.keys.spare_pins), ledger_key, reactor, now_ns, os.urandom, disk
    )
    store.rates.usual_total, store.rates.usual_machine = config.limits.append_rate, config.limits.machine_rate
    return store
