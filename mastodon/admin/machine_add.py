"""``mastodon-admin machine add``: one machine or many; URL and passkey for each, and a line for its crontab.

Once a machine is added, adding it again changes nothing; after any interruption the same command goes on.
"""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from mastodon.admin.adding import Adding, begin_or_go_on, enter_and_enrol, hand_over
from mastodon.admin.names import demand_name, read_names
from mastodon.admin.office import Office
from mastodon.admin.options import FILE, office_command
from mastodon.host.durable import AlreadyThere, DiskError, write_new
from mastodon.host.openpgp import new_passkey
from mastodon.restore.edge import say, tell
from mastodon.restore.errors import RestoreError
from mastodon.restore.keys import read_passphrase
from mastodon.restore.present import to_json

ETC = "/etc/mastodon-agent"
DIRECTORY = click.Path(path_type=Path, file_okay=False)
NAMES = click.Path(path_type=Path, dir_okay=False, allow_dash=True)


@click.command("add")
@click.argument("name", required=False)
@click.option("--names-from", type=NAMES, metavar="FILE", help="Add many: a name a line; `-` reads standard input.")
@click.option("--passkey-file", type=FILE, help="Use this passkey instead of a new one.")
@click.option("--no-passkey", is_flag=True, help="For machines that seal to OpenPGP keys only (agent's --recipient).")
@click.option("--out", type=DIRECTORY, help="Write NAME.url and NAME.passkey there, 0600.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, an object a machine.")
@office_command
def machine_add(
    office: Office, name: str | None, names_from: Path | None, passkey_file: Path | None, no_passkey: bool,
    out: Path | None, as_json: bool,
) -> int:  # fmt: skip
    """Add the machine NAME, or those that --names-from lists. Doing it again changes nothing."""
    if (name is None) == (names_from is None):
        raise RestoreError("name one machine, or give --names-from FILE for many")
    if no_passkey and passkey_file is not None:
        raise RestoreError("give either --passkey-file or --no-passkey")
    if names_from is not None:
        names = _many(names_from, passkey_file, out)
    else:
        assert name is not None
        demand_name(name)
        names = [name]
    given = read_passphrase(passkey_file) if passkey_file is not None else b""

    def passkey() -> bytes:
        return b"" if no_passkey else given or new_passkey().encode("ascii")

    if out is not None:
        make_directory(out)
    machines = begin_or_go_on(office, names, passkey)
    added = {one.name: one for one in (enter_and_enrol(office, machines) if machines else [])}
    show = show_json if as_json else show_one if names_from is None else _show_of_many
    for each in names:
        if each in added:
            show(hand_out(added[each], out))
            hand_over(office, added[each])
        else:
            show(_is_there(office, each, out))
    if not as_json:
        _tell_the_end(len(names), len(added))
    taken = [one.name for one in machines if one.name not in added]
    if taken:
        raise RestoreError(f"another device has added {', '.join(taken)} meanwhile: nothing was changed of that")
    return 0


def _many(names_from: Path, passkey_file: Path | None, out: Path | None) -> list[str]:
    if passkey_file is not None:
        raise RestoreError("--passkey-file is for one machine: of many each gets a passkey of its own")
    if out is None:
        raise RestoreError("give --out DIR for the URLs and passkeys of many machines")
    return read_names(names_from)


def crontab_line(name: str, machine: bytes, passkey: bool) -> str:
    """The hourly line, its minute derived from the id, so that a fleet spreads over the hour."""
    minute = int.from_bytes(machine[:8], "big") % 60
    url_file, passkey_file = shlex.quote(f"{ETC}/{name}.url"), shlex.quote(f"{ETC}/{name}.passkey")
    key = f"--passkey-file {passkey_file}" if passkey else f"--recipient {ETC}/recipients.asc"
    return f"{minute} * * * * root mastodon-agent --url-file {url_file} {key} /"


# What is handed out


def hand_out(machine: Adding, out: Path | None) -> dict[str, Any]:
    """What an added machine needs, for programs; URL and passkey in files, or among the fields."""
    id = machine.secret.machine_id
    fields: dict[str, Any] = {
        "name": machine.name, "machine": id.hex(), "crontab": crontab_line(machine.name, id, bool(machine.passkey)),
        "added": True,
    }  # fmt: skip
    if out is not None:
        return fields | {"files": [str(path) for path in _write_files(out, machine)]}
    return fields | {"url": str(machine.url), "passkey": machine.passkey.decode("utf-8", "backslashreplace")}


def _is_there(office: Office, name: str, out: Path | None) -> dict[str, Any]:
    card = office.cards.find(name)[1]
    line = crontab_line(name, card.machine, card.has_passkey)
    fields: dict[str, Any] = {"name": name, "machine": card.machine.hex(), "crontab": line, "added": False}
    if out is not None and not (out / f"{name}.url").exists():
        tell(f"{name}: its URL was handed out when it was added, and is kept nowhere: it cannot be made again")
    return fields


def make_directory(out: Path) -> None:
    """The directory of --out. Raises RestoreError."""
    try:
        out.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise RestoreError(f"--out {out}: {error.strerror}") from None


def _write_files(out: Path, machine: Adding) -> Sequence[Path]:
    contents = {out / f"{machine.name}.url": str(machine.url).encode("ascii") + b"\n"}
    if machine.passkey:
        contents[out / f"{machine.name}.passkey"] = machine.passkey + b"\n"
    try:
        for path, data in contents.items():
            try:
                write_new(path, data)
            except AlreadyThere:
                if path.read_bytes() != data:
                    raise RestoreError(f"{path} is there with another content: move it away and try again") from None
    except (DiskError, OSError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise RestoreError(f"--out {out}: {why}; try again, also with another --out") from None
    return list(contents)


# What is said


def show_json(fields: dict[str, Any]) -> None:
    """For programs."""
    say(to_json(fields))


def show_one(fields: dict[str, Any]) -> None:
    """For people."""
    if not fields["added"]:
        tell(f"{fields['name']} is in the book already, as machine {fields['machine']}: nothing was changed")
        return
    say(f"machine id: {fields['machine']}")
    if "files" in fields:
        tell("wrote " + ", ".join(fields["files"]))
    else:
        say(f"URL: {fields['url']}")
        if fields["passkey"]:
            say(f"passkey: {fields['passkey']}")
    say(f"crontab: {fields['crontab']}")


def _show_of_many(fields: dict[str, Any]) -> None:
    if fields["added"]:
        say(f"# {fields['name']}, machine {fields['machine']}")
        say(fields["crontab"])


def _tell_the_end(names: int, added: int) -> None:
    if names > 1:
        tell(f"{added} machines were added, {names - added} were there already")
    if added:
        tell(f"Carry URL and passkey to {ETC} on the machine, 0600. The URL stays nowhere here, is never shown again.")
