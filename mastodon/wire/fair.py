"""Who is served next: deficit round robin (P12).

Promises, for any mix of piece sizes and any number of connections that a unit opens:

* units of one kind that always have work get equal shares of bytes; after any number of rounds
  two of them differ by less than a few quanta. How hard one pushes changes nothing;
* control, restore and append work is weighed by WEIGHTS, so that appends keep more than a fifth
  whatever restores and control frames want, and control frames wait for no data queue, yet a
  flood of them starves nobody;
* a unit without work holds no credit: it cannot save up for a burst;
* choosing a piece costs O(1), however many units wait.

The algorithm is Shreedhar and Varghese, "Efficient Fair Queueing using Deficit Round Robin",
SIGCOMM 1995: each member of a ring gets a quantum when its turn comes, is served while its next
piece fits into what it has, and carries the rest over only while it still has work. No piece may
be larger than the quantum, which is what makes the choice O(1). Rings nest: kinds, in each kind
units (a machine id; everything unauthenticated is one unit), in each unit its sources.

The scheduler pulls: a source is asked what its next piece would cost and then told to run it.
Nothing is queued here, so what waits stays where it can be bounded.
"""

from collections import deque
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from enum import Enum
from typing import Protocol


class Kind(Enum):
    """What sort of work a source does."""

    CONTROL = "control"
    RESTORE = "restore"
    APPEND = "append"


# Quanta per turn. Appends get 2 of 9 when everything is busy and 2 of 8 beside restores alone.
WEIGHTS = {Kind.CONTROL: 1, Kind.RESTORE: 6, Kind.APPEND: 2}

QUANTUM = 1 << 20


class Source(Protocol):
    """Something with pieces of work to do, such as one connection's queue."""

    def next_cost(self) -> int | None:
        """The cost of the next piece, 1 to the quantum; None while there is none (then call ``wake`` later)."""

    def run(self) -> None:
        """Do the piece that ``next_cost`` named."""


@dataclass(frozen=True, slots=True)
class Served:
    """One piece that was run."""

    unit: Hashable
    kind: Kind
    source: Source
    cost: int


class _Seat:
    """A member's place in a ring, with its credit."""

    __slots__ = ("member", "quantum", "deficit", "waiting", "in_turn")

    def __init__(self, member: Source, quantum: int) -> None:
        self.member = member
        self.quantum = quantum
        self.deficit = 0
        self.waiting = False
        self.in_turn = False


class _Ring:
    """One level of the round robin; to the level above it is a source itself."""

    def __init__(self, largest: int) -> None:
        self._largest = largest
        self._waiting: deque[_Seat] = deque()
        self._chosen = 0
        self.seats = 0
        self.closed: Callable[[], bool] = lambda: False
        """Whether nobody in it may be served now; everybody keeps place and credit."""

    def seat(self, member: Source, quantum: int) -> _Seat:
        """Take a member in; it is not asked before it is woken."""
        self.seats += 1
        return _Seat(member, quantum)

    def wake(self, seat: _Seat) -> None:
        """Put a member that has work at the end of the round; no effect where it waits already."""
        if not seat.waiting:
            seat.waiting = True
            self._waiting.append(seat)

    def leave(self, seat: _Seat) -> None:
        """Take a member out for good."""
        self.seats -= 1
        if seat.waiting:
            self._waiting.remove(seat)
            _rest(seat)

    def next_cost(self) -> int | None:
        """The cost of the piece whose turn it is; moves the turn on, and members without work out."""
        if self.closed():
            return None
        while self._waiting:
            seat = self._waiting[0]
            cost = seat.member.next_cost()
            if cost is None:
                _rest(self._waiting.popleft())
                continue
            if not 1 <= cost <= self._largest:
                raise ValueError(f"a piece costs {cost}, allowed are 1 to {self._largest}")
            if not seat.in_turn:
                seat.in_turn = True
                seat.deficit += seat.quantum
            if cost <= seat.deficit:
                self._chosen = cost
                return cost
            seat.in_turn = False
            self._waiting.rotate(-1)
        return None

    def run(self) -> None:
        """Run the piece that ``next_cost`` just chose.

        The account is settled first: the piece may add and remove sources, its own too.
        """
        seat = self._waiting[0]
        seat.deficit -= self._chosen
        seat.member.run()


def _rest(seat: _Seat) -> None:
    """No work, no credit."""
    seat.waiting = False
    seat.in_turn = False
    seat.deficit = 0


class _Leaf:
    """The innermost member: knows whose the source is, and reports what was run."""

    def __init__(self, unit: Hashable, kind: Kind, source: Source, served: list[Served]) -> None:
        self.unit = unit
        self.kind = kind
        self.source = source
        self._served = served
        self._cost = 0

    def next_cost(self) -> int | None:
        cost = self.source.next_cost()
        self._cost = cost or 0
        return cost

    def run(self) -> None:
        self._served.append(Served(self.unit, self.kind, self.source, self._cost))
        self.source.run()


class DeficitRoundRobin:
    """The daemon's one scheduler; not for use by several threads."""

    def __init__(self, quantum: int = QUANTUM) -> None:
        self._quantum = quantum
        self._served: list[Served] = []
        self._top = _Ring(quantum)
        self._kinds: dict[Kind, tuple[_Ring, _Seat]] = {}
        for kind, weight in WEIGHTS.items():
            ring = _Ring(quantum)
            self._kinds[kind] = (ring, self._top.seat(ring, weight * quantum))
        self._units: dict[tuple[Kind, Hashable], tuple[_Ring, _Seat]] = {}
        self._leaves: dict[int, tuple[_Leaf, _Seat]] = {}

    def add(self, unit: Hashable, kind: Kind, source: Source) -> None:
        """Let a source take part as one of a unit's, and ask it in the unit's next turn."""
        if id(source) in self._leaves:
            raise ValueError("the source takes part already")
        key = (kind, unit)
        if key not in self._units:
            ring = _Ring(self._quantum)
            self._units[key] = (ring, self._kinds[kind][0].seat(ring, self._quantum))
        leaf = _Leaf(unit, kind, source, self._served)
        self._leaves[id(source)] = leaf, self._units[key][0].seat(leaf, self._quantum)
        self.wake(source)

    def wake(self, source: Source) -> None:
        """Tell that a source has work again after it answered None."""
        if id(source) not in self._leaves:
            return
        leaf, seat = self._leaves[id(source)]
        kind_ring, kind_seat = self._kinds[leaf.kind]
        unit_ring, unit_seat = self._units[(leaf.kind, leaf.unit)]
        unit_ring.wake(seat)
        kind_ring.wake(unit_seat)
        self._top.wake(kind_seat)

    def gate(self, kind: Kind, closed: Callable[[], bool]) -> None:
        """While ``closed()``, nothing of a kind is served; call ``open`` when it no longer is."""
        self._kinds[kind][0].closed = closed

    def open(self, kind: Kind) -> None:
        """Ask the sources of a kind again, each in the place that it had."""
        self._top.wake(self._kinds[kind][1])

    def remove(self, source: Source) -> None:
        """Take a source out, as when its connection is gone; no effect where it takes no part."""
        if id(source) not in self._leaves:
            return
        leaf, seat = self._leaves.pop(id(source))
        key = (leaf.kind, leaf.unit)
        unit_ring, unit_seat = self._units[key]
        unit_ring.leave(seat)
        if not unit_ring.seats:
            del self._units[key]
            self._kinds[leaf.kind][0].leave(unit_seat)

    def step(self, budget: int) -> list[Served]:
        """Run pieces until their costs reach the budget or no source has work; tells what was run."""
        self._served.clear()
        while budget > 0:
            cost = self._top.next_cost()
            if cost is None:
                break
            budget -= cost
            self._top.run()
        return list(self._served)

    @property
    def busy(self) -> bool:
        """Whether another step would find work."""
        return self._top.next_cost() is not None
