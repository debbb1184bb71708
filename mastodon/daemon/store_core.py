"""What every part of the store has: its life, its way into spools, ledger and catalogue, and its events.

It is called from one thread, the reactor's; clock, randomness, disk and reactor are handed in.
"""

from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any, TypeVar

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from twisted.internet.defer import Deferred, succeed
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger
from twisted.python.failure import Failure

from mastodon.catalogue.interface import (
    Catalogue,
    CatalogueDamaged,
    CatalogueError,
)
from mastodon.daemon.background import background_pool
from mastodon.daemon.config import SpoolConfig
from mastodon.daemon.errors import CATALOGUE_REFUSES, NotFound, StoreError, Unavailable
from mastodon.daemon.events import EventBound, EventCode
from mastodon.daemon.followers import Followers
from mastodon.daemon.heads import HeadsFile
from mastodon.daemon.opened import Opened, Surroundings, open_parts, reconcile
from mastodon.daemon.opening import (
    OpenedLedger,
    StateLock,
    open_spools,
)
from mastodon.daemon.rates import RATE, RateSettings
from mastodon.daemon.spool import Spool
from mastodon.daemon.spools import SpoolMemory, Spools
from mastodon.daemon.telling.telling import Telling
from mastodon.daemon.watching import Watching
from mastodon.host.durable import SYSTEM_DISK, Disk, DiskError
from mastodon.sealed.ledger import Head
from mastodon.sealed.ledger_entries import Event, MachineState, MachineStateSet

THREADS = 8
T = TypeVar("T")
STOPPED = 0
"""In place of the epoch of a machine that may not append."""


class StoreCore:
    """``locked`` says why credentials are disabled; empty in ordinary times."""

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

    def _record_of_machine(self, code: EventCode, machine: bytes, detail: str) -> "Deferred[None]":
        return self.record(code, machine=machine, detail=detail)  # the port logs the refusal that comes of it

    def _spool_failed(self, spool: Spool, reason: str) -> None:
        spool.offline = spool.offline or reason
        self.log.error("spool offline: {reason}", reason=reason)
        self.record(EventCode.SPOOL_OFFLINE, detail=f"{spool.uuid.hex()}: {reason}")

    def _in_thread(self, function: Callable[..., T], *args: Any) -> "Deferred[T]":
        return deferToThreadPool(self._reactor, self._pool, function, *args)

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

    def _state_set(self, body: MachineStateSet) -> None:
        """A machine that may append no more: what its session still writes is refused."""
        if body.state is not MachineState.ACTIVE:
            self._epochs[body.machine] = STOPPED
