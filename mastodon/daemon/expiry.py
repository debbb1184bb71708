"""When do certificates expire? Dates carry no authority: they only warn. A ticket ends when the server's clock says so.

One rule for all: told in the last quarter of its time, at most 30 days ahead, as an edge. A client certificate's dates
are known only when its client comes; a ticket's stand in the ledger.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum

from cryptography import x509

from mastodon.catalogue.interface import Catalogue, Certificate
from mastodon.daemon.edges import Condition, Edges
from mastodon.host.certificates import pin_text
from mastodon.sealed.duration import DAY_NS, HOUR_NS
from mastodon.sealed.events import EventCode

AHEAD_NS = 30 * DAY_NS
LAST_PART = 4
TICKET_NS = 4 * DAY_NS
"""A ticket is taken for one of so many days: nobody says when it was made."""


class Stage(Enum):
    """How far it is."""

    GOOD = "good until"
    ENDING = "ends"
    OVER = "ended"


@dataclass(frozen=True, slots=True)
class Term:
    """The time for which something is good."""

    begins_ns: int
    ends_ns: int

    def stage(self, now_ns: int) -> Stage:
        """Where a time lies in it."""
        if now_ns >= self.ends_ns:
            return Stage.OVER
        ahead = min(AHEAD_NS, max(0, self.ends_ns - self.begins_ns) // LAST_PART)
        return Stage.ENDING if now_ns >= self.ends_ns - ahead else Stage.GOOD


def term_of(certificate: x509.Certificate) -> Term:
    """The dates in a certificate."""
    begins, ends = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    return Term(int(begins.timestamp()) * 10**9, int(ends.timestamp()) * 10**9)


class Expiry:
    """Lives in the reactor's thread. ``server`` is the term of the server's own certificate."""

    def __init__(self, catalogue: Catalogue, edges: Edges, now_ns: Callable[[], int], server: Term) -> None:
        self._catalogue = catalogue
        self._edges = edges
        self._now_ns = now_ns
        self._server = server
        self._looked: dict[bytes, int] = {}

    async def came(self, registered: Certificate, shown: Term) -> None:
        """A client with a registered key came, and showed a certificate of this term; looked at once an hour."""
        now = self._now_ns()
        if not 0 <= now - self._looked.get(registered.pin, 0) < HOUR_NS:
            self._looked[registered.pin] = now
            await self._tell(registered, shown, EventCode.CERTIFICATE_RENEWED)

    async def look(self) -> None:
        """At the server's certificate, and at tickets."""
        stage, text = self._stage(self._server)
        condition = Condition(EventCode.SERVER_KEY_EXPIRING, EventCode.SERVER_KEY_RENEWED)
        await self._edges.settle(condition, lambda is_told: stage is not Stage.GOOD, f"the server's certificate {text}")
        for tenant in await self._catalogue.tenants():
            for one in tenant.certificates:
                if one.expires_ns:
                    term = Term(one.expires_ns - TICKET_NS, one.expires_ns)
                    await self._tell(one, term, EventCode.CERTIFICATE_GONE, (Stage.ENDING,))

    async def _tell(
        self, one: Certificate, term: Term, closes: EventCode, holds: tuple[Stage, ...] = (Stage.ENDING, Stage.OVER)
    ) -> None:
        stage, text = self._stage(term)
        text = f"{one.role.name.lower()} {one.label} {text}"
        condition = Condition(EventCode.CERTIFICATE_EXPIRING, closes, tenant=one.tenant, subject=pin_text(one.pin))
        await self._edges.settle(condition, lambda is_told: stage in holds, text)

    def _stage(self, term: Term) -> tuple[Stage, str]:
        stage = term.stage(self._now_ns())
        end = datetime.fromtimestamp(term.ends_ns // 10**9, UTC)
        return stage, f"{stage.value} {end:%Y-%m-%d %H:%M} UTC"
