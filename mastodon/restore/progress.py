"""A progress bar with the time left, on a terminal only; elsewhere nothing is drawn and rich is not even imported."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from mastodon.restore.report import Report


@contextmanager
def progress(total_bytes: int, total_files: int, *, quiet: bool) -> Iterator[Callable[[Report], None] | None]:
    """Gives what a restore calls now and then. NO_COLOR is heeded; drawn on stderr."""
    if quiet or not sys.stderr.isatty() or os.environ.get("TERM") == "dumb":
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    console = Console(stderr=True, no_color="NO_COLOR" in os.environ)
    columns = (
        BarColumn(), DownloadColumn(binary_units=True), TransferSpeedColumn(), TimeRemainingColumn(),
        TextColumn("{task.fields[files]}"),
    )  # fmt: skip
    # no refreshing thread: the workers are forked from this process, and forks and threads do not mix
    with Progress(*columns, console=console, auto_refresh=False, transient=True) as bar:
        task = bar.add_task("restore", total=max(1, total_bytes), files="")
        shown = [0.0]

        def tick(report: Report) -> None:
            now = bar.get_time()
            if now - shown[0] < 0.2:
                return
            shown[0] = now
            done = report.files + report.kept_files
            counted = f"{done}/{total_files} files" if total_files else f"{done} files"
            bar.update(task, completed=report.content_bytes + report.kept_bytes, files=counted)
            bar.refresh()

        yield tick
