"""What a run says: lines for people on standard error, or JSON lines on standard output."""

import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any, TextIO

from mastodon.sealed.snapshot import INCOMPLETE, Reason, SnapshotStatus
from mastodon_agent.outcome import Note, Outcome, Tally, Watcher
from mastodon_agent.progress import ProgressBar, size_text

SHOWN = 20
"""Notes that are shown one by one without -v."""

REASONS = {
    Reason.GONE: "gone before it was read",
    Reason.GREW: "grew while it was read: the rest comes with the next run",
    Reason.FUZZY: "changed while it was read, kept as it came",
    Reason.UNREADABLE: "cannot be read",
    Reason.IO_ERROR: "read error",
    Reason.MISSING_PATH: "is not there",
    Reason.FAILED_SOURCE: "the source failed",
    Reason.CARRIED: "carried over from the last snapshot",
    Reason.METADATA: "not all of its attributes can be read",
}


class Console(Watcher):
    """``verbosity`` is -1 for errors only, 0, or more for more.

    Unless ``somebody_looks``, or more was asked for, a run that went well says nothing: cron mails every line.
    """

    def __init__(
        self, verbosity: int, as_json: bool, somebody_looks: bool = True, out: TextIO | None = None,
        err: TextIO | None = None, clock: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        self._verbosity = verbosity
        self._talks = verbosity > 0 or (verbosity == 0 and somebody_looks)
        self._json = as_json
        self._bar: ProgressBar | None = None
        self._out = out or sys.stdout
        self._err = err or sys.stderr
        self._clock = clock
        self._shown = 0
        self._hidden = 0
        self._progress_at = 0.0

    def note(self, note: Note) -> None:
        """A file went otherwise than well."""
        if self._json:
            self._emit("note", reason=note.reason.name.lower(), errno=note.errno, **_path(note.path))
            return
        if self._verbosity < 1 and note.reason not in INCOMPLETE:
            return
        if self._verbosity < 1 and self._shown >= SHOWN:
            self._hidden += 1
            return
        self._shown += 1
        why = f": {os.strerror(note.errno)}" if note.errno and note.reason in INCOMPLETE else ""
        self._line(f"{self.printable(note.path)}: {REASONS[note.reason]}{why}")

    def say(self, text: str) -> None:
        """Something that the admin should know."""
        if self._json:
            self._emit("message", text=text)
        elif self._verbosity >= 0:
            self._line(text)

    def detail(self, text: str) -> None:
        """Something for those who look."""
        if self._talks:
            self.say(text)

    def error(self, text: str) -> None:
        """Why the run ends."""
        if self._json:
            self._emit("error", text=text)
        self._line(f"mastodon-agent: {text}")

    def result(self, event: str, **values: Any) -> None:
        """A line of the result: of --explain and --dry-run."""
        if self._json:
            self._emit(event, **values)
        else:
            print(values["text"], file=self._out)

    def progress(self, tally: Tally, sent_bytes: int) -> None:
        """How far the run is."""
        now = self._clock()
        if self._json and now - self._progress_at >= 1.0:
            self._progress_at = now
            self._emit("progress", files=tally.files, bytes=tally.content_bytes, sent_bytes=sent_bytes)
        if self._bar is not None:
            self._bar.show(tally.files, tally.content_bytes)

    def summary(self, outcome: Outcome, seconds: float) -> None:
        """What the run came to."""
        tally = outcome.tally
        counts = {reason.name.lower(): count for reason, count in sorted(tally.counts.items()) if count}
        if self._json:
            self._emit(
                "summary", status=outcome.status.name.lower(), snapshot=outcome.sequence, entries=outcome.entries,
                files=tally.files, bytes=tally.content_bytes, read_files=tally.read_files, read_bytes=tally.read_bytes,
                unchanged=tally.unchanged, sent_bytes=outcome.sent_bytes, sent_blobs=outcome.sent_blobs, counts=counts,
                checkpoints=outcome.checkpoints, notices=int(outcome.notices), seconds=round(seconds, 3),
            )  # fmt: skip
            return
        self.clear()
        if self._hidden:
            self._line(f"and {self._hidden} more; -v shows them all")
        partial = outcome.status is SnapshotStatus.PARTIAL
        if not self._talks and not partial:
            return
        word = "PARTIAL, see above" if partial else "complete"
        self._line(
            f"snapshot {outcome.sequence} is {word}: {outcome.entries:,} entries, {size_text(tally.content_bytes)}; "
            f"read {tally.read_files:,} files ({size_text(tally.read_bytes)}), sent {size_text(outcome.sent_bytes)}, "
            f"{seconds:.1f} s"
        )
        if counts and self._verbosity > 0:
            self._line(", ".join(f"{count} {name.replace('_', ' ')}" for name, count in counts.items()))

    def show_bar(self, bar: ProgressBar) -> None:
        """From now on, draw this bar."""
        self._bar = bar

    @staticmethod
    def printable(path: bytes) -> str:
        """A path on one line, whatever bytes are in it."""
        text = path.decode("utf-8", "backslashreplace")
        return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)

    def clear(self) -> None:
        """Take the progress bar away."""
        if self._bar is not None:
            self._bar.clear()

    def _line(self, text: str) -> None:
        self.clear()
        print(text, file=self._err, flush=True)

    def _emit(self, event: str, **values: Any) -> None:
        print(json.dumps({"event": event, **values}), file=self._out, flush=True)


def _path(path: bytes) -> dict[str, str]:
    """A path for JSON; where it is not UTF-8, its bytes as well."""
    try:
        return {"path": path.decode("utf-8")}
    except UnicodeDecodeError:
        return {"path": path.decode("utf-8", "backslashreplace"), "path_hex": path.hex()}
