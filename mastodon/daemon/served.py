"""Served time: the seconds for which the daemon was there to be reached, counted by a clock that nobody sets.

Promises: it never goes back, and stands still while the daemon is down or does not get to work; it and the machines'
marks in it outlive a restart, in a file of the state directory, written at each look. The file is a watch beside the
truth, not the truth: lost, every machine has its whole time again, and what was told already is in the ledger. A jump
of the wall clock is noticed, also one over a restart as far as anybody can tell.
"""

import json
import math
from collections.abc import Callable
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

from mastodon.daemon.watch import Mark, Served
from mastodon.host.durable import SYSTEM_DISK, Disk, write_file

FILE = "watch.json"
STALLED = 5
"""More than so many times what should lie between two looks: the process or the whole system stood still."""
JUMP_S = 60.0


@dataclass(frozen=True, slots=True)
class Clocks:
    """``steady`` counts seconds since the start of the system ``boot``, also while it sleeps; nobody can set it."""

    now_ns: Callable[[], int]
    steady: Callable[[], float]
    boot: str


class ServedTime:
    """Served time, and the marks in it."""

    def __init__(self, state: Path, disk: Disk = SYSTEM_DISK) -> None:
        self._path = state / FILE
        self._disk = disk
        self.now = Served(0.0, 0)
        self.marks: dict[bytes, Mark] = {}
        self._clocks: Clocks | None = None
        self._stall_s = 0.0
        self._boot, self._steady, self._wall_ns = "", 0.0, 0
        self._read()

    def begin(self, clocks: Clocks, look_s: float) -> float:
        """Service begins, with a look every ``look_s``; gives the seconds that the wall clock has jumped while nobody
        looked, 0 for none."""
        self._clocks, self._stall_s = clocks, STALLED * look_s
        self._gap()
        wall_ns, steady = clocks.now_ns(), clocks.steady()
        passed = (wall_ns - self._wall_ns) / 1e9
        if not self._wall_ns:
            jump = 0.0
        elif self._boot == clocks.boot:
            jump = passed - (steady - self._steady)
        else:
            jump = min(passed, 0.0)  # how long the system was off nobody knows, but not less than no time
        self._boot, self._steady, self._wall_ns = clocks.boot, steady, wall_ns
        return jump if abs(jump) >= JUMP_S else 0.0

    @property
    def wall_ns(self) -> int:
        """The wall clock at the last look."""
        return self._wall_ns

    def advance(self) -> float:
        """Count what passed since the last look; gives the seconds that the wall clock has jumped, 0 for none."""
        assert self._clocks is not None
        wall_ns, steady = self._clocks.now_ns(), self._clocks.steady()
        passed = max(0.0, steady - self._steady)
        jump = (wall_ns - self._wall_ns) / 1e9 - passed
        if passed > self._stall_s:
            self._gap()
        else:
            self.now = Served(self.now.seconds + passed, self.now.stretch)
        self._steady, self._wall_ns = steady, wall_ns
        return jump if abs(jump) >= JUMP_S else 0.0

    def pause(self) -> None:
        """Nobody is served now: what passed since the last look does not count."""
        assert self._clocks is not None
        self._steady, self._wall_ns = self._clocks.steady(), self._clocks.now_ns()
        self._gap()

    def _gap(self) -> None:
        self.now = Served(self.now.seconds, self.now.stretch + 1)

    def _read(self) -> None:
        try:
            found = json.loads(self._path.read_bytes())
            marks = {
                bytes.fromhex(machine): Mark(
                    int(entry), _time(since), int(stretch), bool(seen), None if partial is None else _time(partial)
                )
                for machine, (entry, since, stretch, seen, partial) in found["marks"].items()
            }
            now = Served(_time(found["served"]), int(found["stretch"]))
            steady, wall_ns = _time(found["steady"]), int(found["wall_ns"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError):
            return
        self.now = now
        self._boot, self._steady, self._wall_ns = str(found["boot"]), steady, wall_ns
        self.marks = marks

    def encode(self) -> bytes:
        """What is to be kept."""
        fields = {
            "served": self.now.seconds, "stretch": self.now.stretch,
            "boot": self._boot, "steady": self._steady, "wall_ns": self._wall_ns,
            "marks": {machine.hex(): astuple(mark) for machine, mark in self.marks.items()},
        }  # fmt: skip
        return json.dumps(fields).encode("ascii")

    def write(self, data: bytes) -> None:
        """Keep it; in a thread. Raises DiskError."""
        write_file(self._path, data, disk=self._disk)


def _time(value: Any) -> float:
    time = float(value)
    if not math.isfinite(time):
        raise ValueError("no time")
    return time
