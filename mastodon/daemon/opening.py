"""From configured directories to a store that can be used: spools looked at, ledger joined, catalogue made to agree.

The order follows from what must never happen. Nothing is written before the markers and every copy of the ledger were
read. The catalogue is never believed against the ledger: one that is damaged, or knows what the ledger does not, is
made anew. A ledger that does not bear the head that was signed last keeps the store locked.
"""

import fcntl
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from twisted.logger import Logger

from mastodon.catalogue.interface import Catalogue, CatalogueDamaged
from mastodon.catalogue.rebuild import Differences, OtherChain, compare_packs, follow_ledger
from mastodon.daemon.acks import InThread
from mastodon.daemon.errors import StoreError
from mastodon.daemon.heads import HeadsFile
from mastodon.daemon.ledger_copies import find_chain, join_copies
from mastodon.daemon.spool import Spool
from mastodon.daemon.spools import Spools
from mastodon.host.durable import DiskError
from mastodon.host.ledger_reader import ChainReader
from mastodon.host.spool_layout import segments
from mastodon.sealed.ledger import GENESIS, Head
from mastodon.sealed.ledger_head import CHAIN_LENGTH

LOCK = "lock"
CATALOGUE = "catalogue.sqlite"
log = Logger()


class StateLock:
    """Only one program at a time has a state directory open, and the spools that it uses."""

    def __init__(self, state: Path) -> None:
        state.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._descriptors = [os.open(state / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)]
        try:
            fcntl.flock(self._descriptors[0], fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self.release()
            raise StoreError(f"{state} is in use: a daemon or another mastodon command is running") from None

    def take(self, spool: Path) -> bool:
        """Whether no other daemon uses this spool: one with a copy of the configuration and a state of its own would
        sweep away what is being received, and fork the ledger. Where a file system has no such locks, trust is all."""
        try:
            descriptor = os.open(spool, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            self._descriptors.append(descriptor)
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError as error:
            log.warn("{spool}: cannot be locked: {reason}", spool=spool, reason=error.strerror)
        return True

    def release(self) -> None:
        """Let others in."""
        descriptors, self._descriptors = self._descriptors, []
        for descriptor in descriptors:
            os.close(descriptor)


@dataclass(frozen=True, slots=True)
class OpenedLedger:
    """Where the chain stands. ``fresh`` that it has no entry yet; ``locked`` says why credentials stay disabled."""

    head: Head
    fresh: bool
    locked: str


def open_spools(
    spools: Spools, heads: HeadsFile, random: Callable[[int], bytes], lock: StateLock
) -> OpenedLedger:
    """Look at every spool, join the ledger, take the good spools into use; in a thread. Raises StoreError."""
    good = [spool for spool in spools.look() if _is_free(spool, lock)]
    signed = heads.read()
    chain, mine = find_chain(good, heads.public_key, signed)
    if chain is None and not mine:
        raise StoreError("the spools hold ledgers of several other daemons, and none of this one")
    if chain is None and signed is not None and signed.sequence:
        _demand_spools(spools, good)
        raise StoreError(
            f"no spool holds the ledger {signed.chain.hex()}, which this daemon wrote: mount its spools "
            f"(to begin anew without what they hold, remove {heads.path})"
        )
    fresh = chain is None
    if chain is None:
        chain = signed.chain if signed is not None else random(CHAIN_LENGTH)
    joined = join_copies(good, chain, spools.memory, signed)
    _demand_spools(spools, joined.spools)
    _adopt(spools, joined.spools)
    _demand_spools(spools, spools.online)
    spools.memory.write(spools.online, joined.head.sequence)
    if fresh and signed is None:
        # Before the first entry: a crash behind it must not look like a ledger without its signed head.
        heads.write(Head(chain, 0, GENESIS), 0)
        return OpenedLedger(joined.head, True, "")
    return OpenedLedger(joined.head, not joined.head.sequence, _why_locked(joined.head, joined.fits, mine, signed))


def head_text(head: Head) -> str:
    """A head as the operator confirms it."""
    return f"{head.sequence}:{head.hash.hex()}"


def _why_locked(head: Head, fits: bool, mine: bool, signed: Head | None) -> str:
    if not head.sequence or (fits and mine and signed is not None):
        return ""
    if signed is None or not mine:
        why = "no head signed by this daemon's ledger key vouches for the ledger"
    else:
        why = f"the ledger does not bear the head that was signed last ({head_text(signed)})"
    return (
        f"{why}: credentials stay disabled. Compare with the newest head that your clients remember, stop the daemon, "
        f"then run: mastodon rebuild --confirm {head_text(head)}"
    )


def _is_free(spool: Spool, lock: StateLock) -> bool:
    if lock.take(spool.path):
        return True
    spool.offline = f"{spool.path} is in use by another daemon: stop that one, or give each spools of its own"
    return False


def _demand_spools(spools: Spools, good: object) -> None:
    if not good:
        reasons = "; ".join(spool.offline for spool in spools.all)
        raise StoreError(f"no spool can be used: {reasons}")


def _adopt(spools: Spools, good: tuple[Spool, ...]) -> None:
    uuids = tuple(sorted(spool.uuid for spool in good))
    for spool in good:
        try:
            spool.adopt(tuple(uuid for uuid in uuids if uuid != spool.uuid))
        except (DiskError, OSError) as error:
            spool.offline = f"{spool.path}: cannot be written: {error}"
    for spool in spools.all:
        if spool.online and spool not in good:
            spool.offline = "its ledger was not joined"


async def open_catalogue(
    make: Callable[[], Catalogue], remove: Callable[[], None], spools: Spools, head: Head, in_thread: InThread
) -> tuple[Catalogue, int]:
    """The catalogue, agreeing with the ledger; and the time of the ledger's last entry."""
    catalogue = make()
    try:
        applied = await catalogue.open()
        if applied is not None and (applied.chain != head.chain or applied.sequence > head.sequence):
            raise OtherChain("the catalogue knows what the ledger does not")
        return catalogue, await follow_ledger(catalogue, _entries(spools, head), applied, in_thread)
    except (CatalogueDamaged, OtherChain) as error:
        log.warn("the catalogue is made anew from the spools: {reason}", reason=str(error))
    await catalogue.close()
    remove()
    catalogue = make()
    await catalogue.open()
    return catalogue, await follow_ledger(catalogue, _entries(spools, head), None, in_thread)


def _entries(spools: Spools, head: Head):  # type: ignore[no-untyped-def]
    return ChainReader(head.chain, segments(spools.online[0].path, head.chain)).entries()


async def compare_all(catalogue: Catalogue, spools: Spools, in_thread: InThread) -> list[tuple[Spool, Differences]]:
    """Take in what lies on the spools, and note what is gone."""
    return [
        (spool, await compare_packs(catalogue, spool.uuid, spool.path, in_thread)) for spool in spools.online
    ]
