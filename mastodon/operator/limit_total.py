"""``mastodon limit total``: how many bytes a second all agents together may send."""

import click

from mastodon.operator.rate import RATE, rate_text
from mastodon.operator.reach import ask, configuration


@click.command("total")
@click.argument("rate", type=RATE)
@click.pass_context
def limit_total(context: click.Context, rate: int | None) -> None:
    """Cap what all agents together send at RATE bytes a second.

    RATE is a number such as 50M (K, M and G are 1024 bytes and its powers), `off`, or `default` for what the
    configuration says. It holds at once, in runs that are going on too, and after a restart. Restores are not capped.
    """
    ask(configuration(context), "limit set", machine="", rate=rate)
    click.echo(f"All agents together: {rate_text(rate)}.")
