"""Who read what: requests on the restore port about a machine, for each certificate and machine, in the ledger.

Promises: they are counted together and written every WINDOW_S, so that neither a long restore nor a flood of requests
writes more than one entry in that time for a certificate and machine, EACH for a certificate and AT_ONCE in all; what
is more waits, counted on, for the next time. The first blobs that a certificate ever fetches are in the ledger, and
told, before they are sent, as long as the ledger can be written: a restore does not wait for more than that. A crash
loses what was counted since the last time; an ordinary stop loses nothing.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from twisted.internet.defer import Deferred, DeferredList, DeferredLock
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from mastodon.catalogue.interface import Catalogue, Certificate, ReadRow
from mastodon.daemon.errors import Refused
from mastodon.daemon.ledger_writer import LedgerWriter
from mastodon.host.certificates import pin_text
from mastodon.sealed.events import EventCode
from mastodon.sealed.ledger_entries import Event, Reads

WINDOW_S = 600.0
EACH = 64
AT_ONCE = 256
KEPT = 1 << 16
"""Certificates and machines that are counted at a time; what is more is only logged."""


@dataclass(slots=True)
class Count:
    """What a certificate read of a machine since ``since_ns``."""

    asker: Certificate
    since_ns: int
    requests: int = 0
    blobs: int = 0
    content_bytes: int = 0


class ReadLog:
    """Lives in the reactor's thread."""

    log = Logger()

    def __init__(self, catalogue: Catalogue, ledger: LedgerWriter, now_ns: Callable[[], int]) -> None:
        self._catalogue = catalogue
        self._ledger = ledger
        self._now_ns = now_ns
        self._counts: dict[tuple[bytes, bytes], Count] = {}
        self._fetched: set[bytes] = set()
        self._first = DeferredLock()
        self._loop: LoopingCall | None = None

    def start(self, reactor: Any) -> None:
        """Write every WINDOW_S from now on."""
        self._loop = LoopingCall(lambda: Deferred.fromCoroutine(self.write()))
        self._loop.clock = reactor
        self._loop.start(WINDOW_S, now=False)

    async def stop(self) -> None:
        """Write all that was counted."""
        loop, self._loop = self._loop, None
        if loop is not None:
            loop.stop()
        while self._counts:
            before = len(self._counts)
            await self.write()
            if len(self._counts) >= before:
                return  # the ledger takes nothing

    def note(self, asker: Certificate, machine: bytes, blobs: int = 0, content_bytes: int = 0) -> None:
        """A request about a machine of the asker's tenant is answered."""
        count = self._counts.get((asker.pin, machine))
        if count is None:
            if len(self._counts) >= KEPT:
                self.log.error(
                    "too many certificates and machines to count: {label} read of {machine}",
                    label=asker.label, machine=machine.hex(),
                )  # fmt: skip
                return
            count = self._counts[asker.pin, machine] = Count(asker, self._now_ns())
        count.requests += 1
        count.blobs += blobs
        count.content_bytes += content_bytes

    async def fetch(self, asker: Certificate, machine: bytes, blobs: int, content_bytes: int) -> None:
        """Blobs are going to be sent."""
        if blobs and asker.pin not in self._fetched:
            async with self._first:
                if asker.pin not in self._fetched and await self._tell_first(asker, machine, blobs, content_bytes):
                    return
        self.note(asker, machine, blobs, content_bytes)

    async def write(self) -> None:
        """Write what was counted, the oldest first, within the bounds."""
        await DeferredList([self._write_one(key, self._counts.pop(key)) for key in list(self._due())])

    async def rows(
        self, after: int, limit: int, tenant: bytes | None, machine: bytes, since_ns: int
    ) -> list[ReadRow]:
        """What was read, of a tenant (None: all), about a machine or (empty) all; behind the last entry what is counted
        and not written yet."""
        rows = await self._catalogue.reads(after, limit, tenant, machine, since_ns)
        return rows if len(rows) >= limit else [*rows, *self._pending(tenant, machine, since_ns)][:limit]

    def _pending(self, tenant: bytes | None, machine: bytes, since_ns: int) -> list[ReadRow]:
        now = self._now_ns()
        return [
            ReadRow(
                0, count.asker.pin, count.asker.label, count.asker.tenant, about, count.since_ns, now, count.requests,
                count.blobs, count.content_bytes,
            )
            for (_, about), count in self._counts.items()
            if tenant in (None, count.asker.tenant) and machine in (b"", about) and now >= since_ns
        ]  # fmt: skip

    def _due(self) -> Iterator[tuple[bytes, bytes]]:
        taken: dict[bytes, int] = {}
        for pin, machine in self._counts:
            if sum(taken.values()) >= AT_ONCE:
                return
            if taken.get(pin, 0) < EACH:
                taken[pin] = taken.get(pin, 0) + 1
                yield pin, machine

    def _write_one(self, key: tuple[bytes, bytes], count: Count) -> "Deferred[object]":
        pin, machine = key
        body = Reads(pin, machine, count.blobs, count.content_bytes, count.requests, count.since_ns)
        return self._ledger.append(body).addErrback(lambda _: self._put_back(key, count))

    def _put_back(self, key: tuple[bytes, bytes], count: Count) -> None:
        """The ledger did not take it: it is counted on."""
        later = self._counts.setdefault(key, Count(count.asker, count.since_ns))
        later.since_ns = min(later.since_ns, count.since_ns)
        later.requests += count.requests
        later.blobs += count.blobs
        later.content_bytes += count.content_bytes

    async def _tell_first(self, asker: Certificate, machine: bytes, blobs: int, content_bytes: int) -> bool:
        """Whether it was the first time, and is written."""
        if await self._catalogue.has_fetched(asker.pin):
            self._fetched.add(asker.pin)
            return False
        detail = f"{asker.label or 'a certificate'} ({pin_text(asker.pin)}) fetches backups for the first time"
        told = await self._catalogue.newest_event(EventCode.FIRST_RESTORE, asker.tenant, machine)
        try:
            if told is None or told.detail != detail:  # else a crash came between the two
                await self._ledger.append(Event(int(EventCode.FIRST_RESTORE), asker.tenant, machine, detail))
            await self._ledger.append(Reads(asker.pin, machine, blobs, content_bytes, 1, self._now_ns()))
        except Refused as refused:
            self.log.error("a first restore was not written ({reason}): {detail}", reason=str(refused), detail=detail)
            return False
        self._fetched.add(asker.pin)
        return True
