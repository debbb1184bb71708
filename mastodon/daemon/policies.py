"""Settings as policy: looked up, checked against the table of what there is, changed by a policy entry.

Promise (P8): whatever weakens the watch stands in the ledger as an event before it holds, so that whoever tells events
finds, as of that event, the address from before. No flood of other events crowds it out.
"""

from collections.abc import Callable, Collection, Iterator

from mastodon.catalogue.interface import Catalogue
from mastodon.daemon.errors import NotAllowed, NotFound
from mastodon.daemon.ledger_writer import LedgerWriter
from mastodon.sealed.ledger_entries import Event, PolicySet
from mastodon.sealed.schema import clean_text
from mastodon.sealed.settings import DAY, SETTINGS, Settings, level_of, value_text

DETAIL_LIMIT = 1000
OPERATOR = "the operator"

Changes = tuple[tuple[str, str], ...]


class Policies:
    """Lives in the reactor's thread; whoever changes something does one change at a time."""

    def __init__(self, catalogue: Catalogue, ledger: LedgerWriter, now_ns: Callable[[], int]) -> None:
        self._catalogue = catalogue
        self._ledger = ledger
        self._now_ns = now_ns

    async def read(self, names: Collection[str] = SETTINGS.keys(), at: int | None = None) -> Settings:
        """What is set now, or was at a sequence of the ledger."""
        rows = await self._catalogue.setting_rows(names, at)
        return Settings((row.name, row.tenant, row.machine, row.value) for row in rows)

    async def change(
        self, tenant: bytes, machine: bytes, changes: Changes, statement: bytes = b"", by: str = OPERATOR
    ) -> None:
        """Set values at a place; values that hold already change nothing. Raises Refused.

        ``statement`` is an admin's; without one it is the operator who changes it. A machine's settings stand under
        its tenant, whoever makes them, so that the newest holds.
        """
        if machine:
            owner = await self._catalogue.owner(machine)
            if owner is None or tenant not in (b"", owner):
                raise NotFound("no such machine")
            tenant = owner
        elif tenant and await self._catalogue.tenant(tenant) is None:
            raise NotFound("no such admin")
        _check(tenant, machine, changes, bool(statement), self._now_ns())
        before = await self.read()
        if all(before.at(name, tenant, machine) == value for name, value in changes):
            return
        after = before.changed(tenant, machine, changes)
        concerned = [(tenant, machine)]
        if not tenant:
            concerned += [(one.tenant, b"") for one in await self._catalogue.tenants()]
        for place in concerned:
            for event in _weakened(before, after, place, changes, by):
                await self._ledger.append(event)
        await self._ledger.append(PolicySet(tenant, machine, changes, statement))


def _check(tenant: bytes, machine: bytes, changes: Changes, by_admin: bool, now_ns: int) -> None:
    level = level_of(tenant, machine)
    names = [name for name, _ in changes]
    if not changes or len(set(names)) < len(names):
        raise NotAllowed("a policy sets at least one value, and none twice")
    for name, value in changes:
        kind = SETTINGS.get(name)
        if kind is None:
            raise NotAllowed(f"there is no setting {name!r} in this release: {', '.join(SETTINGS)}")
        if by_admin and level not in kind.admin:
            raise NotAllowed(f"{name} of a {level.value} is set by the operator alone: ask there")
        try:
            if value:
                kind.check(value)
        except ValueError as error:
            raise NotAllowed(f"{name}: {error}") from None
        if kind.ahead_ns and int(value or 0) > now_ns + kind.ahead_ns:
            raise NotAllowed(f"{name}: at most {kind.ahead_ns // (DAY * 10**9)} days ahead")


def _weakened(
    before: Settings, after: Settings, place: tuple[bytes, bytes], changes: Changes, by: str
) -> Iterator[Event]:
    for name, _ in changes:
        kind = SETTINGS[name]
        was, now = before.value(name, *place), after.value(name, *place)
        if kind.weakens(was, now):
            detail = f"{name}: {value_text(name, now)} instead of {value_text(name, was)}, by {by}"
            yield Event(int(kind.event), *place, clean_text(detail, DETAIL_LIMIT))
