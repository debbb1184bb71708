"""``mastodon-admin quota``: what you and your machines may keep on the server, and do."""

from typing import Any

import click

from mastodon.admin.office import Office
from mastodon.admin.options import office_command, output_options
from mastodon.host.sizes import parse_quota, show_size, show_use
from mastodon.restore.actions import Output
from mastodon.restore.edge import say
from mastodon.restore.errors import RestoreError
from mastodon.restore.present import to_json
from mastodon.sealed.settings import QUOTA
from mastodon.sealed.statement import PolicyContent, StatementVerb, encode_content


@click.group("quota")
def quota() -> None:
    """How many bytes you and your machines may keep: show, machine."""


@quota.command("show")
@output_options
@office_command
def show(office: Office, out: Output) -> int:
    """Show what is used, of your quota, which the operator sets, and of your machines', which you set."""
    server, machines = office.source.status()
    names = {one.machine: card.name for card in office.cards.cards for one in card.generations}
    rows: list[dict[str, Any]] = [
        {"name": "", "used_bytes": one.kept_bytes, "quota_bytes": one.quota_bytes} for one in server.tenants
    ]
    rows += [
        {
            "name": names.get(one.machine, ""), "machine": one.machine.hex(), "used_bytes": one.kept_bytes,
            "quota_bytes": one.quota_bytes,
        }
        for one in machines
    ]  # fmt: skip
    for row in rows:
        name = row["name"] or (row["machine"][:16] if "machine" in row else "all together")
        out.say(to_json(row) if out.json else f"{name:20} {show_use(row['used_bytes'], row['quota_bytes'])}")
    return 0


@quota.command("machine")
@click.argument("name")
@click.argument("size")
@office_command
def machine(office: Office, name: str, size: str) -> int:
    """Let the machine NAME keep SIZE bytes, such as 500G, or `none`. What is stored stays, also beyond it."""
    try:
        value = parse_quota(size)
    except ValueError as error:
        raise RestoreError(f"{error}, or `none`") from None
    id = office.cards.find(name)[1].machine
    office.state(StatementVerb.POLICY, encode_content(PolicyContent(id, ((QUOTA, value),))))
    say(f"{name}: " + (f"may keep {show_size(int(value))}" if value else "no quota of its own"))
    return 0
