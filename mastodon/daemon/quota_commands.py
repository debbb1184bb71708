"""What the operator asks of quotas. Setting them is setting a policy (watch_commands.py)."""

from typing import TYPE_CHECKING, Any

from mastodon.daemon.errors import NotFound

if TYPE_CHECKING:
    from mastodon.daemon.store import Store


async def quota_show(store: "Store", arguments: dict[str, Any]) -> Any:
    """Each admin's quota and use, or (``admin``) one admin's with its machines'."""
    quotas, wanted = store.quotas(), str(arguments["admin"])
    admins = [one for one in await store.list_admins() if wanted in ("", one.name)]
    if wanted and not admins:
        raise NotFound(f"there is no admin {wanted!r}: `mastodon admin list` shows them")
    return [
        {
            "admin": one.name, "quota_bytes": quotas.limit(one.tenant), "used_bytes": quotas.used(one.tenant),
            "machines": [
                {
                    "machine": row.machine.hex(), "quota_bytes": quotas.limit(one.tenant, row.machine),
                    "used_bytes": quotas.used(one.tenant, row.machine),
                }
                for row in await store.machines(one.tenant)
            ],
        }
        for one in admins
    ]  # fmt: skip
