"""The SQLite back end: one writer and one reader, each in a lane of its own, over a database in WAL mode.

``synchronous=NORMAL`` is enough: the ledger and the spools carry the acknowledgements, and after a power loss the
catalogue is at worst a little older than they are; it catches up at start.
"""

import contextlib
import re
import sqlite3
from collections.abc import Callable, Collection, Hashable, Iterator, Sequence
from importlib import resources
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar

from twisted.internet.defer import Deferred

from mastodon.catalogue import (
    sqlite_acknowledged,
    sqlite_entries,
    sqlite_events,
    sqlite_histories,
    sqlite_packs,
    sqlite_queries,
    sqlite_reads,
    sqlite_status,
)
from mastodon.catalogue.interface import (
    Account,
    BlobPlace,
    BlobState,
    CatalogueDamaged,
    CatalogueError,
    Certificate,
    Committed,
    Condition,
    DayOfPacks,
    EventRow,
    Holding,
    Judgement,
    ListedEvent,
    ListedPair,
    MachineRow,
    PairRow,
    ReadRow,
    SettingRow,
    Standing,
    StoredPack,
    Tenant,
    TenantHolding,
    Totals,
    UntoldPair,
    WatchRow,
)
from mastodon.catalogue.lane import Lane, Mainland
from mastodon.catalogue.sqlite_measures import SqliteMeasures
from mastodon.sealed.events import EventCode
from mastodon.sealed.ledger import Head, LedgerEntry
from mastodon.sealed.pack import Pack
from mastodon.sealed.snapshot import SnapshotRecord

P = ParamSpec("P")
T = TypeVar("T")

APPLICATION_ID = 0x4D535444  # "MSTD": whether a database is ours at all
DAMAGE = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
SIDE_FILES = ("", "-wal", "-shm")
SCHEMA_FILE = re.compile(r"\d{4}\.sql")


# Whose a job is, where it is not a machine's own: each takes turns with the machines.
LEDGER = "ledger"
RESTORE = "restore"
STRANGERS = "strangers"
WATCH = "watch"
OTHERS = "others"


class SqliteCatalogue:
    """A catalogue in one file."""

    def __init__(self, path: Path, mainland: Mainland) -> None:
        self.path = path
        self._writer_lane = Lane(mainland, "catalogue writer")
        self._reader_lane = Lane(mainland, "catalogue reader")
        self._connections: dict[str, sqlite3.Connection] = {}
        self.measures = SqliteMeasures(self._read, self._write)

    def open(self) -> Deferred[Head | None]:
        """Open or make the file, bring its schema up to date, look it through."""
        return self._writer_lane.run(self._open)

    def close(self) -> Deferred[None]:
        """Close behind all jobs."""

        def release(name: str) -> None:
            connection = self._connections.pop(name, None)
            if connection is not None:
                connection.close()

        return self._reader_lane.stop(lambda: release("reader")).addBoth(
            lambda _: self._writer_lane.stop(lambda: release("writer"))
        )

    # Written

    def apply(self, entries: Sequence[tuple[LedgerEntry, Head]]) -> Deferred[None]:
        return self._write(LEDGER, sqlite_entries.apply, entries)

    def add_pack(self, stored: StoredPack) -> Deferred[tuple[bytes, ...]]:
        return self._write(stored.pack.machine, sqlite_packs.add_pack, stored)

    def set_lost(self, spool: bytes, day: str, packs: Sequence[bytes], lost: bool) -> Deferred[None]:
        return self._write(OTHERS, sqlite_packs.set_lost, spool, day, packs, lost)

    def mark_closed(self, machine: bytes, ids: Sequence[bytes], closure: int) -> Deferred[bool]:
        return self._write(machine, sqlite_packs.mark_closed, machine, ids, closure)

    # Asked by the append port

    def account(self, machine: bytes) -> Deferred[Account | None]:
        return self._read(machine, sqlite_queries.account, machine)

    def standing(self, machine: bytes, stranger: bool = False) -> Deferred[Standing | None]:
        return self._read(STRANGERS if stranger else OTHERS, sqlite_queries.standing, machine)

    def offending(self, pack: Pack, pair: bytes) -> Deferred[tuple[bytes, ...]]:
        return self._read(pack.machine, sqlite_packs.offending, pack, pair)

    def has_pack(self, machine: bytes, pack: bytes) -> Deferred[bool]:
        return self._read(machine, sqlite_packs.has_pack, machine, pack)

    def closure(self, machine: bytes) -> Deferred[int]:
        return self._write(machine, sqlite_packs.closure, machine)

    def blob_states(
        self, machine: bytes, ids: Sequence[bytes], behind_writes: bool = False
    ) -> Deferred[dict[bytes, BlobState]]:
        ask = self._write if behind_writes else self._read
        return ask(machine, sqlite_packs.blob_states, machine, ids)

    def references(self, machine: bytes, ids: Sequence[bytes]) -> Deferred[dict[bytes, tuple[bytes, ...]]]:
        return self._write(machine, sqlite_packs.references, machine, ids)

    def committed(
        self, machine: bytes, hash: bytes, since_ns: int, until_ns: int
    ) -> Deferred[tuple[Committed | None, int]]:
        return self._read(machine, sqlite_queries.committed, machine, hash, since_ns, until_ns)

    def judge(self, machine: bytes, snapshot: SnapshotRecord) -> Deferred[Judgement]:
        return self._read(machine, sqlite_histories.judge_next, machine, snapshot)

    def pair(self, machine: bytes, pair: bytes, since_ns: int, until_ns: int) -> Deferred[PairRow]:
        return self._read(machine, sqlite_queries.pair, machine, pair, since_ns, until_ns)

    def has_envelope(self, machine: bytes, hash: bytes) -> Deferred[bool]:
        return self._read(machine, sqlite_queries.has_envelope, machine, hash)

    # Asked by the restore port and the operator

    def certificate(self, pin: bytes) -> Deferred[Certificate | None]:
        return self._read(OTHERS, sqlite_queries.certificate, pin)

    def is_removed(self, pin: bytes) -> Deferred[bool]:
        return self._read(OTHERS, sqlite_queries.is_removed, pin)

    def tenant(self, tenant: bytes) -> Deferred[Tenant | None]:
        return self._read(OTHERS, sqlite_queries.tenant, tenant)

    def tenants(self) -> Deferred[list[Tenant]]:
        return self._read(OTHERS, sqlite_queries.tenants)

    def owner(self, machine: bytes) -> Deferred[bytes | None]:
        return self._read(OTHERS, sqlite_queries.owner, machine)

    def certificates(self, tenant: bytes) -> Deferred[list[Certificate]]:
        return self._read(OTHERS, sqlite_queries.certificates, tenant)

    def machines(self, tenant: bytes | None) -> Deferred[list[MachineRow]]:
        return self._read(OTHERS, sqlite_queries.machines, tenant)

    def snapshots(self, machine: bytes, first: int, limit: int) -> Deferred[list[tuple[bytes, int]]]:
        return self._read((RESTORE, machine), sqlite_queries.snapshots, machine, first, limit)

    def untold_pairs(self, machine: bytes | None = None) -> Deferred[list[UntoldPair]]:
        return self._read(OTHERS, sqlite_events.untold_pairs, machine)

    def pairs(self, machine: bytes, first: int, limit: int) -> Deferred[list[ListedPair]]:
        return self._read((RESTORE, machine), sqlite_queries.pairs, machine, first, limit)

    def envelopes(self, machine: bytes, pair: bytes, reenvelopes: int) -> Deferred[list[tuple[bytes, bytes, bool]]]:
        return self._read((RESTORE, machine), sqlite_queries.envelopes, machine, pair, reenvelopes)

    def runs(self, machine: bytes, ids: Sequence[bytes]) -> Deferred[list[bytes]]:
        return self._read((RESTORE, machine), sqlite_queries.runs, machine, ids)

    def locate(self, machine: bytes, ids: Sequence[bytes], spools: Sequence[bytes]) -> Deferred[list[BlobPlace]]:
        return self._read((RESTORE, machine), sqlite_packs.locate, machine, ids, spools)

    def book(self, tenant: bytes) -> Deferred[tuple[int, bytes, bytes]]:
        return self._read(OTHERS, sqlite_queries.book, tenant)

    # Asked by whoever watches and tells

    def events(
        self, after: int, limit: int, tenant: bytes | None = None, codes: Collection[int] | None = None
    ) -> Deferred[list[EventRow]]:
        return self._read(WATCH, sqlite_events.events, after, limit, tenant, codes)

    def listed_events(
        self, after: int, since_ns: int, limit: int, tenant: bytes | None, machine: bytes, codes: Collection[int]
    ) -> Deferred[list[ListedEvent]]:
        return self._read(
            OTHERS, sqlite_acknowledged.listed_events, after, since_ns, limit, tenant, machine, codes
        )

    def events_of(self, tenant: bytes, sequences: Sequence[int], codes: Collection[int]) -> Deferred[dict[int, bool]]:
        return self._write(OTHERS, sqlite_acknowledged.events_of, tenant, sequences, codes)

    def known_conditions(self, tenant: bytes) -> Deferred[frozenset[int]]:
        return self._read(WATCH, sqlite_acknowledged.known_conditions, tenant)

    def newest_event(
        self, code: EventCode, tenant: bytes = b"", machine: bytes = b""
    ) -> Deferred[EventRow | None]:
        return self._read(WATCH, sqlite_events.newest_event, code, tenant, machine)

    def conditions(self, tenant: bytes | None = None, machine: bytes | None = None) -> Deferred[list[Condition]]:
        return self._read(WATCH, sqlite_events.conditions, tenant, machine)

    def watch_rows(self, tenant: bytes | None = None, machine: bytes | None = None) -> Deferred[list[WatchRow]]:
        return self._read(WATCH, sqlite_events.watch_rows, tenant, machine)

    def setting_rows(self, names: Collection[str], at: int | None = None) -> Deferred[list[SettingRow]]:
        return self._read(WATCH, sqlite_events.setting_rows, names, at)

    def holdings(self, tenant: bytes | None = None, machine: bytes | None = None) -> Deferred[dict[bytes, Holding]]:
        return self._read(WATCH, sqlite_status.holdings, tenant, machine)

    def growth(self, since_ns: int) -> Deferred[list[tuple[bytes, int, int]]]:
        return self._read(OTHERS, sqlite_status.growth, since_ns)

    def tenant_holdings(self, tenant: bytes | None = None) -> Deferred[list[TenantHolding]]:
        return self._read(WATCH, sqlite_status.tenant_holdings, tenant)

    # Asked at start and by `check`

    def settings(self, name: str, tenant: bytes = b"") -> Deferred[list[tuple[bytes, str]]]:
        return self._read(OTHERS, sqlite_queries.settings, name, tenant)

    def reads(
        self, after: int, limit: int, tenant: bytes | None, machine: bytes, since_ns: int
    ) -> Deferred[list[ReadRow]]:
        return self._read(OTHERS, sqlite_reads.reads, after, limit, tenant, machine, since_ns)

    def has_fetched(self, pin: bytes) -> Deferred[bool]:
        return self._read(OTHERS, sqlite_reads.has_fetched, pin)

    def days(self, spool: bytes) -> Deferred[list[str]]:
        return self._read(OTHERS, sqlite_packs.days, spool)

    def packs_of_day(self, spool: bytes, day: str) -> Deferred[DayOfPacks]:
        return self._read(OTHERS, sqlite_packs.packs_of_day, spool, day)

    def totals(self) -> Deferred[Totals]:
        return self._read(OTHERS, sqlite_queries.totals)

    # How a job is done

    def _write(
        self, unit: Hashable, job: Callable[Concatenate[sqlite3.Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> Deferred[T]:
        return self._writer_lane.run_for(unit, self._transaction, "writer", lambda db: job(db, *args, **kwargs))

    def _read(
        self, unit: Hashable, job: Callable[Concatenate[sqlite3.Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> Deferred[T]:
        return self._reader_lane.run_for(unit, self._transaction, "reader", lambda db: job(db, *args, **kwargs))

    def _transaction(self, name: str, job: Callable[[sqlite3.Connection], T]) -> T:
        with self._guard():
            connection = self._connections.get(name) or self._connect(name)
            connection.execute("BEGIN IMMEDIATE" if name == "writer" else "BEGIN")
            try:
                result = job(connection)
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise
            return result

    @contextlib.contextmanager
    def _guard(self) -> Iterator[None]:
        """What SQLite raises becomes ours."""
        try:
            yield
        except sqlite3.Error as error:
            code = getattr(error, "sqlite_errorcode", None)
            if code is not None and code & 0xFF in DAMAGE:
                raise CatalogueDamaged(f"{self.path}: {error}") from error
            raise CatalogueError(f"{self.path}: {error}") from error

    def _connect(self, name: str) -> sqlite3.Connection:
        connection = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False, cached_statements=256)
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")
        connection.execute("PRAGMA busy_timeout=10000")
        connection.execute("PRAGMA cache_size=-16384")
        self._connections[name] = connection
        return connection

    def _open(self) -> Head | None:
        with self._guard():
            try:
                connection = self._connect("writer")
                _demand_whole(connection, self.path)
                for number, script in _schemas():
                    if number > connection.execute("PRAGMA user_version").fetchone()[0]:
                        _upgrade(connection, number, script)
                return sqlite_entries.applied(connection)
            except BaseException:
                broken = self._connections.pop("writer", None)
                if broken is not None:
                    broken.close()
                raise


def remove_files(path: Path) -> None:
    """Remove a catalogue that nobody has open, so that it is made anew."""
    for suffix in SIDE_FILES:
        Path(f"{path}{suffix}").unlink(missing_ok=True)


def _demand_whole(connection: sqlite3.Connection, path: Path) -> None:
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    if application != APPLICATION_ID and (application or version or tables):
        raise CatalogueDamaged(f"{path}: a database, but no catalogue")
    newest = max(number for number, _ in _schemas())
    if version > newest:
        raise CatalogueError(f"{path}: schema {version} was made by a later release: update this program")
    (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    if verdict != "ok":
        raise CatalogueDamaged(f"{path}: {verdict}")


def _schemas() -> list[tuple[int, str]]:
    folder = resources.files("mastodon.catalogue") / "schema"
    files = sorted((one.name, one) for one in folder.iterdir() if SCHEMA_FILE.fullmatch(one.name))
    return [(int(name[:4]), one.read_text("utf-8")) for name, one in files]


def _upgrade(connection: sqlite3.Connection, number: int, script: str) -> None:
    # One transaction: a crash leaves the schema before or the one after, and the version says which.
    connection.executescript(
        f"BEGIN IMMEDIATE;\n{script}\nPRAGMA application_id={APPLICATION_ID};\nPRAGMA user_version={number};\nCOMMIT;"
    )
