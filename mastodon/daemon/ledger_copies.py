"""At start: the copies of the chain on all spools are compared, and made the same again.

Promises: a copy is only ever made longer, or relieved of a torn tail that was never acknowledged (what is cut off is
kept beside it); a copy that is damaged, forks from the others, or went back in time is left as it is, and its spool
stays offline with the reason.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass

from twisted.logger import Logger

from mastodon.daemon.spool import Spool
from mastodon.daemon.spools import AGAIN, SpoolMemory
from mastodon.host.durable import AppendFile, DiskError, write_file
from mastodon.host.ledger_reader import ChainReader, Tail
from mastodon.host.spool_layout import LEDGER, chain_directory, chains, segments
from mastodon.sealed.errors import FormatError
from mastodon.sealed.ledger import GENESIS, Head
from mastodon.sealed.ledger_entries import ChainStarted

log = Logger()


@dataclass(frozen=True, slots=True)
class Copy:
    """One spool's copy; ``fits`` that it bears the signed head."""

    spool: Spool
    tail: Tail
    fits: bool


@dataclass(frozen=True, slots=True)
class Joined:
    """The copies after they were made the same: the head, the spools, and whether the signed head is borne."""

    head: Head
    spools: tuple[Spool, ...]
    fits: bool


def find_chain(spools: Sequence[Spool], ledger_key: bytes, signed: Head | None = None) -> tuple[bytes | None, bool]:
    """The daemon's chain, None when there is none yet; and whether it was begun under ``ledger_key``.

    Of several under that key it is the one that was ``signed`` last: a spool from before the ledger was begun anew may
    come back.
    A chain under another key is taken only where it is the only one: the state was lost, the operator confirms.
    """
    found: dict[bytes, bool] = {}
    for spool in spools:
        for chain in chains(spool.path):
            mine = _begun_under(spool, chain, ledger_key)
            if mine is not None:
                found[chain] = found.get(chain, False) or mine
    mine_only = [chain for chain, mine in found.items() if mine]
    if mine_only:
        return (signed.chain if signed is not None and signed.chain in mine_only else mine_only[0]), True
    return (next(iter(found)), False) if len(found) == 1 else (None, not found)


def _begun_under(spool: Spool, chain: bytes, ledger_key: bytes) -> bool | None:
    try:
        for entry, _ in ChainReader(chain, segments(spool.path, chain)[:1]).entries():
            return isinstance(entry.body, ChainStarted) and entry.body.ledger_key == ledger_key
    except (FormatError, OSError):
        return None
    return None


def join_copies(spools: Sequence[Spool], chain: bytes, memory: SpoolMemory, signed: Head | None) -> Joined:
    """Compare and complete the copies; spools whose copy is not trusted get their reason and are left out."""
    copies = [copy for spool in spools if (copy := _look(spool, chain, memory, signed)) is not None]
    if not copies:
        return Joined(Head(chain, 0, GENESIS), (), signed is None)
    leader = max(copies, key=lambda copy: (copy.fits, copy.tail.head.sequence))
    sound = _same_chain(leader, copies, chain)
    for copy in sound:
        try:
            _cut_torn_tail(copy)
        except (DiskError, OSError) as error:
            copy.spool.offline = f"the ledger's torn tail cannot be cut off: {error}"
    if leader.spool.offline:
        return join_copies([copy.spool for copy in sound if copy.spool.online], chain, memory, signed)
    for copy in sound:
        try:
            if copy is not leader and copy.spool.online:
                _complete(copy, leader, chain)
        except (DiskError, OSError) as error:
            copy.spool.offline = f"the ledger cannot be completed: {error}"
    return Joined(leader.tail.head, tuple(copy.spool for copy in sound if copy.spool.online), leader.fits)


def _look(spool: Spool, chain: bytes, memory: SpoolMemory, signed: Head | None) -> Copy | None:
    known = memory.spools.get(spool.uuid)
    floor = known.sequence if known else 0
    reader = ChainReader(chain, segments(spool.path, chain), floor)
    fits = signed is None or (signed.chain == chain and signed.sequence == 0)
    try:
        for _, head in reader.entries():
            fits = fits or head == signed
    except (FormatError, OSError) as error:
        spool.offline = f"its ledger is damaged: {error}"
        return None
    if reader.tail.head.sequence < floor:
        spool.offline = (
            f"{spool.path} went back in time: its ledger ends at {reader.tail.head.sequence}, "
            f"but {floor} is remembered: {AGAIN}"
        )
        return None
    spool.offline = ""
    return Copy(spool, reader.tail, fits)


def _same_chain(leader: Copy, copies: Sequence[Copy], chain: bytes) -> list[Copy]:
    """The copies that the leader's continues. Reads the leader's once more, when there are others."""
    waiting: dict[int, list[Copy]] = {}
    for copy in copies:
        if copy is not leader and copy.tail.head.sequence:
            waiting.setdefault(copy.tail.head.sequence, []).append(copy)
    forked = {id(copy): copy for group in waiting.values() for copy in group}
    if waiting:
        for _, head in ChainReader(chain, segments(leader.spool.path, chain)).entries():
            for copy in waiting.get(head.sequence, ()):
                if copy.tail.head == head:
                    del forked[id(copy)]
    for copy in forked.values():
        copy.spool.offline = f"{copy.spool.path}: its ledger forks from that of {leader.spool.path}"
    return [copy for copy in copies if id(copy) not in forked]


def _cut_torn_tail(copy: Copy) -> None:
    tail = copy.tail
    if not tail.torn or tail.segment is None:
        return
    data = tail.segment.read_bytes()
    log.warn(
        "{path}: {n} bytes behind entry {sequence} are torn: cut off, and kept beside it",
        path=tail.segment, n=len(data) - tail.valid_length, sequence=tail.head.sequence,
    )  # fmt: skip
    cut = tail.segment.with_name(f"{tail.segment.stem}.cut-after-{tail.head.sequence}")
    write_file(cut, data[tail.valid_length :], disk=copy.spool.disk)
    if tail.valid_length:
        write_file(tail.segment, data[: tail.valid_length], disk=copy.spool.disk)
    else:
        copy.spool.disk.unlink(os.fspath(tail.segment))


def _complete(copy: Copy, leader: Copy, chain: bytes) -> None:
    """Append what the leader's segments have more. They are the same bytes up to there: the hashes said so."""
    copy.spool.directory(f"{LEDGER}/{chain.hex()}")
    directory = chain_directory(copy.spool.path, chain)
    for segment in segments(leader.spool.path, chain):
        target = directory / segment.name
        have = target.stat().st_size if target.exists() else 0
        if have >= segment.stat().st_size:
            continue
        data = segment.read_bytes()
        if have == 0:
            write_file(target, data, disk=copy.spool.disk)
            continue
        with AppendFile(target, disk=copy.spool.disk) as file:
            file.append(data[have:])
            file.sync()
