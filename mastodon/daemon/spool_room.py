"""Has a spool room? Free bytes and inodes, told once when they are few, and once when there is room again.

Promises: what is told is an edge (edges.py), so that a restart tells nothing twice; between "nearly full" and "room
again" lies a gap, so that a spool at the brink does not speak all the time; of a spool that is offline, or does not
answer, nothing is said here.
"""

import os
from dataclasses import dataclass
from functools import partial

from mastodon.daemon.edges import Condition, Edges
from mastodon.daemon.spool import Spool
from mastodon.host.sizes import show_size
from mastodon.sealed.events import EventCode

FULL_BELOW = 0.05
ROOM_ABOVE = 0.08
"""Shares of a spool that are left, of its bytes (beside the reserve) or of its inodes, whichever is less."""


@dataclass(frozen=True, slots=True)
class Room:
    """What is left on a spool: bytes beside the reserve, of all that it may hold, and inodes (0 of 0: not counted)."""

    spool: bytes
    path: str
    bytes_left: int
    bytes_all: int
    inodes_left: int = 0
    inodes_all: int = 0

    @property
    def left(self) -> float:
        """The lesser of the two shares."""
        of_bytes = self.bytes_left / self.bytes_all if self.bytes_all > 0 else 0.0
        return min(of_bytes, self.inodes_left / self.inodes_all) if self.inodes_all else of_bytes

    @property
    def text(self) -> str:
        """For people."""
        inodes = f", {self.inodes_left} of {self.inodes_all} inodes" if self.inodes_all else ""
        return f"{self.path}: {show_size(self.bytes_left)} of {show_size(self.bytes_all)} left{inodes}"


def room_of(spool: Spool) -> Room | None:
    """Ask the file system, in a thread; None for a spool that is offline or does not answer."""
    try:
        stat = os.statvfs(spool.path)
    except OSError:
        return None
    if not spool.online:
        return None
    every, free = stat.f_blocks * stat.f_frsize, stat.f_bavail * stat.f_frsize
    return Room(
        spool.uuid, str(spool.path), max(0, free - spool.reserve), max(0, every - spool.reserve), stat.f_favail,
        stat.f_files,
    )  # fmt: skip


def is_nearly_full(room: Room, is_told: bool) -> bool:
    """Whether a spool is; ``is_told`` says that it was called so last."""
    return room.left < (ROOM_ABOVE if is_told else FULL_BELOW)


async def tell_rooms(rooms: list[Room | None], edges: Edges) -> None:
    """Tell what changed."""
    for room in rooms:
        if room is not None:
            condition = Condition(EventCode.SPOOL_NEARLY_FULL, EventCode.SPOOL_HAS_ROOM, subject=room.spool.hex())
            await edges.settle(condition, partial(is_nearly_full, room), room.text)
