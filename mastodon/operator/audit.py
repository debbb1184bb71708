"""``mastodon audit``: who read backups, of all admins or of one, as the ledger has it."""

import json
import time
from typing import Any

import click

from mastodon.host.certificates import pin_text
from mastodon.host.sizes import show_blobs
from mastodon.operator.reach import ask, configuration
from mastodon.operator.since import SINCE

USUAL = "30d"


@click.command("audit")
@click.argument("admin", default="")
@click.option("--since", type=SINCE, default=USUAL, show_default=True, metavar="TIME", help="Such as 6h or 2d ago.")
@click.option("--json", "as_json", is_flag=True, help="JSON lines.")
@click.pass_context
def audit(context: click.Context, admin: str, since: int, as_json: bool) -> None:
    """Show who read backups of ADMIN's machines (all): certificate, machine, when, how much. The oldest first."""
    config = configuration(context)
    after, shown = 0, False
    while rows := ask(config, "audit", admin=admin, after=after, since_ns=since):
        for row in rows:
            shown = True
            click.echo(json.dumps(row) if as_json else _line(row))
        following = max(row["sequence"] for row in rows)
        if following <= after or not rows[-1]["sequence"]:
            break
        after = following
    if not shown and not as_json:
        click.echo("Nothing was read in that time.")


def _line(row: dict[str, Any]) -> str:
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(row["since_ns"] // 10**9))
    until = time.strftime("%H:%M:%S", time.localtime(row["time_ns"] // 10**9)) if row["sequence"] else "now"
    much = show_blobs(row["blobs"], row["bytes"]) if row["blobs"] else "records only"
    who = f"{row['label']} {pin_text(bytes.fromhex(row['pin']))}"
    return f"{when} - {until}  {row['admin']:12} {row['machine'][:16]}  {who}  {much}"
