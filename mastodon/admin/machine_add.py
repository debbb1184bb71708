"""``mastodon-admin machine add``: card into the book first, then enrolment, then URL and passkey for the machine.

What was made is kept in the home, 0600, from before the first step until the last is done, so that the command can be
repeated after any interruption. Once it is done, doing it again changes nothing. The machine's secret stays nowhere.
"""

import shlex
import time
from dataclasses import dataclass
from pathlib import Path

import click

from mastodon.admin.office import Office
from mastodon.admin.options import FILE, office_command
from mastodon.host.durable import AlreadyThere, DiskError, write_new
from mastodon.host.openpgp import new_passkey
from mastodon.restore.edge import say, tell
from mastodon.restore.errors import RestoreError
from mastodon.restore.keys import read_passphrase
from mastodon.restore.present import to_json
from mastodon.sealed.book import BookContent, Card, Generation
from mastodon.sealed.enrolment import HANDLE_LENGTH, Enrolment
from mastodon.sealed.errors import FormatError
from mastodon.sealed.machine_secret import SECRET_LENGTH, MachineSecret, id_key_commitment
from mastodon.sealed.statement import StatementVerb
from mastodon.sealed.url import DEFAULT_PORT, MachineUrl, encode_key, parse_url

ETC = "/etc/mastodon-agent"
FORBIDDEN = frozenset("/\\\0\n\r\t ")


@dataclass(frozen=True, slots=True)
class Adding:
    """A machine that is being added; ``passkey`` is empty for --no-passkey."""

    url: MachineUrl
    passkey: bytes
    handle: bytes
    time_ns: int


@click.command("add")
@click.argument("name")
@click.option("--passkey-file", type=FILE, help="Use this passkey instead of a new one.")
@click.option("--no-passkey", is_flag=True, help="For machines that seal to OpenPGP keys only (agent's --recipient).")
@click.option(
    "--out", type=click.Path(path_type=Path, file_okay=False), help="Write NAME.url and NAME.passkey there, 0600."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@office_command
def machine_add(
    office: Office, name: str, passkey_file: Path | None, no_passkey: bool, out: Path | None, as_json: bool
) -> int:
    """Add the machine NAME. Doing it again changes nothing."""
    if (
        not name.isprintable()
        or not 0 < len(name.encode()) <= 200
        or FORBIDDEN & set(name)
        or name.startswith((".", "-"))
    ):
        raise RestoreError(f"{name!r} cannot be a machine's name: use letters, digits, dots, dashes")
    if no_passkey and passkey_file is not None:
        raise RestoreError("give either --passkey-file or --no-passkey")
    pending = office.home.pending(name)
    if not pending.exists():
        if office.read_book().content.card(name) is not None:
            return _is_there(office, name, out, as_json)
        passkey = (
            b"" if no_passkey else read_passphrase(passkey_file) if passkey_file else new_passkey().encode("ascii")
        )
        _begin(office, name, passkey)
    adding = _load(office, name)
    secret = MachineSecret(adding.url.secret)
    content = office.change_book(lambda book: _with_card(book, name, secret, adding))
    card = content.card(name)
    if card is None or card.current.machine != secret.machine_id:
        pending.unlink()
        raise RestoreError(f"another device has added {name} meanwhile: nothing was changed")
    _enrol(office, secret, adding)
    _hand_out(name, adding, out, as_json)
    pending.unlink()
    return 0


def _begin(office: Office, name: str, passkey: bytes) -> None:
    who = office.source.who()
    identity = office.home.identity()
    hosts = tuple(_host(text) for text in who.append_hosts)
    if not hosts:
        raise RestoreError("the server does not say where agents connect: the operator has to set `name`")
    url = MachineUrl(name, office.random(SECRET_LENGTH), hosts, who.servers, (identity.order_key, identity.successor))
    fields = {
        "url": str(url),
        "passkey": passkey.hex(),
        "handle": office.random(HANDLE_LENGTH).hex(),
        "time_ns": time.time_ns(),
    }
    office.home.write(office.home.pending(name), fields)


def _load(office: Office, name: str) -> Adding:
    path = office.home.pending(name)
    fields = office.home.read(path, "remove it and run the command again")
    try:
        return Adding(
            parse_url(fields["url"]), bytes.fromhex(fields["passkey"]), bytes.fromhex(fields["handle"]),
            int(fields["time_ns"]),
        )  # fmt: skip
    except (KeyError, TypeError, ValueError, FormatError):
        raise RestoreError(f"{path}: damaged; remove it and run the command again") from None


def _with_card(book: BookContent, name: str, secret: MachineSecret, adding: Adding) -> BookContent:
    if book.card(name) is not None:
        return book
    generation = Generation(
        secret.machine_id, secret.public_key, secret.order_key.public_key, id_key_commitment(secret.id_key),
        adding.time_ns, (), adding.passkey,
    )  # fmt: skip
    return book.with_card(Card(name, adding.handle, (generation,)))


def _enrol(office: Office, secret: MachineSecret, adding: Adding) -> None:
    enrolment = Enrolment(
        secret.machine_id, secret.public_key, office.secret.tenant, adding.url.servers, adding.handle, 0, adding.time_ns
    )
    office.state(StatementVerb.ENROL, enrolment.sign(secret.signing_key))


def _hand_out(name: str, adding: Adding, out: Path | None, as_json: bool) -> None:
    machine = MachineSecret(adding.url.secret).machine_id
    line = crontab_line(name, machine, bool(adding.passkey))
    fields = {"name": name, "machine": machine.hex(), "crontab": line, "added": True}
    if out is not None:
        files = _write_files(out, name, adding)
        fields |= {"files": [str(path) for path in files]}
    else:
        fields |= {"url": str(adding.url), "passkey": adding.passkey.decode("utf-8", "backslashreplace")}
    if as_json:
        say(to_json(fields))
        return
    say(f"machine id: {machine.hex()}")
    if out is None:
        say(f"URL: {adding.url}")
        if adding.passkey:
            say(f"passkey: {adding.passkey.decode('utf-8', 'backslashreplace')}")
    else:
        tell("wrote " + ", ".join(str(path) for path in files))
    say(f"crontab: {line}")
    tell(f"Carry URL and passkey to {ETC} on the machine, 0600. The URL is not kept here and cannot be shown again.")


def _write_files(out: Path, name: str, adding: Adding) -> list[Path]:
    try:
        out.mkdir(mode=0o700, parents=True, exist_ok=True)
        contents = {out / f"{name}.url": str(adding.url).encode("ascii") + b"\n"}
        if adding.passkey:
            contents[out / f"{name}.passkey"] = adding.passkey + b"\n"
        for path, data in contents.items():
            try:
                write_new(path, data)
            except AlreadyThere:
                if path.read_bytes() != data:
                    raise RestoreError(f"{path} is there with another content: move it away and try again") from None
        return list(contents)
    except (DiskError, OSError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise RestoreError(f"--out {out}: {why}; try again, also with another --out") from None


def _is_there(office: Office, name: str, out: Path | None, as_json: bool) -> int:
    """Nothing to do, but to say so."""
    machine = office.cards.find(name)[1].machine
    fields = {"name": name, "machine": machine.hex(), "added": False}
    if as_json:
        say(to_json(fields))
    else:
        tell(f"{name} is in the book already, as machine {machine.hex()}: nothing was changed")
    if out is not None and not (out / f"{name}.url").exists():
        tell(f"its URL was handed out when it was added, and is kept nowhere: {out}/{name}.url cannot be made again")
    return 0


def crontab_line(name: str, machine: bytes, passkey: bool) -> str:
    """The hourly line, its minute derived from the id, so that a fleet spreads over the hour."""
    minute = int.from_bytes(machine[:8], "big") % 60
    url_file, passkey_file = shlex.quote(f"{ETC}/{name}.url"), shlex.quote(f"{ETC}/{name}.passkey")
    key = f"--passkey-file {passkey_file}" if passkey else f"--recipient {ETC}/recipients.asc"
    return f"{minute} * * * * root mastodon-agent --url-file {url_file} {key} /"


def _host(text: str) -> tuple[str, int]:
    """host:port as the server says it; the URL's own parser is the judge."""
    probe = f"mastodon://x:{encode_key(bytes(SECRET_LENGTH))}@{text}/"
    try:
        return parse_url(probe).hosts[0]
    except FormatError:
        raise RestoreError(
            f"the server names an address for agents that is none: {text!r} (port {DEFAULT_PORT}?)"
        ) from None
