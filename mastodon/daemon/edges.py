"""Conditions told as edges: once when something begins to hold, once when it is over, and nothing in between.

Promises: what was told last is asked of the ledger (the conditions that stand open in the catalogue), so that a restart
tells nothing twice and forgets nothing; one thing is settled at a time; what has just been told stands for most of an
hour, so that whoever makes it come and go as often as he likes fills neither ledger nor mailbox.
"""

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from weakref import WeakValueDictionary

from twisted.internet.defer import Deferred, DeferredLock

from mastodon.catalogue.interface import Catalogue
from mastodon.sealed.events import SUBJECT_END, EventCode

STANDS_NS = 50 * 60 * 10**9
"""So long at least a condition stands: a little less than the hour in which a machine comes again."""
Record = Callable[[EventCode, bytes, bytes, str], "Deferred[None]"]
"""Writes an event: code, tenant, machine, detail."""


@dataclass(frozen=True, slots=True)
class Condition:
    """What may hold, of whom: the events that open and close it."""

    opens: EventCode
    closes: EventCode
    tenant: bytes = b""
    machine: bytes = b""
    subject: str = ""


class Edges:
    """Lives in the reactor's thread."""

    def __init__(self, catalogue: Catalogue, record: Record, now_ns: Callable[[], int]) -> None:
        self._catalogue = catalogue
        self._record = record
        self._now_ns = now_ns
        self._locks: WeakValueDictionary[Hashable, DeferredLock] = WeakValueDictionary()

    async def settle(
        self, condition: Condition, holds: Callable[[bool], bool], text: str, at_once: bool = False
    ) -> None:
        """Tell it if it begins or ends. ``holds`` is given whether it was told to hold, and says if it does.

        ``at_once``: an admin or the operator changed what it is about, so that it need not stand any longer.
        """
        async with self._locks.setdefault(condition, DeferredLock()):
            told_ns = await self.told_ns(condition)
            now = holds(told_ns is not None)
            detail = f"{condition.subject}{SUBJECT_END}{text}" if condition.subject else text
            if now and told_ns is None:
                await self._record(condition.opens, condition.tenant, condition.machine, detail)
            elif not now and told_ns is not None and (at_once or not self._stands(told_ns)):
                await self._record(condition.closes, condition.tenant, condition.machine, detail)

    def _stands(self, told_ns: int) -> bool:
        return 0 <= self._now_ns() - told_ns < STANDS_NS

    async def told_ns(self, condition: Condition) -> int | None:
        """When it was told to hold, if it was, and not yet to be over."""
        for one in await self._catalogue.conditions(condition.tenant or None, condition.machine):
            if (one.code, one.subject) == (condition.opens, condition.subject):
                return one.time_ns
        return None
