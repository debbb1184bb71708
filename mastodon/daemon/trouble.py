"""How work in the background says that it failed: nobody waits for it, so the log is all that there is.

What a full or broken disk, or a catalogue that refuses, brings about is a line that says why; anything else is a bug,
and has its traceback.
"""

from typing import Any

from twisted.logger import Logger
from twisted.python.failure import Failure

from mastodon.catalogue.interface import CatalogueError
from mastodon.daemon.errors import Refused, StoreError
from mastodon.host.durable import DiskError

EXPECTED = (Refused, StoreError, CatalogueError, DiskError, OSError)


def log_trouble(log: Logger, text: str, failure: Failure | None = None, **fields: Any) -> None:
    """Say ``text``, a format for ``fields``, and why; without a ``failure``, of the exception that is being handled."""
    failure = Failure() if failure is None else failure
    if failure.check(*EXPECTED) is None:
        log.failure(text, failure, **fields)
    else:
        log.error(text + ": {reason}", reason=str(failure.value), **fields)
