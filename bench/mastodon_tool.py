"""Mastodon itself, run as its users run it: the console scripts, the daemon under twistd, everything over TLS."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from bench import ahead
from bench.installation import Installation
from bench.measure import Command
from bench.peers import bytes_below, first_line, require

GPG = """\
#!/bin/sh
start=$(date +%s.%N)
{gpg} "$@"
code=$?
echo "$start $(date +%s.%N)" >> {log}
exit $code
"""


class Mastodon:
    """A server with one spool, one admin and one machine. The scripts are those beside this interpreter."""

    extra: tuple[str, ...] = ()
    """Further words for the agent."""

    def __init__(self, work: Path) -> None:
        os.environ["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        require("mastodon", "mastodon-admin", "mastodon-agent", "twistd", "gpg")
        self.work = work
        self.here = Installation(work)
        self.data = Path()
        self.gpg_log = work / "gpg.log"

    def start(self) -> int:
        """The daemon's process id; the first time everything is set up."""
        self._stop_gpgs_time()
        self.here.set_up()
        assert self.here.daemon is not None  # set_up starts it
        return self.here.daemon.pid

    def start_later(self, seconds: int) -> int:
        """Start the daemon anew, with its clock so far ahead; its process id."""
        self.here.stop_daemon()
        # By its path, since the daemon runs elsewhere; -P: nothing beside it is to be imported.
        self.here.twistd = [sys.executable, "-P", ahead.__file__, str(seconds)]
        self.here.start_daemon()
        assert self.here.daemon is not None
        return self.here.daemon.pid

    def _stop_gpgs_time(self) -> None:
        """A gpg of our own comes first on the path: it runs the real one and notes how long that took."""
        folder = self.work / "gpg"
        folder.mkdir()
        script = folder / "gpg"
        script.write_text(GPG.format(gpg=shutil.which("gpg"), log=self.gpg_log))
        script.chmod(0o755)
        self.here.environment["PATH"] = f"{folder}:{os.environ['PATH']}"

    def stop(self) -> None:
        """Stop the daemon."""
        self.here.stop_daemon()

    def backup(self, data: Path) -> Command:
        """One run of the agent."""
        self.data = data
        return self._command(*self.here.agent_words(), *self.extra, data)

    def restore(self, to: Path, first: bool = False) -> Command:
        """Everything in the newest or the first snapshot."""
        return self._command(*self.here.restore_words(to, "1" if first else "latest"))

    def single(self, to: Path, inner: str) -> Command:
        """One file of it."""
        return self._command(*self.here.restore_words(to), self.data / inner)

    def restored(self, to: Path) -> Path:
        """Where the tree lies after a restore."""
        return to / self.data.relative_to("/")

    def kept(self) -> int:
        """Bytes of packs and ledger. Catalogue and recovery kit are made anew from what is there."""
        return sum(bytes_below(spool / part) for spool in self.here.spools() for part in ("packs", "ledger"))

    def gpg_seconds(self) -> float:
        """Since this was last asked."""
        if not self.gpg_log.exists():
            return 0.0
        times = [line.split() for line in self.gpg_log.read_text().splitlines()]
        self.gpg_log.unlink()
        return sum(float(end) - float(start) for start, end in times)

    def versions(self) -> list[str]:
        """Agent, interpreter, gpg."""
        python = f"Python {sys.version.split()[0]}"
        return [first_line("mastodon-agent", "--version"), python, first_line("gpg", "--version")]

    def _command(self, *words: str | Path) -> Command:
        return Command([str(word) for word in words], self.here.environment)


class MastodonDelta(Mastodon):
    """The same with `--delta`."""

    extra = ("--delta",)


def knows_delta() -> bool:
    """Whether the agent that is installed has `--delta`."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    found = shutil.which("mastodon-agent", path=path)
    if found is None:
        return False
    return "--delta" in subprocess.run([found, "--help"], capture_output=True, text=True, check=False).stdout
