"""The operator's commands about the watch and about settings, on an open store."""

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from mastodon.daemon.errors import NotAllowed, NotFound
from mastodon.daemon.standing import standing
from mastodon.daemon.watch import WatchStatus
from mastodon.daemon.watching import show_time

if TYPE_CHECKING:
    from mastodon.daemon.store import Store

SHORTEST_ID = 8
"""Digits by which a machine is named."""


async def watch_show(store: "Store", arguments: dict[str, Any]) -> Any:
    """How all machines stand."""
    names = {one.tenant: one.name for one in await store.list_admins()}
    usual, statuses = await store.ask(lambda catalogue: store.watching.stand())
    return {
        "interval_s": usual.interval,
        "grace_s": usual.grace,
        "machines": [_machine(store, names, one) for one in statuses],
    }


def _machine(store: "Store", names: dict[bytes, str], status: WatchStatus) -> Any:
    row = status.row
    session_ns = store.seen_ns(row.machine)
    row = replace(row, seen_ns=max(row.seen_ns, session_ns))
    running_ns = session_ns if store.watching.is_running(row.machine) else 0
    state, since_ns = standing(row, {one.code: one.time_ns for one in status.open}, running_ns)
    return {
        "machine": row.machine.hex(), "admin": names.get(row.tenant, row.tenant.hex()),
        "state": state.name.lower().replace("_", " "), "since_ns": since_ns, "seen_ns": row.seen_ns,
        "complete_ns": row.complete_ns, "complete": show_time(row.complete_ns),
        "partial_since_ns": row.partial_since_ns,
        "interval_s": status.bounds.interval, "grace_s": status.bounds.grace,
    }  # fmt: skip


async def policy_set(store: "Store", arguments: dict[str, Any]) -> None:
    """Set values of the server's, of an admin's (by name), or of a machine."""
    settings = tuple((str(name), str(value)) for name, value in arguments["settings"].items())
    tenant = await tenant_named(store, arguments["admin"])
    named = str(arguments["machine"])
    await store.set_policy(tenant, await machine_named(store, named) if named else b"", settings)


async def tenant_named(store: "Store", name: str) -> bytes:
    """The tenant of an admin by name; b"" for none. Raises NotFound."""
    if not name:
        return b""
    known = await store.list_admins()
    found = next((one.tenant for one in known if one.name == name), None)
    if found is None:
        names = ", ".join(one.name for one in known) or "none"
        raise NotFound(f"there is no admin of the name {name!r} (known: {names})")
    return found


async def machine_named(store: "Store", text: str) -> bytes:
    """The machine whose id begins so. Raises Refused."""
    if len(text) < SHORTEST_ID:
        raise NotAllowed(f"give at least {SHORTEST_ID} digits of the machine's id: `mastodon machine list` shows it")
    found = [one.machine for one in await store.list_machines() if one.machine.hex().startswith(text.lower())]
    if len(found) != 1:
        what = "more than one machine's id begins" if found else "no machine's id begins"
        raise NotFound(f"{what} with {text!r}: `mastodon machine list` shows them all")
    return found[0]
