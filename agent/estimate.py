"""Counts what there is to read, beside the run, so that a progress bar can tell how much is left."""

import os
import signal
import struct
from contextlib import suppress

from mastodon_agent.dry_run import DryRun
from mastodon_agent.old_listing import OldListing
from mastodon_agent.roots import Node
from mastodon_agent.scan import Scan, ScanRules

_TOTAL = struct.Struct("<Q")


class Estimate:
    """A forked process that only looks; made before there are any threads. ``total`` is 0 until it is done."""

    def __init__(self, top: Node, rules: ScanRules) -> None:
        self._read, write = os.pipe()
        self._pid = os.fork()
        if not self._pid:
            os.close(self._read)
            _count(write, top, rules)
        os.close(write)
        os.set_blocking(self._read, False)
        self._total = 0

    def total(self) -> int:
        """Bytes in all files."""
        if not self._total:
            with suppress(BlockingIOError, struct.error):
                (self._total,) = _TOTAL.unpack(os.read(self._read, _TOTAL.size))
        return self._total

    def close(self) -> None:
        """End it and wait until it is gone."""
        os.close(self._read)
        with suppress(ProcessLookupError):
            os.kill(self._pid, signal.SIGKILL)
        os.waitpid(self._pid, 0)


def _count(write: int, top: Node, rules: ScanRules) -> None:
    """The forked process's whole life."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        os.nice(5)
        visitor = DryRun(lambda _path, _size: None, lambda _note: None)
        Scan(top, rules, OldListing(iter(())), visitor).run()
        os.write(write, _TOTAL.pack(visitor.content_bytes))
    finally:
        os._exit(0)
