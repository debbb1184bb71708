"""The ledger's one writer: the same bytes to every online spool, fsynced, many entries to one fsync.

Promises: an entry's Deferred fires only after a copy of it was fsynced on every spool that is still online, and on one
at least (P9); entries become known in the order of the chain. A spool whose ledger cannot be written goes offline, for
good, while the others go on; with none left, every append fails and nothing was acknowledged. Nor is anything taken
while the catalogue is behind: what is asked for then was judged by what is no longer so.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from twisted.internet.defer import Deferred, fail
from twisted.logger import Logger
from twisted.python.failure import Failure

from mastodon.catalogue.lane import Lane, Mainland
from mastodon.daemon.errors import Unavailable
from mastodon.daemon.heads import HeadsFile
from mastodon.daemon.spool import Spool
from mastodon.daemon.spools import Spools
from mastodon.host.durable import AppendFile, DiskError, write_file
from mastodon.host.spool_layout import LEDGER, segment_name, segments
from mastodon.sealed.ledger import SEGMENT_LIMIT, Head, LedgerEntry, encode_entry, encode_segment_head
from mastodon.sealed.ledger_entries import EntryBody

HEADS_EVERY_NS = 60 * 10**9
Followed = Callable[[list[tuple[LedgerEntry, Head]]], "Deferred[None]"]


@dataclass(frozen=True, slots=True)
class Batch:
    """Entries written together, and who waits for them; ``error`` when no spool took them."""

    waiting: list[tuple[EntryBody, "Deferred[LedgerEntry]"]]
    entries: list[tuple[LedgerEntry, Head]]
    error: Unavailable | None = None


class LedgerWriter:
    """Appends to the chain. ``followed`` is told of durable entries, in order, before those who wait for them."""

    log = Logger()

    def __init__(
        self, spools: Spools, heads: HeadsFile, mainland: Mainland, now_ns: Callable[[], int],
        followed: Followed, failed: Callable[[Spool, str], None],
    ) -> None:  # fmt: skip
        self._spools = spools
        self._heads = heads
        self._mainland = mainland
        self._now_ns = now_ns
        self._followed = followed
        self._failed = failed
        self._lane = Lane(mainland, "ledger writer")
        self._lock = threading.Lock()
        self._waiting: list[tuple[EntryBody, Deferred[LedgerEntry]]] = []
        self._files: dict[Spool, AppendFile] = {}
        self._size = 0
        self._last_ns = 0
        self._signed_ns = 0
        self.vouches = False
        """Whether the head may be signed and kept: not while the operator has yet to confirm it."""
        self._behind: list[tuple[LedgerEntry, Head]] = []
        self._catching_up = False
        self._head = Head(b"")
        self._broken = ""
        self.durable_head = Head(b"")

    def open(self, head: Head, last_ns: int) -> "Deferred[None]":
        """Go on behind ``head``, at which all online spools stand; ``last_ns`` is the time of its entry."""
        self._head = self.durable_head = head
        self._last_ns = last_ns
        return self._lane.run(self._open)

    def append(self, body: EntryBody) -> "Deferred[LedgerEntry]":
        """Fires with the entry once it is durable and followed. Fails with Unavailable."""
        if self._behind:
            self._catch_up()
            return fail(Unavailable("the catalogue is behind the ledger: try again in a minute"))
        outcome: Deferred[LedgerEntry] = Deferred()
        with self._lock:
            self._waiting.append((body, outcome))
        self._lane.run(self._flush).addCallback(self._flushed)
        return outcome

    def signed_head(self) -> bytes:
        """The durable head, signed now."""
        return self._heads.sign(self.durable_head, self._now_ns())

    def stop(self) -> "Deferred[None]":
        """Write what waits, remember the head, close the files."""
        return self._lane.run(self._close).addBoth(lambda _: self._lane.stop())

    def _open(self) -> None:
        for spool in self._spools.online:
            names = segments(spool.path, self._head.chain)
            if not names:
                continue
            with self._taking_offline(spool):
                file = AppendFile(names[-1], disk=spool.disk)
                self._files[spool] = file
                self._size = file.size

    def _flush(self) -> Batch:
        with self._lock:
            waiting, self._waiting = self._waiting, []
        if not waiting:
            return Batch([], [])
        before, entries = self._head, list[tuple[LedgerEntry, Head]]()
        try:
            if not self._broken:
                for data, size in self._runs(waiting, entries):
                    self._write(data, size)
        except Exception as error:  # a body that cannot be encoded: the chain must not go on over the gap
            self._broken = f"the ledger cannot be written: {error}"
        if self._broken or not any(spool in self._files for spool in self._spools.online):
            self._head = before
            self._broken = self._broken or "no spool could take the ledger's entry: see `mastodon spool list`"
            return Batch(waiting, [], Unavailable(self._broken))
        if self._now_ns() - self._signed_ns >= HEADS_EVERY_NS:
            self._remember()
        return Batch(waiting, entries)

    def _runs(
        self, waiting: Sequence[tuple[EntryBody, object]], entries: list[tuple[LedgerEntry, Head]]
    ) -> Iterator[tuple[bytes, int]]:
        """The entries' bytes, cut where a segment ends; with each the size of the segment before it."""
        part, size = list[bytes](), self._size
        if not self._files:
            self._roll()
            size = self._size
        for body, _ in waiting:
            if size >= SEGMENT_LIMIT:
                yield b"".join(part), self._size
                part = []
                self._roll()
                size = self._size
            now = self._now_ns()
            trusted = now >= self._last_ns
            data, self._head = encode_entry(self._head, body, now, trusted)
            self._last_ns = max(now, self._last_ns)
            entries.append((LedgerEntry(self._head.sequence, now, trusted, body), self._head))
            part.append(data)
            size += len(data)
        yield b"".join(part), self._size

    def _write(self, data: bytes, size: int) -> None:
        for spool in self._spools.online:
            file = self._files.get(spool)
            if file is None or not data:
                continue
            with self._taking_offline(spool):
                spool.demand_mounted()
                file.append(data)
                file.sync()
        self._size = size + len(data)

    def _roll(self) -> None:
        """Begin the next segment on every online spool."""
        first = encode_segment_head(self._head)
        for spool in self._spools.online:
            old = self._files.pop(spool, None)
            with self._taking_offline(spool):
                if old is not None:
                    old.close()
                directory = spool.directory(f"{LEDGER}/{self._head.chain.hex()}")
                path = directory / segment_name(self._head.sequence + 1)
                # A segment of that name holds no entry: it was begun when the daemon was stopped.
                write_file(path, first, disk=spool.disk)
                self._files[spool] = AppendFile(path, disk=spool.disk)
        self._size = len(first)

    def _flushed(self, batch: Batch) -> None:
        def tell(result: object) -> None:
            if isinstance(result, Failure):
                # Durable all the same: it is tried again before anything more is taken, and at the next start.
                self.log.failure("the catalogue did not follow the ledger", result)
                self._behind += batch.entries
            outcomes = [outcome for _, outcome in batch.waiting]
            if batch.error is not None:
                for outcome in outcomes:
                    outcome.errback(batch.error)
                return
            for outcome, (entry, _) in zip(outcomes, batch.entries, strict=True):
                outcome.callback(entry)

        if batch.entries:
            self.durable_head = batch.entries[-1][1]
            self._followed(batch.entries).addBoth(tell)
        else:
            tell(None)

    def _catch_up(self) -> None:
        """Have the catalogue try once more what it did not take."""
        if self._catching_up:
            return
        self._catching_up = True
        tried = list(self._behind)

        def over(result: object) -> None:
            self._catching_up = False
            if isinstance(result, Failure):
                self.log.error("the catalogue is still behind the ledger: {reason}", reason=str(result.value))
            else:
                del self._behind[: len(tried)]

        self._followed(tried).addBoth(over)

    def _remember(self) -> None:
        now = self._now_ns()
        if not self.vouches:
            return
        try:
            self._heads.write(self._head, now)
            self._spools.memory.write(self._spools.all, self._head.sequence)
        except DiskError:
            # The state directory is a watch beside the truth: the next time may be luckier, the ledger goes on.
            return
        self._signed_ns = now

    def _close(self) -> None:
        if self._head.sequence and self._files:
            self._remember()
        for file in self._files.values():
            file.close()
        self._files.clear()

    def _taking_offline(self, spool: Spool) -> "_TakingOffline":
        return _TakingOffline(self, spool)

    def drop(self, spool: Spool, reason: str) -> None:
        """The disk refused: the spool is not written to any more."""
        file = self._files.pop(spool, None)
        if file is not None:
            file.close()
        if spool.online:
            spool.offline = reason
            self._mainland.callFromThread(self._failed, spool, reason)


class _TakingOffline:
    """A block in which an error of the disk takes the spool offline, and the others go on."""

    def __init__(self, writer: LedgerWriter, spool: Spool) -> None:
        self._writer = writer
        self._spool = spool

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> bool:
        if not isinstance(error, DiskError | OSError):
            return False
        self._writer.drop(self._spool, f"{self._spool.path}: the ledger cannot be written: {error}")
        return True
