"""``mastodon-admin init``: makes the admin secret, the first client certificate, and the request for the operator."""

import datetime
import secrets
import socket
import time
from pathlib import Path

import click

from mastodon.admin.home import Home, Identity
from mastodon.admin.options import FILE, admin_passphrase
from mastodon.host.certificates import CertificateError, make_identity, write_identity
from mastodon.host.durable import DiskError, write_new
from mastodon.restore.edge import say, tell
from mastodon.restore.errors import RestoreError
from mastodon.sealed.admin_secret import SECRET_LENGTH, AdminSecret, encrypt_secret, successor_hash
from mastodon.sealed.enrolment import AdminRequest
from mastodon.sealed.url import encode_key

LABEL_LIMIT = 64


@click.command("init")
@click.option("--label", default="", help="What this device is called (default: its host name).")
@click.option("--passphrase-file", type=FILE, help="Passphrase that encrypts the admin secret (else asked).")
@click.option("--request", "request_file", type=FILE, help="Where to write the request (default: in the home).")
@click.pass_context
def init(context: click.Context, label: str, passphrase_file: Path | None, request_file: Path | None) -> int:
    """Make a new admin: secret, client certificate, request.

    Prints the offline successor key, once: it alone can name who follows if the admin secret is stolen. It is in no
    file; write it down and keep it apart.
    """
    home = Home(context.obj)
    if home.secret.exists():
        raise RestoreError(f"{home.secret} is there already: this home has an admin")
    label = label or socket.gethostname()[:LABEL_LIMIT]
    passphrase = admin_passphrase(passphrase_file, new=True)
    home.make()
    secret_bytes, successor_bytes = secrets.token_bytes(SECRET_LENGTH), secrets.token_bytes(SECRET_LENGTH)
    secret, successor = AdminSecret(secret_bytes), AdminSecret(successor_bytes)
    client = make_identity(label, datetime.datetime.now(datetime.UTC))
    request = AdminRequest(
        secret.order_public, client.pin, successor_hash(successor.order_public), label, time.time_ns()
    )
    path = request_file or home.request
    try:
        write_identity(client, home.client_key, home.client_certificate)
        write_new(path, request.sign(secret.order_key))
        home.save_identity(Identity(secret.tenant, secret.order_public, successor.order_public))
        write_new(home.secret, encrypt_secret(secret_bytes, passphrase, secrets.token_bytes(16)).encode("ascii"))
    except (DiskError, CertificateError) as error:
        raise RestoreError(
            f"{error}; a home that was begun and not finished: remove {home.path} and try again"
        ) from None
    say(f"successor key: {encode_key(successor_bytes)}")
    tell("Write the successor key down, now: it is kept in no file, and cannot be shown again.")
    tell(f"Keep a copy of {home.secret} and its passphrase: it is the one thing that you have to keep.")
    tell(f"Take {path} to the operator (mastodon admin add NAME --request FILE), and give the answer to `connect`.")
    return 0
