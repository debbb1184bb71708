"""Client keys: registered and removed, by a statement of their admin or by the operator. All of it is told as events.

Promises: one key belongs to one admin in one role, or to the operator's own monitor; a removed key never comes back;
what is registered already is answered as done. A key is told of before it is let in.
"""

from mastodon.catalogue.interface import Catalogue, Certificate
from mastodon.daemon.errors import Conflict, NotAllowed, NotFound
from mastodon.daemon.ledger_writer import LedgerWriter
from mastodon.daemon.policies import OPERATOR
from mastodon.host.certificates import pin_text
from mastodon.sealed.events import SUBJECT_END, EventCode
from mastodon.sealed.ledger_entries import CertificateAdded, CertificateRemoved, Event, Role
from mastodon.sealed.schema import clean_text

REGISTRABLE = frozenset({Role.ADMIN, Role.MONITOR})
LABEL_LIMIT = 64
DETAIL_LIMIT = 1000


class ClientKeys:
    """Lives in the reactor's thread; whoever changes something does one change at a time."""

    def __init__(self, catalogue: Catalogue, ledger: LedgerWriter) -> None:
        self._catalogue = catalogue
        self._ledger = ledger

    async def demand_fresh(self, pin: bytes) -> None:
        """Raise NotAllowed for a key that was removed."""
        if await self._catalogue.is_removed(pin):
            raise NotAllowed("this key was removed, which is for ever: make a new one")

    async def add(self, wanted: CertificateAdded, by: str = OPERATOR, *, told: bool = True) -> None:
        """Register a key; not ``told`` where it comes with its admin. Raises Refused."""
        if wanted.role not in REGISTRABLE:
            raise NotAllowed(f"a certificate with the role {wanted.role.name.lower()} is not registered this way")
        if wanted.role is not Role.MONITOR and not wanted.tenant:
            raise NotAllowed("the operator's own certificate may only ask for status: a monitor's")
        await self.demand_fresh(wanted.pin)
        known = await self._catalogue.certificate(wanted.pin)
        if known is None:
            if told:
                one = Certificate(wanted.pin, wanted.tenant, wanted.role, wanted.label)
                await self._tell(EventCode.CERTIFICATE_ADDED, one, by)
            await self._ledger.append(wanted)
        elif (known.tenant, known.role) != (wanted.tenant, wanted.role):
            raise Conflict("this key is registered already: one key, one admin, one role")

    async def remove(self, pin: bytes, tenant: bytes | None, statement: bytes = b"", by: str = OPERATOR) -> None:
        """Remove a key for ever, at once: of this tenant, or (None) of any. Raises NotFound."""
        known = await self._catalogue.certificate(pin)
        if known is None or tenant not in (None, known.tenant):
            raise NotFound("no certificate with this pin is registered")
        await self._ledger.append(CertificateRemoved(pin, statement))
        await self._tell(EventCode.CERTIFICATE_GONE, known, by)

    async def _tell(self, code: EventCode, one: Certificate, by: str) -> None:
        whose = one.role.name.lower() if one.tenant else f"the operator's {one.role.name.lower()}"
        text = f"{pin_text(one.pin)}{SUBJECT_END}{one.label or 'no label'}, {whose}, by {by}"
        await self._ledger.append(Event(int(code), one.tenant, b"", clean_text(text, DETAIL_LIMIT)))
