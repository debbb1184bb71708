"""A lane: one thread that does jobs, and Deferreds that fire where the reactor lives.

SQLite's one writer and its reader live in a lane each, so does the ledger. The jobs of one unit (a machine, say) are
done strictly in order; units take turns, a job each, so that nobody waits for all that another has asked for (P12). A
job that raises fails its own Deferred and no other.
"""

import threading
from collections import deque
from collections.abc import Callable, Hashable
from queue import SimpleQueue
from typing import Any, Generic, ParamSpec, Protocol, TypeVar

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

P = ParamSpec("P")
T = TypeVar("T")


class Mainland(Protocol):
    """What a lane needs of a reactor: to come home from a thread."""

    def callFromThread(self, callable: Callable[..., Any], *args: Any, **kwargs: Any) -> None: ...


Job = tuple["Deferred[Any]", Callable[[], Any]]


class Turns(Generic[T]):
    """A queue from which units are taken in turns, one thing each, however much a unit has in it."""

    def __init__(self) -> None:
        self._units: dict[Hashable, deque[T]] = {}

    def __bool__(self) -> bool:
        return bool(self._units)

    def put(self, unit: Hashable, one: T) -> None:
        """Behind what the unit has in it."""
        self._units.setdefault(unit, deque()).append(one)

    def take(self) -> T:
        """The next one. Raises StopIteration when there is none."""
        unit = next(iter(self._units))
        waiting = self._units.pop(unit)
        one = waiting.popleft()
        if waiting:
            self._units[unit] = waiting
        return one


class Lane:
    """Jobs in, Deferreds out. Works until ``stop``; a program that ends does not wait for it."""

    def __init__(self, mainland: Mainland, name: str) -> None:
        self._mainland = mainland
        self._jobs: Turns[Job] = Turns()
        self._lock = threading.Lock()
        self._asked: SimpleQueue[bool] = SimpleQueue()
        """True for each job, and False to stop."""
        self._stopped: Deferred[None] | None = None
        self._last: Callable[[], None] = lambda: None
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    def run(self, job: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> "Deferred[T]":
        """Do ``job(*args)`` in the thread, as a job of nobody's in particular."""
        return self.run_for(None, job, *args, **kwargs)

    def run_for(self, unit: Hashable, job: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> "Deferred[T]":
        """Do ``job(*args)`` in the thread, behind all that was asked for before for this unit."""
        outcome: Deferred[T] = Deferred()
        if self._stopped is not None:
            outcome.errback(Failure(RuntimeError("the lane is closed")))
        else:
            with self._lock:
                self._jobs.put(unit, (outcome, lambda: job(*args, **kwargs)))
            self._asked.put(True)
        return outcome

    def stop(self, last: Callable[[], None] = lambda: None) -> "Deferred[None]":
        """End the thread behind all jobs, then ``last``; fires when it is over."""
        if self._stopped is None:
            self._stopped = Deferred()
            self._last = last
            self._asked.put(False)
        return self._stopped

    def _work(self) -> None:
        while self._asked.get():
            with self._lock:
                outcome, job = self._jobs.take()
            try:
                result = job()
            except BaseException:  # whatever it was belongs to whoever waits for the job
                self._mainland.callFromThread(outcome.errback, Failure())
            else:
                self._mainland.callFromThread(outcome.callback, result)
            del outcome, job
        assert self._stopped is not None
        try:
            self._last()
        except Exception:
            self._mainland.callFromThread(self._stopped.errback, Failure())
        else:
            self._mainland.callFromThread(self._stopped.callback, None)


class OwnMainland:
    """Stands in for a reactor in a program without one: the calling thread waits and does what comes home."""

    def __init__(self) -> None:
        self._calls: SimpleQueue[Callable[[], Any]] = SimpleQueue()

    def callFromThread(self, callable: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        """Leave a call for ``wait``."""
        self._calls.put(lambda: callable(*args, **kwargs))

    def wait(self, outcome: "Deferred[T]") -> T:
        """The result of ``outcome``, or its exception raised."""
        ended: list[T | Failure] = []
        outcome.addBoth(ended.append)
        while not ended:
            self._calls.get()()
        (result,) = ended
        if isinstance(result, Failure):
            result.raiseException()
        return result
