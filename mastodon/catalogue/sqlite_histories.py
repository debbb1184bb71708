"""Jumps in the SQLite catalogue: what the rule about a machine's memory (sealed/jump.py) asks, and what it found."""

import sqlite3
from collections.abc import Sequence
from typing import Any

from mastodon.catalogue.interface import Judgement
from mastodon.sealed.jump import Jump, JumpKind, ends_fork, is_news, judge
from mastodon.sealed.snapshot import SnapshotRecord


class _Past:
    """A machine's snapshots up to the newest; ``number`` is the machine's in the catalogue."""

    def __init__(self, db: sqlite3.Connection, number: int) -> None:
        self._db = db
        self._number = number

    def sequence_of(self, hash: bytes) -> int:
        """The sequence of the snapshot with that record hash, 0 for none."""
        row = self._one("SELECT sequence FROM snapshots WHERE machine = ? AND hash = ?", hash)
        return int(row[0]) if row else 0

    def newest(self) -> SnapshotRecord | None:
        """The snapshot that the next one follows."""
        row = self._one("SELECT record FROM snapshots WHERE machine = ? ORDER BY sequence DESC LIMIT 1")
        return SnapshotRecord.read_unverified(row[0]) if row else None

    def jumps_since(self, sequence: int) -> Sequence[Jump]:
        """The jumps from a sequence on."""
        rows = self._db.execute(
            "SELECT sequence, remembered, kind, reached FROM jumps WHERE machine = ? AND sequence >= ?",
            (self._number, sequence),
        )
        return [Jump(sequence, remembered, JumpKind(kind), reached) for sequence, remembered, kind, reached in rows]

    def is_jump(self, sequence: int) -> bool:
        """Whether the snapshot with that sequence is one."""
        return self._one("SELECT 1 FROM jumps WHERE machine = ? AND sequence = ?", sequence) is not None

    def has_jump_to(self, remembered: bytes) -> bool:
        """Whether the machine of any jump remembered this snapshot."""
        return self._one("SELECT 1 FROM jumps WHERE machine = ? AND remembered = ? LIMIT 1", remembered) is not None

    def _one(self, query: str, *values: bytes | int) -> tuple[Any, ...] | None:
        row: tuple[Any, ...] | None = self._db.execute(query, (self._number, *values)).fetchone()
        return row


def judge_next(db: sqlite3.Connection, machine: bytes, snapshot: SnapshotRecord) -> Judgement:
    """What a snapshot that is about to be committed is."""
    row = db.execute("SELECT number FROM machines WHERE machine = ?", (machine,)).fetchone()
    if row is None:
        return Judgement()
    past = _Past(db, row[0])
    jump = judge(snapshot, past)
    if jump is None:
        return Judgement(ends_fork=ends_fork(snapshot.sequence, past))
    return Judgement(jump, is_news(jump, past))


def note_jump(db: sqlite3.Connection, number: int, snapshot: SnapshotRecord) -> None:
    """Keep what a committed snapshot is; to be called before it is among the others."""
    jump = judge(snapshot, _Past(db, number))
    if jump is not None:
        db.execute(
            "INSERT OR IGNORE INTO jumps VALUES (?,?,?,?,?)",
            (number, jump.sequence, jump.remembered, int(jump.kind), jump.reached),
        )
