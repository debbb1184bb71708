"""Who may stay connected to a port, and who makes room.

Promises (P12): a peer that has proven who it is stays, however many strangers come; strangers (who have not proven it
yet, or were told to go and linger) are bounded in number, and the oldest makes room; no owner, however many
connections it opens, takes the places of others.
"""

from collections import Counter
from collections.abc import Hashable
from typing import Generic, Protocol, TypeVar


class Guest(Protocol):
    """A connection."""

    def cut(self) -> None:
        """Make room: end at once."""


G = TypeVar("G", bound=Guest)


class Admission(Generic[G]):
    """The connections of one port."""

    def __init__(self, known: int, each_owner: int, strangers: int) -> None:
        """The most connections of known peers, of these of each owner, and of strangers."""
        self.all: set[G] = set()
        self._owners: dict[G, Hashable] = {}
        self._owned: Counter[Hashable] = Counter()
        self._strangers: dict[G, None] = {}
        self._known_limit = known
        self._owner_limit = each_owner
        self._strangers_limit = strangers

    def arrive(self, guest: G) -> None:
        """A new connection: a stranger until it proves who it is."""
        self.all.add(guest)
        self._make_room()
        self._strangers[guest] = None

    def prove(self, guest: G, owner: Hashable) -> bool:
        """The peer acts for ``owner``: whether it may stay, as one that is known."""
        full = len(self._owners) >= self._known_limit or self._owned[owner] >= self._owner_limit
        if full or guest not in self._strangers:
            return False
        del self._strangers[guest]
        self._owners[guest] = owner
        self._owned[owner] += 1
        return True

    def dismiss(self, guest: G) -> None:
        """It was told to go: it counts as a stranger while it lingers. No effect where it is not known."""
        if self._disown(guest):
            self._make_room()
            self._strangers[guest] = None

    def leave(self, guest: G) -> None:
        """It is gone."""
        self.all.discard(guest)
        self._strangers.pop(guest, None)
        self._disown(guest)

    def _disown(self, guest: G) -> bool:
        if guest not in self._owners:
            return False
        owner = self._owners.pop(guest)
        self._owned[owner] -= 1
        if not self._owned[owner]:
            del self._owned[owner]
        return True

    def _make_room(self) -> None:
        if len(self._strangers) >= self._strangers_limit:
            oldest = next(iter(self._strangers))
            del self._strangers[oldest]
            oldest.cut()
