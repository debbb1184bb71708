"""Figures for Prometheus."""

import urllib.error
import urllib.request
from dataclasses import replace
from typing import Any

from prometheus_client.parser import text_string_to_metric_families
from twisted.internet.defer import Deferred, ensureDeferred, maybeDeferred
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.test.requesthelper import DummyRequest

from mastodon.daemon.config import ListenConfig
from mastodon.daemon.errors import Unavailable
from mastodon.daemon.metrics import MetricsPage, render
from mastodon.sealed.events import EventCode
from mastodon.wire.status_messages import SpoolState, TenantUse, WatchState
from tests.running_server import ServerTestCase
from tests.test_verdict import NOW, TENANT, machine, opened, server

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def samples(text: bytes) -> Samples:
    """Values by name and labels; fails for the same one twice."""
    found: Samples = {}
    for family in text_string_to_metric_families(text.decode()):
        for one in family.samples:
            name = one.name, tuple(sorted(one.labels.items()))
            if name in found:
                raise AssertionError(f"{name} twice")
            found[name] = one.value
    return found


class RenderTests(SynchronousTestCase):
    """The text."""

    def test_machines(self) -> None:
        """Each machine has its state, times, sizes and what is open; what has no value is left out."""
        one = machine(1, WatchState.PARTIAL, 2, quota_bytes=5000, conditions=opened(EventCode.PARTIAL_LONG))
        other = machine(2, WatchState.NEVER_SEEN, 0, complete_ns=0, newest_ns=0, seen_ns=0)
        found = samples(render(server(), [one, other]))
        whose = (("admin", "alice"), ("machine", one.machine.hex()))
        self.assertEqual(found["mastodon_machine_state", (*whose, ("state", "partial"))], 1)
        self.assertEqual(found["mastodon_machine_last_complete_timestamp_seconds", whose], NOW // 10**9 - 7200)
        self.assertEqual(found["mastodon_machine_quota_bytes", whose], 5000)
        self.assertEqual(found["mastodon_machine_watched", whose], 1)
        nobody = (("admin", "alice"), ("machine", other.machine.hex()))
        self.assertNotIn(("mastodon_machine_last_complete_timestamp_seconds", nobody), found)
        self.assertNotIn(("mastodon_machine_quota_bytes", nobody), found)
        condition = (
            ("admin", "alice"), ("condition", "partial_long"), ("machine", one.machine.hex()), ("severity", "warning"),
            ("subject", ""),
        )  # fmt: skip
        self.assertEqual(found["mastodon_condition_since_timestamp_seconds", condition], NOW // 10**9 - 3600)

    def test_server(self) -> None:
        """Spools, admins, the ledger and what waits; labels are as they were, whatever stands in them."""
        name = 'a"b\\c\nd'
        at = server(
            spools=(SpoolState(name, "not mounted", 0, 7),), tenants=(TenantUse(TENANT, "bob", 3, 5, (), 0),),
            waiting=2, conditions=((60000, "x", NOW),),
        )  # fmt: skip
        found = samples(render(at, []))
        self.assertEqual(found["mastodon_spool_online", (("path", name),)], 0)
        self.assertEqual(found["mastodon_admin_quota_bytes", (("admin", "bob"),)], 0)
        self.assertEqual(found["mastodon_waiting_messages", ()], 2)
        self.assertEqual(found["mastodon_time_seconds", ()], NOW // 10**9)
        self.assertEqual(sum(1 for name, _ in found if name == "mastodon_condition_since_timestamp_seconds"), 1)

    def test_five_hundred(self) -> None:
        """Many machines are as many series, none twice."""
        found = samples(render(server(), [machine(number) for number in range(500)]))
        self.assertEqual(sum(1 for name, _ in found if name == "mastodon_machine_state"), 500)


class FakeStatus:
    """Answers when the test says so."""

    def __init__(self) -> None:
        self.reads: list[Deferred[Any]] = []

    def read(self, tenant: bytes | None) -> Deferred[Any]:
        assert tenant is None
        self.reads.append(Deferred())
        return self.reads[-1]


class PageTests(SynchronousTestCase):
    """Who gets what, when."""

    def setUp(self) -> None:
        self.status = FakeStatus()
        self.page = MetricsPage(self.status, lambda work, *args: maybeDeferred(work, *args))  # type: ignore[arg-type]

    def ask(self) -> Any:
        request: Any = DummyRequest([b"metrics"])
        request.render(self.page)
        return request

    def test_shared(self) -> None:
        """Who asks while figures are made shares them; the next one gets new ones."""
        first, second = self.ask(), self.ask()
        self.assertEqual(len(self.status.reads), 1)
        self.status.reads[0].callback((server(), [machine()]))
        self.assertEqual(first.written, second.written)
        self.assertTrue(first.written and first.finished and second.finished)
        self.ask()
        self.assertEqual(len(self.status.reads), 2)

    def test_gone(self) -> None:
        """Who leaves is forgotten; the others get their figures."""
        first, second = self.ask(), self.ask()
        first.processingFailed(Failure(ConnectionError()))
        self.status.reads[0].callback((server(), []))
        self.assertEqual((first.written, second.finished), ([], 1))

    def test_no_figures(self) -> None:
        """What cannot be had is an error, with the reason where it may be told."""
        for error, said in ((Unavailable("wait"), b"wait\n"), (KeyError("secret"), b"the server failed: its log")):
            request = self.ask()
            self.status.reads[-1].errback(Failure(error))
            self.assertEqual(request.responseCode, 503)
            self.assertTrue(b"".join(request.written).startswith(said))
        self.assertEqual(len(self.flushLoggedErrors(KeyError)), 1)


class RunningTests(ServerTestCase):
    """In the daemon."""

    def setUp(self) -> Any:
        started = super().setUp()
        self.assertIsNone(self.server.config.metrics)

        async def again() -> None:
            await started
            await self.server.stop()
            self.server.config = replace(self.server.config, metrics=ListenConfig("127.0.0.1", 0))
            await self.server.start()

        return ensureDeferred(again())

    def get(self, path: str, method: str = "GET") -> tuple[int, bytes]:
        url = f"http://127.0.0.1:{self.server.running.port_number(2)}{path}"
        request = urllib.request.Request(url, method=method, headers={"Connection": "close"})
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read()

    def test_figures(self) -> Deferred[None]:
        """/metrics has the figures of the status query; there is nothing else, and nothing to change."""

        def work() -> None:
            name = self.server.new_machine(self.tenant).secret.machine_id.hex()
            code, text = self.get("/metrics")
            found = samples(text)
            self.assertEqual(code, 200)
            whose = (("admin", "alice"), ("machine", name))
            self.assertEqual(found["mastodon_machine_state", (*whose, ("state", "seeding"))], 1)
            spool = (("path", str(self.server.spools[0])),)
            self.assertEqual(found["mastodon_spool_online", spool], 1)
            self.assertGreater(found["mastodon_spool_usable_bytes", spool], 0)
            for path in ("/", "/metrics/x", "/other"):
                self.assertEqual(self.get(path)[0], 404, path)
            self.assertEqual(self.get("/metrics", "POST")[0], 405)

        return self.thread(work)
