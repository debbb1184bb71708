"""Heartbeats: URLs that hear of each machine's runs, and one that hears that the server lives (as healthchecks does).

URL/start when a run begins, URL when a complete snapshot is committed, URL/fail when a run fails. The server's own is
asked every few minutes: URL, or URL/fail when it cannot take backups; its silence is the alarm.

Promises: what is newer replaces what was not delivered yet; a ping is tried again a few times, so that one lost packet
is no alarm; a complete snapshot whose ping was cut off by a crash is pinged after the next start. One machine has one
ping on its way, one admin a bounded share of them.
"""

import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from mastodon.catalogue.interface import WatchRow
from mastodon.daemon.places import Places
from mastodon.daemon.telling.channel import DIRECTORY
from mastodon.daemon.telling.errors import NotTaken
from mastodon.daemon.trouble import log_trouble
from mastodon.host.durable import SYSTEM_DISK, Disk, DiskError, write_file
from mastodon.sealed.addresses import Target, target
from mastodon.sealed.settings import HEARTBEAT, Settings

FILE = "heartbeats"
SERVER_EVERY_S = 300.0
KEEP_EVERY_S = 60.0
AT_ONCE = 16
ATTEMPTS = 6
APART_S = 60.0
"""Starts and failures of one machine within this time are one: it connects as often as it likes."""
FIRST_PAUSE_S = 10.0


class Beat(StrEnum):
    """What is said; the value goes behind the URL's path."""

    SUCCESS = ""
    START = "/start"
    FAIL = "/fail"


def beat_target(url: str, beat: Beat) -> Target:
    """Where a beat goes. Raises ValueError."""
    base = target(url)
    path, mark, query = base.path.partition("?")
    return Target(base.host, base.port, (path.rstrip("/") + beat.value or "/") + mark + query)


@dataclass(slots=True)
class _Pulse:
    """A URL's newest beat that was not delivered yet."""

    tenant: bytes
    url: str
    beat: Beat
    entry: int = 0
    attempts: int = 0
    busy: bool = False
    call: Any = None


@dataclass(slots=True)
class Heartbeats:
    """Lives in the reactor's thread. ``get`` asks a URL, ``healthy`` says whether the server takes backups."""

    state: Path
    get: Callable[[Target], "Deferred[None]"]
    settings: Callable[[], Awaitable[Settings]]
    rows: Callable[[bytes | None], Awaitable[list[WatchRow]]]
    healthy: Callable[[], bool]
    clock: Any
    in_thread: Callable[..., "Deferred[Any]"]
    disk: Disk = SYSTEM_DISK
    log: Logger = field(default_factory=Logger)
    _pulses: dict[bytes, _Pulse] = field(default_factory=dict)
    _told: dict[bytes, int] = field(default_factory=dict)
    """By machine, the ledger's entry of the last complete snapshot that its URL heard of."""
    _last: dict[tuple[bytes, Beat], float] = field(default_factory=dict)
    _changed: bool = False
    _places: Places = field(default_factory=lambda: Places(AT_ONCE))
    _calls: list[LoopingCall] = field(default_factory=list)

    async def start(self) -> None:
        """Tell what a crash cut off, then of every run; and of the server's own life."""
        self._told = await self.in_thread(self._read)
        settings = await self.settings()
        for row in await self.rows(None):
            if row.complete_entry > self._told.get(row.machine, row.complete_entry):
                self._beat(settings, row.tenant, row.machine, Beat.SUCCESS, row.complete_entry)
        for every, work in ((SERVER_EVERY_S, self._server), (KEEP_EVERY_S, self._keep)):
            call = LoopingCall(lambda work=work: Deferred.fromCoroutine(work()).addErrback(self._failed))
            call.clock = self.clock
            call.start(every)
            self._calls.append(call)

    async def stop(self) -> None:
        """Be silent."""
        for call in self._calls:
            if call.running:
                call.stop()
        for pulse in self._pulses.values():
            if pulse.call is not None and pulse.call.active():
                pulse.call.cancel()
        self._pulses.clear()
        await self._keep()

    def run(self, machine: bytes, beat: Beat) -> None:
        """A machine's run began, failed, or committed a complete snapshot."""
        Deferred.fromCoroutine(self._run(machine, beat)).addErrback(self._failed)

    async def _run(self, machine: bytes, beat: Beat) -> None:
        if beat is not Beat.SUCCESS:
            last = self._last.get((machine, beat), -APART_S)
            if self.clock.seconds() - last < APART_S:
                return
        settings = await self.settings()
        if not any(place[1] == machine for place, value in settings.values(HEARTBEAT) if value):
            return
        self._last[machine, beat] = self.clock.seconds()
        for row in await self.rows(machine):
            self._beat(settings, row.tenant, machine, beat, row.complete_entry if beat is Beat.SUCCESS else 0)

    async def _server(self) -> None:
        self._beat(await self.settings(), b"", b"", Beat.SUCCESS if self.healthy() else Beat.FAIL, 0)

    def _beat(self, settings: Settings, tenant: bytes, machine: bytes, beat: Beat, entry: int) -> None:
        url = settings.at(HEARTBEAT, tenant, machine)
        if not url:
            return
        pulse = self._pulses.get(machine)
        if pulse is None:
            pulse = self._pulses[machine] = _Pulse(tenant, url, beat)
        if pulse.call is not None and pulse.call.active():
            pulse.call.cancel()
        pulse.tenant, pulse.url, pulse.beat, pulse.entry, pulse.attempts = tenant, url, beat, entry, 0
        self._send(machine, pulse)

    def _send(self, machine: bytes, pulse: _Pulse) -> None:
        if pulse.busy:
            return  # behind the one on its way
        pulse.busy = True
        sent, entry = (pulse.url, pulse.beat), pulse.entry

        def over(outcome: object) -> None:
            pulse.busy = False
            if self._pulses.get(machine) is not pulse:
                return
            if not isinstance(outcome, Failure) and sent[1] is Beat.SUCCESS and machine:
                self._told[machine], self._changed = max(entry, self._told.get(machine, 0)), True
            if (pulse.url, pulse.beat) != sent or pulse.entry != entry:
                self._send(machine, pulse)
            elif not isinstance(outcome, Failure):
                del self._pulses[machine]
            else:
                self._try_again(machine, pulse, outcome)

        self._places.run(pulse.tenant, lambda: self._get(*sent)).addBoth(over)

    def _get(self, url: str, beat: Beat) -> "Deferred[None]":
        return self.get(beat_target(url, beat))

    def _try_again(self, machine: bytes, pulse: _Pulse, failure: Failure) -> None:
        if failure.check(NotTaken, ValueError) is None:
            self._failed(failure)
        pulse.attempts += 1
        if pulse.attempts >= ATTEMPTS:
            self.log.warn(
                "heartbeat of {machine}: {reason}", machine=machine.hex() or "the server", reason=str(failure.value)
            )
            del self._pulses[machine]
            return
        pause = FIRST_PAUSE_S * 2 ** (pulse.attempts - 1)
        pulse.call = self.clock.callLater(pause, self._send, machine, pulse)

    def _read(self) -> dict[bytes, int]:
        try:
            kept = json.loads((self.state / DIRECTORY / FILE).read_bytes())
            return {bytes.fromhex(machine): int(entry) for machine, entry in kept.items()}
        except (OSError, ValueError, AttributeError, TypeError):
            return {}  # then what a crash cut off is not told; the next run is

    async def _keep(self) -> None:
        if not self._changed:
            return
        self._changed = False
        content = json.dumps({machine.hex(): entry for machine, entry in sorted(self._told.items())}).encode("ascii")
        try:
            await self.in_thread(self._write, content)
        except (DiskError, OSError) as error:
            self.log.error("what heartbeats told cannot be kept: {reason}", reason=str(error))

    def _write(self, content: bytes) -> None:
        directory = self.state / DIRECTORY
        directory.mkdir(mode=0o700, exist_ok=True)
        write_file(directory / FILE, content, disk=self.disk)

    def _failed(self, failure: Failure) -> None:
        log_trouble(self.log, "a heartbeat could not be sent", failure)
