"""``mastodon-admin machine watch``: how often a machine's complete backup is due, and the grace beyond that."""

import click

from mastodon.admin.office import Office
from mastodon.admin.options import office_command
from mastodon.restore.edge import say
from mastodon.restore.errors import RestoreError
from mastodon.sealed.settings import GRACE, INTERVAL, duration_value
from mastodon.sealed.statement import PolicyContent, StatementVerb, encode_content


@click.command("watch")
@click.argument("name", required=False)
@click.option("--all", "all_machines", is_flag=True, help="What holds where a machine has nothing of its own.")
@click.option("--every", metavar="TIME", help="How often a complete snapshot is due.")
@click.option("--grace", metavar="TIME", help="How much later it may come.")
@office_command
def machine_watch(office: Office, name: str | None, all_machines: bool, every: str | None, grace: str | None) -> int:
    """Set when the machine NAME is late: a complete snapshot is due every TIME, and may come --grace later.

    TIME is such as 30m, 6h or 2d, or `default` for what the level above says: the machine's own wins over --all, that
    over the server's. Watching less is told to the operator, and to the address that was told so far.
    """
    if (name is None) != all_machines:
        raise RestoreError("give a machine's name, or --all")
    typed = {INTERVAL: every, GRACE: grace}
    try:
        settings = tuple((key, duration_value(key, text)) for key, text in typed.items() if text is not None)
    except ValueError as error:
        raise RestoreError(str(error)) from None
    if not settings:
        raise RestoreError("give --every or --grace, or both; `mastodon-admin status --json` shows what holds")
    machine = b"" if name is None else office.cards.find(name)[1].machine
    office.state(StatementVerb.POLICY, encode_content(PolicyContent(machine, settings)))
    say(f"{name or 'all machines'}: set")
    return 0
