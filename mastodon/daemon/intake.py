"""What all packs on their way in share: the spools, the threads, and the ids that are being taken in.

Promises: two packs in flight never bring the same id; memory is bounded, since a machine whose packs the catalogue has
not taken in yet waits before its next one is verified; an ack never waits for the catalogue itself.
"""

import mmap
from collections.abc import Callable, Sequence
from pathlib import Path

from twisted.internet.defer import Deferred, DeferredSemaphore
from twisted.logger import Logger
from twisted.python.failure import Failure

from mastodon.catalogue.interface import Account, Catalogue, StoredPack
from mastodon.daemon.acks import DirectorySyncs, InThread
from mastodon.daemon.errors import Disabled, NotFound, PackRefused, Unavailable
from mastodon.daemon.events import EventCode
from mastodon.daemon.places import Places
from mastodon.daemon.spool import Spool
from mastodon.daemon.spools import Spools
from mastodon.host.durable import Disk, DiskError
from mastodon.sealed.errors import FormatError
from mastodon.sealed.ledger_entries import MachineState
from mastodon.sealed.pack import Origin, Pack, parse_pack
from mastodon.sealed.pair import PairRecord
from mastodon.sealed.run import verify_run

NAMED = 1024
"""Offending ids that one refusal names."""
INSERTIONS_OUTSTANDING = 8
VERIFICATIONS_AT_ONCE = 4

Record = Callable[[EventCode, bytes, str], "Deferred[None]"]


class Intake:
    """Lives in the reactor's thread; its slow parts run through ``in_thread``."""

    log = Logger()

    def __init__(
        self, spools: Spools, catalogue: Catalogue, in_thread: InThread, now_ns: Callable[[], int],
        spool_failed: Callable[[Spool, str], None], record: Record,
    ) -> None:  # fmt: skip
        self.spools = spools
        self.catalogue = catalogue
        self.in_thread = in_thread
        self.now_ns = now_ns
        self.spool_failed = spool_failed
        self.record = record
        self.syncs = DirectorySyncs(in_thread)
        self.verifying = Places(VERIFICATIONS_AT_ONCE)
        self._room: dict[bytes, DeferredSemaphore] = {}
        self._ids: dict[bytes, set[bytes]] = {}
        self._packs: dict[tuple[bytes, bytes], Deferred[None]] = {}
        self._newest: dict[bytes, bytes] = {}
        self._inserting: dict[bytes, int] = {}

    def room(self, machine: bytes) -> DeferredSemaphore:
        """A token for each pack of a machine between verification and catalogue."""
        return self._room.setdefault(machine, DeferredSemaphore(INSERTIONS_OUTSTANDING))

    def is_behind(self, machine: bytes) -> bool:
        """Whether the catalogue has not taken in all of the machine's acknowledged packs yet."""
        return self._inserting.get(machine, 0) > 0

    async def has_pack(self, machine: bytes, pack: bytes) -> bool:
        """Whether this pack of the machine's was acknowledged before."""
        return (machine, pack) in self._packs or await self.catalogue.has_pack(machine, pack)

    def claim(self, pack: Pack) -> tuple[bytes, ...]:
        """Take the pack's ids for it; gives those that another pack in flight has, and then takes none."""
        taken = self._ids.setdefault(pack.machine, set())
        ids = [one.header.id for one in pack.blobs]
        both = tuple(one for one in ids if one in taken)
        if not both:
            taken.update(ids)
        return both

    def release(self, pack: Pack) -> None:
        """The pack's ids are in the catalogue, or were refused."""
        taken = self._ids.get(pack.machine, set())
        taken.difference_update(one.header.id for one in pack.blobs)
        if not taken:
            self._ids.pop(pack.machine, None)

    async def writer_account(self, machine: bytes) -> Account:
        """The account, if it may append. Raises NotFound or Disabled."""
        account = await self.catalogue.account(machine)
        if account is None:
            raise NotFound("unknown machine")
        if account.state is not MachineState.ACTIVE:
            raise Disabled(f"this machine may not append: it is {account.state.name.lower()}")
        return account

    def insert(self, stored: StoredPack) -> None:
        """Queue a durable pack for the catalogue; its ids and its token are let go when it is there."""
        machine, pack = stored.pack.machine, stored.pack
        self._inserting[machine] = self._inserting.get(machine, 0) + 1
        inserted = self._packs[machine, pack.id] = Deferred()
        self._newest[machine] = pack.id

        def done(result: "tuple[bytes, ...] | Failure") -> None:
            self.release(pack)
            self._packs.pop((machine, pack.id), None)
            self._inserting[machine] -= 1
            if not self._inserting[machine]:
                del self._inserting[machine], self._newest[machine]
            self.room(machine).release()
            if isinstance(result, Failure):
                # The pack lies on its spool: the next start takes it in.
                self.log.failure("the catalogue did not take pack {pack}", result, pack=pack.id.hex())
            inserted.callback(None)

        self.catalogue.add_pack(stored).addBoth(done)

    async def settled(self, machine: bytes) -> None:
        """Wait until the catalogue has taken in the machine's packs that are acknowledged now: it keeps their order."""
        newest = self._packs.get((machine, self._newest.get(machine, b"")))
        if newest is not None:
            await _following(newest)

    async def drain(self) -> None:
        """Wait until the catalogue has taken in every acknowledged pack."""
        while self._packs:
            await _following(next(iter(self._packs.values())))


def _following(shared: "Deferred[None]") -> "Deferred[None]":
    """Fires behind a Deferred that several wait for, whose result stays what it was."""
    own: Deferred[None] = Deferred()
    shared.addCallback(own.callback)
    return own


def verify_pack(path: Path, pack_id: bytes, account: Account) -> tuple[Pack, dict[bytes, bytes], int]:
    """Structure, checksum, owner, runs and their pair, of a pack in a file; done in a thread.

    Gives the pack, its runs' pairs, and its size. Raises PackRefused.
    """
    if not account.pair:
        raise PackRefused("there is no sealing pair yet: send it first")
    current = PairRecord.read_unverified(account.pair).pair
    try:
        with open(path, "rb") as file:
            # Never closed by hand: an error's traceback may still look into it.
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        size = len(mapped)
        pack = parse_pack(memoryview(mapped), account.machine)
        runs = {run: verify_run(record, account.machine, account.public_key) for run, record in pack.runs.items()}
    except FormatError as error:
        raise PackRefused(str(error)) from None
    if pack.id != pack_id:
        raise PackRefused("the pack is not the one that was announced")
    if pack.origin is not Origin.AGENT:
        raise PackRefused("only the server compacts packs")
    if any(run.pair != current for run in runs.values()):
        raise PackRefused("a run in the pack was sealed to another pair than the machine's newest")
    return pack, {run: record.pair for run, record in runs.items()}, size


def publish_pack(source: Path, target: Path, disk: Disk) -> None:
    """Give a verified, fsynced pack its name among the packs; done in a thread. Raises DiskError.

    A file of that name, left by a crash, holds the same bytes or damaged ones: it is replaced.
    """
    try:
        disk.rename(str(source), str(target))
    except OSError as error:
        raise DiskError(f"{target}: {error.strerror}") from error


def refusal(ids: Sequence[bytes]) -> PackRefused:
    """Names the ids that offend."""
    text = f"{len(ids)} blobs of the pack are stored already, or with another header: pack anew without them"
    return PackRefused(text, tuple(ids[:NAMED]))


def unavailable(spool: Spool) -> Unavailable:
    """What an agent is told of a spool that has just failed."""
    return Unavailable("a spool failed: try again, another one may take it")
