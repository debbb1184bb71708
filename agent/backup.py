"""One run, from the answer to HELLO to the committed snapshot.

Order: the pair first, since everything is sealed to it; then the pass over all files, whose blobs and pages are sent as
they come; then the root, and when all that was sent is durable, the snapshot record. If the server then misses
something, what the state claimed of it is forgotten, another pass reads it again, and the snapshot is tried anew.
"""

import contextlib
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from mastodon import __version__
from mastodon.host.durable import DiskError
from mastodon.host.paths import Directory
from mastodon.sealed.blob import BlobKind, BlobSealer
from mastodon.sealed.content import file_hash_key
from mastodon.sealed.listing import Root
from mastodon.sealed.machine_secret import MachineSecret
from mastodon.sealed.pair import PairRecord
from mastodon.sealed.record import record_hash
from mastodon.sealed.run import KEY_LENGTH, make_run, run_id
from mastodon.sealed.snapshot import INCOMPLETE, Notice, SnapshotRecord, SnapshotStatus
from mastodon.wire.messages import Answer, Committed, Missing
from mastodon_agent import facts, packing, refresh, state
from mastodon_agent.content_map import ContentMap
from mastodon_agent.intake import Intake, OldPages
from mastodon_agent.listing_parts import OpenListing, listing_version
from mastodon_agent.outcome import Outcome, Tally, Watcher
from mastodon_agent.outlet import Outlet
from mastodon_agent.pages import ListingBuilder
from mastodon_agent.pairing import Credentials, adopt, make_pair
from mastodon_agent.reader_process import ReaderProcesses, ScanJob, SharesDiffer
from mastodon_agent.refusals import NothingCommitted
from mastodon_agent.sealing import SealingPool, sealing_threads
from mastodon_agent.session import Session, SnapshotRefused
from mastodon_agent.trust_memory import TrustMemory

if TYPE_CHECKING:
    from mastodon_agent.delta import Deltas

PASSES = 6
"""A lost root hides a lost page, that a map, that a chunk; then there may be more than the server can name."""
COMMITS = 4
TICK_S = 0.2
LAST_SEQUENCE = (1 << 64) - 1


@dataclass(frozen=True, slots=True)
class Clocks:
    """``wall_ns`` since 1970, ``steady`` in seconds, ``random_bytes`` for keys and salts."""

    wall_ns: Callable[[], int]
    steady: Callable[[], float]
    random_bytes: Callable[[int], bytes]


@dataclass(frozen=True, slots=True)
class Job:
    """What to back up, and how.

    ``slowest_rate``: the bytes a second to which sending may be held; 0: to none.
    ``delta_cache``: the bytes that bases of deltas may take on this machine's disk; 0: there are no deltas.
    """

    secret: MachineSecret
    credentials: Credentials
    state: str
    roots: tuple[Directory, ...]
    excludes: tuple[bytes, ...]
    reread: bool = False
    checkpoint_s: float = 1800.0
    slowest_rate: int = 0
    delta_cache: int = 0


class Backup:
    """One run over one session. ``nonce`` is that of HELLO."""

    def __init__(
        self, job: Job, nonce: bytes, session: Session, reader: ReaderProcesses, memory: TrustMemory, clocks: Clocks,
        watcher: Watcher,
    ) -> None:  # fmt: skip
        self._job = job
        self._nonce = nonce
        self._session = session
        self._reader = reader
        self._memory = memory
        self._clocks = clocks
        self._watcher = watcher
        self._facts: tuple[tuple[str, bytes], ...] | None = None
        self._host_facts = facts.HostFacts()
        self._notices = Notice(0)
        self._checkpoints = 0
        self._head = (0, b"")

    def run(self) -> Outcome:
        """Back everything up. Raises NothingCommitted, and what the session raises."""
        answer = self._session.answer
        self._take_head(answer)
        self._memory.learn_head(answer.head_sequence, answer.head_hash)
        self._look_back(answer.head_sequence, answer.head_hash, answer.ledger_head)
        pair = self._settle_pair(answer.pair)
        secret, clocks = self._job.secret, self._clocks
        run_key = clocks.random_bytes(KEY_LENGTH)
        run = make_run(secret.signing_key, pair, self._nonce, clocks.wall_ns(), run_key, secret.id_key)
        known = ContentMap(self._job.state, secret.machine_id, pair.pair)
        sealing = SealingPool(
            lambda: BlobSealer(secret.machine_id, run_id(run), run_key), clocks.random_bytes, sealing_threads()
        )
        try:
            target = packing.target_size(answer.pack_limit, self._job.slowest_rate)
            packs = packing.PackMaker(secret.machine_id, run, clocks.steady, target)
            has_some = answer.stored_blobs > 0
            outlet = Outlet(secret.id_key, known, sealing, packs, self._session, has_some, answer.window)
            try:
                return self._passes(pair, known, outlet, answer.stored_blobs == 0)
            except BaseException:
                with contextlib.suppress(Exception):
                    outlet.note_durable()
                raise
        finally:
            sealing.close()
            known.close()

    def _take_head(self, answer: Answer) -> None:
        """What the next snapshot follows."""
        if answer.head_sequence >= LAST_SEQUENCE:
            raise NothingCommitted(
                f"the server says that snapshot {answer.head_sequence} of this machine is there, and no number comes "
                "after that: ask its operator"
            )
        self._head = answer.head_sequence, answer.head_hash

    def _look_back(self, sequence: int, hash: bytes, ledger_head: bytes) -> None:
        """Compare what is remembered with what the server has."""
        before = self._memory.remembered
        if sequence and self._memory.was_lost:
            self._notices |= Notice.TRUST_MEMORY_LOST | Notice.STATE_LOST
            self._watcher.say("the state directory is new or was lost: everything is looked at afresh")
        elif before.sequence < sequence:
            self._notices |= Notice.STATE_LOST
            self._watcher.say(
                f"the server has snapshot {sequence}, this machine remembers {before.sequence}: its disk went back in "
                "time, or it was cloned; it is backed up all the same"
            )
        elif before.sequence > sequence or before.hash != hash:
            self._notices |= Notice.SERVER_WENT_BACK
            other = "another snapshot" if before.sequence == sequence else "snapshot"
            self._watcher.say(
                f"this machine remembers {other} {before.sequence}, the server's newest is {sequence}: the server was "
                "put back to an older state; all that it lacks is sent again. Ask its operator what was lost"
            )
        try:
            is_newer = self._memory.compare_ledger(ledger_head)
        except DiskError as error:
            is_newer = True
            self._watcher.say(f"the server's ledger head could not be remembered: {error}")
        if not is_newer:
            self._notices |= Notice.SERVER_WENT_BACK
            self._watcher.say("the server's ledger is older than one it showed before: ask the operator why")

    def _settle_pair(self, newest: bytes) -> PairRecord:
        job = self._job
        pair = adopt(newest, job.secret, job.credentials) if newest else None
        if pair is not None:
            return pair
        made = make_pair(job.secret, job.credentials, newest, self._clocks.wall_ns(), self._clocks.random_bytes)
        self._session.add_pair(made.signed, made.envelope)
        if newest:
            self._notices |= Notice.NEW_PAIR
            self._watcher.say(
                "a new sealing pair was made, since the server's does not fit the present passkey and recipients: "
                "everything is sent again"
            )
        return made.record

    # Passes

    def _passes(self, pair: PairRecord, known: ContentMap, outlet: Outlet, server_is_empty: bool) -> Outcome:
        job = self._job
        if server_is_empty:
            known.clear()
            state.forget_listing(job.state)
        elif state.adopt_unfinished(job.state, job.secret.machine_id, pair.pair, known.knows):
            self._watcher.detail("going on where an interrupted run stopped")
        noted = refresh.load(job.state, job.secret.machine_id)
        known.forget(noted.bundles + noted.pieces)
        missing: tuple[bytes, ...] = ()
        reread = job.reread
        for _ in range(PASSES):
            one = _Pass(self, pair, outlet, missing, reread)
            try:
                result = one.run()
            except SharesDiffer:
                one.abandon()
                self._watcher.detail("directories came and went where two processes share the work: one does it all")
                continue
            finally:
                one.close()
            if isinstance(result, Outcome):
                one.look_ahead(noted)
                return result
            lost = len(result.ids) // 32
            self._watcher.say(
                f"the server lacks {'more than ' if result.more else ''}{lost} pieces of what it had: read again"
            )
            missing += tuple(result.ids[at : at + 32] for at in range(0, len(result.ids), 32))
            known.forget(missing)
            outlet.offer_from_now_on()
            if result.more:  # than it can name: look at everything, and ask about everything
                known.clear()
                reread = True
        raise NothingCommitted(
            "the server keeps losing pieces that it has acknowledged: ask its operator to run `mastodon check`; if it "
            "says that all is well, somebody else may be using this machine's key (a later release renews it with "
            "`machine renew`)"
        )

    def commit(
        self, pair: PairRecord, root: bytes, status: SnapshotStatus, tally: Tally
    ) -> tuple[int, Committed | Missing]:
        """Commit a root, on top of whatever the server's head is; the sequence, and the server's word."""
        for _ in range(COMMITS):
            sequence, predecessor = self._head
            record = SnapshotRecord(
                machine=self._job.secret.machine_id, sequence=sequence + 1, pair=pair.pair, status=status,
                counts=tuple(sorted((reason, count) for reason, count in tally.counts.items() if count)),
                time_ns=self._clocks.wall_ns(), root=root, run_nonce=self._nonce, predecessor=predecessor,
                remembered=self._memory.remembered.hash, notices=int(self._notices),
            )  # fmt: skip
            signed = self._note_commit(record)
            try:
                word = self._session.commit(signed)
            except SnapshotRefused as error:
                refusal = str(error)
                answer = self._session.refresh()
                self._take_head(answer)
                self._memory.learn_head(answer.head_sequence, answer.head_hash)
                continue
            if isinstance(word, Committed):
                self._head = record.sequence, record_hash(signed)
                self._remember()
            return record.sequence, word
        raise NothingCommitted(f"the server refuses the snapshot: {refusal}")

    def _note_commit(self, record: SnapshotRecord) -> bytes:
        """The record as it is to be committed, noted in the trust memory, or saying that this could not be done."""
        signed = record.sign(self._job.secret.signing_key)
        try:
            self._memory.ask(record_hash(signed))
        except DiskError as error:
            self._notices |= Notice.MEMORY_NOT_KEPT
            self._watcher.say(f"the state cannot be written, what this run learns is forgotten: {error}")
            return replace(record, notices=int(self._notices)).sign(self._job.secret.signing_key)
        return signed

    def _remember(self) -> None:
        try:
            self._memory.remember_head(*self._head)
        except DiskError as error:
            self._watcher.say(f"the new snapshot is committed, but could not be remembered: {error}")

    def host_facts(self) -> tuple[tuple[str, bytes], ...]:
        """Gathered once."""
        if self._facts is None:
            self._facts = self._host_facts.collect()
        return self._facts


class _Pass:
    """One walk over all files, and the try to commit what came of it."""

    def __init__(
        self, backup: Backup, pair: PairRecord, outlet: Outlet, missing: tuple[bytes, ...], reread: bool
    ) -> None:
        self._backup = backup
        self._job = backup._job
        self._pair = pair
        self._outlet = outlet
        self._missing = missing
        self._reread = reread
        machine = self._job.secret.machine_id
        self._listing_path = os.path.join(self._job.state, state.NAME)
        self._version = listing_version(self._listing_path)
        self._is_seeding = state.is_seeding(self._job.state, machine, pair.pair)
        self._pieces = refresh.Census()
        self.writer = state.ListingWriter(self._job.state, machine, pair.pair)
        self._listing = ListingBuilder(self._put_page, self.writer, frozenset(missing).__contains__, self._pieces.add)
        job = ScanJob(self._listing_path, pair.pair, missing, reread)
        parts = backup._reader.begin(job)
        self._old = OpenListing(self._listing_path, machine, pair.pair)
        old = OldPages(map(self._old.pages, parts))
        # What was lost may be a base, so a pass that heals sends everything in full.
        deltas = self._open_deltas() if self._job.delta_cache and not missing else None
        seed = self._job.secret.chunker_seed
        self._intake = Intake(outlet, self._listing, old, seed, backup._watcher.note, deltas)
        self._checkpoint_at = backup._clocks.steady() + self._job.checkpoint_s

    def _open_deltas(self) -> "Deltas | None":
        from mastodon_agent.delta import open_deltas  # imported late: few runs need it

        job = self._job
        key = file_hash_key(job.secret.id_key)
        return open_deltas(job.state, job.delta_cache, key, self._outlet, self._backup._watcher.say)

    def run(self) -> Outcome | Missing:
        """The outcome, or what the server misses."""
        backup, intake = self._backup, self._intake
        tick_at = 0.0
        for kind, data, meta in backup._reader.records(self._tick):
            intake.take(kind, data, meta)
            if intake.is_done:
                break
            now = backup._clocks.steady()
            if now >= tick_at:
                tick_at = now + TICK_S
                self._tick()
        tally = intake.tally
        incomplete = any(tally.counts[reason] for reason in INCOMPLETE)
        status = SnapshotStatus.PARTIAL if incomplete else SnapshotStatus.COMPLETE
        root = self._put_root()
        self._outlet.finish()
        self.writer.publish()
        if self.writer.failure is not None:
            backup._watcher.say(f"the state could not be written, the next run is slower: {self.writer.failure}")
        sequence, word = backup.commit(self._pair, root, status, tally)
        if isinstance(word, Missing):
            return word
        return Outcome(
            status, sequence, tally, self._listing.entries, self._outlet.sent_bytes, self._outlet.sent_blobs,
            backup._checkpoints, backup._notices,
        )  # fmt: skip

    def look_ahead(self, noted: refresh.Noted) -> None:
        """What the next run is to make anew, if anything is another than it was."""
        machine = self._job.secret.machine_id
        if listing_version(self._listing_path) == self._version:
            return
        try:
            refresh.renew(self._listing_path, machine, self._pair.pair, noted, self._pieces)
        except OSError as error:
            self._backup._watcher.say(f"what to make anew could not be noted, restores become slower: {error}")

    def abandon(self) -> None:
        """Nothing more comes. What was read has gone to the outlet, where the next pass finds it."""
        self._intake.abandon()

    def close(self) -> None:
        """Let go of the state's files."""
        self.writer.close()
        self._old.close()

    def _tick(self) -> None:
        """Between records: answers are taken, signs of life given, checkpoints made."""
        backup, tally = self._backup, self._intake.tally
        self._outlet.pump()
        backup._session.progress(tally.files, tally.content_bytes)
        backup._watcher.progress(tally, self._outlet.sent_bytes)
        if self._is_seeding and backup._clocks.steady() >= self._checkpoint_at:
            self._make_checkpoint()
            self._checkpoint_at = backup._clocks.steady() + self._job.checkpoint_s

    def _make_checkpoint(self) -> None:
        """A snapshot of what is there so far, which lasts should the run not."""
        self._intake.settle()
        if not self._listing.ids:
            return
        root = self._put_root()
        self._outlet.finish()
        _, word = self._backup.commit(self._pair, root, SnapshotStatus.CHECKPOINT, self._intake.tally)
        if isinstance(word, Committed):
            self.writer.publish_copy()
            self._backup._checkpoints += 1

    def _put_page(self, references: list[bytes], plaintext: bytes) -> bytes:
        return self._outlet.put(BlobKind.PAGE, references, plaintext)

    def _put_root(self) -> bytes:
        listing, job = self._listing, self._job
        root = Root(
            tuple(listing.first_keys), job.roots, job.excludes, listing.entries, listing.files, listing.content_bytes,
            self._backup.host_facts(), __version__, facts.time_zone(), facts.hostname(),
        )  # fmt: skip
        return self._outlet.put(BlobKind.ROOT, listing.ids, root.encode())
