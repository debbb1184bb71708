"""mastodon-recover: restores from spool directories alone, without server, catalogue or Twisted.

Needs the spools, the passphrase or GPG key, and something that proves the machine's key: its URL, its whole id, or the
admin secret. It reads damaged spools as far as they are whole, and writes nowhere but where it is told.
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from mastodon import __version__
from mastodon.host.spool_layout import MARKER
from mastodon.host.spool_reader import LedgerRecords, machines_with_packs
from mastodon.recover.identify import Identified, from_book, from_ledger, from_url, newest_book
from mastodon.restore import actions
from mastodon.restore.edge import guarded, leave, say, tell
from mastodon.restore.errors import NotThere, RestoreError
from mastodon.restore.history import read_history, show_time
from mastodon.restore.keys import ADMIN_PASSPHRASE, ask_passphrase, choose_opener, read_file, read_passphrase
from mastodon.restore.memory import Memory
from mastodon.restore.present import to_json
from mastodon.restore.session import Session
from mastodon.restore.source import all_pairs
from mastodon.restore.spool_source import SpoolSource
from mastodon.restore.trust import KnownMachine
from mastodon.sealed.admin_secret import AdminSecret, decrypt_secret
from mastodon.sealed.errors import FormatError
from mastodon.sealed.url import parse_url

PROGRAM = "mastodon-recover"
FILE = click.Path(path_type=Path, dir_okay=False)
Command = Callable[..., Any]


@dataclass(frozen=True, slots=True)
class Request:
    """The options that name spools, machine and keys."""

    spools: Sequence[Path]
    machine: str
    url_file: Path | None
    admin_secret: Path | None
    admin_passphrase_file: Path | None
    passkey_file: Path | None
    key_files: Sequence[Path]
    accept_pair: bool


def which_options(command: Command) -> Command:
    """Spools, and which machine of theirs."""
    for option in reversed(
        (
            click.argument("spools", nargs=-1, required=True, type=click.Path(path_type=Path)),
            click.option("--machine", default="", metavar="ID|NAME", help="Machine id, or name with --admin-secret."),
            click.option("--url-file", type=FILE, help="File with the machine's URL."),
            click.option("--admin-secret", type=FILE, help="The admin's secret file: names, and passkeys of the book."),
            click.option("--admin-passphrase-file", type=FILE, help="Passphrase of the admin secret."),
        )
    ):
        command = option(command)
    return command


def key_options(command: Command) -> Command:
    """What opens envelopes."""
    for option in reversed(
        (
            click.option(
                "--passkey-file", type=FILE, help="File with the passphrase (of the backup, or of --key-file)."
            ),
            click.option(
                "--key-file", "key_files", multiple=True, type=FILE, help="OpenPGP private key, as from paperkey."
            ),
            click.option("--accept-pair", is_flag=True, help="Also believe later sealing pairs of the machine."),
        )
    ):
        command = option(command)
    return command


def output_options(command: Command) -> Command:
    """How results are shown."""
    command = click.option("--json", "as_json", is_flag=True, help="JSON lines on stdout.")(command)
    return click.option("-q", "--quiet", is_flag=True, help="No progress bar, no headings.")(command)


snapshot_option = click.option(
    "--snapshot", default="latest", metavar="N|HASH|TIME|latest", help="Which snapshot (default: latest)."
)


@click.group(help=__doc__, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name=PROGRAM)
def cli() -> None:
    """The group of commands."""


@cli.command("list")
@which_options
@output_options
def list_machines(as_json: bool, quiet: bool, **which: Any) -> int:
    """Machines whose backups lie in the SPOOLs."""
    request = _request(which)
    records = _records(request.spools)
    names = {}
    if request.admin_secret is not None:
        for card in newest_book(records, _admin_secret(request)).cards:
            names.update({generation.machine: card.name for generation in card.generations})
    count = 0
    for machine in sorted(set(records.machines) | machines_with_packs(request.spools)):
        found = records.machines.get(machine)
        key = found.enrolment.public_key if found and found.enrolment else b""
        history = read_history(KnownMachine("", machine, key), found.snapshots.items()) if found and key else None
        newest = history.newest if history else None
        tenant = found.enrolment.tenant if found and found.enrolment else b""
        fields = {
            "machine": machine.hex(),
            "name": names.get(machine, ""),
            "admin": records.admins.get(tenant, ""),
            "snapshots": len(history.snapshots) if history else 0,
            "newest_ns": newest.record.time_ns if newest else 0,
        }
        count += 1
        if as_json:
            say(to_json(fields))
        else:
            when = show_time(newest.record.time_ns) if newest else "no snapshot record"
            say(f"{machine.hex()}  {fields['name'] or '-':16}  {fields['snapshots']:6} snapshots  {when}")
    if not count:
        raise NotThere("no machine's packs or records were found: are these spools?")
    return 0


@cli.command("snapshots")
@which_options
@output_options
def snapshots(as_json: bool, quiet: bool, **which: Any) -> int:
    """Snapshots of a machine; no key is needed."""
    return actions.list_snapshots(_session(_request(which)), _output(as_json, quiet))


@cli.command("ls")
@which_options
@key_options
@snapshot_option
@click.option("--path", default="/", help="Directory or entry to list (default: /).")
@click.option("-R", "--recursive", is_flag=True, help="All below it.")
@output_options
def ls(snapshot: str, path: str, recursive: bool, as_json: bool, quiet: bool, **which: Any) -> int:
    """What is in a snapshot."""
    return actions.list_directory(_session(_request(which)), snapshot, path, recursive, _output(as_json, quiet))


@cli.command("restore")
@which_options
@key_options
@snapshot_option
@click.option(
    "--to", required=True, type=click.Path(path_type=Path, file_okay=False), help="Directory to restore into."
)
@click.option("--path", "paths", multiple=True, help="Only this path or pattern; may repeat.")
@click.option("--owner-by", default="number", metavar="number|name|FILE", help="How owners are set (default: number).")
@click.option("--overwrite", type=click.Choice(["never", "if-changed", "if-newer", "always"]), default="never")
@click.option("--verify", is_flag=True, help="Compare the content of files that are there already.")
@click.option("-n", "--dry-run", is_flag=True, help="Only show what would be restored.")
@output_options
def restore(
    snapshot: str, to: Path, paths: Sequence[str], owner_by: str, overwrite: str, verify: bool, dry_run: bool,
    as_json: bool, quiet: bool, **which: Any,
) -> int:  # fmt: skip
    """Restore a snapshot, or parts of it, from the SPOOLs."""
    session = _session(_request(which))
    options = actions.options_from(overwrite, owner_by, verify)
    return actions.restore(session, snapshot, paths, to, options, dry_run, _output(as_json, quiet))


@cli.command("public-keys")
@which_options
@click.option("--out", required=True, type=click.Path(path_type=Path, file_okay=False), help="Directory for the keys.")
def public_keys(out: Path, **which: Any) -> int:
    """Write the OpenPGP public keys to which a machine's backups are sealed: paperkey needs them."""
    session = _session(_request(which))
    out.mkdir(parents=True, exist_ok=True)
    keys: set[bytes] = set()
    for listed in all_pairs(session.source, session.known.machine):
        pair = session.trust.pair(listed.pair)
        keys.update(pair.record.recipients if pair is not None else ())
    for number, key in enumerate(sorted(keys), 1):
        path = out / f"recipient-{number}.gpg"
        path.write_bytes(key)
        say(str(path))
    if not keys:
        tell("the machine's backups are sealed to a passphrase only")
    return 0


def main() -> None:
    """Entry of the command and of the one-file tool."""

    def command() -> int:
        try:
            return int(cli.main(args=sys.argv[1:], prog_name=PROGRAM, standalone_mode=False) or 0)
        except click.ClickException as error:
            error.show()
            return error.exit_code
        except click.Abort:
            raise KeyboardInterrupt from None

    leave(guarded(PROGRAM, command))


def _request(which: dict[str, Any]) -> Request:
    which.setdefault("passkey_file", None)
    which.setdefault("key_files", ())
    which.setdefault("accept_pair", False)
    return Request(**which)


def _output(as_json: bool, quiet: bool) -> actions.Output:
    return actions.Output(say, tell, as_json, quiet)


def _records(spools: Sequence[Path]) -> LedgerRecords:
    for spool in spools:
        if not spool.is_dir():
            raise RestoreError(f"{spool}: no directory")
        if not (spool / MARKER).exists():
            tell(f"{spool}: no {MARKER} there; looking for packs and ledgers all the same")
    records = LedgerRecords(spools)
    for warning in records.warnings:
        tell(warning)
    return records


def _admin_secret(request: Request) -> AdminSecret:
    assert request.admin_secret is not None
    content = read_file(request.admin_secret).decode("utf-8", "replace")
    if request.admin_passphrase_file is not None:
        passphrase = read_passphrase(request.admin_passphrase_file)
    else:
        passphrase = ask_passphrase(ADMIN_PASSPHRASE, "--admin-passphrase-file")
    try:
        return AdminSecret(decrypt_secret(content, passphrase))
    except FormatError as error:
        raise RestoreError(f"{request.admin_secret}: {error}") from None


def _identify(request: Request, records: LedgerRecords) -> Identified:
    if request.url_file is not None:
        return from_url(parse_url(read_file(request.url_file).decode("utf-8", "replace")))
    if request.admin_secret is not None:
        secret = _admin_secret(request)
        return from_book(newest_book(records, secret), secret, request.machine)
    return from_ledger(records, request.machine)


def _session(request: Request) -> Session:
    records = _records(request.spools)
    identified = _identify(request, records)
    source = SpoolSource(request.spools, records, tell)
    opener = choose_opener(request.passkey_file, request.key_files, identified.passkey)
    return Session(source, identified.known, opener, Memory(None), tell, accept_pairs=request.accept_pair)


if __name__ == "__main__":
    main()
