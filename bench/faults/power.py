"""What a loss of power leaves: of what was not synced, some is there, some is not, some is torn.

After a watched program was killed, ``lose`` reads its journal and takes back at random: names (made, renamed, removed)
from a point on that lies behind the directory's last fsync; bytes that were written after their file's last fsync are
cut off, zeroed or garbled. What was synced stays. That is more than most file systems ever do, and what POSIX allows.
"""

import contextlib
import os
import random
import shutil
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.faults.steps import read_journal

BLOCK = 512


@dataclass(slots=True)
class _Pending:
    """What is not synced: names by directory, in order; and by inode from where on bytes are not."""

    names: dict[str, list[tuple[int, tuple[Any, ...]]]] = field(default_factory=dict)
    bytes: dict[int, int] = field(default_factory=dict)


def lose(journal: Path, below: Iterable[Path], rng: random.Random) -> list[str]:
    """Take back, and tear; what was done, in words."""
    pending = _pending(journal)
    said = _tear(pending.bytes, below, rng)
    undone: list[tuple[int, tuple[Any, ...]]] = []
    for names in pending.names.values():
        undone += names[rng.randrange(len(names) + 1) :] if rng.random() < 0.7 else []
    for _, entry in sorted(undone, reverse=True):
        with contextlib.suppress(OSError):
            said.append(_undo(entry))
    return said


def tear_file(path: Path, good: int, rng: random.Random) -> str:
    """Tear what lies behind the first ``good`` bytes; how, in words."""
    size = path.stat().st_size
    if size <= good:
        return f"{path.name}: nothing to tear"
    at = rng.randrange(good, size)
    how = rng.choice(("cut", "zeros", "garbage", "block"))
    with path.open("r+b") as file:
        if how == "cut":
            file.truncate(at)
        elif how == "block":  # the size is there, the blocks of the end are not
            at = max(good, at - at % BLOCK)
            file.seek(at)
            file.write(bytes(size - at))
        else:
            file.seek(at)
            file.write(bytes(size - at) if how == "zeros" else rng.randbytes(size - at))
    return f"{path.name}: {how} from {at} of {size}, synced {good}"


def tear_catalogue(path: Path, rng: random.Random) -> str:
    """What a loss of power does to a database in WAL mode whose commits are not synced: its log's end is torn."""
    log = Path(f"{path}-wal")
    Path(f"{path}-shm").unlink(missing_ok=True)
    if not log.exists() or not log.stat().st_size:
        return "no log of the catalogue"
    if rng.random() < 0.2:
        log.unlink()
        return f"{log.name}: gone"
    return tear_file(log, 0 if rng.random() < 0.3 else max(0, log.stat().st_size - 4 * 4120), rng)


def _pending(journal: Path) -> _Pending:
    pending = _Pending()
    for number, entry in enumerate(read_journal(journal)):
        what = entry[0]
        if what == "write":
            _, inode, start = entry
            pending.bytes[inode] = min(start, pending.bytes.get(inode, start))
        elif what == "sync":
            pending.bytes.pop(entry[1], None)
        elif what == "syncdir":
            pending.names.pop(entry[1], None)
        else:
            name = entry[2] if what == "rename" else entry[1]
            pending.names.setdefault(os.path.dirname(name), []).append((number, entry))
    return pending


def _tear(unsynced: dict[int, int], below: Iterable[Path], rng: random.Random) -> list[str]:
    said = []
    for top in below:
        for folder, _, names in os.walk(top):
            for name in sorted(names):
                path = Path(folder, name)
                start = unsynced.get(os.lstat(path).st_ino)
                if start is not None and path.is_file() and rng.random() < 0.8:
                    said.append(tear_file(path, start, rng))
    return said


def _undo(entry: tuple[Any, ...]) -> str:
    what, path = entry[0], entry[1]
    if what == "make":
        shutil.rmtree(path) if os.path.isdir(path) and not os.path.islink(path) else os.unlink(path)
        return f"{path}: was never made"
    if what == "unlink":
        if entry[2] and not os.path.lexists(path):
            os.link(entry[2], path)
        return f"{path}: was never removed"
    _, source, target, kept = entry
    if source:
        os.rename(target, source)
    if kept:
        os.link(kept, target)
    return f"{target}: was never renamed from {os.path.basename(source)}"
