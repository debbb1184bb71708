"""The store: the one facade that ports and commands use. It joins spools, ledger writer and catalogue.

Promises: what a Deferred has acknowledged is durable (P9); a session that was displaced writes nothing more; what one
tenant asks is never answered from another's machines (P6). Every failure that a port may pass on is a Refused.

What the append port asks stands in `append_store.py`, what the restore port asks in `restore_store.py`, what both rest
on in `store_core.py`; what the operator asks, here.
"""

import os
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred

from mastodon.catalogue.interface import (
    Catalogue,
    MachineRow,
    Tenant,
    Totals,
)
from mastodon.daemon.append_store import AppendStore
from mastodon.daemon.config import Config
from mastodon.daemon.errors import NotAllowed, NotFound, StoreError
from mastodon.daemon.events import EventCode
from mastodon.daemon.heads import load_ledger_key
from mastodon.daemon.opening import (
    head_text,
)
from mastodon.daemon.policies import Changes
from mastodon.daemon.quotas import Quotas
from mastodon.daemon.rates import RATE, rate_value
from mastodon.daemon.restore_store import RestoreStore
from mastodon.daemon.spools import SpoolStatus, spool_status
from mastodon.daemon.telling.telling import Parts
from mastodon.host.certificates import CertificateError, load_certificate, spki_pin
from mastodon.host.durable import SYSTEM_DISK, Disk
from mastodon.sealed.ledger_entries import MachineState, PolicySet, Role


class Store(AppendStore, RestoreStore):
    """See the module's promises."""

    def add_admin(self, name: str, request: bytes) -> "Deferred[Tenant]":
        """Take an admin's request."""
        return self._do(self._ready().authority.add_admin(name, request))

    def list_admins(self) -> "Deferred[list[Tenant]]":
        """All admins with their certificates."""
        return self._do(self._ready().catalogue.tenants())

    def add_certificate(self, name: str, pin: bytes, role: Role, label: str) -> "Deferred[None]":
        """Register a client key of the admin of this name, or (empty) the operator's own monitor."""
        return self._do(self._ready().authority.add_certificate(name, pin, role, label))

    def remove_certificate(self, pin: bytes) -> "Deferred[None]":
        """Remove a client key for ever."""
        return self._do(self._ready().authority.remove_certificate(pin))

    def list_machines(self) -> "Deferred[list[MachineRow]]":
        """All machines."""
        return self._do(self._ready().catalogue.machines(None)).addCallback(self._with_seen)

    def quotas(self) -> Quotas:
        """What admins and machines may keep, and do."""
        return self._ready().quotas

    def set_machine_state(self, machine: bytes, state: MachineState) -> "Deferred[None]":
        """Disable or enable a machine; a session that is open ends at once."""
        return self._do(self._ready().authority.set_state(machine, state))

    def totals(self) -> "Deferred[Totals]":
        """How much there is."""
        return self._do(self._ready(unlocked=False).catalogue.totals())

    def list_spools(self) -> list[SpoolStatus]:
        """The configured spools, as they are."""
        return [spool_status(spool) for spool in self._spools.all]

    def set_rate(self, machine: bytes, rate: int | None) -> "Deferred[None]":
        """Cap what a machine may send (b"": all together), in bytes a second; 0: no cap, None: as the configuration."""
        return self._do(self._set_rate(machine, rate_value(rate)))

    async def _set_rate(self, machine: bytes, value: str) -> None:
        opened = self._ready()
        if machine and await opened.catalogue.owner(machine) is None:
            raise NotFound("no machine with this id is enrolled")
        await opened.ledger.append(PolicySet(b"", machine, ((RATE, value),), b""))
        self.rates.follow([(machine, value)])

    def set_policy(self, tenant: bytes, machine: bytes, changes: Changes) -> "Deferred[None]":
        """The operator's settings: of the server (b"", b""), an admin, or a machine."""
        return self._do(self._ready().authority.set_policy(tenant, machine, changes))

    @property
    def catalogue(self) -> Catalogue:
        """For whoever only looks."""
        return self._ready(unlocked=False).catalogue

    def confirm(self, head: str) -> "Deferred[None]":
        """The operator's word that the ledger's head is the right one: credentials are enabled again."""
        return self._do(self._confirm(head))

    async def _confirm(self, head: str) -> None:
        if head.strip().lower() != self.head_text():
            raise NotAllowed(f"the ledger's head is not that, but {self.head_text()}")
        await self._in_thread(self._heads.write, self.head, self.now_ns())
        self.locked, self._ready().ledger.vouches = "", True
        await self.record(EventCode.LEDGER_CONFIRMED, detail=head)

    def head_text(self) -> str:
        """The ledger's head as the operator confirms it."""
        return head_text(self.head)

    def telling_parts(self) -> Parts:
        """What telling goes by; once the store is open."""
        opened = self._ready(unlocked=False)

        def failed(tenant: bytes, detail: str) -> None:
            self.record(EventCode.TELLING_FAILED, tenant, detail=detail)

        return Parts(
            opened.catalogue, opened.authority.policies, lambda: self.head.sequence, failed,
            lambda: not self.locked and bool(self._spools.online), self._state, self._secret, self.now_ns,
            self._in_thread,
        )  # fmt: skip


def open_store(config: Config, reactor: Any, now_ns: Callable[[], int], disk: Disk = SYSTEM_DISK) -> Store:
    """The store that a configuration describes, not started yet. Raises StoreError."""
    ledger_key = load_ledger_key(config.keys.ledger_key)
    try:
        server = spki_pin(load_certificate(config.keys.server_certificate))
    except CertificateError as error:
        raise StoreError(str(error)) from None
    store = Store(
        config.state, config.spools, (server, *config.keys.spare_pins), ledger_key, reactor, now_ns, os.urandom, disk
    )
    store.rates.usual_total, store.rates.usual_machine = config.limits.append_rate, config.limits.machine_rate
    return store
