"""The store as the append port uses it.

Promises: what a Deferred has acknowledged is durable (P9); a session that was displaced writes nothing more.
"""

from collections.abc import Callable, Sequence

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from mastodon.catalogue.interface import (
    Account,
    BlobState,
    Standing,
)
from mastodon.daemon.closure import Closure
from mastodon.daemon.commits import CommitResult
from mastodon.daemon.errors import Disabled, Displaced
from mastodon.daemon.pack_receiver import PackReceiver
from mastodon.daemon.store_core import STOPPED, StoreCore
from mastodon.daemon.telling.heartbeat import Beat
from mastodon.daemon.trouble import log_trouble
from mastodon.sealed.blob import LEVELS
from mastodon.sealed.snapshot import SnapshotStatus

LOOKED_UP_AT_ONCE = 1024
"""Ids of an offer between which other machines have their turn."""
CLOSING_BUDGET = 1 << 16
"""References that one offer may make the server look at, to find out that offered pages are whole."""


class AppendStore(StoreCore):
    """Accounts, sessions, packs, pairs, snapshots."""

    def account(self, machine: bytes) -> "Deferred[Account | None]":
        """The account, None for one that is not known."""
        return self._do(self._ready().catalogue.account(machine))

    def standing(self, machine: bytes) -> "Deferred[Standing | None]":
        """For a stranger who says that it is this machine: whether it is known, and may come in."""
        return self._do(self._ready().catalogue.standing(machine, stranger=True))

    def machine_session(self, machine: bytes) -> int:
        """A new session of the machine begins; what older ones still write is refused as Displaced."""
        self._epoch += 1
        self._epochs[machine] = self._epoch
        self._seen[machine] = self.now_ns()
        self._beat(machine, Beat.START)
        return self._epoch

    def stored(self, machine: bytes, ids: Sequence[bytes]) -> "Deferred[set[bytes]]":
        """The ids that need not be sent: there under the countable pairs; pages and maps only with all below them."""
        return self._do(self._stored(machine, ids))

    async def _stored(self, machine: bytes, ids: Sequence[bytes]) -> set[bytes]:
        opened = self._ready()
        catalogue, behind = opened.catalogue, opened.intake.is_behind(machine)
        states: dict[bytes, BlobState] = {}
        for at in range(0, len(ids), LOOKED_UP_AT_ONCE):
            states.update(await catalogue.blob_states(machine, ids[at : at + LOOKED_UP_AT_ONCE], behind))
        there = {one: state for one, state in states.items() if state.present}
        whole = {one for one, state in there.items() if state.closed or not LEVELS[state.kind]}
        unsure = [one for one in there if one not in whole]
        if unsure:
            whole |= (await Closure(catalogue, machine, CLOSING_BUDGET).walk(unsure)).whole
        return whole

    def begin_pack(self, machine: bytes, epoch: int) -> PackReceiver:
        """Begin to receive a pack."""
        opened = self._ready()
        self._names += 1
        name = f"{self._names}-{self._random(8).hex()}.pack"
        hold = opened.quotas.hold(machine)
        return PackReceiver(opened.intake, machine, name, self._demand_current(machine, epoch), hold)

    def add_pair(self, machine: bytes, record: bytes, envelope: bytes, epoch: int) -> "Deferred[bytes]":
        """Take a pair record and its envelope; fires with the record hash when they are durable."""

        def tell(name: bytes) -> bytes:
            for watcher in self.pair_watchers:
                watcher(machine)
            return name

        work = self._ready().commits.add_pair(machine, record, envelope, self._demand_current(machine, epoch))
        return self._do(work).addCallback(tell)

    def commit(self, machine: bytes, record: bytes, epoch: int) -> "Deferred[CommitResult]":
        """Commit a snapshot record, or say what it lacks."""

        def done(result: CommitResult) -> CommitResult:
            if not result.missing and result.status is SnapshotStatus.COMPLETE:
                self._beat(machine, Beat.SUCCESS)
                for watcher in self.committed_watchers:
                    watcher(machine)
            return result

        committed = self._do(self._ready().commits.commit(machine, record, self._demand_current(machine, epoch)))
        return committed.addCallback(done)

    def run_over(self, machine: bytes, exit_code: int, text: str) -> "Deferred[None]":
        """A machine's agent says that its run is over. Never fails."""
        if exit_code:
            self._beat(machine, Beat.FAIL)

        def lost(failure: Failure) -> None:
            log_trouble(self.log, "that a run is over was not looked at", failure)

        return self._do(self.watching.run_over(machine, exit_code, text)).addErrback(lost)

    def _beat(self, machine: bytes, beat: Beat) -> None:
        if self.telling is not None:
            self.telling.beat(machine, beat)

    def _demand_current(self, machine: bytes, epoch: int) -> Callable[[], None]:
        def check() -> None:
            current = self._epochs.get(machine)
            if current == STOPPED:
                raise Disabled("this machine may append no more")
            if current != epoch:
                raise Displaced("a newer session of this machine took over")

        return check
