"""One pass over everything that is kept: checksums, signatures and chains on each spool, and the catalogue beside them.

Promises: nothing is written; what is damaged or missing is named, one line each; a daemon may run meanwhile, so that
what it is just writing is not taken for damage.
"""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

from mastodon.catalogue.interface import SEALINGS_EACH_WAY, Catalogue, CatalogueError
from mastodon.catalogue.rebuild import read_pack
from mastodon.daemon.config import Config
from mastodon.daemon.errors import StoreError
from mastodon.daemon.heads import HeadsFile, load_ledger_key
from mastodon.daemon.opening import StateLock
from mastodon.daemon.recorded import Recorded
from mastodon.host.ledger_reader import ChainReader
from mastodon.host.spool_layout import BadMarker, NoSpool, chains, pack_days, packs_of_day, read_marker, segments
from mastodon.sealed.errors import FormatError
from mastodon.sealed.ledger import Head
from mastodon.sealed.pack import Pack
from mastodon.sealed.run import verify_run
from mastodon.sealed.snapshot import SnapshotRecord

REBUILD = "stop the daemon and run `mastodon rebuild`"
SNAPSHOTS_AT_ONCE = 1000


class Inspection:
    """Collects ``damage``; ``tell`` gets the lines of progress."""

    def __init__(self, config: Config, catalogue: Catalogue | None, tell: Callable[[str], None]) -> None:
        self.damage: list[str] = []
        self._config = config
        self._catalogue = catalogue
        self._tell = tell
        self._heads: dict[bytes, dict[Path, Head]] = {}
        self._signed: Head | None = None
        self._signed_borne = False
        self._unknown: list[tuple[bytes, bytes, Path]] = []
        self._recorded = Recorded(Head(b""))

    async def run(self) -> None:
        """Look at everything."""
        try:
            await self._run()
        except CatalogueError as error:
            self.damage.append(f"the catalogue misstates {error}; {REBUILD}")

    async def _run(self) -> None:
        await self._open_catalogue()
        self._signed = HeadsFile(self._config.state, load_ledger_key(self._config.keys.ledger_key)).read()
        for spool in self._config.spools:
            try:
                marker = read_marker(spool.path)
            except (NoSpool, BadMarker) as error:
                self.damage.append(str(error))
                continue
            self._read_ledgers(spool.path)
            await self._read_packs(spool.path, marker.spool)
        self._compare_heads()
        await self._compare_unknown()
        await self._read_snapshots()
        await self._compare_records()

    async def _open_catalogue(self) -> None:
        if self._catalogue is None:
            self.damage.append("there is no catalogue: the daemon's next start makes it anew from the spools")
            return
        try:
            self._recorded = Recorded(await self._catalogue.open() or Head(b""))
        except CatalogueError as error:
            self.damage.append(f"the catalogue is damaged, the daemon's next start makes it anew: {error}")
            self._catalogue = None

    def _read_ledgers(self, root: Path) -> None:
        for chain in chains(root):
            reader = ChainReader(chain, segments(root, chain))
            try:
                for entry, head in reader.entries():
                    self._recorded.note(chain, entry)
                    self._signed_borne = self._signed_borne or head == self._signed
            except (FormatError, OSError) as error:
                self.damage.append(f"ledger: {error}")
                continue
            self._heads.setdefault(chain, {})[root] = reader.tail.head
            torn = "; its end is torn, or being written" if reader.tail.torn else ""
            self._tell(f"{root}: ledger {chain.hex()[:8]}, {reader.tail.head.sequence} entries{torn}")

    def _compare_heads(self) -> None:
        if self._signed is not None and self._signed.sequence and not self._signed_borne:
            self.damage.append("no ledger bears the head that was signed last: it went back in time")
        for chain, heads in self._heads.items():
            newest = max(heads.values(), key=lambda head: head.sequence)
            for root, head in heads.items():
                if head.sequence == newest.sequence and head != newest:
                    self.damage.append(f"{root}: ledger {chain.hex()[:8]} forks from that of another spool")
                elif head.sequence < newest.sequence:
                    self._tell(f"{root}: its ledger is {newest.sequence - head.sequence} entries behind the others")

    async def _read_packs(self, root: Path, spool: bytes) -> None:
        packs = size = 0
        for day in sorted(set(pack_days(root)) | set(await self._days(spool))):
            there = dict(packs_of_day(root, day))
            for path in there.values():
                try:
                    pack, length, _ = read_pack(path)
                    await self._hold_against_catalogue(pack, spool, path)
                    packs, size = packs + 1, size + length
                except FileNotFoundError:
                    self.damage.append(f"{path}: gone while it was to be read")
                except (FormatError, OSError) as error:
                    self.damage.append(f"{path}: {error}")
            if self._catalogue is not None:
                known = await self._catalogue.packs_of_day(spool, day)
                now = dict(packs_of_day(root, day))
                self.damage += [f"{root}: pack {id.hex()} of {day} is gone" for id in sorted(known.there - now.keys())]
                self.damage += [f"{root}: pack {id.hex()} of {day} is lost" for id in sorted(known.lost - now.keys())]
        self._tell(f"{root}: {packs} packs, {size:,} bytes")

    async def _days(self, spool: bytes) -> list[str]:
        return await self._catalogue.days(spool) if self._catalogue is not None else []

    async def _hold_against_catalogue(self, pack: Pack, spool: bytes, path: Path) -> None:
        if self._catalogue is None:
            return
        account = await self._catalogue.account(pack.machine)
        if account is None:
            raise FormatError("a pack of a machine that the catalogue does not know")
        for record in pack.runs.values():
            verify_run(record, pack.machine, account.public_key)
        if not await self._catalogue.has_pack(pack.machine, pack.id):
            self._unknown.append((pack.machine, pack.id, path))
            return
        if not set(pack.runs.values()).issubset(await self._catalogue.runs(pack.machine, list(pack.runs))):
            self.damage.append(f"{path}: the catalogue misstates its runs; {REBUILD}")
        ids = [one.header.id for one in pack.blobs]
        places = await self._catalogue.locate(pack.machine, ids, [spool])
        known = {(place.blob, place.start, place.size) for place in places if place.pack == pack.id}
        told = Counter(place.blob for place in places)
        wrong = [
            one
            for one in pack.blobs
            # Of an id with more sealings than are located nothing can be said.
            if (one.header.id, one.offset, one.header.size) not in known and told[one.header.id] < 2 * SEALINGS_EACH_WAY
        ]
        if wrong:
            self.damage.append(f"{path}: the catalogue lacks or misplaces {len(wrong)} of its blobs; {REBUILD}")

    async def _read_snapshots(self) -> None:
        """The records in the catalogue are as the machines signed them: SQLite itself has no checksums."""
        if self._catalogue is None:
            return
        for tenant in await self._catalogue.tenants():
            for row in await self._catalogue.machines(tenant.tenant):
                account = await self._catalogue.account(row.machine)
                first = 1
                while account and (found := await self._catalogue.snapshots(row.machine, first, SNAPSHOTS_AT_ONCE)):
                    first += len(found)
                    wrong = sum(not _is_signed(record, account.public_key) for record, _ in found)
                    if wrong:
                        name = row.machine.hex()
                        self.damage.append(f"the catalogue misstates {wrong} snapshots of machine {name}; {REBUILD}")

    async def _compare_records(self) -> None:
        """Pair records, envelopes and books in the catalogue are as the ledger says."""
        if self._catalogue is not None:
            for what in await self._recorded.differences(self._catalogue):
                self.damage.append(f"the catalogue misstates {what}; {REBUILD}")

    async def _compare_unknown(self) -> None:
        """Packs that the catalogue did not know: it may have taken them in meanwhile, or does so at the next start."""
        if not self._unknown or self._catalogue is None:
            return
        try:
            StateLock(self._config.state).release()
            when = "the daemon's next start takes it in"
        except StoreError:
            when = "the daemon is taking it in, or its next start does"
        for machine, id, path in self._unknown:
            if not await self._catalogue.has_pack(machine, id):
                self._tell(f"{path}: not in the catalogue yet; {when}")


def _is_signed(record: bytes, public_key: bytes) -> bool:
    try:
        SnapshotRecord.verify(record, public_key)
    except FormatError:
        return False
    return True
