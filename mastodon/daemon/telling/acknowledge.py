"""What an admin acknowledges: events that it can see, each once.

Promise (P6): an event that is not there and one of another tenant's are refused alike, and then nothing is written.
"""

from collections.abc import Sequence

from mastodon.catalogue.interface import Catalogue
from mastodon.daemon.errors import NotFound
from mastodon.daemon.ledger_writer import LedgerWriter
from mastodon.sealed.events import Audience, codes_for
from mastodon.sealed.ledger_entries import Acknowledged

ADMINS = codes_for(Audience.ADMIN)


async def acknowledge(
    catalogue: Catalogue, ledger: LedgerWriter, tenant: bytes, pin: bytes, events: Sequence[int]
) -> None:
    """Write that the admin knows of these events. Raises NotFound."""
    wanted = sorted(set(events))
    known = await catalogue.events_of(tenant, wanted, ADMINS)
    if not tenant or known.keys() != set(wanted):
        raise NotFound("no such event")
    fresh = tuple(one for one in wanted if not known[one])
    if fresh:
        await ledger.append(Acknowledged(tenant, pin, fresh))
