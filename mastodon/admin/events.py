"""``mastodon-admin events``: what the server noted about this admin's machines."""

import time
from collections.abc import Sequence
from typing import Any

import click

from mastodon.admin.office import Office
from mastodon.admin.options import office_command, output_options
from mastodon.admin.when import WHEN_PAST
from mastodon.restore.actions import Output
from mastodon.restore.history import show_time
from mastodon.restore.present import to_json
from mastodon.sealed.events import kind_of, name_of
from mastodon.wire.telling_messages import EventItem

USUAL_DAYS = 7
LOOK_S = 5.0


@click.command("events")
@click.option("--since", type=WHEN_PAST, metavar="WHEN", help="From then on (default: the last 7 days).")
@click.option("--machine", metavar="NAME", help="About this machine alone.")
@click.option("--open", "only_open", is_flag=True, help="What goes on and is not acknowledged, however old.")
@click.option("--follow", is_flag=True, help="Go on with what comes, until interrupted.")
@output_options
@office_command
def events(office: Office, since: int | None, machine: str | None, only_open: bool, follow: bool, out: Output) -> int:
    """List events, the oldest first: number, time, severity, machine, and what happened.

    WHEN is a time such as 2026-11-24 or '2026-11-24 07:00', or how long ago, such as 6h or 2d.
    """
    wanted = b"" if machine is None else office.cards.find(machine)[1].machine
    if since is None:
        since = 0 if only_open else time.time_ns() - USUAL_DAYS * 86_400 * 10**9
    names = machine_names(office)
    after = 0
    while True:
        found = office.source.events(wanted, after, since)
        after = found[-1].sequence if found else after
        found = [one for one in found if not only_open or (one.open and not one.acknowledged_ns)]
        _show(found, names, out)
        if not follow:
            if not found and not out.json:
                out.tell("no events")
            return 0
        time.sleep(LOOK_S)


def machine_names(office: Office) -> dict[bytes, str]:
    """The names in the local cache, by machine id."""
    return {one.machine: card.name for card in office.cards.cards for one in card.generations}


def _show(found: Sequence[EventItem], names: dict[bytes, str], out: Output) -> None:
    for one in found:
        out.say(to_json(event_fields(one, names)) if out.json else _line(one, names))


def event_fields(item: EventItem, names: dict[bytes, str]) -> dict[str, Any]:
    """An event for programs."""
    kind = kind_of(item.code)
    return {
        "sequence": item.sequence,
        "time_ns": item.time_ns,
        "code": item.code,
        "event": name_of(item.code),
        "severity": kind.severity.value,
        "title": kind.title,
        "advice": kind.advice,
        "machine": item.machine.hex(),
        "name": names.get(item.machine, ""),
        "detail": item.detail,
        "open": bool(item.open),
        "acknowledged_ns": item.acknowledged_ns,
    }


def _line(item: EventItem, names: dict[bytes, str]) -> str:
    kind = kind_of(item.code)
    about = (names.get(item.machine) or item.machine.hex()[:16]) if item.machine else "-"
    detail = "".join(c if c.isprintable() else "?" for c in item.detail)
    marks = " [going on]" if item.open else ""
    marks += " [acknowledged]" if item.acknowledged_ns else ""
    text = f"{kind.title}: {detail}" if detail else kind.title
    return f"{item.sequence:6}  {show_time(item.time_ns)}  {kind.severity.value:8} {about:16} {text}{marks}"
