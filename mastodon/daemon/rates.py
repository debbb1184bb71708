"""How many bytes a second agents may send: all together, and each machine.

Promises: a cap that the operator sets holds at once, in sessions that are going on too, and for an agent that pays no
heed to it: frames beyond it are not taken, so that its data waits in its own socket. What is set stands in the ledger
(policy entries) and wins over the configuration. Only the append port is capped: restores are what backups are for.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

RATE = "append.rate"
"""The setting's name in policy entries: decimal bytes a second, 0 for no cap, empty for what the configuration says."""
SLOWEST = 1024
FASTEST = (1 << 50) - 1
BURST_S = 0.25
"""A machine that was quiet may send so many seconds' worth at once."""
LOOK_AGAIN_S = 1.0
"""What waits for its cap looks again at least this often."""

MESSAGES_A_SECOND = 500
MESSAGES_BURST_S = 4.0
MESSAGE_SIZE = 8192
"""A message counts one, and one more for each so many bytes: a full offer counts seventeen."""
TINY_PIECE = 4096
TINY_PIECE_COUNTS = 0.1


def rate_value(rate: int | None) -> str:
    """A rate as a setting's value; None: what the configuration says. Raises ValueError."""
    if rate is None:
        return ""
    if rate and not SLOWEST <= rate <= FASTEST:
        raise ValueError(f"a cap is at least {SLOWEST} bytes a second, or off")
    return str(rate)


@dataclass(slots=True)
class RateSettings:
    """The caps, in bytes a second; 0: none. ``usual_*`` come from the configuration."""

    usual_total: int = 0
    usual_machine: int = 0
    chosen: dict[bytes, int] = field(default_factory=dict)
    """By the operator's command, for machines, and under b"" in total."""
    watchers: list[Callable[[], None]] = field(default_factory=list)
    """Called after each change."""

    def follow(self, settings: Iterable[tuple[bytes, str]]) -> None:
        """Take over values of the setting, by machine. What this release cannot read is left as the configuration."""
        for machine, value in settings:
            if value.isascii() and value.isdigit() and len(value) <= len(str(FASTEST)):
                self.chosen[machine] = int(value)
            else:
                self.chosen.pop(machine, None)
        for watcher in self.watchers:
            watcher()

    @property
    def total(self) -> int:
        """For all machines together."""
        return self.chosen.get(b"", self.usual_total)

    def of(self, machine: bytes) -> int:
        """For one machine."""
        return self.chosen.get(machine, self.usual_machine)

    def pace(self, machine: bytes) -> int:
        """What its agent is told."""
        return min(filter(None, (self.total, self.of(machine))), default=0)


class Allowance:
    """One machine's: the bytes that it may send, and the messages that make work for the server.

    A sign of life counts one, an offer more by its ids, and a piece of a pack only when it is tiny: no honest agent
    comes near the bound, and what a flood of messages beyond it takes from others is then next to nothing.
    """

    __slots__ = ("_bytes", "_messages")

    def __init__(self, rate: Callable[[], int], seconds: Callable[[], float]) -> None:
        self._bytes = Bucket(rate, seconds)
        self._messages = Bucket(lambda: MESSAGES_A_SECOND, seconds, MESSAGES_BURST_S)

    def take(self, size: int, is_piece: bool) -> None:
        """A frame of so many bytes was taken."""
        self._bytes.take(size)
        if not is_piece:
            self._messages.take(1 + size / MESSAGE_SIZE)
        elif size < TINY_PIECE:
            self._messages.take(TINY_PIECE_COUNTS)

    def wait(self) -> float:
        """Seconds to wait before another frame may be taken."""
        return max(self._bytes.wait(), self._messages.wait())


class Bucket:
    """What may be taken now. It fills at the rate; a frame may overdraw it, and then it has to recover."""

    __slots__ = ("_rate", "_seconds", "_burst_s", "_level", "_settled")

    def __init__(self, rate: Callable[[], int], seconds: Callable[[], float], burst_s: float = BURST_S) -> None:
        self._rate = rate
        self._seconds = seconds
        self._burst_s = burst_s
        self._level = burst_s * rate()
        self._settled = seconds()

    def take(self, size: float) -> None:
        """So much was taken. Without a rate nothing is owed."""
        rate = self._rate()
        if rate:
            self._settle(rate)
            self._level -= size

    def wait(self) -> float:
        """Seconds to wait before more may be taken; at most LOOK_AGAIN_S, 0.0 for now."""
        rate = self._rate()
        if not rate:
            return 0.0
        self._settle(rate)
        return 0.0 if self._level > 0 else min(LOOK_AGAIN_S, (1 - self._level) / rate)

    def _settle(self, rate: int) -> None:
        now = self._seconds()
        gained = max(0.0, now - self._settled) * rate
        self._level, self._settled = min(self._burst_s * rate, self._level + gained), now
