"""What a machine's HELLO tells about it: that its clock is wrong, or that its agent is too old for this server.

Promises: only of machines that have proven who they are; told as edges; a machine that comes all the time is looked at
once a minute. A clock is minutes off before it is called wrong, and has to fit better than that to be called right, so
that one at the brink does not speak all the time. The server's own clock is another matter: where all machines are told
of at once, it is that.
"""

from collections.abc import Callable
from functools import partial

from mastodon.daemon.edges import Condition, Edges
from mastodon.sealed.duration import SECOND_NS
from mastodon.sealed.events import EventCode
from mastodon.wire.messages import Hello

EVERY_NS = 60 * SECOND_NS
WRONG_NS = 300 * SECOND_NS
FITS_NS = 120 * SECOND_NS
UNITS = (("days", 86400), ("hours", 3600), ("minutes", 60))


def is_wrong(skew_ns: int, is_told: bool) -> bool:
    """Whether a clock that is so far ahead is wrong; ``is_told`` says that it was called so last."""
    return abs(skew_ns) > (FITS_NS if is_told else WRONG_NS)


def skew_text(skew_ns: int) -> str:
    """How far it is off, for people."""
    seconds = abs(skew_ns) // SECOND_NS
    name, length = next((unit for unit in UNITS if seconds >= 2 * unit[1]), ("seconds", 1))
    return f"the machine's clock is {seconds // length} {name} {'ahead of' if skew_ns > 0 else 'behind'} the server's"


class CheckIns:
    """Lives in the reactor's thread."""

    def __init__(self, edges: Edges, now_ns: Callable[[], int]) -> None:
        self._edges = edges
        self._now_ns = now_ns
        self._looked: dict[tuple[bytes, bool], int] = {}

    async def good(self, hello: Hello) -> None:
        """A machine that is who it says."""
        if not self._is_due(hello, False):
            return
        skew = hello.time_ns - self._now_ns()
        clock = Condition(EventCode.CLOCK_SKEW, EventCode.CLOCK_FITS, machine=hello.machine)
        await self._edges.settle(clock, partial(is_wrong, skew), skew_text(skew))
        await self._edges.settle(_age(hello), lambda is_told: False, f"agent {hello.agent_version}")

    async def too_old(self, hello: Hello) -> None:
        """A machine that is who it says, and speaks a version that this server does not any more."""
        if self._is_due(hello, True):
            text = f"agent {hello.agent_version} speaks version {hello.version} of the protocol, and was refused"
            await self._edges.settle(_age(hello), lambda is_told: True, text)

    def _is_due(self, hello: Hello, is_refused: bool) -> bool:
        now, key = self._now_ns(), (hello.machine, is_refused)
        if 0 <= now - self._looked.get(key, 0) < EVERY_NS:
            return False
        self._looked[key] = now
        return True


def _age(hello: Hello) -> Condition:
    return Condition(EventCode.AGENT_TOO_OLD, EventCode.AGENT_UPDATED, machine=hello.machine)
