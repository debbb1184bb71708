"""Who has to know at once what the ledger says, not when it next looks: open connections, above all.

Promise: each entry is told once, in order, when it is durable and the catalogue follows it, and before whoever asked
for it hears that it is done. What goes wrong in one follower keeps nothing from the others.
"""

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from twisted.logger import Logger

from mastodon.daemon.trouble import log_trouble
from mastodon.sealed.ledger_entries import EntryBody

B = TypeVar("B", bound=EntryBody)


class Followers:
    """Lives in the reactor's thread."""

    log = Logger()

    def __init__(self) -> None:
        self._told: dict[type[EntryBody], list[Callable[[Any], None]]] = {}

    def add(self, kind: type[B], told: Callable[[B], None]) -> None:
        """From now on ``told`` is called with each entry of this kind."""
        self._told.setdefault(kind, []).append(told)

    def tell(self, bodies: Iterable[EntryBody | None]) -> None:
        """These entries are followed."""
        for body in bodies:
            for told in self._told.get(type(body), ()):  # type: ignore[arg-type]  # None is no kind
                try:
                    told(body)
                except Exception:
                    log_trouble(self.log, "what the ledger says was not heeded")
