"""The newest that was ever seen: of each machine its head, of book and ledger too. Nothing older is taken silently.

One small JSON file (heads.json), written durably before anything that depends on it is done. Losing it costs the
protection, not the backups: then whatever is shown first is taken, and its date is printed. An older state that the
user takes (--allow-older) is the newest from then on; what was given up for it is remembered beside it.
"""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mastodon.host.durable import write_file
from mastodon.restore.errors import RestoreError, WentBack
from mastodon.restore.history import History, show_time
from mastodon.sealed.ledger_head import went_on

LIMIT = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class SeenHead:
    """A machine's newest snapshot as it was seen at ``seen_ns``."""

    sequence: int
    hash: bytes
    seen_ns: int

    def to_json(self) -> dict[str, Any]:
        """As it stands in the file."""
        return {"sequence": self.sequence, "hash": self.hash.hex(), "seen_ns": self.seen_ns}

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> "SeenHead":
        """As it stood in the file."""
        return cls(int(fields["sequence"]), bytes.fromhex(fields["hash"]), int(fields["seen_ns"]))


@dataclass(frozen=True, slots=True)
class SeenBook:
    """The newest version of the book, by its record hash."""

    version: int
    hash: bytes


class Memory:
    """heads.json of one admin's home; ``path`` None remembers nothing."""

    def __init__(self, path: Path | None, clock_ns: Callable[[], int] = time.time_ns) -> None:
        self._path = path
        self._clock_ns = clock_ns
        self._machines: dict[bytes, SeenHead] = {}
        self._given_up: dict[bytes, SeenHead] = {}
        self._book: SeenBook | None = None
        self._book_floor = 0
        self._ledger = b""
        if path is not None and path.exists():
            self._read(path)

    def head(self, machine: bytes) -> SeenHead | None:
        """The newest head seen of a machine."""
        return self._machines.get(machine)

    @property
    def book(self) -> SeenBook | None:
        """The newest book seen."""
        return self._book

    def given_up(self, machine: bytes) -> SeenHead | None:
        """A newer head that was seen once, before the user took an older state."""
        return self._given_up.get(machine)

    def against(self, machine: bytes, history: History) -> str:
        """What is wrong with a history that lacks the newest head that was seen; empty when nothing is."""
        seen = self._machines.get(machine)
        if seen is None:
            return ""
        when = show_time(seen.seen_ns)
        newest = history.newest.record.sequence if history.newest else 0
        if newest < seen.sequence:
            shown = f"snapshot {newest} as the newest" if newest else "no snapshot"
            return f"{shown} is shown, but snapshot {seen.sequence} was seen on {when}: newer ones are withheld or lost"
        same = {one.hash for one in history.snapshots if one.record.sequence == seen.sequence}
        if not same:
            return f"snapshot {seen.sequence}, seen on {when}, is not shown any more: it is withheld or lost"
        if seen.hash not in same:
            return f"another snapshot {seen.sequence} is shown than was seen on {when}: the history was exchanged"
        return ""

    def learn_head(self, machine: bytes, sequence: int, digest: bytes) -> None:
        """A head that another device has seen, from the book."""
        seen, given_up = self._machines.get(machine), self._given_up.get(machine)
        if given_up is not None and sequence <= given_up.sequence:
            return
        if seen is None or sequence > seen.sequence:
            self._machines[machine] = SeenHead(sequence, digest, self._clock_ns())
            self._write()

    def take_older(self, machine: bytes, history: History) -> None:
        """The user takes what is shown, though it is older or another than what was seen."""
        seen = self._machines.pop(machine, None)
        before = self._given_up.get(machine)
        if seen is not None and (before is None or seen.sequence > before.sequence):
            self._given_up[machine] = seen
        self._write()
        self.remember(machine, history)

    def remember(self, machine: bytes, history: History) -> None:
        """Note the newest head, durably, if it is newer than what was seen."""
        newest = history.newest
        if newest is None:
            return
        given_up = self._given_up.get(machine)
        if given_up is not None and any(one.hash == given_up.hash for one in history.snapshots):
            del self._given_up[machine]
            self._write()
        floor = max(one.record.book_version for one in history.snapshots)
        if floor > self._book_floor:
            self._book_floor = floor
            self._write()
        seen = self._machines.get(machine)
        if seen is None or newest.record.sequence > seen.sequence:
            self._machines[machine] = SeenHead(newest.record.sequence, newest.hash, self._clock_ns())
            self._write()

    def check_book(self, version: int, digest: bytes, previous: bytes) -> None:
        """Raise WentBack for a book that is older than the newest seen, or of another history."""
        seen = self._book
        if version < self._book_floor:
            raise WentBack(
                f"book version {version} is shown, but a machine has obeyed an order made under version "
                f"{self._book_floor}: the server went back"
            )
        if seen is None:
            return
        if version < seen.version:
            raise WentBack(f"book version {version} is shown, but {seen.version} was seen: the server went back")
        if version == seen.version and digest != seen.hash:
            raise WentBack(f"another book version {version} is shown than was seen: the book was exchanged")
        if version == seen.version + 1 and previous != seen.hash:
            raise WentBack(f"book version {version} does not follow the version {seen.version} that was seen")

    def remember_book(self, version: int, digest: bytes) -> None:
        """Note a book, durably."""
        if self._book is None or version > self._book.version:
            self._book = SeenBook(version, digest)
            self._write()

    def see_ledger(self, head: bytes, *, take: bool = False) -> bool:
        """Whether the server's signed ledger head is as new as the one it showed before; then, or with ``take``, it is
        noted, durably."""
        is_newer = went_on(self._ledger, head)
        if head != self._ledger and (is_newer or take):
            self._ledger = head
            self._write()
        return is_newer

    def _read(self, path: Path) -> None:
        try:
            data = path.read_bytes()
            if len(data) > LIMIT:
                raise ValueError("too large")
            content = json.loads(data)
            self._machines = _heads(content["machines"])
            self._given_up = _heads(content.get("given_up", {}))
            self._book_floor = int(content.get("book_floor", 0))
            self._ledger = bytes.fromhex(content.get("ledger", ""))
            book = content.get("book")
            if book:
                self._book = SeenBook(int(book["version"]), bytes.fromhex(book["hash"]))
        except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
            raise RestoreError(
                f"{path} cannot be read ({error}). It remembers the newest snapshots seen; if it is lost for good, "
                "remove it: then what the server shows next is taken as the newest"
            ) from None

    def _write(self) -> None:
        if self._path is None:
            return
        content: dict[str, Any] = {
            "machines": {machine.hex(): head.to_json() for machine, head in self._machines.items()}
        }
        if self._given_up:
            content["given_up"] = {machine.hex(): head.to_json() for machine, head in self._given_up.items()}
        if self._book_floor:
            content["book_floor"] = self._book_floor
        if self._ledger:
            content["ledger"] = self._ledger.hex()
        if self._book is not None:
            content["book"] = {"version": self._book.version, "hash": self._book.hash.hex()}
        write_file(self._path, json.dumps(content, indent=1, sort_keys=True).encode() + b"\n")


def _heads(fields: dict[str, Any]) -> dict[bytes, SeenHead]:
    return {bytes.fromhex(machine): SeenHead.from_json(head) for machine, head in fields.items()}
