"""The scheduler's shares, with sources that choose their costs against it."""

import random
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mastodon.wire.fair import DeficitRoundRobin, Kind, Served

QUANTUM = 1000
SMALL = 100
"""Where pieces of all sizes are tried in great numbers."""


class Endless:
    """A source that always has work, with costs from an iterator."""

    def __init__(self, costs: Iterable[int]) -> None:
        self._costs: Iterator[int] = iter(costs)
        self._next = next(self._costs)
        self.done = 0

    def next_cost(self) -> int | None:
        return self._next

    def run(self) -> None:
        self.done += self._next
        self._next = next(self._costs)


class Queue:
    """A source with the pieces it was given."""

    def __init__(self, *costs: int, act: Callable[[], None] = lambda: None) -> None:
        self.costs = list(costs)
        self._act = act

    def next_cost(self) -> int | None:
        return self.costs[0] if self.costs else None

    def run(self) -> None:
        self.costs.pop(0)
        self._act()


def forever(cycle: list[int]) -> Iterator[int]:
    while True:
        yield from cycle


def shares(served: list[Served]) -> Counter[Hashable]:
    total: Counter[Hashable] = Counter()
    for piece in served:
        total[piece.unit] += piece.cost
    return total


def jain(values: list[int]) -> float:
    return sum(values) ** 2 / (len(values) * sum(value * value for value in values))


class Shares(SynchronousTestCase):
    """Units that always have work."""

    @settings(deadline=None, max_examples=100)
    @given(st.lists(st.lists(st.integers(1, SMALL), min_size=1, max_size=7), min_size=2, max_size=12))
    def test_promise_p12_equal_shares_whatever_the_costs(self, cycles: list[list[int]]) -> None:
        """Piece sizes chosen by the units do not move their shares by more than a few quanta."""
        scheduler = DeficitRoundRobin(SMALL)
        for unit, cycle in enumerate(cycles):
            scheduler.add(unit, Kind.APPEND, Endless(forever(cycle)))
        rounds = 40
        total = shares(scheduler.step(rounds * SMALL * len(cycles)))
        amounts = [total[unit] for unit in range(len(cycles))]
        self.assertLessEqual(max(amounts) - min(amounts), 3 * SMALL)
        self.assertGreater(jain(amounts), 0.99)

    def test_promise_p12_a_thousand_connections_are_one_share(self) -> None:
        """A unit with many connections gets what a unit with one gets."""
        scheduler = DeficitRoundRobin(QUANTUM)
        for _ in range(1000):
            scheduler.add("flooder", Kind.APPEND, Endless(forever([QUANTUM])))
        scheduler.add("modest", Kind.APPEND, Endless(forever([7])))
        total = shares(scheduler.step(200 * QUANTUM))
        self.assertLessEqual(abs(total["flooder"] - total["modest"]), 3 * QUANTUM)

    def test_sources_of_a_unit_share_its_share(self) -> None:
        """Inside a unit the bytes are shared out equally too, so one stranger does not keep out others."""
        scheduler = DeficitRoundRobin(QUANTUM)
        greedy, small = Endless(forever([QUANTUM])), Endless(forever([3]))
        scheduler.add("strangers", Kind.APPEND, greedy)
        scheduler.add("strangers", Kind.APPEND, small)
        scheduler.step(100 * QUANTUM)
        self.assertLessEqual(abs(greedy.done - small.done), 3 * QUANTUM)

    def test_slow_steps_share_like_long_ones(self) -> None:
        """The shares do not depend on how the work is cut into steps."""
        scheduler = DeficitRoundRobin(QUANTUM)
        for unit, cycle in enumerate(([QUANTUM], [1], [QUANTUM - 1, 2])):
            scheduler.add(unit, Kind.APPEND, Endless(forever(cycle)))
        total: Counter[Hashable] = Counter()
        for _ in range(3000):
            total += shares(scheduler.step(50))
        self.assertGreater(jain(list(total.values())), 0.99)

    def test_promise_p12_a_share_depends_on_how_many_are_active(self) -> None:
        """Units that stop leave their share to the rest at once."""
        scheduler = DeficitRoundRobin(QUANTUM)
        scheduler.add("stops", Kind.APPEND, Queue(*[QUANTUM] * 5))
        scheduler.add("goes on", Kind.APPEND, Endless(forever([QUANTUM])))
        total = shares(scheduler.step(100 * QUANTUM))
        self.assertEqual(total, {"stops": 5 * QUANTUM, "goes on": 95 * QUANTUM})


class Kinds(SynchronousTestCase):
    """Restores, appends and control frames beside each other."""

    def test_promise_p12_appends_keep_a_fifth(self) -> None:
        """With forty restores and a flood of control frames, one append still gets more than a fifth."""
        scheduler = DeficitRoundRobin(QUANTUM)
        for unit in range(40):
            scheduler.add(unit, Kind.RESTORE, Endless(forever([QUANTUM])))
        scheduler.add("pings", Kind.CONTROL, Endless(forever([1])))
        append = Endless(forever([QUANTUM]))
        scheduler.add("append", Kind.APPEND, append)
        scheduler.step(1000 * QUANTUM)
        self.assertGreater(append.done, 200 * QUANTUM)

    def test_restores_weigh_more(self) -> None:
        """One restore gets more than forty appends together."""
        scheduler = DeficitRoundRobin(QUANTUM)
        for unit in range(40):
            scheduler.add(unit, Kind.APPEND, Endless(forever([QUANTUM])))
        restore = Endless(forever([QUANTUM]))
        scheduler.add("restore", Kind.RESTORE, restore)
        scheduler.step(1000 * QUANTUM)
        self.assertGreater(restore.done, 700 * QUANTUM)

    def test_a_kind_alone_gets_everything(self) -> None:
        """Weights hold nothing back when nobody else has work."""
        scheduler = DeficitRoundRobin(QUANTUM)
        append = Endless(forever([QUANTUM]))
        scheduler.add("append", Kind.APPEND, append)
        scheduler.step(100 * QUANTUM)
        self.assertEqual(append.done, 100 * QUANTUM)

    def test_control_waits_for_no_data_queue(self) -> None:
        """A control frame that comes up behind a thousand busy units is served within one round of kinds."""
        scheduler = DeficitRoundRobin(QUANTUM)
        for unit in range(1000):
            scheduler.add(unit, Kind.APPEND, Endless(forever([QUANTUM])))
            scheduler.add(unit, Kind.RESTORE, Endless(forever([QUANTUM])))
        scheduler.step(5 * QUANTUM)
        scheduler.add(3, Kind.CONTROL, Queue(10))
        served = scheduler.step(9 * QUANTUM)
        self.assertIn(Kind.CONTROL, [piece.kind for piece in served])


class Credit(SynchronousTestCase):
    """What a unit without work may not do."""

    def test_promise_p12_no_credit_is_saved_up(self) -> None:
        """A unit that was idle for long starts like everybody else: no burst beyond its turn."""
        scheduler = DeficitRoundRobin(QUANTUM)
        sleeper = Queue(1)
        scheduler.add("sleeper", Kind.APPEND, sleeper)
        scheduler.add("worker", Kind.APPEND, Endless(forever([QUANTUM])))
        scheduler.step(1000 * QUANTUM)
        sleeper.costs = [QUANTUM] * 50
        scheduler.wake(sleeper)
        total = shares(scheduler.step(20 * QUANTUM))
        self.assertLessEqual(total["sleeper"], 11 * QUANTUM)

    def test_promise_p12_falling_asleep_often_wins_nothing(self) -> None:
        """A unit that pauses and wakes after each piece gets no more than one that always has work."""
        scheduler = DeficitRoundRobin(QUANTUM)
        nervous = Queue(QUANTUM // 2)
        steady = Endless(forever([QUANTUM // 2]))
        scheduler.add("nervous", Kind.APPEND, nervous)
        scheduler.add("steady", Kind.APPEND, steady)
        done = 0
        for _ in range(1000):
            done += shares(scheduler.step(QUANTUM // 2))["nervous"]
            if not nervous.costs:
                nervous.costs = [QUANTUM // 2]
                scheduler.wake(nervous)
        self.assertLessEqual(done, steady.done + QUANTUM)

    @settings(deadline=None, max_examples=100)
    @given(st.integers(0, 2**32))
    def test_promise_p12_bursts_do_not_hurt_a_steady_unit(self, seed: int) -> None:
        """Against four units that come and go at random, a steady one gets at least its fifth."""
        chance = random.Random(seed)
        scheduler = DeficitRoundRobin(QUANTUM)
        steady = Endless(forever([QUANTUM]))
        scheduler.add("steady", Kind.APPEND, steady)
        bursts = [Queue() for _ in range(4)]
        for number, burst in enumerate(bursts):
            scheduler.add(number, Kind.APPEND, burst)
        everything = 0
        for _ in range(300):
            for burst in bursts:
                if not burst.costs and chance.random() < 0.5:
                    burst.costs = [chance.randint(1, QUANTUM) for _ in range(chance.randint(1, 6))]
                    scheduler.wake(burst)
            everything += sum(shares(scheduler.step(QUANTUM)).values())
        self.assertGreaterEqual(steady.done, everything // 5 - 3 * QUANTUM)


class Bookkeeping(SynchronousTestCase):
    """Coming and going."""

    def test_nothing_to_do(self) -> None:
        """A step without work runs nothing, and the scheduler says that it is not busy."""
        scheduler = DeficitRoundRobin(QUANTUM)
        self.assertEqual(scheduler.step(QUANTUM), [])
        scheduler.add(1, Kind.APPEND, Queue())
        self.assertFalse(scheduler.busy)
        self.assertEqual(scheduler.step(QUANTUM), [])

    def test_order_inside_a_source_is_kept(self) -> None:
        """Pieces of one source run in their order, each once."""
        scheduler = DeficitRoundRobin(QUANTUM)
        source = Queue(5, 1000, 7, 999, 1)
        scheduler.add(1, Kind.APPEND, source)
        self.assertEqual([piece.cost for piece in scheduler.step(10 * QUANTUM)], [5, 1000, 7, 999, 1])
        self.assertFalse(scheduler.busy)

    def test_waking_twice_is_waking_once(self) -> None:
        """A source that is woken again and again does not stand in line twice."""
        scheduler = DeficitRoundRobin(QUANTUM)
        eager, other = Endless(forever([QUANTUM])), Endless(forever([QUANTUM]))
        scheduler.add("eager", Kind.APPEND, eager)
        scheduler.add("other", Kind.APPEND, other)
        for _ in range(100):
            scheduler.wake(eager)
            scheduler.step(QUANTUM)
        self.assertLessEqual(eager.done, other.done + QUANTUM)

    def test_a_piece_may_remove_its_own_source(self) -> None:
        """A connection that closes in the middle of its turn leaves the others undisturbed."""
        scheduler = DeficitRoundRobin(QUANTUM)
        source = Queue(10, 10, act=lambda: scheduler.remove(source))
        scheduler.add("gone", Kind.APPEND, source)
        scheduler.add("stays", Kind.APPEND, Queue(10, 10))
        self.assertEqual(shares(scheduler.step(10 * QUANTUM)), {"gone": 10, "stays": 20})
        scheduler.remove(source)
        scheduler.wake(source)
        self.assertFalse(scheduler.busy)

    def test_a_piece_may_move_its_source_to_another_unit(self) -> None:
        """After HELLO a connection leaves the strangers and becomes its machine's."""
        scheduler = DeficitRoundRobin(QUANTUM)

        def authenticate() -> None:
            if len(source.costs) == 1:
                scheduler.remove(source)
                scheduler.add("machine", Kind.APPEND, source)

        source = Queue(10, 20, act=authenticate)
        scheduler.add("strangers", Kind.APPEND, source)
        self.assertEqual(shares(scheduler.step(10 * QUANTUM)), {"strangers": 10, "machine": 20})

    def test_a_source_takes_part_once(self) -> None:
        """Adding a source twice would give it two shares and is refused."""
        scheduler = DeficitRoundRobin(QUANTUM)
        source = Queue(1)
        scheduler.add(1, Kind.APPEND, source)
        self.assertRaises(ValueError, scheduler.add, 2, Kind.APPEND, source)

    def test_costs_outside_the_bounds_are_refused(self) -> None:
        """A free piece would run for ever, one above the quantum would break the shares."""
        for cost in (0, -1, QUANTUM + 1):
            scheduler = DeficitRoundRobin(QUANTUM)
            scheduler.add(1, Kind.APPEND, Queue(cost))
            self.assertRaises(ValueError, scheduler.step, QUANTUM)
