"""The daemon's start and end: a stop in the middle of the start, and enough open files for the limits."""

import resource
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred, ensureDeferred, fail
from twisted.internet.error import CannotListenError
from twisted.logger import LogLevel, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase, TestCase

from mastodon.catalogue.interface import CatalogueError
from mastodon.daemon import descriptors, service
from mastodon.daemon.config import LimitsConfig
from mastodon.daemon.service import MastodonService, StoppedEarly
from tests.running_server import RunningServer

LIMITS = LimitsConfig()


class Port:
    """A listening port that only remembers whether it still listens."""

    def __init__(self) -> None:
        self.listens = True

    def stopListening(self) -> None:
        self.listens = False


class StopDuringStartTests(TestCase):
    """SIGTERM comes when it likes."""

    def setUp(self) -> None:
        self.server = RunningServer(Path(self.mktemp()).resolve())
        self.failed: list[bool] = []
        self.listening: list[Deferred[Any]] = []
        self.daemon = MastodonService(
            self.server.config, self.server.identity, reactor, lambda: self.failed.append(True)
        )

    def listen(self, *_: Any) -> "Deferred[Any]":
        """A port that begins to listen when the test says so."""
        self.listening.append(Deferred())
        return self.listening[-1]

    def test_stopped_while_the_store_opens(self) -> Deferred[None]:
        """Nothing listens afterwards, the store is let go of, and it is no failure."""
        self.patch(service, "listen_tls", self.listen)

        async def work() -> None:
            self.daemon.startService()
            started = self.assertFailure(self.daemon.started, StoppedEarly)
            await self.daemon.stopService()
            await started
            self.assertEqual((self.listening, self.failed), ([], []))

        return ensureDeferred(work()).addCallback(lambda _: self.start_again())

    def test_stopped_while_a_port_begins_to_listen(self) -> Deferred[None]:
        """A port that listens only after the stop is closed again, and the next one is not opened."""
        self.patch(service, "listen_tls", self.listen)
        port = Port()

        async def work() -> None:
            self.daemon.startService()
            started = self.assertFailure(self.daemon.started, StoppedEarly)
            while not self.listening:
                pause: Deferred[None] = Deferred()
                reactor.callLater(0.01, pause.callback, None)
                await pause
            stopped = self.daemon.stopService()
            self.listening[0].callback(port)
            await stopped
            await started
            self.assertEqual((len(self.listening), port.listens, self.failed), (1, False, []))

        return ensureDeferred(work())

    def test_port_in_use(self) -> Deferred[None]:
        """A start that fails ends the daemon as a failure."""
        self.patch(service, "listen_tls", lambda *_: fail(CannotListenError("127.0.0.1", 1, OSError())))
        self.patch(self.daemon, "_stop_reactor", lambda: self.failed.append(True))

        async def work() -> None:
            self.daemon.startService()
            await self.assertFailure(self.daemon.started, CannotListenError)
            await self.daemon.stopService()
            self.assertEqual(self.failed, [True])

        return ensureDeferred(work())

    def test_catalogue_that_refuses_once_it_is_open(self) -> Deferred[None]:
        """What fails after the store has opened is a line too, not a traceback, and ends the daemon as a failure."""
        self.patch(self.daemon, "_begin_to_tell", lambda store: fail(CatalogueError("database or disk is full")))
        self.patch(self.daemon, "_stop_reactor", lambda: self.failed.append(True))

        async def work() -> None:
            self.daemon.startService()
            await self.assertFailure(self.daemon.started, CatalogueError)
            await self.daemon.stopService()
            self.assertEqual((self.failed, self.flushLoggedErrors()), ([True], []))

        return ensureDeferred(work())

    def start_again(self) -> Deferred[None]:
        """The state directory is free: another daemon starts on it."""
        self.patch(service, "listen_tls", self.listen_tls)

        async def work() -> None:
            await self.server.start()
            await self.server.stop()

        return ensureDeferred(work())

    listen_tls = staticmethod(service.listen_tls)


class DescriptorTests(SynchronousTestCase):
    """What is asked of the system, and what is told when it says no."""

    def limit(self, soft: int, hard: int, refuse: bool = False) -> list[tuple[int, int]]:
        """The limits of a pretended system; what was asked of it."""
        asked: list[tuple[int, int]] = []

        def set_limit(_: int, limits: tuple[int, int]) -> None:
            asked.append(limits)
            if refuse:
                raise PermissionError

        self.patch(descriptors.resource, "getrlimit", lambda _: (soft, hard))
        self.patch(descriptors.resource, "setrlimit", set_limit)
        return asked

    def test_default_limits_fit_the_unit(self) -> None:
        """The unit file's LimitNOFILE is enough for the default limits."""
        unit = Path(__file__).resolve().parent.parent / "systemd" / "mastodon.service"
        (line,) = [line for line in unit.read_text().splitlines() if line.startswith("LimitNOFILE=")]
        self.assertLessEqual(descriptors.descriptors_needed(LIMITS), int(line.partition("=")[2]))

    def test_raised_as_needed(self) -> None:
        """The soft limit is raised only if it has to be, as far as needed and as the hard one allows."""
        for soft, hard, result, asked in (
            (1000, 500_000, None, [(40_000, 500_000)]),
            (1000, resource.RLIM_INFINITY, None, [(40_000, resource.RLIM_INFINITY)]),
            (1000, 4096, 4096, [(4096, 4096)]),
            (65536, 65536, None, []),
            (resource.RLIM_INFINITY, resource.RLIM_INFINITY, None, []),
        ):
            seen = self.limit(soft, hard)
            self.assertEqual((descriptors.raise_limit(40_000), seen), (result, asked))

    def test_refused_by_the_system(self) -> None:
        """Where the system lets nobody raise it, the limit stays what it is."""
        self.limit(1000, 500_000, refuse=True)
        self.assertEqual(descriptors.raise_limit(40_000), 1000)

    def test_too_few_are_told(self) -> None:
        """One warning names the limit and what the configuration may need."""
        server = RunningServer(Path(self.mktemp()).resolve())
        daemon = MastodonService(server.config, server.identity, reactor)
        events: list[Any] = []
        observer: Any = events.append
        globalLogPublisher.addObserver(observer)
        self.addCleanup(globalLogPublisher.removeObserver, observer)
        self.limit(1000, 4096)
        daemon._ask_for_descriptors()
        (event,) = [one for one in events if one["log_level"] is LogLevel.warn]
        self.assertEqual((event["allowed"], event["needed"]), (4096, descriptors.descriptors_needed(LIMITS)))
