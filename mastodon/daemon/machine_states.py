"""Machines are disabled and enabled, by a statement of their admin or by the operator; whoever speaks last holds.

Promises (P8): that a machine is watched no more is told before it holds; what is final stays; unknown and another
admin's get one answer after the same look-ups (P6).
"""

from mastodon.catalogue.interface import Catalogue
from mastodon.daemon.errors import NotAllowed, NotFound
from mastodon.daemon.ledger_writer import LedgerWriter
from mastodon.daemon.policies import OPERATOR
from mastodon.sealed.events import EventCode
from mastodon.sealed.ledger_entries import Event, MachineState, MachineStateSet

FINAL = frozenset({MachineState.CLOSED, MachineState.RETIRED})


class MachineStates:
    """Lives in the reactor's thread; whoever changes something does one change at a time."""

    def __init__(self, catalogue: Catalogue, ledger: LedgerWriter) -> None:
        self._catalogue = catalogue
        self._ledger = ledger

    async def set(
        self, machine: bytes, state: MachineState, tenant: bytes | None, statement: bytes = b"", by: str = OPERATOR,
        snapshot: bytes = b"",
    ) -> None:  # fmt: skip
        """Set a machine's state: of this tenant's, or (None) of anybody's. Raises Refused."""
        known = await self._catalogue.standing(machine)
        if known is None or tenant not in (None, known.tenant):
            raise NotFound("no such machine")
        if known.state is state:
            return
        if known.state in FINAL:
            raise NotAllowed(f"the machine is {known.state.name.lower()}, which is final")
        if state is not MachineState.ACTIVE:
            detail = f"{state.name.lower()}: nothing more is taken from it, and it is not watched, by {by}"
            await self._ledger.append(Event(EventCode.WATCH_WEAKENED, known.tenant, machine, detail))
        await self._ledger.append(MachineStateSet(machine, state, statement, snapshot))
