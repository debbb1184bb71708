"""The parts of an open store: how they are put together, made to agree with the spools, and closed.

Promise: whatever fails while a store is opened, what was opened before is closed again.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from mastodon import __version__
from mastodon.catalogue.interface import Catalogue
from mastodon.catalogue.sqlite import SqliteCatalogue, remove_files
from mastodon.daemon.acks import InThread
from mastodon.daemon.commits import Commits
from mastodon.daemon.edges import Edges
from mastodon.daemon.events import EventCode
from mastodon.daemon.execute import Authority
from mastodon.daemon.followers import Followers
from mastodon.daemon.heads import HeadsFile
from mastodon.daemon.intake import Intake, Record
from mastodon.daemon.ledger_writer import LedgerWriter
from mastodon.daemon.opening import CATALOGUE, OpenedLedger, compare_all, open_catalogue
from mastodon.daemon.quota_edges import QuotaEdges
from mastodon.daemon.quotas import Quotas
from mastodon.daemon.reads import ReadLog
from mastodon.daemon.served import ServedTime
from mastodon.daemon.spool import Spool
from mastodon.daemon.spools import Spools
from mastodon.daemon.watching import Recorder, Watching
from mastodon.host.durable import Disk
from mastodon.sealed.ledger import Head, LedgerEntry
from mastodon.sealed.ledger_entries import ChainStarted

log = Logger()


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the parts are given."""

    state: Path
    spools: Spools
    disk: Disk
    heads: HeadsFile
    servers: tuple[bytes, ...]
    reactor: Any
    now_ns: Callable[[], int]
    in_thread: InThread
    spool_failed: Callable[[Spool, str], None]
    record: Record
    tell: Recorder
    seen: Callable[[bytes], bool]
    is_serving: Callable[[], bool]
    followers: Followers


@dataclass(frozen=True, slots=True)
class Opened:
    """An open store's parts."""

    catalogue: Catalogue
    ledger: LedgerWriter
    intake: Intake
    commits: Commits
    authority: Authority
    watching: Watching
    reads: ReadLog
    quotas: Quotas

    async def close(self) -> None:
        """Look no more, remember the head, let go of the files."""
        await self.watching.stop()
        await self.reads.stop()
        await self.quotas.settled()
        await self.ledger.stop()
        await self.catalogue.close()


async def open_parts(around: Surroundings, found: OpenedLedger) -> Opened:
    """Open catalogue and ledger, the catalogue following."""
    path = around.state / CATALOGUE
    catalogue, last_ns = await open_catalogue(
        lambda: SqliteCatalogue(path, around.reactor), lambda: remove_files(path), around.spools, found.head,
        around.in_thread,
    )  # fmt: skip

    def follow(entries: "list[tuple[LedgerEntry, Head]]") -> "Deferred[None]":
        def tell(_: None) -> None:
            around.followers.tell(entry.body for entry, _ in entries)

        return catalogue.apply(entries).addCallback(tell)

    ledger = LedgerWriter(
        around.spools, around.heads, around.reactor, around.now_ns, follow, around.spool_failed
    )
    ledger.vouches = not found.locked
    intake = Intake(around.spools, catalogue, around.in_thread, around.now_ns, around.spool_failed, around.record)
    commits = Commits(intake, ledger, around.now_ns)
    authority = Authority(catalogue, ledger, frozenset(around.servers), around.now_ns)
    watching = Watching(
        catalogue, authority.policies, ServedTime(around.state, around.disk), around.tell, around.in_thread,
        around.seen, around.is_serving,
    )  # fmt: skip
    edges = QuotaEdges(catalogue, Edges(catalogue, around.tell, around.now_ns), around.now_ns)
    quotas = Quotas(catalogue, authority.policies, edges, around.now_ns, around.followers)
    reads = ReadLog(catalogue, ledger, around.now_ns)
    opened = Opened(catalogue, ledger, intake, commits, authority, watching, reads, quotas)
    try:
        await ledger.open(found.head, last_ns)
    except BaseException:
        await opened.close()
        raise
    return opened


async def reconcile(around: Surroundings, opened: Opened, found: OpenedLedger) -> None:
    """Begin a new chain; take in what lies on the spools and is not known, note what is gone."""
    if found.fresh:
        await opened.ledger.append(ChainStarted(around.servers, around.heads.public_key, __version__))
    for spool in around.spools.all:
        if not spool.online:
            await around.record(EventCode.SPOOL_OFFLINE, b"", spool.offline)
    for spool, differences in await compare_all(opened.catalogue, around.spools, around.in_thread):
        if differences.added or differences.found:
            count = differences.added + len(differences.found)
            log.info("{spool}: {n} packs taken in", spool=spool.path, n=count)
        for path, reason in differences.strange:
            log.error("{path}: {reason}", path=path, reason=reason)
            await around.record(EventCode.PACK_STRANGE, b"", f"{path.name}: {reason}")
        if differences.lost:
            log.error("{spool}: {n} packs are gone", spool=spool.path, n=len(differences.lost))
            first = differences.lost[0].hex()
            await around.record(EventCode.PACK_LOST, b"", f"{len(differences.lost)} packs, first {first}")
