"""Makes the catalogue agree with the spools: the whole way from nothing, or the few steps since it was last open.

Promises (P10): what stands in the ledger and in the packs is all that is needed; packs that are known are not read
again, only their names are compared; a pack that is gone is marked lost, so that its blobs are asked for anew; a file
that is no sound pack of a known machine is left where it is, reported, and not counted.
"""

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred

from mastodon.catalogue.interface import Catalogue, StoredPack
from mastodon.host.spool_layout import pack_days, packs_of_day
from mastodon.sealed.errors import FormatError
from mastodon.sealed.ledger import Head, LedgerEntry
from mastodon.sealed.pack import HEAD, PACK_LIMIT, Pack, parse_pack
from mastodon.sealed.run import verify_run

ENTRIES_AT_ONCE = 500
InThread = Callable[..., "Deferred[Any]"]


class OtherChain(Exception):
    """The catalogue was made from another chain, or from entries that the ledger does not have."""


@dataclass(slots=True)
class Differences:
    """What was found when packs on a spool and catalogue were compared."""

    added: int = 0
    lost: list[bytes] = field(default_factory=list)
    found: list[bytes] = field(default_factory=list)
    strange: list[tuple[Path, str]] = field(default_factory=list)


async def follow_ledger(
    catalogue: Catalogue, entries: Iterable[tuple[LedgerEntry, Head]], applied: Head | None, in_thread: InThread
) -> int:
    """Apply what the catalogue does not know yet; the time of the last entry, 0 for none.

    Raises OtherChain when the catalogue knows what the ledger does not.
    """
    known = applied is None
    last_ns = 0
    iterator = iter(entries)
    while batch := await in_thread(lambda: list(islice(iterator, ENTRIES_AT_ONCE))):
        known = known or any(head == applied for _, head in batch)
        last_ns = max(last_ns, *(entry.time_ns for entry, _ in batch))
        await catalogue.apply(batch)
    if not known and applied is not None and applied.sequence:
        raise OtherChain("the catalogue is not derived from this ledger")
    return last_ns


async def compare_packs(catalogue: Catalogue, spool: bytes, root: Path, in_thread: InThread) -> Differences:
    """Take in the packs of a spool that the catalogue does not know, and mark those that are gone."""
    differences = Differences()
    days = set(await in_thread(pack_days, root)) | set(await catalogue.days(spool))
    for day in sorted(days):
        there: dict[bytes, Path] = await in_thread(lambda day=day: dict(packs_of_day(root, day)))
        known = await catalogue.packs_of_day(spool, day)
        gone = sorted(known.there - there.keys())
        back = sorted(known.lost & there.keys())
        if gone:
            await catalogue.set_lost(spool, day, gone, True)
            differences.lost += gone
        if back:
            await catalogue.set_lost(spool, day, back, False)
            differences.found += back
        for pack, path in there.items():
            if pack not in known.there and pack not in known.lost:
                await _take_in(catalogue, spool, day, path, in_thread, differences)
    return differences


async def _take_in(
    catalogue: Catalogue, spool: bytes, day: str, path: Path, in_thread: InThread, differences: Differences
) -> None:
    try:
        pack, size, modified_ns = await in_thread(read_pack, path)
        account = await catalogue.account(pack.machine)
        if account is None:
            raise FormatError("a pack of a machine that the ledger does not know")
        pairs = await in_thread(_verify_runs, pack, account.public_key)
        for pair in set(pairs.values()):
            if not (await catalogue.pair(pack.machine, pair, 0, 0)).known:
                raise FormatError("a run was sealed to a pair that the ledger does not know")
    except (FormatError, OSError) as error:
        differences.strange.append((path, str(error)))
        return
    others = await catalogue.add_pack(StoredPack(pack, pairs, spool, day, size, modified_ns))
    differences.added += 1
    if others:
        differences.strange.append((path, f"{len(others)} blobs with another header than their first sealing"))


def read_pack(path: Path) -> tuple[Pack, int, int]:
    """The verified pack in a file that bears its id as name, its size and time. Raises FormatError or OSError."""
    with open(path, "rb") as file:
        stat = os.fstat(file.fileno())
        data = file.read(PACK_LIMIT + 1)
    if len(data) < HEAD.size:
        raise FormatError("cut short")
    pack = parse_pack(data, HEAD.unpack_from(data)[7])
    if pack.id.hex() != path.stem:
        raise FormatError("the file's name is not the pack's id")
    return pack, len(data), stat.st_mtime_ns


def _verify_runs(pack: Pack, public_key: bytes) -> dict[bytes, bytes]:
    return {run: verify_run(record, pack.machine, public_key).pair for run, record in pack.runs.items()}
