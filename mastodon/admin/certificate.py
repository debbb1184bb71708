"""``mastodon-admin certificate``: which devices may use the restore port. Needs the admin secret, which signs.

``certificate make`` on a new device writes key and certificate and prints the pin; ``certificate add PIN`` on a device
that is registered lets it in. Removal is for ever and takes effect at once.
"""

import datetime
import socket

import click

from mastodon.admin.home import Home
from mastodon.admin.office import Office
from mastodon.admin.options import office_command, output_options
from mastodon.host.certificates import (
    CertificateError,
    load_certificate,
    make_identity,
    parse_pin,
    pin_text,
    spki_pin,
    write_identity,
)
from mastodon.host.durable import DiskError
from mastodon.host.times import show_time
from mastodon.restore.actions import Output
from mastodon.restore.edge import say
from mastodon.restore.errors import RestoreError
from mastodon.restore.present import to_json
from mastodon.sealed.enrolment import Role
from mastodon.sealed.statement import CertificateContent, PinContent, StatementVerb, encode_content

LABEL_LIMIT = 64


@click.group("certificate")
def certificate() -> None:
    """Client certificates: make, list, add, remove."""


@certificate.command("make")
@click.option("--label", default="", help="What this device is called (default: its host name).")
@click.pass_context
def make(context: click.Context, label: str) -> int:
    """Make this device's client key and certificate, and print the pin by which another device adds it."""
    home = Home(context.obj)
    home.make()
    if home.client_key.exists():
        raise RestoreError(
            f"{home.client_key} is there already: this device has a key; move it and {home.client_certificate.name} "
            "away for a new one"
        )
    identity = make_identity(label or socket.gethostname()[:LABEL_LIMIT], datetime.datetime.now(datetime.UTC))
    try:
        write_identity(identity, home.client_key, home.client_certificate)
    except DiskError as error:
        raise RestoreError(str(error)) from None
    say(pin_text(identity.pin))
    return 0


@certificate.command("list")
@output_options
@office_command
def list_all(office: Office, out: Output) -> int:
    """List the client keys that are registered for you, this device's marked with *."""
    own = load_certificate(office.home.client_certificate)
    for one in office.source.certificates():
        is_own = one.pin == spki_pin(own)
        fields = {
            "pin": pin_text(one.pin), "role": one.role.name.lower(), "label": one.label, "added_ns": one.added_ns,
            "expires_ns": one.expires_ns, "own": is_own,
        }  # fmt: skip
        mark = "*" if is_own else " "
        line = f"{mark} {fields['pin']}  {fields['role']:8} {show_time(one.added_ns)}  {one.label}"
        out.say(to_json(fields) if out.json else line)
    return 0


@certificate.command("add")
@click.argument("pin")
@click.option("--label", default="", help="What the device is called.")
@click.option("--monitor", is_flag=True, help="May only ask for status.")
@office_command
def add(office: Office, pin: str, label: str, monitor: bool) -> int:
    """Register the client key with this PIN. Doing it again changes nothing."""
    role = Role.MONITOR if monitor else Role.ADMIN
    content = CertificateContent(_pin(pin), role, label[:LABEL_LIMIT])
    office.state(StatementVerb.REGISTER_CERTIFICATE, encode_content(content))
    say(f"registered {pin} as {role.name.lower()}")
    return 0


@certificate.command("remove")
@click.argument("pin")
@office_command
def remove(office: Office, pin: str) -> int:
    """Remove the client key with this PIN, for ever; its open connections end. Not this device's own."""
    if _pin(pin) == spki_pin(load_certificate(office.home.client_certificate)):
        raise RestoreError(
            "this is the key of this very device, which would be shut out for ever: remove it from another device "
            "(`certificate add` lets one in), or ask the operator"
        )
    office.state(StatementVerb.REMOVE_CERTIFICATE, encode_content(PinContent(_pin(pin))))
    say(f"removed {pin}")
    return 0


def _pin(text: str) -> bytes:
    try:
        return parse_pin(text)
    except CertificateError as error:
        raise RestoreError(str(error)) from None
