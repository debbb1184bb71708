"""Jumps: snapshots whose machine remembered another one than the one they follow, and what that means (P7).

protocol-spec.md §10. One rule for the server, which tells the admin, and for clients, which see for themselves. It
looks at nothing but signed snapshot records: what a machine says of its memory elsewhere counts for nothing, so one
that lies speaks of itself alone, and a server that keeps silent hides nothing.

A snapshot continues the one that its machine remembered. A machine whose disk fell back continues one that others
have continued already. Two copies of a machine take turns: each comes back with the last snapshot of its own, which
nobody has continued. A copy that denies it, by naming the other's snapshot as its own memory, makes the honest one
fall back again and again, each time to a newer one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Protocol

from mastodon.sealed.snapshot import Notice, SnapshotRecord

LOOK_BACK = 12
"""Snapshots among which a machine that falls back to several others has a copy."""
FALLS = 3
QUIET = 24
"""Snapshots without the same jump after which it is news again."""


class JumpKind(IntEnum):
    """Why a machine remembers another snapshot than the newest. Kept in catalogues."""

    STATE_LOST = 1  # it remembers none: its state is new, or was deleted
    NOT_KEPT = 2  # it could not write its memory, and said so
    UNKNOWN = 3  # it remembers one that is not here: the server was put back, or the memory is of another server
    WENT_BACK = 4  # it remembers one that was continued already: its disk fell back in time
    ALTERNATES = 5  # two histories go on in turns: the machine was cloned


@dataclass(frozen=True, slots=True)
class Jump:
    """A snapshot that does not continue its predecessor. ``reached`` is the sequence of the one that its machine
    remembered (0: none that is here)."""

    sequence: int
    remembered: bytes
    kind: JumpKind
    reached: int = 0


class Past(Protocol):
    """What is known of a machine's snapshots before the one that is judged."""

    def sequence_of(self, hash: bytes) -> int:
        """The sequence of the snapshot with that record hash, 0 for none."""

    def newest(self) -> SnapshotRecord | None:
        """The snapshot that is followed, if it is here."""

    def jumps_since(self, sequence: int) -> Sequence[Jump]:
        """The jumps from a sequence on."""

    def is_jump(self, sequence: int) -> bool:
        """Whether the snapshot with that sequence is one."""

    def has_jump_to(self, remembered: bytes) -> bool:
        """Whether the machine of any jump remembered this snapshot."""


def judge(snapshot: SnapshotRecord, past: Past) -> Jump | None:
    """What a snapshot's memory means; None where it continues the one that it follows."""
    remembered = snapshot.remembered
    if remembered == snapshot.predecessor:
        return None
    reached = past.sequence_of(remembered) if remembered else 0
    return Jump(snapshot.sequence, remembered, _kind(snapshot, past, reached), reached)


def is_news(jump: Jump, past: Past) -> bool:
    """Whether somebody has to be told: not of what goes on as it was."""
    if jump.kind in (JumpKind.STATE_LOST, JumpKind.NOT_KEPT):
        return False
    lately = [one for one in past.jumps_since(max(0, jump.sequence - QUIET)) if one.kind is jump.kind]
    if jump.kind is JumpKind.WENT_BACK:  # to the same one again: a state that cannot be written, or is reset each time
        return all(one.remembered != jump.remembered for one in lately)
    return not lately


def ends_fork(sequence: int, past: Past) -> bool:
    """Whether this snapshot, which is no jump, is the first behind the last sign of a clone and a quiet time."""
    last = sequence - QUIET - 1
    signs = [one.sequence for one in past.jumps_since(max(0, last)) if one.kind is JumpKind.ALTERNATES]
    return signs == [last]


def _kind(snapshot: SnapshotRecord, past: Past, reached: int) -> JumpKind:
    remembered = snapshot.remembered
    if not remembered:
        return JumpKind.STATE_LOST
    newest = past.newest()
    if newest is not None and newest.notices & Notice.MEMORY_NOT_KEPT and newest.remembered == remembered:
        return JumpKind.NOT_KEPT
    if not reached:
        return JumpKind.UNKNOWN
    continued = not past.is_jump(reached + 1) or past.has_jump_to(remembered)
    fallen = {one.remembered for one in past.jumps_since(max(0, snapshot.sequence - LOOK_BACK)) if one.reached}
    return JumpKind.WENT_BACK if continued and len(fallen | {remembered}) < FALLS else JumpKind.ALTERNATES
