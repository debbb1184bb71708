"""A progress bar with the time that is left, for a terminal."""

import shutil
import time
from collections.abc import Callable
from typing import TextIO

EVERY_S = 0.25
WIDTH = 24


class ProgressBar:
    """``total`` tells how many bytes there are, as far as it is known; 0: not known yet."""

    def __init__(
        self, terminal: TextIO, total: Callable[[], int], color: bool, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._terminal = terminal
        self._total = total
        self._color = color
        self._clock = clock
        self._begun = clock()
        self._shown_at = 0.0
        self._is_there = False

    def show(self, files: int, content_bytes: int) -> None:
        """Draw it, if it is time."""
        now = self._clock()
        if now - self._shown_at < EVERY_S:
            return
        self._shown_at = now
        text = line(files, content_bytes, self._total(), now - self._begun)
        width = shutil.get_terminal_size().columns - 1
        text = text[:width]
        self._terminal.write("\r\x1b[K" + (f"\x1b[36m{text}\x1b[0m" if self._color else text))
        self._terminal.flush()
        self._is_there = True

    def clear(self) -> None:
        """Take it away, so that a line can be printed."""
        if self._is_there:
            self._terminal.write("\r\x1b[K")
            self._terminal.flush()
            self._is_there = False


def line(files: int, content_bytes: int, total: int, seconds: float) -> str:
    """The bar's text."""
    rate = content_bytes / seconds if seconds > 0 else 0.0
    tail = f"{files:,} files, {size_text(content_bytes)}, {size_text(int(rate))}/s"
    if total <= 0:
        return tail
    part = min(content_bytes / total, 1.0)
    full = int(part * WIDTH)
    left = (total - content_bytes) / rate if rate else 0.0
    eta = f", {duration_text(left)} left" if rate and content_bytes < total else ""
    return f"[{'#' * full}{'.' * (WIDTH - full)}] {part:4.0%} {tail}{eta}"


def duration_text(seconds: float) -> str:
    """As h:mm:ss or m:ss."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def size_text(count: int) -> str:
    """Bytes in the unit that fits."""
    value = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"
