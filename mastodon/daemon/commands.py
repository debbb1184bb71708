"""The operator's commands on an open store: the same whether they come through the control socket or directly.

A command takes and gives what JSON can carry; bytes travel as hexadecimal.
"""

from collections.abc import Awaitable, Callable
from dataclasses import asdict
from typing import Any

from mastodon.catalogue.interface import Tenant
from mastodon.daemon.errors import NotAllowed, Refused
from mastodon.daemon.store import Store
from mastodon.daemon.telling_commands import events, notify
from mastodon.daemon.watch_commands import policy_set, watch_show

Arguments = dict[str, Any]


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
    return [_tenant(one) for one in await store.list_admins()]


async def _remove_certificate(store: Store, arguments: Arguments) -> Any:
    await store.remove_certificate(bytes.fromhex(arguments["pin"]))


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
    await store.set_rate(bytes.fromhex(arguments["machine"]), rate)


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
    "spool list": _list_spools,
    "limit show": _limits,
    "limit set": _set_limit,
    "watch show": watch_show,
    "policy set": policy_set,
    "events": events,
    "notify": notify,
}
