"""Log lines about peers, who cause them: a hostile one must not fill the disk that the log is on.

Promise: about each address or machine LINES lines a minute are written, then one that says how many were left out; it
makes no difference whether they come from one connection or from ever new ones.
"""

from typing import Any

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger, LogLevel

LINES = 10
MINUTE_S = 60.0
KEPT = 1000
"""So many are told apart in a minute; all others are one."""
OTHERS = "others"


class BoundedLog:
    """One port's."""

    def __init__(self, log: Logger, clock: IReactorTime) -> None:
        self._log = log
        self._clock = clock
        self._counts: dict[str, int] = {}
        self._minute: IDelayedCall | None = None
        self._stopped = False

    def info(self, about: str, format: str, **values: Any) -> None:
        """A line about a peer."""
        self._say(LogLevel.info, about, format, values)

    def warn(self, about: str, format: str, **values: Any) -> None:
        """A line about a peer that went wrong."""
        self._say(LogLevel.warn, about, format, values)

    def stop(self) -> None:
        """Say what was left out so far; whoever still speaks is bounded all the same."""
        self._stopped = True
        if self._minute is not None:
            self._minute.cancel()
            self._over()

    def _say(self, level: Any, about: str, format: str, values: dict[str, Any]) -> None:
        if about not in self._counts and len(self._counts) >= KEPT:
            about = OTHERS
        count = self._counts[about] = self._counts.get(about, 0) + 1
        if count <= LINES:
            self._log.emit(level, format, **values)
        if self._minute is None and not self._stopped:
            self._minute = self._clock.callLater(MINUTE_S, self._over)

    def _over(self) -> None:
        counts, self._counts, self._minute = self._counts, {}, None
        for about, count in counts.items():
            if count > LINES:
                self._log.warn(
                    "{about}: {count} more lines in a minute were left out", about=about, count=count - LINES
                )
