"""Telling as a whole, over an open store: the teller with its carriers, the heartbeats, what is asked about both."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred

from mastodon.catalogue.interface import Catalogue, Condition, EventRow, WatchRow
from mastodon.daemon.config import TellingConfig
from mastodon.daemon.policies import Policies
from mastodon.daemon.telling.carriers import Carriers
from mastodon.daemon.telling.channel import ChannelFiles, ChannelKind
from mastodon.daemon.telling.heartbeat import Beat, Heartbeats
from mastodon.daemon.telling.mail import Relay
from mastodon.daemon.telling.outward import Outward
from mastodon.daemon.telling.teller import Teller
from mastodon.sealed.settings import HEARTBEAT, MAIL, SNOOZE, WEBHOOK, Settings


@dataclass(frozen=True, slots=True)
class Parts:
    """What telling is given by the store. ``secret`` is what webhook keys are derived from; ``failed`` writes
    TELLING_FAILED about a tenant (b"": none) with a detail."""

    catalogue: Catalogue
    policies: Policies
    sequence: Callable[[], int]
    failed: Callable[[bytes, str], None]
    healthy: Callable[[], bool]
    state: Path
    secret: bytes
    now_ns: Callable[[], int]
    in_thread: Callable[..., "Deferred[Any]"]


@dataclass(frozen=True, slots=True)
class Told:
    """Where something is told, or not for now (``mail``, ``webhook``, ``heartbeat``, ``snooze``); as in ChannelItem."""

    kind: str
    machine: bytes
    address: str
    failing_ns: int = 0
    reason: str = ""
    secret: bytes = b""


class _Ledger:
    """The store, as the teller asks it."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._catalogue = parts.catalogue
        self.sequence = parts.sequence
        self.failed = parts.failed

    def settings(self, at: int | None = None) -> Awaitable[Settings]:
        return self._parts.policies.read((MAIL, WEBHOOK, SNOOZE), at)

    def events(self, after: int, limit: int, tenant: bytes | None) -> Awaitable[list[EventRow]]:
        return self._catalogue.events(after, limit, tenant)

    def conditions(self, tenant: bytes | None) -> Awaitable[list[Condition]]:
        return self._catalogue.conditions(tenant)

    async def acknowledged(self, tenant: bytes) -> frozenset[int]:
        return await self._catalogue.known_conditions(tenant) if tenant else frozenset()


class Telling:
    """Lives in the reactor's thread. ``outward`` and ``relay`` are what leaves this host."""

    def __init__(
        self, parts: Parts, config: TellingConfig, server: str, clock: Any, random: Callable[[], float], *,
        relay: Relay, outward: Outward,
    ) -> None:  # fmt: skip
        self._parts = parts
        self._carriers = Carriers(server, relay, outward, self._names, parts.secret, parts.now_ns)
        self._teller = Teller(
            _Ledger(parts), ChannelFiles(parts.state), self._carriers.all(), config.operator, config.digest_hour, clock,
            parts.now_ns, random, parts.in_thread,
        )  # fmt: skip
        self._hearts = Heartbeats(
            parts.state, outward.get, lambda: parts.policies.read((HEARTBEAT,)), self._rows, parts.healthy, clock,
            parts.in_thread,
        )  # fmt: skip

    async def start(self) -> None:
        """Tell what was left, and from now on what comes."""
        await self._teller.start()
        await self._hearts.start()

    async def stop(self) -> None:
        """Tell no more; what is left is told after the next start."""
        self._teller.stop()
        await self._hearts.stop()

    def beat(self, machine: bytes, beat: Beat) -> None:
        """A machine's run began, failed, or committed a complete snapshot."""
        self._hearts.run(machine, beat)

    def waiting(self) -> tuple[int, int]:
        """Letters that could not be delivered yet, and since when (0: there are none)."""
        return self._teller.waiting()

    async def told(self, tenant: bytes, test: bool) -> list[Told]:
        """Where an admin or (b"") the operator is told; each address is sent a test first, where asked. Raises
        LimitReached."""
        found = await (self._teller.test(tenant) if test else self._teller.status(tenant))
        key = self._carriers.key(tenant)
        shown = [
            Told(one.kind.value, b"", one.address, one.failing_ns, one.reason,
                 key if one.kind is ChannelKind.WEBHOOK else b"")
            for one in found
        ]  # fmt: skip
        settings = await self._parts.policies.read((HEARTBEAT, SNOOZE))
        for name, kind in ((HEARTBEAT, "heartbeat"), (SNOOZE, "snooze")):
            for (whose, machine), value in sorted(settings.values(name)):
                is_over = name == SNOOZE and int(value or 0) <= self._parts.now_ns()
                if whose == tenant and value and not is_over:
                    shown.append(Told(kind, machine, value))
        return shown

    async def _names(self) -> dict[bytes, str]:
        return {one.tenant: one.name for one in await self._parts.catalogue.tenants()}

    def _rows(self, machine: bytes | None) -> Awaitable[list[WatchRow]]:
        return self._parts.catalogue.watch_rows(machine=machine)
