"""``mastodon-admin connect``: takes the operator's invitation, tries it, and remembers the server."""

import click

from mastodon.admin.home import host_texts
from mastodon.admin.invitation import parse_invitation
from mastodon.admin.office import Office, server_source
from mastodon.admin.options import office_command
from mastodon.restore.edge import say
from mastodon.restore.errors import Refused
from mastodon.sealed.ledger_entries import Role


@click.command("connect")
@click.argument("invitation")
@office_command
def connect(office: Office, invitation: str) -> int:
    """Connect to the server that INVITATION names; the server has to know this client's key as this admin's."""
    server = parse_invitation(invitation)
    identity = office.home.identity()
    source = server_source(office.home, server)
    try:
        who = source.who()
    finally:
        source.close()
    if who.tenant != identity.tenant or who.role is not Role.ADMIN:
        raise Refused("the server knows this client's key, but as another admin's")
    office.home.save_server(server)
    say(f"connected to {', '.join(host_texts(server.hosts))} as {who.name}")
    return 0
