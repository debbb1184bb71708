"""The operator's commands on an open store: the same whether they come through the control socket or directly.

A command takes and gives what JSON can carry; bytes travel as hexadecimal.
"""

from collections.abc import Awaitable, Callable
from dataclasses import asdict, replace
from typing import Any

from mastodon.catalogue.interface import Tenant
from mastodon.daemon.errors import NotAllowed, NotFound, Refused
from mastodon.daemon.quota_commands import quota_show
from mastodon.daemon.restore_store import OPERATOR
from mastodon.daemon.store import Store
from mastodon.daemon.telling_commands import events, notify
from mastodon.daemon.watch_commands import machine_named, policy_set, watch_show
from mastodon.sealed.ledger_entries import MachineState, Role

Arguments = dict[str, Any]
READS_AT_ONCE = 500


async def run_command(store: Store, name: str, arguments: Arguments) -> Any:
    """Do a command. Raises Refused."""
    command = COMMANDS.get(name)
    if command is None:
        raise NotAllowed(f"unknown command {name!r}: is the daemon older than this program?")
    try:
        return await command(store, arguments)
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, Refused):
            raise
        raise NotAllowed(f"{name}: arguments that do not fit: {error}") from None


async def _add_admin(store: Store, arguments: Arguments) -> Any:
    return _tenant(await store.add_admin(str(arguments["name"]), bytes.fromhex(arguments["request"])))


async def _list_admins(store: Store, arguments: Arguments) -> Any:
    """The operator's own certificates come last, as those of an admin without a name."""
    own = tuple(await store.certificates(b""))
    operator = [replace(OPERATOR, certificates=own)] if own else []
    return [_tenant(one) for one in (*await store.list_admins(), *operator)]


async def _add_certificate(store: Store, arguments: Arguments) -> Any:
    role = Role.MONITOR if arguments["monitor"] is True else Role.ADMIN
    pin, label = bytes.fromhex(arguments["pin"]), str(arguments["label"])
    await store.add_certificate(str(arguments["admin"]), pin, role, label)


async def _remove_certificate(store: Store, arguments: Arguments) -> Any:
    await store.remove_certificate(bytes.fromhex(arguments["pin"]))


async def _list_machines(store: Store, arguments: Arguments) -> Any:
    names = {one.tenant: one.name for one in await store.list_admins()}
    return [
        {
            "machine": one.machine.hex(),
            "admin": names.get(one.tenant, ""),
            "state": one.state.name.lower(),
            "seen_ns": one.seen_ns,
            "snapshots": one.snapshots,
            "kept_bytes": one.kept_bytes,
        }
        for one in await store.list_machines()
    ]


async def _set_machine_state(store: Store, arguments: Arguments) -> Any:
    state = MachineState.ACTIVE if arguments["enabled"] is True else MachineState.DISABLED
    machine = await machine_named(store, str(arguments["machine"]))
    await store.set_machine_state(machine, state)
    return machine.hex()


async def _list_spools(store: Store, arguments: Arguments) -> Any:
    return [asdict(one) for one in store.list_spools()]


async def _limits(store: Store, arguments: Arguments) -> Any:
    rates = store.rates
    machines = {machine.hex(): rate for machine, rate in sorted(rates.chosen.items()) if machine}
    return {"total": rates.total, "machine": rates.usual_machine, "machines": machines}


async def _set_limit(store: Store, arguments: Arguments) -> Any:
    rate = arguments["rate"]
    if rate is not None and type(rate) is not int:
        raise ValueError("the rate")
    named = str(arguments["machine"])
    await store.set_rate(await machine_named(store, named) if named else b"", rate)


async def _audit(store: Store, arguments: Arguments) -> Any:
    names = {one.tenant: one.name for one in await store.list_admins()}
    after, since_ns = int(arguments["after"]), int(arguments["since_ns"])
    wanted = str(arguments["admin"])
    tenant = next((id for id, name in names.items() if name == wanted), None)
    if wanted and tenant is None:
        raise NotFound(f"no admin is called {wanted!r}: see `mastodon admin list`")
    rows = await store.read_rows(tenant, b"", after, since_ns, READS_AT_ONCE)
    return [
        {
            "sequence": row.sequence, "admin": names.get(row.tenant, ""), "pin": row.pin.hex(), "label": row.label,
            "machine": row.machine.hex(), "since_ns": row.since_ns, "time_ns": row.time_ns,
            "requests": row.requests, "blobs": row.blobs, "bytes": row.content_bytes,
        }
        for row in rows
    ]  # fmt: skip


def _tenant(tenant: Tenant) -> Any:
    certificates = [
        {"pin": one.pin.hex(), "role": one.role.name.lower(), "label": one.label} for one in tenant.certificates
    ]
    return {
        "tenant": tenant.tenant.hex(),
        "name": tenant.name,
        "machines": tenant.machines,
        "added_ns": tenant.added_ns,
        "certificates": certificates,
    }


COMMANDS: dict[str, Callable[[Store, Arguments], Awaitable[Any]]] = {
    "admin add": _add_admin,
    "admin list": _list_admins,
    "admin remove-certificate": _remove_certificate,
    "admin add-certificate": _add_certificate,
    "machine list": _list_machines,
    "machine state": _set_machine_state,
    "quota show": quota_show,
    "spool list": _list_spools,
    "limit show": _limits,
    "limit set": _set_limit,
    "audit": _audit,
    "watch show": watch_show,
    "policy set": policy_set,
    "events": events,
    "notify": notify,
}
