"""``mastodon-admin machine split``: ends a fork, by giving one of two copies of a machine an identity of its own.

The card of the new machine names the one that it was split from, and the snapshot up to which both are the same. The
old identity stays as it is, for the other copy; nothing that was backed up is touched.
"""

from pathlib import Path

import click

from mastodon.admin.adding import Origin, begin_or_go_on, enter_and_enrol, hand_over
from mastodon.admin.machine_add import DIRECTORY, ETC, hand_out, make_directory, show_json, show_one
from mastodon.admin.names import demand_name
from mastodon.admin.office import Office
from mastodon.admin.options import FILE, office_command
from mastodon.host.openpgp import new_passkey
from mastodon.restore.edge import tell
from mastodon.restore.errors import RestoreError
from mastodon.restore.keys import read_passphrase, with_keyring
from mastodon.restore.session import Session


@click.command("split")
@click.argument("name")
@click.argument("new_name")
@click.option("--passkey-file", type=FILE, help="Use this passkey instead of a new one.")
@click.option("--no-passkey", is_flag=True, help="For machines that seal to OpenPGP keys only (agent's --recipient).")
@click.option("--out", type=DIRECTORY, help="Write NEW_NAME.url and NEW_NAME.passkey there, 0600.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--allow-older", is_flag=True, help="Take an older state than was seen before.")
@office_command
def machine_split(
    office: Office, name: str, new_name: str, passkey_file: Path | None, no_passkey: bool, out: Path | None,
    as_json: bool, allow_older: bool,
) -> int:  # fmt: skip
    """Give one of two copies of the machine NAME an identity of its own, NEW_NAME. Doing it again changes nothing.

    The other copy goes on as NAME. What both have backed up so far stays under NAME.
    """
    demand_name(new_name)
    if no_passkey and passkey_file is not None:
        raise RestoreError("give either --passkey-file or --no-passkey")
    office.read_book()
    origin = _origin(office, name, allow_older)
    _demand_free(office, name, new_name, origin)
    given = read_passphrase(passkey_file) if passkey_file is not None else b""
    if out is not None:
        make_directory(out)
    passkey = b"" if no_passkey else given or new_passkey().encode("ascii")
    machines = begin_or_go_on(office, [new_name], lambda: passkey, origin)
    if any(one.origin is None or one.origin[0] != origin[0] for one in machines):
        raise RestoreError(f"{new_name} is being added as another machine: finish that, or choose another name")
    if not machines:
        tell(f"{new_name} was split from {name} before: nothing was changed")
        return 0
    for one in enter_and_enrol(office, machines):
        (show_json if as_json else show_one)(hand_out(one, out))
        hand_over(office, one)
        if not as_json:
            _tell_how(name, new_name)
        return 0
    raise RestoreError(f"another device has added {new_name} meanwhile: nothing was changed")


def _origin(office: Office, name: str, allow_older: bool) -> Origin:
    """The machine that NAME is now, and its newest snapshot."""
    office.greet(allow_older=allow_older)
    known, _ = office.cards.known(name, office.home.identity().order_key)
    session = Session(office.source, known, with_keyring(), office.memory, tell, allow_older=allow_older)
    newest = session.history.newest
    return known.machine, newest.hash if newest is not None else b""


def _demand_free(office: Office, name: str, new_name: str, origin: Origin) -> None:
    card = next((card for card in office.cards.cards if card.name == new_name), None)
    if card is not None and card.origin != origin[0] and not office.home.pending(new_name).exists():
        raise RestoreError(f"there is a machine {new_name} already, not split from {name}: choose another name")


def _tell_how(name: str, new_name: str) -> None:
    tell(
        f"On the ONE copy that is to be {new_name}: put this URL and passkey into {ETC}, 0600, and the crontab line in "
        f"place of the old one; remove {name}'s URL and passkey there: whoever has them can append as {name}. Its "
        "first run sends everything; the state directory may stay.\n"
        f"The other copy goes on as {name}, unchanged. Older versions of both: mastodon-admin snapshots {name}\n"
        "The new URL stays nowhere here, and is never shown again."
    )
