"""``mastodon quota admin`` and ``quota machine``: how many bytes they may keep."""

import click

from mastodon.host.sizes import parse_quota, show_size
from mastodon.operator.machine_id import MACHINE_ID
from mastodon.operator.reach import ask, configuration
from mastodon.sealed.settings import QUOTA


class Quota(click.ParamType[str]):
    """A quota as a setting's value."""

    name = "size"

    def convert(self, value: object, parameter: click.Parameter | None, context: click.Context | None) -> str:
        """What was typed."""
        try:
            return parse_quota(str(value))
        except ValueError as error:
            self.fail(f"{error}, or `none`", parameter, context)


SIZE = Quota()


@click.command("admin")
@click.argument("name")
@click.argument("size", type=SIZE)
@click.pass_context
def quota_admin(context: click.Context, name: str, size: str) -> None:
    """Let all machines of the admin NAME together keep SIZE bytes.

    SIZE is such as 500G or 2T (K, M, G and T are 1024 bytes and its powers), or `none`. It holds at once. What is
    stored stays, also beyond it; only new data is refused.
    """
    ask(configuration(context), "policy set", admin=name, machine="", settings={QUOTA: size})
    click.echo(f"{name}: {_said(size)}.")


@click.command("machine")
@click.argument("machine", metavar="ID", type=MACHINE_ID)
@click.argument("size", type=SIZE)
@click.pass_context
def quota_machine(context: click.Context, machine: str, size: str) -> None:
    """Let the machine ID keep SIZE bytes, inside its admin's quota; the admin can set this, too.

    The beginning of the id will do. SIZE is such as 500G, or `none`.
    """
    ask(configuration(context), "policy set", admin="", machine=machine, settings={QUOTA: size})
    click.echo(f"{machine}: {_said(size)}.")


def _said(value: str) -> str:
    return f"may keep {show_size(int(value))}" if value else "no quota"
