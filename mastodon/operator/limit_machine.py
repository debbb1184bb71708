"""``mastodon limit machine``: how many bytes a second one machine's agent may send."""

import click

from mastodon.operator.machine_id import MACHINE_ID
from mastodon.operator.rate import RATE, rate_text
from mastodon.operator.reach import ask, configuration


@click.command("machine")
@click.argument("machine", metavar="ID", type=MACHINE_ID)
@click.argument("rate", type=RATE)
@click.pass_context
def limit_machine(context: click.Context, machine: str, rate: int | None) -> None:
    """Cap what the agent of the machine ID (or the beginning of its id) sends at RATE bytes a second.

    RATE is a number such as 1M (K, M and G are 1024 bytes and its powers), `off`, or `default` for what the
    configuration says. It holds at once, in a run that is going on too, and after a restart.
    """
    ask(configuration(context), "limit set", machine=machine, rate=rate)
    click.echo(f"{machine}: {rate_text(rate)}.")
