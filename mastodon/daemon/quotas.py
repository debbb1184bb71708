"""How many bytes of packs an admin and each of its machines may keep here; what is refused, and who is told.

Promises (P6): what is stored stays, and is committed and restored whatever a quota says; a byte is counted before it is
written, so that no number of connections gets beyond a quota; one copy of a pack counts, at its stored size, so that a
rebuild comes to the same. **Room for tonight**: of what was free in an admin's quota when the day (UTC) began, a part
is kept for each machine that stored something in the last two weeks: twice its usual day, at least ``LEAST_NIGHT``, at
most its equal part, less what it has stored today. Others get what is left. So a machine that floods cannot use up what
its siblings need tonight, and a history that one made up keeps no more for it than its equal part.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from mastodon.catalogue.interface import Catalogue
from mastodon.daemon.errors import QuotaFull
from mastodon.daemon.followers import Followers
from mastodon.daemon.policies import Policies
from mastodon.daemon.quota_edges import Place, QuotaEdges
from mastodon.daemon.trouble import log_trouble
from mastodon.host.sizes import show_size
from mastodon.sealed.duration import DAY_NS
from mastodon.sealed.enrolment import Enrolment
from mastodon.sealed.ledger_entries import MachineEnrolled, MachineState, MachineStateSet, PolicySet
from mastodon.sealed.settings import QUOTA, Settings

HISTORY_DAYS = 14
NIGHTS = 2
LEAST_NIGHT = 64 << 20
"""Two packs, for machines that usually send less, and for those that nobody knows yet."""
SOME = 64 << 20
"""So much room at least there is before it is told that there is room again."""
ASK_ADMIN = "what is stored stays; ask your admin for more room (`mastodon-admin quota show`)"
NO_ROOM = f"there is no room left for this machine in its admin's quota; {ASK_ADMIN}"


@dataclass(slots=True)
class Use:
    """A machine's: ``taken`` is stored, or on its way in, ``today`` what of it came today; ``night`` is what it may
    need on a day, 0 for one that nothing is kept free for."""

    tenant: bytes
    is_active: bool
    taken: int = 0
    today: int = 0
    night: int = 0


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why more is not taken: whose quota it is, what its admin is told, and (``text``) what the machine's agent is,
    which learns nothing of other machines."""

    place: Place
    detail: str
    text: str


class Hold:
    """What one pack on its way in has taken. It is given back unless the pack is stored."""

    def __init__(self, quotas: "Quotas", machine: bytes) -> None:
        self._quotas = quotas
        self._machine = machine
        self._size = 0

    def grow(self, size: int) -> None:
        """Before so much more is written. Raises QuotaFull."""
        self._quotas.take(self._machine, size)
        self._size += size

    def stored(self) -> None:
        """The pack is durable: what it took is kept."""
        self._size = 0
        self._quotas.look(self._machine)

    def release(self) -> None:
        """The pack is not kept. No effect once it is stored."""
        size, self._size = self._size, 0
        self._quotas.give_back(self._machine, size)


class Quotas:
    """Lives in the reactor's thread; is told by the ledger's entries of machines, states and settings."""

    log = Logger()

    def __init__(
        self, catalogue: Catalogue, policies: Policies, edges: QuotaEdges, now_ns: Callable[[], int],
        followers: Followers,
    ) -> None:  # fmt: skip
        self._catalogue = catalogue
        self._policies = policies
        self._edges = edges
        self._now_ns = now_ns
        self._settings = Settings(())
        self._machines: dict[bytes, Use] = {}
        self._taken: dict[bytes, int] = defaultdict(int)
        self._nights: dict[bytes, int] = {}
        """The most that can be kept free in a tenant's quota: as long as more is left, nobody has to be asked."""
        self._day = 0
        followers.add(MachineEnrolled, self._enrolled)
        followers.add(MachineStateSet, self._state_set)
        followers.add(PolicySet, self._policy_set)

    async def start(self) -> None:
        """Take over what is stored, and what is set."""
        self._settings = await self._policies.read((QUOTA,))
        for row in await self._catalogue.machines(None):
            active = row.state is MachineState.ACTIVE
            self._machines[row.machine] = Use(row.tenant, active, row.kept_bytes)
            self._taken[row.tenant] += row.kept_bytes
        for machine, size in (await self._learn_nights()).items():
            self._machines[machine].today = size
        await self._edges.start()
        self._look_at_all(list(self._taken), list(self._machines))

    def hold(self, machine: bytes) -> Hold:
        """For a pack that begins to come in."""
        self._follow_the_day()
        return Hold(self, machine)

    def take(self, machine: bytes, size: int) -> None:
        """Count so much more. Raises QuotaFull, and then counts nothing."""
        refusal = self.refusal(machine, size)
        if refusal is not None:
            self._edges.refused(refusal.place, self._limit(refusal.place), refusal.detail)
            raise QuotaFull(refusal.text)
        use = self._machines.get(machine)
        if use is not None:
            use.taken += size
            use.today += size
            self._taken[use.tenant] += size

    def give_back(self, machine: bytes, size: int) -> None:
        """So much is not stored after all."""
        use = self._machines.get(machine)
        if use is not None:
            use.taken -= size
            use.today = max(0, use.today - size)
            self._taken[use.tenant] -= size

    def used(self, tenant: bytes, machine: bytes = b"") -> int:
        """What an admin, or one of its machines, has taken."""
        return self._machines[machine].taken if machine else self._taken[tenant]

    def limit(self, tenant: bytes, machine: bytes = b"") -> int | None:
        """The quota set at just this place."""
        value = self._settings.at(QUOTA, tenant, machine)
        return int(value) if value else None

    def refusal(self, machine: bytes, size: int) -> Refusal | None:
        """Why so much more of a machine is not taken, if it is not."""
        use = self._machines.get(machine)
        if use is None:
            return None  # of a machine that nobody enrolled nothing is taken anyway
        own, whole = self.limit(use.tenant, machine), self.limit(use.tenant)
        if own is not None and use.taken + size > own:
            detail = f"{show_size(use.taken)} of {show_size(own)} are taken"
            text = f"the quota of this machine is used up: {detail}; {ASK_ADMIN}"
            return Refusal((use.tenant, machine), detail, text)
        if whole is None:
            return None
        left = whole - self._taken[use.tenant]
        if size > left:
            detail = f"{show_size(self._taken[use.tenant])} of {show_size(whole)} are taken"
            return Refusal((use.tenant, b""), detail, NO_ROOM)
        if left - size < self._nights.get(use.tenant, 0) and left - size < self._kept_for_others(use, left):
            detail = f"the {show_size(left)} left of the admin's {show_size(whole)} are kept for its other machines"
            return Refusal((use.tenant, machine), detail, NO_ROOM)
        return None

    def _kept_for_others(self, use: Use, left: int) -> int:
        """What is kept free for tonight for the siblings of a machine."""
        mine = [one for one in self._machines.values() if one.tenant == use.tenant]
        others = [one for one in mine if one.is_active and one.night and one is not use]
        free_today = left + sum(one.today for one in mine)
        part = max(0, free_today) // (len(others) + 1)
        return sum(max(0, min(one.night, part) - one.today) for one in others)

    # What is told

    def look(self, machine: bytes) -> None:
        """Something of the machine's was stored: is there less room now than its admin was told?"""
        use = self._machines.get(machine)
        if use is not None:
            self._look_at_all([use.tenant], [machine])

    def look_around(self) -> None:
        """Once in a while: what was told may be over, though nothing comes in."""
        for place in self._edges.open:
            self._look_at(place)

    def settled(self) -> "Deferred[None]":
        """Fires when all that was to be told is."""
        return Deferred.fromCoroutine(self._edges.settled())

    def _look_at_all(self, tenants: Iterable[bytes], machines: Iterable[bytes], is_new: bool = False) -> None:
        for tenant in tenants:
            self._look_at((tenant, b""), is_new)
        for machine in machines:
            self._look_at((self._machines[machine].tenant, machine), is_new)

    def _look_at(self, place: Place, is_new: bool = False) -> None:
        own = self.limit(*place)
        if own is None:
            # Of a machine without a quota of its own only this is told: it was refused, and is no longer.
            self._edges.look(place, None, 0, self._is_tight(place), is_new)
        else:
            self._edges.look(place, own, self.used(*place), self._is_tight(place), is_new)

    def _is_tight(self, place: Place) -> bool:
        """Whether a twentieth of the quota (``SOME`` where that is more, but no more than half) would not be taken."""
        tenant, machine = place
        limit = self._limit(place)
        if limit is None:
            return False
        some = max(1, min(limit // 2, max(SOME, limit // 20)))
        return self.refusal(machine, some) is not None if machine else self.used(tenant) + some > limit

    def _limit(self, place: Place) -> int | None:
        """The quota that a place is under: a machine's own, else its admin's."""
        own = self.limit(*place)
        return self.limit(place[0]) if own is None else own

    # What the ledger says

    def _enrolled(self, body: MachineEnrolled) -> None:
        said = Enrolment.open(body.enrolment)
        self._machines.setdefault(said.machine, Use(said.tenant, True))

    def _state_set(self, body: MachineStateSet) -> None:
        use = self._machines.get(body.machine)
        if use is not None:
            use.is_active = body.state is MachineState.ACTIVE

    def _policy_set(self, body: PolicySet) -> None:
        changes = [(name, value) for name, value in body.settings if name == QUOTA]
        if changes:
            self._settings = self._settings.changed(body.tenant, body.machine, changes)
            mine = [id for id, use in self._machines.items() if use.tenant == body.tenant]
            self._look_at_all([body.tenant], mine, is_new=True)

    # Usual nights

    def _follow_the_day(self) -> None:
        if self._now_ns() // DAY_NS != self._day:
            for use in self._machines.values():
                use.today = 0
            self._day = self._now_ns() // DAY_NS
            Deferred.fromCoroutine(self._learn_nights()).addErrback(
                lambda failure: log_trouble(self.log, "what machines usually send could not be looked up", failure)
            )

    async def _learn_nights(self) -> dict[bytes, int]:
        """Look up what machines usually send; what each has sent today."""
        today = self._day = self._now_ns() // DAY_NS
        days: dict[bytes, dict[int, int]] = defaultdict(dict)
        for machine, day, size in await self._catalogue.growth((today - HISTORY_DAYS) * DAY_NS):
            days[machine][day] = size
        sent_today = {id: of_machine.pop(today, 0) for id, of_machine in days.items()}
        self._nights.clear()
        for id, use in self._machines.items():
            use.night = usual_night(days[id].values()) if id in days else 0
            self._nights[use.tenant] = self._nights.get(use.tenant, 0) + use.night
        return sent_today


def usual_night(days: Iterable[int]) -> int:
    """What a machine may need that stored so much on each of the days before: by their median, the lower of two, so
    that the day of its first backup is not taken for a usual one."""
    ordered = sorted(days)
    median = ordered[(len(ordered) - 1) // 2] if len(ordered) > 1 else 0
    return max(LEAST_NIGHT, NIGHTS * median)
