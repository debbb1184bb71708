"""What the restore port answers: one coroutine for each type of request, all in one table.

Whoever may not ask was refused before (``restore_verbs.ALLOWED``). A coroutine gets the asker's certificate and
looks at nothing outside its tenant (P6); what it may tell the asker when it fails is a Refused.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from mastodon.catalogue.interface import Certificate
from mastodon.daemon.answers import BlobAnswer
from mastodon.daemon.status import Status, scope
from mastodon.daemon.store import Store
from mastodon.sealed.schema import clean_text
from mastodon.wire.certificate_messages import CertificateItem, CertificatesRequest
from mastodon.wire.messages import Message
from mastodon.wire.read_messages import READS_LIMIT, ReadItem, ReadsRequest
from mastodon.wire.restore_client import split_ids
from mastodon.wire.restore_messages import (
    PAIRS_LIMIT,
    SNAPSHOTS_LIMIT,
    BookItem,
    BookRequest,
    EnvelopeItem,
    EnvelopesRequest,
    FetchRequest,
    MachineItem,
    MachinesRequest,
    PairItem,
    PairsRequest,
    RunItem,
    RunsRequest,
    SnapshotItem,
    SnapshotsRequest,
    StateRequest,
    WhoItem,
    WhoRequest,
)
from mastodon.wire.status_messages import StatusRequest
from mastodon.wire.telling_messages import (
    CHANNELS_LIMIT,
    EVENTS_LIMIT,
    AcknowledgeRequest,
    ChannelItem,
    EventItem,
    EventsRequest,
    NotifyRequest,
)


@dataclass(frozen=True, slots=True)
class Desk:
    """What answers are made from. ``servers`` are pins of the server's keys, ``append_hosts`` where agents connect."""

    store: Store
    status: Status
    servers: tuple[bytes, ...]
    append_hosts: Callable[[], tuple[str, ...]]


async def blobs(desk: Desk, asker: Certificate, request: FetchRequest) -> BlobAnswer:
    """The sealed bytes of blobs; the one answer that is no list."""
    located = await desk.store.locate(asker.tenant, request.machine, split_ids(request.ids))
    sizes = [size for _, _, size in located.ranges]
    await desk.store.reads.fetch(asker, request.machine, len(sizes), sum(sizes))
    return BlobAnswer(request.request, located.ranges, located.missing, desk.store.pack_unreadable)


async def _who(desk: Desk, asker: Certificate, request: WhoRequest) -> Sequence[Message]:
    who = await desk.store.who(asker.tenant)
    return [
        WhoItem(
            request.request, asker.tenant, who.name, asker.role, desk.servers, desk.store.now_ns(), who.counter,
            desk.append_hosts(), desk.store.signed_head(),
        )
    ]  # fmt: skip


async def _machines(desk: Desk, asker: Certificate, request: MachinesRequest) -> Sequence[Message]:
    return [
        MachineItem(request.request, row.enrolment, row.state, row.seen_ns, row.snapshots, row.kept_bytes)
        for row in await desk.store.machines(asker.tenant)
    ]


async def _snapshots(desk: Desk, asker: Certificate, request: SnapshotsRequest) -> Sequence[Message]:
    limit = min(request.limit, SNAPSHOTS_LIMIT)
    rows = await desk.store.snapshots(asker.tenant, request.machine, request.first, limit)
    desk.store.reads.note(asker, request.machine)
    return [SnapshotItem(request.request, record, time_ns) for record, time_ns in rows]


async def _pairs(desk: Desk, asker: Certificate, request: PairsRequest) -> Sequence[Message]:
    rows = await desk.store.pairs(asker.tenant, request.machine, request.first, min(request.limit, PAIRS_LIMIT))
    desk.store.reads.note(asker, request.machine)
    return [PairItem(request.request, one.number, one.pair, one.hash, one.time_ns) for one in rows]


async def _envelopes(desk: Desk, asker: Certificate, request: EnvelopesRequest) -> Sequence[Message]:
    rows = await desk.store.envelopes(asker.tenant, request.machine, request.pair)
    desk.store.reads.note(asker, request.machine)
    return [EnvelopeItem(request.request, record, envelope, int(own)) for record, envelope, own in rows]


async def _runs(desk: Desk, asker: Certificate, request: RunsRequest) -> Sequence[Message]:
    records = await desk.store.runs(asker.tenant, request.machine, split_ids(request.ids))
    desk.store.reads.note(asker, request.machine)
    return [RunItem(request.request, record) for record in records]


async def _book(desk: Desk, asker: Certificate, request: BookRequest) -> Sequence[Message]:
    book = await desk.store.book(asker.tenant)
    return [BookItem(request.request, book)] if book else []


async def _certificates(desk: Desk, asker: Certificate, request: CertificatesRequest) -> Sequence[Message]:
    return [
        CertificateItem(request.request, one.pin, one.role, one.label, one.added_ns, one.expires_ns)
        for one in await desk.store.certificates(asker.tenant)
    ]


async def _state(desk: Desk, asker: Certificate, request: StateRequest) -> Sequence[Message]:
    await desk.store.execute(asker.tenant, asker.pin, request.statement, request.attachment)
    return []


async def _events(desk: Desk, asker: Certificate, request: EventsRequest) -> Sequence[Message]:
    limit = min(request.limit, EVENTS_LIMIT)
    rows = await desk.store.events(asker.tenant, request.machine, request.after, request.since_ns, limit)
    return [
        EventItem(
            request.request, one.event.sequence, one.event.code, one.event.machine, one.event.time_ns, one.event.detail,
            one.acknowledged_ns, int(one.is_open),
        )
        for one in rows
    ]  # fmt: skip


async def _reads(desk: Desk, asker: Certificate, request: ReadsRequest) -> Sequence[Message]:
    limit = min(request.limit, READS_LIMIT)
    rows = await desk.store.read_rows(asker.tenant, request.machine, request.after, request.since_ns, limit)
    return [
        ReadItem(
            request.request, row.sequence, row.pin, row.label, row.machine, row.since_ns, row.time_ns, row.requests,
            row.blobs, row.content_bytes,
        )
        for row in rows
    ]  # fmt: skip


async def _acknowledge(desk: Desk, asker: Certificate, request: AcknowledgeRequest) -> Sequence[Message]:
    await desk.store.acknowledge(asker.tenant, asker.pin, request.events)
    return []


async def _test_notify(desk: Desk, asker: Certificate, request: NotifyRequest) -> Sequence[Message]:
    return [
        ChannelItem(
            request.request, one.kind, one.machine, one.address, one.failing_ns, clean_text(one.reason, 512), one.secret
        )
        for one in (await desk.store.told(asker.tenant, bool(request.test)))[:CHANNELS_LIMIT]
    ]


async def _status(desk: Desk, asker: Certificate, request: StatusRequest) -> Sequence[Message]:
    server, machines = await desk.status.read(scope(asker), request.machine, request.request)
    return [server, *machines]


LISTS: dict[type[Message], Callable[[Desk, Certificate, Any], Awaitable[Sequence[Message]]]] = {
    WhoRequest: _who,
    MachinesRequest: _machines,
    SnapshotsRequest: _snapshots,
    PairsRequest: _pairs,
    EnvelopesRequest: _envelopes,
    RunsRequest: _runs,
    BookRequest: _book,
    StateRequest: _state,
    EventsRequest: _events,
    AcknowledgeRequest: _acknowledge,
    ReadsRequest: _reads,
    NotifyRequest: _test_notify,
    StatusRequest: _status,
    CertificatesRequest: _certificates,
}
"""Every request but FETCH, with what makes its items; they are in memory whole before the first one is sent."""
