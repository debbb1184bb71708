"""What is told of quotas: 80 %, 95 %, used up, room again; each once, when it begins and when it is over.

A percentage that was told is over only five points below it, and a quota that was used up only when a twentieth of it
would be taken: what hovers around a mark is not told again and again.
"""

from collections.abc import Callable

from twisted.logger import Logger

from mastodon.catalogue.interface import Catalogue
from mastodon.daemon.edges import Condition, Edges
from mastodon.daemon.errands import Errands
from mastodon.host.sizes import show_size
from mastodon.sealed.events import EventCode

Place = tuple[bytes, bytes]
"""Tenant and machine; an admin as a whole has no machine."""
MARKS = {EventCode.QUOTA_80: 80, EventCode.QUOTA_95: 95}
CODES = {*MARKS, EventCode.QUOTA_FULL}
BACK = 5
FULL = "full"
LOOK_NS = 3600 * 10**9
"""A place where nothing changes by a percent is looked at once in this time, when something comes."""


class QuotaEdges:
    """Lives in the reactor's thread."""

    log = Logger()

    def __init__(self, catalogue: Catalogue, edges: Edges, now_ns: Callable[[], int]) -> None:
        self._catalogue = catalogue
        self._edges = edges
        self._now_ns = now_ns
        self._open: set[Place] = set()
        self._looked: dict[Place, tuple[object, ...]] = {}
        self._errands = Errands(self.log, "what a quota comes to was not told")

    async def start(self) -> None:
        """Find out what was told, and is not over."""
        for one in await self._catalogue.conditions():
            if one.code in CODES:
                self._open.add((one.tenant, one.machine))

    @property
    def open(self) -> list[Place]:
        """Where something was told that may not be over."""
        return list(self._open)

    def look(self, place: Place, limit: int | None, used: int, is_tight: bool, is_new: bool) -> None:
        """So much of this limit is used at a place; ``is_tight``: a twentieth of it would not be taken; ``is_new``: the
        limit was just set."""
        percent = 100 * used // limit if limit else 100 * (limit is not None)
        seen = (percent, limit, is_tight, self._now_ns() // LOOK_NS)
        if self._looked.get(place) != seen and (percent >= min(MARKS.values()) or place in self._open):
            self._looked[place] = seen
            self._errands.begin(self._settle(place, limit, used, percent, is_tight, is_new))

    def refused(self, place: Place, limit: int | None, detail: str) -> None:
        """Something was refused there."""
        seen = (FULL, limit, self._now_ns() // LOOK_NS)
        if self._looked.get(place) != seen:
            self._looked[place] = seen
            self._open.add(place)
            self._errands.begin(self._edges.settle(_full(place), lambda is_told: True, detail))

    async def settled(self) -> None:
        """Wait until all that was begun is told."""
        await self._errands.settled()

    async def _settle(
        self, place: Place, limit: int | None, used: int, percent: int, is_tight: bool, is_new: bool
    ) -> None:
        text = "there is no quota any more" if limit is None else f"{show_size(used)} of {show_size(limit)} are used"
        self._open.add(place)
        holding = [await self._mark(place, code, percent, text, is_new) for code in MARKS]
        full = _full(place)
        await self._edges.settle(full, lambda is_told: is_told and is_tight, text, is_new)
        if not any(holding) and await self._edges.told_ns(full) is None:
            self._open.discard(place)

    async def _mark(self, place: Place, code: EventCode, percent: int, text: str, is_new: bool) -> bool:
        """Whether the mark was passed, and is told to be."""
        condition = Condition(code, EventCode.QUOTA_HAS_ROOM, *place, f"{MARKS[code]} %")
        await self._edges.settle(condition, lambda is_told: percent >= MARKS[code] - BACK * is_told, text, is_new)
        return await self._edges.told_ns(condition) is not None


def _full(place: Place) -> Condition:
    return Condition(EventCode.QUOTA_FULL, EventCode.QUOTA_HAS_ROOM, *place, FULL)
