"""``mastodon notify``: where the operator is told of events."""

import json
from typing import Any

import click

from mastodon.daemon.watching import show_time
from mastodon.operator.reach import ask, configuration
from mastodon.sealed.settings import HEARTBEAT, MAIL, SETTINGS, WEBHOOK

OFF = "off"
as_json_option = click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
admin_option = click.option("--admin", default="", metavar="NAME", help="This admin's instead of your own.")


@click.group("notify")
def notify() -> None:
    """Where alerts go: show, test, set."""


@notify.command("show")
@admin_option
@as_json_option
@click.pass_context
def show(context: click.Context, admin: str, as_json: bool) -> None:
    """Show where alerts go, and which addresses take nothing; your webhook with the key that signs it."""
    _print(ask(configuration(context), "notify", admin=admin, test=False), as_json)


@notify.command("test")
@admin_option
@as_json_option
@click.pass_context
def test(context: click.Context, admin: str, as_json: bool) -> None:
    """Send a test to every mail address and webhook, and say what came of it. Exit code 1 if one did not take it."""
    found = ask(configuration(context), "notify", admin=admin, test=True)
    _print(found, as_json)
    if any(one["failing_ns"] for one in found):
        context.exit(1)


@notify.command("set")
@admin_option
@click.option("--mail", metavar="ADDRESS,...", help="Mail addresses, beside those of the configuration; `off`: none.")
@click.option("--webhook", metavar="URL", help="Where signed JSON is posted; `off` for none.")
@click.option("--heartbeat", metavar="URL", help="What hears every 5 minutes that the server lives; `off` for none.")
@click.pass_context
def set_(context: click.Context, admin: str, mail: str | None, webhook: str | None, heartbeat: str | None) -> None:
    """Set where alerts go. The address from before is told of it."""
    typed = {MAIL: mail, WEBHOOK: webhook, HEARTBEAT: heartbeat}
    settings = {name: "" if text == OFF else text for name, text in typed.items() if text is not None}
    if not settings:
        raise click.UsageError("give --mail, --webhook or --heartbeat")
    if admin and heartbeat is not None:
        raise click.UsageError("a heartbeat is the server's own, or one machine's: its admin sets that")
    for name, value in settings.items():
        try:
            if value:
                SETTINGS[name].check(value)
        except ValueError as error:
            raise click.UsageError(str(error)) from None
    ask(configuration(context), "policy set", admin=admin, machine="", settings=settings)
    click.echo("Set; `mastodon notify test` tries it." if any(settings.values()) else "Set.")


def _print(found: list[dict[str, Any]], as_json: bool) -> None:
    for one in found:
        click.echo(json.dumps(one) if as_json else _line(one))
    if not found and not as_json:
        click.echo("Nowhere: mastodon notify set --mail ADDRESS, or telling.operator in the configuration.")


def _line(one: dict[str, Any]) -> str:
    about = f"{one['machine'][:16]}: " if one["machine"] else ""
    if one["kind"] == "snooze":
        return f"snoozed    {about or 'all machines: '}until {show_time(int(one['address']))}"
    key = f"  signed with {one['secret']}" if one["secret"] else ""
    state = f"  NOT TAKEN since {show_time(one['failing_ns'])}: {one['reason']}" if one["failing_ns"] else ""
    return f"{one['kind']:10} {about}{one['address']}{key}{state}"
