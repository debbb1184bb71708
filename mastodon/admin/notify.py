"""``mastodon-admin notify``: where this admin is told of events."""

from typing import Any

import click

from mastodon.admin.events import machine_names
from mastodon.admin.office import Office
from mastodon.admin.options import office_command, output_options
from mastodon.restore.actions import Output
from mastodon.restore.edge import say
from mastodon.restore.errors import RestoreError
from mastodon.restore.history import show_time
from mastodon.restore.present import to_json
from mastodon.sealed.settings import HEARTBEAT, MAIL, SETTINGS, WEBHOOK
from mastodon.sealed.statement import PolicyContent, StatementVerb, encode_content
from mastodon.wire.telling_messages import ChannelItem

OFF = "off"


@click.group("notify")
def notify() -> None:
    """Where alerts go: show, test, set."""


@notify.command("show")
@output_options
@office_command
def show(office: Office, out: Output) -> int:
    """Show where alerts go, which addresses take nothing, what is snoozed; webhooks with the key that signs them."""
    _print(office, office.source.told(False), out)
    return 0


@notify.command("test")
@output_options
@office_command
def test(office: Office, out: Output) -> int:
    """Send a test to every mail address and webhook, and say what came of it. Exit code 1 if one did not take it."""
    found = office.source.told(True)
    _print(office, found, out)
    return 1 if any(one.failing_ns for one in found) else 0


@notify.command("set")
@click.option("--machine", metavar="NAME", help="For this machine alone; it wins over what holds for all.")
@click.option("--mail", metavar="ADDRESS,...", help="Mail addresses; `off` for none.")
@click.option("--webhook", metavar="URL", help="Where signed JSON is posted; `off` for none.")
@click.option("--heartbeat", metavar="URL", help="What hears of a machine's runs; needs --machine; `off` for none.")
@office_command
def set_(office: Office, machine: str | None, mail: str | None, webhook: str | None, heartbeat: str | None) -> int:
    """Set where alerts go. The address from before is told of it, and so is the operator."""
    typed = {MAIL: mail, WEBHOOK: webhook, HEARTBEAT: heartbeat}
    values = tuple((name, "" if text == OFF else text) for name, text in typed.items() if text is not None)
    if not values:
        raise RestoreError("give --mail, --webhook or --heartbeat")
    if heartbeat is not None and machine is None:
        raise RestoreError("a heartbeat is one machine's: give --machine")
    for name, value in values:
        try:
            if value:
                SETTINGS[name].check(value)
        except ValueError as error:
            raise RestoreError(str(error)) from None
    about = b"" if machine is None else office.cards.find(machine)[1].machine
    office.state(StatementVerb.POLICY, encode_content(PolicyContent(about, values)))
    tried = "; `mastodon-admin notify test` tries it" if any(value for _, value in values) else ""
    say(f"{machine or 'all machines'}: set{tried}")
    return 0


def _print(office: Office, found: Any, out: Output) -> None:
    names = machine_names(office)
    if not found and not out.json:
        out.say("nowhere: the operator is told. mastodon-admin notify set --mail ADDRESS")
    for one in found:
        out.say(to_json(_fields(one, names)) if out.json else _line(one, names))


def _fields(item: ChannelItem, names: dict[bytes, str]) -> dict[str, Any]:
    return {
        "kind": item.kind,
        "machine": item.machine.hex(),
        "name": names.get(item.machine, ""),
        "address": item.address,
        "failing_ns": item.failing_ns,
        "reason": item.reason,
        "secret": item.secret.hex(),
    }


def _line(item: ChannelItem, names: dict[bytes, str]) -> str:
    about = f"{names.get(item.machine) or item.machine.hex()[:16]}: " if item.machine else ""
    if item.kind == "snooze":
        return f"snoozed    {about or 'all machines: '}until {show_time(int(item.address))}"
    state = f"  NOT TAKEN since {show_time(item.failing_ns)}: {item.reason}" if item.failing_ns else ""
    key = f"  signed with {item.secret.hex()}" if item.secret else ""
    return f"{item.kind:10} {about}{item.address}{key}{state}"
