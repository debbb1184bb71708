"""Receives one pack: pieces to a file in incoming/, then verified, then durable under its name, then acknowledged.

Promises: ``finish`` fires only after the pack's bytes were fsynced, renamed, and its directory fsynced (P9); before
that the pack is nowhere to be found. A pack that offends is refused whole and leaves nothing behind. The first error is
final. Pieces are written in the order given, in a thread; so are hashing, signatures and fsync.
"""

import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred, fail
from twisted.python.failure import Failure

from mastodon.catalogue.interface import CatalogueError, StoredPack
from mastodon.daemon.errors import CATALOGUE_REFUSES, PackRefused, QuotaFull, Refused, SpoolFull, TooLarge, Unavailable
from mastodon.daemon.events import EventCode
from mastodon.daemon.intake import Intake, publish_pack, refusal, unavailable, verify_pack
from mastodon.daemon.quotas import Hold
from mastodon.daemon.spool import Spool, day_of
from mastodon.host.durable import Data, DiskError, DiskFull, PendingFile
from mastodon.host.spool_layout import INCOMING, PACKS, pack_name
from mastodon.sealed.pack import PACK_LIMIT, Pack

WRITTEN_AT_ONCE = 512 * 1024
"""Pieces wait for each other up to so many bytes: a job for a thread costs as much as to write a whole piece."""


class PackReceiver:
    """One pack on its way in."""

    def __init__(
        self, intake: Intake, machine: bytes, name: str, demand_current: Callable[[], None], hold: Hold
    ) -> None:
        """``name`` is the file's in incoming/; ``demand_current`` raises Displaced when another session took over;
        ``hold`` counts against the quotas what is written."""
        self._intake = intake
        self._machine = machine
        self._name = name
        self._demand_current = demand_current
        self._hold = hold
        self._pieces: list[tuple[Data, Deferred[None]]] = []
        self._gathered = 0
        self._busy = False
        self._idle: list[Deferred[None]] = []
        self._error: Refused | None = None
        self._ended = False
        self._spool: Spool | None = None
        self._file: PendingFile | None = None

    def write(self, data: Data) -> "Deferred[None]":
        """The next bytes of the pack. Fires when they are written, so that the caller can bound what waits; they are
        written once there are WRITTEN_AT_ONCE, or the pack is whole."""
        if self._error is None:
            try:
                self._hold.grow(len(data))
            except QuotaFull as full:
                self._error = full
        if self._error is not None:
            return fail(self._error)
        outcome: Deferred[None] = Deferred()
        self._pieces.append((data, outcome))
        self._gathered += len(data)
        if not self._busy and self._gathered >= WRITTEN_AT_ONCE:
            self._write_on()
        return outcome

    def finish(self, pack_id: bytes) -> "Deferred[None]":
        """The pack is whole. Fires when it is durable; at once for one that is stored already. Fails with Refused."""
        return Deferred.fromCoroutine(self._finish(pack_id))

    def abandon(self) -> None:
        """The rest will not come: let go of what there is."""
        if not self._ended:
            self._ended = True
            Deferred.fromCoroutine(self._let_go())

    async def _let_go(self) -> None:
        await self._until_idle()
        self._hold.release()
        if self._file is not None:
            await self._intake.in_thread(self._close)

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()
            if self._spool is not None:
                with contextlib.suppress(OSError):  # a leftover in incoming/ does no harm: the next start sweeps it
                    self._spool.disk.unlink(self._file.path)

    def _write_on(self) -> None:
        pieces, self._pieces, self._gathered = self._pieces, [], 0
        self._busy = True
        self._intake.in_thread(self._write, [data for data, _ in pieces]).addBoth(self._written, pieces)

    def _written(self, result: Any, pieces: "Sequence[tuple[Data, Deferred[None]]]") -> None:
        self._busy = False
        if isinstance(result, Failure):
            self._error = self._error or self._converted(result)
        for _, outcome in pieces:
            if self._error is not None:
                outcome.errback(self._error)
            else:
                outcome.callback(None)
        if self._gathered >= WRITTEN_AT_ONCE or (self._pieces and self._ended):
            self._write_on()
        else:
            idle, self._idle = self._idle, []
            for one in idle:
                one.callback(None)

    def _converted(self, failure: Failure) -> Refused:
        error = failure.value
        if isinstance(error, Refused):
            return error
        if isinstance(error, DiskFull):
            return SpoolFull("the spool is full: try again later")
        if isinstance(error, DiskError | OSError) and self._spool is not None:
            self._intake.spool_failed(self._spool, str(error))
            return unavailable(self._spool)
        self._intake.log.failure("a pack could not be written", failure)
        return Unavailable("the pack could not be written: try again")

    def _write(self, pieces: Sequence[Data]) -> None:
        """In a thread."""
        if self._error is not None:
            raise self._error
        self._demand_current()
        if self._file is None:
            self._spool = self._intake.spools.choose(PACK_LIMIT)
            self._spool.demand_mounted()
            self._file = PendingFile(self._spool.path / INCOMING / self._name, disk=self._spool.disk)
        if self._file.size + sum(map(len, pieces)) > PACK_LIMIT:
            raise TooLarge(f"a pack has at most {PACK_LIMIT} bytes")
        for data in pieces:
            self._file.write(data)

    def _until_idle(self) -> "Deferred[None]":
        """Fires when all that was given is written; no more is to come."""
        waiting: Deferred[None] = Deferred()
        if self._pieces and not self._busy:
            self._write_on()
        if self._busy:
            self._idle.append(waiting)
        else:
            waiting.callback(None)
        return waiting

    async def _finish(self, pack_id: bytes) -> None:
        if self._ended:
            raise Unavailable("this pack was given up")
        self._ended = True
        try:
            await self._until_idle()
            if await self._intake.has_pack(self._machine, pack_id):
                return
            if self._error is not None:
                raise self._error
            if self._file is None or not self._file.size:
                raise PackRefused("the pack is empty")
            await self._store(pack_id, self._file)
        except PackRefused as error:
            self._intake.record(EventCode.PACK_REFUSED, self._machine, error.text)
            raise
        except (DiskError, OSError) as error:
            raise self._converted(Failure(error)) from error
        except CatalogueError as error:
            self._intake.log.error("{reason}", reason=str(error))
            raise Unavailable(CATALOGUE_REFUSES) from error
        finally:
            self._hold.release()
            await self._intake.in_thread(self._close)

    async def _store(self, pack_id: bytes, file: PendingFile) -> None:
        intake = self._intake
        account = await intake.writer_account(self._machine)
        room = intake.room(self._machine)
        await room.acquire()
        queued = False
        try:
            pack, pairs, size = await intake.verifying.run(
                self._machine, lambda: intake.in_thread(self._sync_and_verify, file, pack_id, account)
            )
            both = intake.claim(pack)
            if both:
                raise refusal(both)
            try:
                offending = await intake.catalogue.offending(pack, next(iter(pairs.values())))
                if offending:
                    raise refusal(offending)
                self._demand_current()
                stored = await self._make_durable(pack, pairs, size, file)
                self._hold.stored()
                intake.insert(stored)
                queued = True
            finally:
                if not queued:
                    intake.release(pack)
        finally:
            if not queued:
                room.release()

    def _sync_and_verify(self, file: PendingFile, pack_id: bytes, account: Any) -> Any:
        # It gets a name in incoming/ only, which no reader looks at; its bytes are durable from here on.
        file.publish(sync_directory=False)
        return verify_pack(Path(file.path), pack_id, account)

    async def _make_durable(self, pack: Pack, pairs: dict[bytes, bytes], size: int, file: PendingFile) -> StoredPack:
        spool = self._spool
        assert spool is not None
        if not spool.online:
            raise unavailable(spool)
        now = self._intake.now_ns()
        day = day_of(now)
        target = spool.path / pack_name(day, pack.id)

        def name_it() -> None:
            spool.directory(f"{PACKS}/{day}")
            publish_pack(Path(file.path), target, spool.disk)

        await self._intake.in_thread(name_it)
        await self._intake.syncs.sync(spool, target.parent)
        return StoredPack(pack, pairs, spool.uuid, day, size, now)
