"""``twistd mastodon --config FILE``: puts the daemon together, starts it and stops it cleanly."""

import atexit
import os
import random
import sys
import time
import uuid
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from twisted.application.service import Service
from twisted.internet import defer
from twisted.internet.interfaces import IListeningPort
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger
from twisted.python import usage

from mastodon.catalogue.interface import CatalogueError
from mastodon.daemon.append_port import AppendPort
from mastodon.daemon.config import Config, ConfigError, ListenConfig, load_config
from mastodon.daemon.control import ControlPort
from mastodon.daemon.descriptors import descriptors_needed, raise_limit
from mastodon.daemon.errors import StoreError
from mastodon.daemon.expiry import term_of
from mastodon.daemon.lookout import Lookout
from mastodon.daemon.restore_port import RestorePort
from mastodon.daemon.restore_requests import Desk
from mastodon.daemon.scheduling import Scheduler
from mastodon.daemon.served import Clocks
from mastodon.daemon.status import Status
from mastodon.daemon.store import Store, open_store
from mastodon.daemon.telling.mail import Relay
from mastodon.daemon.telling.outward import Outward
from mastodon.daemon.telling.telling import Telling
from mastodon.daemon.tls import Limits, append_context, listen_tls, restore_context
from mastodon.host.certificates import CertificateError, Identity, load_identity

DRAIN_S = 5.0
FORESEEN = (StoreError, CatalogueError, OSError, ConfigError)
"""Why a start may fail, each told in a line."""
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class Options(usage.Options):
    """Command line of ``twistd mastodon``."""

    synopsis = "[options]"
    longdesc = "The Mastodon backup daemon. `mastodon init DIR` writes a configuration to start from."
    optParameters = [["config", "c", "/etc/mastodon/mastodon.toml", "The configuration file."]]

    def postOptions(self) -> None:
        """Read the configuration now, so that a mistake is said before anything starts."""
        try:
            self["loaded"] = load_config(Path(self["config"]))
            self["identity"] = load_identity(
                self["loaded"].keys.server_key, self["loaded"].keys.server_certificate
            )
        except (ConfigError, CertificateError) as error:
            raise usage.UsageError(str(error)) from None


class StoppedEarly(Exception):
    """Told to stop before the start was over."""


class MastodonService(Service):
    """The running daemon."""

    log = Logger()
    name = "mastodon"

    def __init__(
        self, config: Config, identity: Identity, reactor: Any, failed: Callable[[], object] = lambda: None
    ) -> None:
        self._failed = failed
        self._config = config
        self._identity = identity
        self._reactor = reactor
        self._listening: list[IListeningPort] = []
        self._scheduler: Scheduler | None = None
        self._store: Store | None = None
        self._append: AppendPort | None = None
        self._restore: RestorePort | None = None
        self._control: ControlPort | None = None
        self._lookout: Lookout | None = None
        self.started: defer.Deferred[None] = defer.Deferred()
        self._starting: defer.Deferred[None] = defer.succeed(None)

    def startService(self) -> None:
        """Open the spools, then listen."""
        super().startService()
        self._starting = self._start().addErrback(self._cannot_start)

    @defer.inlineCallbacks
    def _start(self) -> Any:
        config = self._config
        self._ask_for_descriptors()
        store = open_store(config, self._reactor, time.time_ns)
        yield store.start()
        self._store = store
        self._demand_running()
        yield self._begin_to_tell(store)
        self._scheduler = Scheduler(self._reactor)
        servers = (self._identity.pin, *config.keys.spare_pins)
        silence = float(config.limits.silence_seconds)
        bounds = (config.limits.connections, config.limits.handshakes)
        self._append = AppendPort(
            store, self._scheduler, self._reactor, os.urandom, self._identity.pin, *bounds, silence
        )
        status = Status(store, self._identity.expires_ns, self._append.sessions.is_open)
        desk = Desk(store, status, servers, self._append_hosts)
        self._restore = RestorePort(desk, self._scheduler, self._reactor, *bounds, silence)
        limits = Limits(float(config.limits.handshake_seconds), config.limits.handshakes)
        for listen, context, factory in (
            (config.append, append_context(self._identity), self._append),
            (config.restore, restore_context(self._identity), self._restore),
        ):
            where = (listen.address, listen.port)
            port = yield listen_tls(self._reactor, where, context, factory, limits, self._scheduler)
            self._listening.append(port)
            self._demand_running()
        self._lookout = Lookout(store, self._reactor, term_of(self._identity.certificate))
        self._append.heard = self._restore.heard = self._lookout
        self._lookout.start()
        store.reads.start(self._reactor)
        if config.metrics is not None:
            self._listening.append(self._listen_for_metrics(config.metrics, status))
        yield defer.Deferred.fromCoroutine(store.watching.start(self._reactor, system_clocks()))
        store.watching.is_running = self._append.sessions.is_open
        self._control = ControlPort(store, config.state)
        yield self._control.listen(self._reactor)
        self._demand_running()
        self.log.info(
            "ready: append port {append}, restore port {restore}",
            append=self.port_number(0), restore=self.port_number(1),
        )  # fmt: skip
        self._write_ports()
        self.started.callback(None)

    def _listen_for_metrics(self, where: ListenConfig, status: Status) -> IListeningPort:
        from mastodon.daemon.metrics import MetricsSite  # here, so that only who wants figures needs and loads it

        site = MetricsSite(status, partial(deferToThreadPool, self._reactor, self._reactor.getThreadPool()))
        port: IListeningPort = self._reactor.listenTCP(where.port, site, interface=where.address)
        return port

    def _begin_to_tell(self, store: Store) -> "defer.Deferred[None]":
        config, reactor = self._config.telling, self._reactor
        store.telling = Telling(
            store.telling_parts(), config, self._config.name, reactor, random.random,
            relay=Relay(reactor, config, self._config.name), outward=Outward(reactor, config.allow_private),
        )  # fmt: skip
        return defer.Deferred.fromCoroutine(store.telling.start())

    @property
    def store(self) -> Store:
        """The store, once started."""
        if self._store is None:
            raise RuntimeError("the daemon has not started")
        return self._store

    def port_number(self, index: int) -> int:
        """The number of the append (0), restore (1) or metrics (2) port that it listens on."""
        number: int = self._listening[index].getHost().port  # type: ignore[attr-defined]
        return number

    def _append_hosts(self) -> tuple[str, ...]:
        return (f"{self._config.name}:{self.port_number(0)}",)

    def _write_ports(self) -> None:
        """Ports that the system chose (0 in the configuration) are found in the state directory."""
        if 0 in (self._config.append.port, self._config.restore.port):
            text = f"{self.port_number(0)} {self.port_number(1)}\n"
            (self._config.state / "ports").write_text(text, "ascii")

    def _demand_running(self) -> None:
        if not self.running:
            raise StoppedEarly("told to stop before the start was over")

    def _ask_for_descriptors(self) -> None:
        limits = self._config.limits
        needed = descriptors_needed(limits)
        allowed = raise_limit(needed)
        if allowed is not None:
            self.log.warn(
                "this process may open {allowed} files, and limits.connections = {connections} with limits.handshakes "
                "= {handshakes} on both ports may need {needed}: raise LimitNOFILE= of the unit (`ulimit -n`) or lower "
                "the limits, else connections are refused when files run out",
                allowed=allowed, connections=limits.connections, handshakes=limits.handshakes, needed=needed,
            )  # fmt: skip

    def _cannot_start(self, failure: Any) -> None:
        if failure.check(StoppedEarly):
            self.log.info("{reason}", reason=str(failure.value))
        elif failure.check(*FORESEEN) or failure.type.__name__ == "CannotListenError":
            self.log.critical("cannot start: {reason}", reason=str(failure.value))
        else:
            self.log.failure("cannot start", failure)
        self.started.errback(failure)
        self.started.addErrback(lambda _: None)
        if not failure.check(StoppedEarly):
            self._reactor.callWhenRunning(self._stop_reactor)

    def _stop_reactor(self) -> None:
        self._failed()
        if self._reactor.running:
            self._reactor.stop()

    @defer.inlineCallbacks
    def stopService(self) -> Any:
        """Take no more, tell everybody, finish what was begun, close the spools."""
        super().stopService()
        yield self._starting
        for port in self._listening:
            yield defer.maybeDeferred(port.stopListening)
        if self._control is not None:
            yield self._control.stop()
        for factory in (self._append, self._restore):
            if factory is not None:
                factory.shut_down()
        yield self._drain()
        if self._scheduler is not None:
            self._scheduler.stop()
        if self._lookout is not None:
            yield self._lookout.stop()
        if self._store is not None:
            if self._store.telling is not None:
                yield defer.Deferred.fromCoroutine(self._store.telling.stop())
            yield self._store.stop()

    @defer.inlineCallbacks
    def _drain(self) -> Any:
        """Let answers go out, for a few seconds; then cut."""
        waited = 0.0
        while waited < DRAIN_S and self._connections():
            pause: defer.Deferred[None] = defer.Deferred()
            self._reactor.callLater(0.05, pause.callback, None)
            yield pause
            waited += 0.05
        for connection in self._connections():
            connection.transport.abortConnection()

    def _connections(self) -> list[Any]:
        found: list[Any] = []
        for factory in (self._append, self._restore):
            if factory is not None:
                found += factory.connections
        return found


def system_clocks() -> Clocks:
    """The system's. A system that has no boot id counts as started anew each time."""
    try:
        boot = BOOT_ID.read_text("ascii").strip()
    except OSError:
        boot = str(uuid.uuid4())
    return Clocks(time.time_ns, lambda: time.clock_gettime(time.CLOCK_BOOTTIME), boot)


def makeService(options: Options) -> MastodonService:
    """What twistd runs."""
    from twisted.internet import reactor

    return MastodonService(options["loaded"], options["identity"], reactor, lambda: atexit.register(_exit_with_failure))


def _exit_with_failure() -> None:
    """The last thing that this process does: twistd itself would end with 0, and systemd take that for well."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()
    os._exit(1)


