"""Keeps what each machine's days were like, and has them judged after each complete commit (anomaly.py).

Promises: only what the server sees counts; what a snapshot reaches is measured once a page, so that a commit costs what
is new in it, after it was answered, one machine at a time and in one turn beside all machines' own work; what was not
judged when the daemon stopped is at its next start. What is odd is told as an edge of its own for each finding.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from twisted.internet.defer import Deferred, succeed
from twisted.logger import Logger

from mastodon.catalogue.interface import Catalogue
from mastodon.catalogue.measures import BackupDay, LastOfDay, Reach
from mastodon.daemon.anomaly import HISTORY, Finding, judge
from mastodon.daemon.edges import Condition, Edges
from mastodon.daemon.trouble import log_trouble
from mastodon.sealed.blob import BlobKind
from mastodon.sealed.events import EventCode
from mastodon.sealed.snapshot import Reason, SnapshotRecord

IDS_AT_ONCE = 4096
PARENTS_AT_ONCE = 8
"""Each may have 2^17 references, and all of them are in memory."""


T = TypeVar("T")


class _Stopped(Exception):
    """The store closes: what is not finished is begun again at the next start."""


class Usual:
    """Lives in the reactor's thread."""

    log = Logger()

    def __init__(self, catalogue: Catalogue, edges: Edges) -> None:
        self._catalogue = catalogue
        self._measures = catalogue.measures
        self._edges = edges
        self._waiting: dict[bytes, None] = {}
        self._work: Deferred[None] | None = None
        self._stopped = False

    def start(self) -> "Deferred[None]":
        """Judge what was not when the daemon stopped."""

        def found(machines: list[bytes]) -> None:
            for machine in machines:
                self.committed(machine)

        return self._measures.unmeasured().addCallback(found)

    def committed(self, machine: bytes) -> None:
        """The machine committed a complete snapshot: look at it soon."""
        self._waiting[machine] = None
        if self._work is None and not self._stopped:
            self._work = Deferred.fromCoroutine(self._work_off())

    def settled(self) -> "Deferred[None]":
        """Fires when nothing waits to be judged any more."""
        if self._work is None:
            return succeed(None)
        waiting: Deferred[None] = Deferred()
        self._work.addBoth(lambda _: waiting.callback(None))
        return waiting

    def stop(self) -> None:
        """Begin nothing more; what is going on ends soon."""
        self._stopped = True

    async def _work_off(self) -> None:
        while self._waiting:
            machine = next(iter(self._waiting))
            del self._waiting[machine]
            try:
                await self._look(machine)
            except _Stopped:
                break
            except Exception:
                log_trouble(self.log, "the backups of machine {machine} could not be judged", machine=machine.hex())
        self._work = None

    async def _look(self, machine: bytes) -> None:
        heads = await self._measures.last_of_days(machine, HISTORY)
        for head in heads:
            day = await self._measure(machine, head)
            if head is heads[-1]:
                await self._judge(machine, day)
            # Behind what is told: a crash between the two tells it at the next start.
            await self._measures.note_day(machine, day)

    async def _judge(self, machine: bytes, day: BackupDay) -> None:
        before = await self._measures.days(machine, HISTORY)
        found = judge([*(one for one in before if one.day != day.day), day])
        said = await self._said(machine, day.sequence) if found else ""
        for finding in Finding:
            condition = Condition(EventCode.ANOMALY, EventCode.USUAL_AGAIN, machine=machine, subject=finding.value)
            text = f"{found[finding]}; {said}" if finding in found else "as usual again"
            await self._edges.settle(condition, _whether(finding in found), text)

    async def _said(self, machine: bytes, sequence: int) -> str:
        """What the agent says of its plaintext, which nobody can check."""
        rows = await self._catalogue.snapshots(machine, sequence, 1)
        counts = SnapshotRecord.read_unverified(rows[0][0]).counts if rows else ()
        told = ", ".join(f"{Reason(reason).name.lower().replace('_', ' ')} {count}" for reason, count in counts)
        return f"snapshot {sequence}, its agent counts {told or 'nothing unusual'}"

    # Measuring

    async def _measure(self, machine: bytes, head: LastOfDay) -> BackupDay:
        sent_bytes, sent_blobs = await self._measures.sent(machine, head)
        pages = (await self._measures.children(machine, [head.root])).get(head.root, ())
        listing = sum(size for _, size in (await self._sizes(machine, [head.root, *pages])).values())
        reached = (await self._reaches(machine, pages)).values()
        content, blobs = sum(one.bytes for one in reached), sum(one.blobs for one in reached)
        return BackupDay(head.sequence, head.time_ns, sent_bytes, sent_blobs, listing, content, 1 + len(pages) + blobs)

    async def _reaches(self, machine: bytes, parents: Sequence[bytes]) -> dict[bytes, Reach]:
        """What pages or maps lead to; what was not known of them is kept."""
        found: dict[bytes, Reach] = {}
        for part in _parts(parents, IDS_AT_ONCE):
            known = await self._ask(self._measures.reaches(machine, part))
            found |= known
        for group in _parts([one for one in parents if one not in found], PARENTS_AT_ONCE):
            found |= await self._reach_of(machine, group)
        return found

    async def _reach_of(self, machine: bytes, group: Sequence[bytes]) -> dict[bytes, Reach]:
        children = await self._ask(self._measures.children(machine, group))
        sizes = await self._sizes(machine, list({child for one in group for child in children.get(one, ())}))
        maps = await self._reaches(machine, [one for one, (kind, _) in sizes.items() if kind is BlobKind.MAP])
        below = {one: Reach(1, size) for one, (_, size) in sizes.items()}
        for one, reach in maps.items():
            below[one] = Reach(1 + reach.blobs, sizes[one][1] + reach.bytes)
        found = {}
        for one in group:
            reached = [below[child] for child in children.get(one, ()) if child in below]
            found[one] = Reach(sum(each.blobs for each in reached), sum(each.bytes for each in reached))
        await self._ask(self._measures.note_reaches(machine, found))
        return found

    async def _sizes(self, machine: bytes, ids: Sequence[bytes]) -> dict[bytes, tuple[BlobKind, int]]:
        found: dict[bytes, tuple[BlobKind, int]] = {}
        for part in _parts(ids, IDS_AT_ONCE):
            known = await self._ask(self._measures.sizes(machine, part))
            found |= known
        return found

    async def _ask(self, question: "Deferred[T]") -> T:
        answer = await question
        if self._stopped:
            raise _Stopped
        return answer


def _whether(holds: bool) -> Callable[[bool], bool]:
    return lambda is_told: holds


def _parts(ids: Sequence[bytes], size: int) -> Iterator[Sequence[bytes]]:
    for at in range(0, len(ids), size):
        yield ids[at : at + size]
