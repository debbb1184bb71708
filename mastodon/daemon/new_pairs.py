"""A machine made a further sealing pair: its admin is told, once a pair, also when the daemon was stopped just then.

What is told follows from the ledger: the newest pair of a machine that has more than one, behind which no such event
stands yet. So a flood of pairs (24 a day are taken) is told no oftener than events of one kind are written.
"""

from twisted.internet.defer import DeferredLock

from mastodon.catalogue.interface import Catalogue
from mastodon.daemon.edges import Record
from mastodon.sealed.events import EventCode


class NewPairs:
    """Lives in the reactor's thread."""

    def __init__(self, catalogue: Catalogue, record: Record) -> None:
        self._catalogue = catalogue
        self._record = record
        self._lock = DeferredLock()

    async def tell(self, machine: bytes | None = None) -> None:
        """Of one machine, or (None) of all."""
        async with self._lock:
            for one in await self._catalogue.untold_pairs(machine):
                detail = f"pair {one.number}, record {one.hash.hex()}: later backups open by its envelope alone"
                await self._record(EventCode.NEW_PAIR, one.tenant, one.machine, detail)
