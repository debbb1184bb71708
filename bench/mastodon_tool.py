"""Mastodon itself, run as its users run it: the console scripts, the daemon under twistd, everything over TLS."""

import os
import sys
from pathlib import Path

from bench.installation import Installation
from bench.measure import Command
from bench.peers import bytes_below


class Mastodon:
    """A server with one spool, one admin and one machine. The scripts are those beside this interpreter."""

    def __init__(self, work: Path) -> None:
        os.environ["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        self.here = Installation(work)
        self.data = Path()

    def start(self) -> int:
        """The daemon's process id; the first time everything is set up."""
        self.here.set_up()
        assert self.here.daemon is not None  # set_up starts it
        return self.here.daemon.pid

    def stop(self) -> None:
        """Stop the daemon."""
        self.here.stop_daemon()

    def backup(self, data: Path) -> Command:
        """One run of the agent."""
        self.data = data
        return self._command(*self.here.agent_words(), data)

    def restore(self, to: Path) -> Command:
        """Everything in the newest snapshot."""
        return self._command(*self.here.restore_words(to))

    def single(self, to: Path, inner: str) -> Command:
        """One file of it."""
        return self._command(*self.here.restore_words(to), self.data / inner)

    def restored(self, to: Path) -> Path:
        """Where the tree lies after a restore."""
        return to / self.data.relative_to("/")

    def kept(self) -> int:
        """Bytes of packs and ledger."""
        return sum(bytes_below(spool / part) for spool in self.here.spools() for part in ("packs", "ledger"))

    def _command(self, *words: str | Path) -> Command:
        return Command([str(word) for word in words], self.here.environment)
