"""What the status query asks of the SQLite catalogue beside what the watch does."""

import sqlite3

from mastodon.catalogue.interface import Holding, TenantHolding
from mastodon.sealed.duration import DAY_NS

OF_WHOM = "(?1 IS NULL OR machines.tenant = ?1)"


def holdings(db: sqlite3.Connection, tenant: bytes | None, machine: bytes | None) -> dict[bytes, Holding]:
    """What machines hold: of a tenant, or (None) of all; one, or (None) all."""
    rows = db.execute(
        f"SELECT machine, snapshots, kept_bytes FROM machines WHERE {OF_WHOM} AND (?2 IS NULL OR machine = ?2)",
        (tenant, machine),
    )
    return {id: Holding(snapshots, kept) for id, snapshots, kept in rows}


def growth(db: sqlite3.Connection, since_ns: int) -> list[tuple[bytes, int, int]]:
    """The bytes of packs that each machine stored on each day, from a time on."""
    return db.execute(
        # CROSS JOIN keeps this order: few machines, and of each the packs by time.
        "SELECT machines.machine, received_ns / ?, sum(size) FROM machines CROSS JOIN packs "
        "ON packs.machine = machines.number AND received_ns >= ? GROUP BY 1, 2 ORDER BY 1, 2",
        (DAY_NS, since_ns),
    ).fetchall()


def tenant_holdings(db: sqlite3.Connection, tenant: bytes | None) -> list[TenantHolding]:
    """What a tenant's machines hold together, or (None) each tenant's, by name."""
    rows = db.execute(
        "SELECT tenants.tenant, name, count(number), coalesce(sum(kept_bytes), 0) FROM tenants LEFT JOIN machines "
        "ON machines.tenant = tenants.tenant WHERE (?1 IS NULL OR tenants.tenant = ?1) GROUP BY tenants.tenant "
        "ORDER BY name",
        (tenant,),
    )
    return [TenantHolding(*row) for row in rows]
