"""Directory fsyncs, grouped: several packs renamed into one directory share the call that makes their names durable.

Promise (P9): a request is answered by an fsync that *began* after the request was made; one that was under way might
have missed the rename.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from mastodon.daemon.spool import Spool
from mastodon.host.durable import fsync_directory

InThread = Callable[..., "Deferred[Any]"]
"""Does a function with its arguments in a thread."""


class DirectorySyncs:
    """Makes the names in directories durable. Lives in the reactor's thread."""

    def __init__(self, in_thread: InThread) -> None:
        self._in_thread = in_thread
        self._waiting: dict[Path, list[Deferred[None]]] = {}
        self._busy: set[Path] = set()

    def sync(self, spool: Spool, directory: Path) -> "Deferred[None]":
        """Fires when all names that are in ``directory`` now are durable, or fails with DiskError."""
        outcome: Deferred[None] = Deferred()
        self._waiting.setdefault(directory, []).append(outcome)
        if directory not in self._busy:
            self._begin(spool, directory)
        return outcome

    def _begin(self, spool: Spool, directory: Path) -> None:
        group = self._waiting.pop(directory)
        self._busy.add(directory)

        def done(result: Failure | None) -> None:
            self._busy.discard(directory)
            if directory in self._waiting:
                self._begin(spool, directory)
            for one in group:
                one.callback(result)

        self._in_thread(fsync_directory, directory, spool.disk).addBoth(done)
