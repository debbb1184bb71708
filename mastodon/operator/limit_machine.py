"""``mastodon limit machine``: how many bytes a second one machine's agent may send."""

import click

from mastodon.operator.rate import RATE, rate_text
from mastodon.operator.reach import ask, configuration


@click.command("machine")
@click.argument("machine", metavar="ID")
@click.argument("rate", type=RATE)
@click.pass_context
def limit_machine(context: click.Context, machine: str, rate: int | None) -> None:
    """Cap what the agent of the machine ID (64 digits, as in the log) sends at RATE bytes a second.

    RATE is a number such as 1M (K, M and G are 1024 bytes and its powers), `off`, or `default` for what the
    configuration says. It holds at once, in a run that is going on too, and after a restart.
    """
    try:
        known = len(bytes.fromhex(machine)) == 32
    except ValueError:
        known = False
    if not known:
        raise click.UsageError("a machine's id has 64 hexadecimal digits: the log shows it at each check-in")
    ask(configuration(context), "limit set", machine=machine.lower(), rate=rate)
    click.echo(f"{machine.lower()}: {rate_text(rate)}.")
