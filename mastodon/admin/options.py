"""Options that several commands have, and what they turn into."""

import functools
import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from mastodon.admin.home import Home
from mastodon.admin.office import Office
from mastodon.restore.actions import Output
from mastodon.restore.edge import say, tell
from mastodon.restore.keys import (
    ADMIN_PASSPHRASE,
    ask_passphrase,
    choose_opener,
    read_passphrase,
    with_keyring,
    with_passphrase,
)
from mastodon.restore.session import Session
from mastodon.restore.trust import EnvelopeClosed, OpenEnvelope

PASSPHRASE_VARIABLE = "MASTODON_ADMIN_PASSPHRASE_FILE"
FILE = click.Path(path_type=Path, dir_okay=False)
Command = Callable[..., Any]


def office_command(command: Command) -> Command:
    """Gives a command its Office, and the option for the admin secret's passphrase; closes the connection after."""

    @click.option(
        "--passphrase-file", type=FILE, help=f"Passphrase of the admin secret (else ${PASSPHRASE_VARIABLE}, or asked)."
    )
    @functools.wraps(command)
    def wrapped(passphrase_file: Path | None, **options: Any) -> Any:
        home = Home(click.get_current_context().obj)
        office = Office(home, lambda: admin_passphrase(passphrase_file), secrets.token_bytes)
        try:
            return command(office, **options)
        finally:
            office.close()

    return wrapped


def admin_passphrase(file: Path | None, *, new: bool = False) -> bytes:
    """The admin secret's passphrase: from the file named, the variable, or the terminal."""
    named = file or os.environ.get(PASSPHRASE_VARIABLE)
    if named:
        return read_passphrase(Path(named))
    return ask_passphrase(ADMIN_PASSPHRASE, f"--passphrase-file, or set {PASSPHRASE_VARIABLE}", twice=new)


def output_options(command: Command) -> Command:
    """--json and -q, as ``out``."""

    @click.option("--json", "as_json", is_flag=True, help="JSON lines on stdout.")
    @click.option("-q", "--quiet", is_flag=True, help="No progress bar, no headings.")
    @functools.wraps(command)
    def wrapped(*arguments: Any, as_json: bool, quiet: bool, **options: Any) -> Any:
        return command(*arguments, out=Output(say, tell, as_json, quiet), **options)

    return wrapped


def session_options(command: Command) -> Command:
    """What opens a machine's backups, as ``open_session``: a function from the machine's name."""

    @click.option("--passkey-file", type=FILE, help="File with the machine's passkey (else from its card in the book).")
    @click.option("--key-file", "key_files", multiple=True, type=FILE, help="OpenPGP private key to open envelopes.")
    @click.option("--gpg", "keyring", is_flag=True, help="Open envelopes with gpg's own keyring, agent or card.")
    @click.option("--accept-pair", is_flag=True, help="Believe sealing pairs that the book does not know.")
    @click.option("--allow-older", is_flag=True, help="Take an older state than was seen before.")
    @functools.wraps(command)
    def wrapped(
        office: Office, passkey_file: Path | None, key_files: tuple[Path, ...], keyring: bool, accept_pair: bool,
        allow_older: bool, **options: Any,
    ) -> Any:  # fmt: skip
        def open_session(wanted: str) -> Session:
            office.greet(allow_older=allow_older)
            known, has_passkey = office.cards.known(wanted, office.home.identity().order_key)
            if passkey_file or key_files:
                opener = choose_opener(passkey_file, key_files)
            elif keyring or not has_passkey:
                opener = with_keyring()
            else:
                opener = _from_card(office, known.machine)
            return Session(
                office.source, known, opener, office.memory, tell, accept_pairs=accept_pair, allow_older=allow_older
            )

        return command(office, open_session=open_session, **options)

    return wrapped


def finish(office: Office, session: Session, code: int) -> int:
    """After a command: pairs that were adopted are remembered."""
    if "trust" in session.__dict__:
        office.cards.adopt(session.known.machine, session.trust.adopted)
    return code


snapshot_option = click.option(
    "--snapshot", default="latest", metavar="N|HASH|TIME|latest", help="Which snapshot (default: latest)."
)


def _from_card(office: Office, machine: bytes) -> OpenEnvelope:
    """Opens with the passkey that the card keeps; the admin secret is unlocked only when this is used."""

    def open_envelope(envelope: bytes) -> bytes:
        passkey = office.generation(machine).passkey
        if not passkey:
            raise EnvelopeClosed("the card keeps no passkey: give --passkey-file, --key-file or --gpg")
        return with_passphrase(passkey)(envelope)

    return open_envelope
