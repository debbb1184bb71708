"""Asynchronous work that nobody waits for: it is kept count of, and what fails is logged."""

from collections.abc import Coroutine
from typing import Any

from twisted.internet.defer import Deferred, DeferredList
from twisted.logger import Logger

from mastodon.daemon.trouble import log_trouble

Work = Coroutine[Deferred[Any], Any, None] | Deferred[None]


class Errands:
    """Lives in the reactor's thread. ``text`` is what the log says of one that failed."""

    def __init__(self, log: Logger, text: str) -> None:
        self._log = log
        self._text = text
        self._begun: set[Deferred[None]] = set()
        self._stopped = False

    def __len__(self) -> int:
        """How many are not over."""
        return len(self._begun)

    def begin(self, work: Work) -> None:
        """Have it done, unless it was said to stop."""
        if self._stopped:
            if isinstance(work, Coroutine):
                work.close()
            return
        begun = work if isinstance(work, Deferred) else Deferred.fromCoroutine(work)
        self._begun.add(begun)
        begun.addErrback(lambda failure: log_trouble(self._log, self._text, failure))
        begun.addBoth(lambda _: self._begun.discard(begun))

    def stop(self) -> None:
        """Begin nothing more."""
        self._stopped = True

    async def settled(self) -> None:
        """Wait until all that was begun is over."""
        while self._begun:
            await DeferredList([_following(one) for one in self._begun])


def _following(work: "Deferred[None]") -> "Deferred[None]":
    """Fires behind a Deferred whose result stays what it was."""
    own: Deferred[None] = Deferred()
    work.addBoth(lambda _: own.callback(None))
    return own
