"""The figures of the status query for Prometheus, over HTTP on an address of their own.

Promises: nothing can be changed here, and figures are not made twice at the same time, however often somebody asks;
what cannot be had is an error (503), never old figures. There is no authentication: whoever reaches the address sees
machine ids, names of admins, times and sizes, so it is a loopback address unless the operator says otherwise.
"""

from collections.abc import Callable, Iterator, Sequence

from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.http import SERVICE_UNAVAILABLE
from twisted.web.http import Request as HTTPRequest
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request, Site

from mastodon.daemon.errors import Refused
from mastodon.daemon.status import ALL, Status
from mastodon.sealed.duration import SECOND_NS
from mastodon.sealed.events import EVENTS, EventCode
from mastodon.sealed.ledger_entries import MachineState
from mastodon.wire.status_messages import Condition, ServerStatusItem, StatusItem

IDLE_S = 60
InThread = Callable[..., "Deferred[bytes]"]


class MetricsSite(Site):
    """Serves /metrics and nothing else, without a line in the log for each look."""

    noisy = False
    displayTracebacks = False

    def __init__(self, status: Status, in_thread: InThread) -> None:
        root = Resource()
        root.putChild(b"metrics", MetricsPage(status, in_thread))
        super().__init__(root, timeout=IDLE_S)

    def log(self, request: HTTPRequest) -> None:
        """Nothing."""


class MetricsPage(Resource):
    """/metrics."""

    log = Logger()

    def __init__(self, status: Status, in_thread: InThread) -> None:
        super().__init__()
        self._status = status
        self._in_thread = in_thread
        self._waiting: list[Request] = []

    def render_GET(self, request: Request) -> int:
        """The figures, when they are there; whoever asks while they are being made gets the same."""

        def gone(_: Failure) -> None:
            if request in self._waiting:
                self._waiting.remove(request)

        request.notifyFinish().addErrback(gone)
        self._waiting.append(request)
        if len(self._waiting) == 1:
            self._status.read(ALL).addCallback(lambda found: self._in_thread(render, *found)).addBoth(self._answer)
        return NOT_DONE_YET

    def _answer(self, outcome: bytes | Failure) -> None:
        waiting, self._waiting = self._waiting, []
        body = self._explain(outcome) if isinstance(outcome, Failure) else outcome
        for request in waiting:
            if isinstance(outcome, Failure):
                request.setResponseCode(SERVICE_UNAVAILABLE)
            request.setHeader(b"content-type", CONTENT_TYPE_PLAIN_0_0_4.encode("ascii"))
            request.write(body)
            request.finish()

    def _explain(self, failure: Failure) -> bytes:
        if isinstance(failure.value, Refused):
            return f"{failure.value.text}\n".encode()
        self.log.failure("metrics: internal error", failure)
        return b"the server failed: its log says why\n"


class Families:
    """The metrics of one look; what has no value is left out."""

    def __init__(self, server: ServerStatusItem, machines: Sequence[StatusItem]) -> None:
        self._found: dict[str, Metric] = {}
        self._names = {one.tenant: one.name for one in server.tenants}
        self._of_server(server)
        for one in machines:
            self._of_machine(one)

    def collect(self) -> Iterator[Metric]:
        """As a registry wants it."""
        return iter(self._found.values())

    def _add(self, name: str, value: float | None, **labels: str) -> None:
        if value is not None:
            if name not in self._found:
                self._found[name] = GaugeMetricFamily(f"mastodon_{name}", HELP[name], labels=list(labels))
            self._found[name].add_metric(list(labels.values()), value)  # type: ignore[attr-defined]

    def _of_server(self, server: ServerStatusItem) -> None:
        self._add("build_info", 1, version=server.version)
        self._add("ledger_sequence", server.head_sequence)
        self._add("time_seconds", server.time_ns / SECOND_NS)
        self._add("certificate_expiry_timestamp_seconds", _seconds(server.certificate_expires_ns))
        self._add("waiting_messages", server.waiting)
        self._add("waiting_since_timestamp_seconds", _seconds(server.waiting_since_ns))
        for spool in server.spools:
            self._add("spool_online", int(not spool.offline), path=spool.path)
            self._add("spool_usable_bytes", spool.usable_bytes, path=spool.path)
            self._add("spool_size_bytes", spool.size_bytes, path=spool.path)
        for tenant in server.tenants:
            self._add("admin_machines", tenant.machines, admin=tenant.name)
            self._add("admin_kept_bytes", tenant.kept_bytes, admin=tenant.name)
            self._add("admin_quota_bytes", tenant.quota_bytes, admin=tenant.name)
            self._conditions(tenant.conditions, tenant.name)
        self._conditions(server.conditions)

    def _of_machine(self, one: StatusItem) -> None:
        whose = {"machine": one.machine.hex(), "admin": self._names.get(one.tenant, one.tenant.hex())}
        self._add("machine_state", 1, **whose, state=one.watch.name.lower())
        self._add("machine_watched", int(one.state is MachineState.ACTIVE), **whose)
        self._add("machine_last_complete_timestamp_seconds", _seconds(one.complete_ns), **whose)
        self._add("machine_last_snapshot_timestamp_seconds", _seconds(one.newest_ns), **whose)
        self._add("machine_last_seen_timestamp_seconds", _seconds(one.seen_ns), **whose)
        self._add("machine_partial_since_timestamp_seconds", _seconds(one.partial_since_ns), **whose)
        self._add("machine_interval_seconds", one.interval_s, **whose)
        self._add("machine_grace_seconds", one.grace_s, **whose)
        self._add("machine_snapshots", one.snapshots, **whose)
        self._add("machine_kept_bytes", one.kept_bytes, **whose)
        self._add("machine_quota_bytes", one.quota_bytes, **whose)
        self._conditions(one.conditions, **{"admin": whose["admin"], "machine": whose["machine"]})

    def _conditions(self, conditions: Sequence[Condition], admin: str = "", machine: str = "") -> None:
        for code, subject, since_ns in conditions:
            known = EventCode(code) if code in set(EventCode) else None
            self._add(
                "condition_since_timestamp_seconds", since_ns / SECOND_NS,
                condition=known.name.lower() if known else str(code),
                severity=EVENTS[known].severity.value if known else "warning", subject=subject, admin=admin,
                machine=machine,
            )  # fmt: skip


HELP = {
    "build_info": "The release of the daemon.",
    "ledger_sequence": "Entries in the ledger.",
    "time_seconds": "The server's clock.",
    "certificate_expiry_timestamp_seconds": "When the server's certificate ends; clients with pins do not mind.",
    "waiting_messages": "Messages that could not be delivered yet.",
    "waiting_since_timestamp_seconds": "When the oldest of them was made.",
    "spool_online": "Whether a spool is in use.",
    "spool_usable_bytes": "Free space of a spool beyond its reserve.",
    "spool_size_bytes": "Size of the file system that a spool is on.",
    "admin_machines": "Machines of an admin.",
    "admin_kept_bytes": "What an admin's machines keep.",
    "admin_quota_bytes": "What they may keep.",
    "machine_state": "1, with how the machine stands with its watch as a label.",
    "machine_watched": "Whether backups are expected of the machine.",
    "machine_last_complete_timestamp_seconds": "Its newest complete snapshot, by the server's clock.",
    "machine_last_snapshot_timestamp_seconds": "Its newest snapshot, complete or not.",
    "machine_last_seen_timestamp_seconds": "When it last checked in.",
    "machine_partial_since_timestamp_seconds": "Its first partial snapshot since the last complete one.",
    "machine_interval_seconds": "How often a complete snapshot is expected.",
    "machine_grace_seconds": "How much later it may be.",
    "machine_snapshots": "Snapshots of the machine.",
    "machine_kept_bytes": "What the machine keeps.",
    "machine_quota_bytes": "What it may keep.",
    "condition_since_timestamp_seconds": "What is not as it should be, and since when; gone when it is over.",
}


def render(server: ServerStatusItem, machines: Sequence[StatusItem]) -> bytes:
    """The figures in Prometheus' text format; takes a while, so in a thread."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(Families(server, machines))
    return generate_latest(registry)


def _seconds(time_ns: int) -> float | None:
    return time_ns / SECOND_NS if time_ns else None
