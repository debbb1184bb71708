"""A lane: one thread that does jobs strictly in order, and Deferreds that fire where the reactor lives.

SQLite's one writer and its reader live in a lane each, so does the ledger. A job that raises fails its own Deferred
and no other.
"""

import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, ParamSpec, Protocol, TypeVar

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

P = ParamSpec("P")
T = TypeVar("T")


class Mainland(Protocol):
    """What a lane needs of a reactor: to come home from a thread."""

    def callFromThread(self, callable: Callable[..., Any], *args: Any, **kwargs: Any) -> None: ...


class Lane:
    """Jobs in, Deferreds out. Works until ``stop``; a program that ends does not wait for it."""

    def __init__(self, mainland: Mainland, name: str) -> None:
        self._mainland = mainland
        self._jobs: SimpleQueue[tuple[Deferred[Any], Callable[[], Any]] | None] = SimpleQueue()
        self._stopped: Deferred[None] | None = None
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    def run(self, job: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> "Deferred[T]":
        """Do ``job(*args)`` in the thread, behind all that was asked for before."""
        outcome: Deferred[T] = Deferred()
        if self._stopped is not None:
            outcome.errback(Failure(RuntimeError("the lane is closed")))
        else:
            self._jobs.put((outcome, lambda: job(*args, **kwargs)))
        return outcome

    def stop(self) -> "Deferred[None]":
        """End the thread behind all jobs; fires when it is over."""
        if self._stopped is None:
            self._stopped = Deferred()
            self._jobs.put(None)
        return self._stopped

    def _work(self) -> None:
        while (one := self._jobs.get()) is not None:
            outcome, job = one
            try:
                result = job()
            except BaseException:  # whatever it was belongs to whoever waits for the job
                self._mainland.callFromThread(outcome.errback, Failure())
            else:
                self._mainland.callFromThread(outcome.callback, result)
            del outcome, job, one
        assert self._stopped is not None
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
