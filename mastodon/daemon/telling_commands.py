"""The operator's commands about events, and where they are told."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from mastodon.daemon.watch_commands import machine_named, tenant_named
from mastodon.sealed.events import kind_of, name_of

if TYPE_CHECKING:
    from mastodon.daemon.store import Store

PAGE = 1000


async def events(store: "Store", arguments: dict[str, Any]) -> Any:
    """The newest events for the operator, not older than a time; about one machine or all."""
    named, since_ns = str(arguments["machine"]), int(arguments["since_ns"])
    machine = await machine_named(store, named) if named else b""
    found, after = [], int(arguments["after"])
    while page := await store.events(None, machine, after, since_ns, PAGE):
        found += page
        after = page[-1].event.sequence
    names = {one.tenant: one.name for one in await store.list_admins()}
    return [
        {
            "sequence": one.event.sequence,
            "time_ns": one.event.time_ns,
            "code": one.event.code,
            "event": name_of(one.event.code),
            "severity": kind_of(one.event.code).severity.value,
            "title": kind_of(one.event.code).title,
            "advice": kind_of(one.event.code).advice,
            "admin": names.get(one.event.tenant, ""),
            "machine": one.event.machine.hex(),
            "detail": one.event.detail,
            "open": one.is_open,
        }
        for one in found[-PAGE:]
    ]


async def notify(store: "Store", arguments: dict[str, Any]) -> Any:
    """Where the operator, or an admin, is told; with a test first, where asked."""
    tenant = await tenant_named(store, str(arguments["admin"]))
    found = await store.told(tenant, arguments["test"] is True)
    # An admin's key is for the admin alone.
    return [
        {**asdict(one), "machine": one.machine.hex(), "secret": "" if tenant else one.secret.hex()} for one in found
    ]
