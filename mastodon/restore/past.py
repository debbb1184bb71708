"""A machine's snapshot records as a source shows them, looked at as a chain: gaps, forks, jumps.

Sequences without a gap whose predecessors are each other's hashes are the normal case. A gap means that records are
withheld or lost; a fork, two histories under one machine's key; a jump (sealed/jump.py), that the machine's state was
lost, fell back in time, or is one of several.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from mastodon.sealed.jump import QUIET, Jump, JumpKind, is_news, judge
from mastodon.sealed.snapshot import SnapshotRecord


@dataclass(slots=True)
class Chain:
    """What was found. ``gaps`` are first and last sequences that are not shown, ``jumps`` by record hash; warnings
    tell of those among the newest snapshots only."""

    gaps: list[tuple[int, int]] = field(default_factory=list)
    jumps: dict[bytes, Jump] = field(default_factory=dict)
    forked: bool = False
    warnings: list[str] = field(default_factory=list)


class ShownPast:
    """The records before one, as the rule about jumps asks for them."""

    def __init__(self) -> None:
        self._sequences: dict[bytes, int] = {}
        self._by_sequence: dict[int, Jump] = {}
        self._remembered: set[bytes] = set()
        self._newest: SnapshotRecord | None = None

    def add(self, record: SnapshotRecord, hash: bytes, jump: Jump | None) -> None:
        """The next record."""
        self._sequences[hash] = record.sequence
        self._newest = record
        if jump is not None:
            self._by_sequence[jump.sequence] = jump
            self._remembered.add(jump.remembered)

    def sequence_of(self, hash: bytes) -> int:
        return self._sequences.get(hash, 0)

    def newest(self) -> SnapshotRecord | None:
        return self._newest

    def jumps_since(self, sequence: int) -> Sequence[Jump]:
        numbers = range(sequence, self._newest.sequence + 1 if self._newest is not None else 0)
        return [self._by_sequence[number] for number in numbers if number in self._by_sequence]

    def is_jump(self, sequence: int) -> bool:
        return sequence in self._by_sequence

    def has_jump_to(self, remembered: bytes) -> bool:
        return remembered in self._remembered


def look_at_chain(name: str, records: Iterable[tuple[SnapshotRecord, bytes]]) -> Chain:
    """What there is to say of records with their hashes, in the order of their sequences."""
    chain = Chain()
    past = ShownPast()
    by_sequence: dict[int, list[tuple[SnapshotRecord, bytes]]] = {}
    for record, hash in records:
        by_sequence.setdefault(record.sequence, []).append((record, hash))
    recent = max(by_sequence, default=0) - QUIET
    last = 0
    for sequence, here in by_sequence.items():
        if sequence != last + 1:
            chain.gaps.append((last + 1, sequence - 1))
            missing = f"snapshot {last + 1}" if sequence == last + 2 else f"snapshots {last + 1} to {sequence - 1}"
            chain.warnings.append(f"{name}: {missing} withheld or lost: the records go from {last} to {sequence}")
        if len(here) > 1:
            chain.forked = True
            chain.warnings.append(f"{name}: two histories: {len(here)} snapshots have the number {sequence}")
        before = {hash for _, hash in by_sequence.get(sequence - 1, ())}
        for record, hash in here:
            if before and record.predecessor not in before:
                chain.forked = True
                chain.warnings.append(f"{name}: snapshot {sequence} does not follow snapshot {sequence - 1}")
            jump = judge(record, past)
            if jump is not None:
                chain.jumps[hash] = jump
                if sequence >= recent and is_news(jump, past):
                    chain.warnings.append(f"{name}: snapshot {sequence} {jump_text(jump)}")
            past.add(record, hash, jump)
        last = sequence
    return chain


def jump_text(jump: Jump) -> str:
    """What a jump is, behind "snapshot N"."""
    match jump.kind:
        case JumpKind.STATE_LOST:
            return "was made by a machine without its state"
        case JumpKind.NOT_KEPT:
            return f"was made by a machine that could not write its state since snapshot {jump.reached}"
        case JumpKind.UNKNOWN:
            return (
                f"was made by a machine that remembered one that is not shown ({jump.remembered.hex()[:16]}): the "
                "server was put back to an older state, or withholds it"
            )
        case JumpKind.WENT_BACK:
            return f"was made by a machine that had fallen back to snapshot {jump.reached}: its disk went back in time"
        case JumpKind.ALTERNATES:
            return (
                f"was made by a machine that came back with snapshot {jump.reached}, others having gone on elsewhere: "
                "it was cloned, or its disk keeps falling back"
            )
