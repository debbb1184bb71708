"""The command line of check_mastodon."""

import argparse
import re
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import NoReturn

from mastodon import __version__
from mastodon.admin.invitation import parse_invitation
from mastodon.host.certificates import CertificateError, parse_pin
from mastodon.restore.errors import RestoreError
from mastodon.sealed.duration import parse_duration

HOME = Path("/etc/mastodon-monitor")
PORT = 7411
INVITATION_LIMIT = 16 * 1024
_HOST = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(:(?P<port>[0-9]{1,5}))?", re.ASCII)
_SECONDS = re.compile(r"[0-9]{1,10}", re.ASCII)
_MACHINE = re.compile(r"[0-9A-Fa-f]{64}", re.ASCII)


class Mistake(Exception):
    """The command line cannot be followed; the text says what to do."""


class Shown(Exception):
    """The text was asked for: help, or the version."""


class Aspect(Enum):
    """What is looked at."""

    STALE = "stale"
    QUOTA = "quota"
    SPOOLS = "spools"


@dataclass(frozen=True, slots=True)
class Arguments:
    """What to ask, whom, and how to judge. No aspect: all that the certificate may see; no machine (b""): all."""

    hosts: tuple[tuple[str, int], ...]
    pins: tuple[bytes, ...]
    certificate: Path
    key: Path
    timeout_s: int = 10
    machine: bytes = b""
    aspects: frozenset[Aspect] = frozenset()
    warning_s: int | None = None
    critical_s: int | None = None

    def looks_at(self, aspect: Aspect) -> bool:
        """Whether this is asked about."""
        return not self.aspects or aspect in self.aspects


class _Parser(argparse.ArgumentParser):
    """Raises where the standard one prints and exits."""

    def error(self, message: str) -> NoReturn:
        raise Mistake(f"{message} (see --help)")

    def print_help(self, file: object = None) -> NoReturn:
        raise Shown(self.format_help().rstrip())


def parse(words: list[str]) -> Arguments:
    """The arguments. Raises Mistake or Shown."""
    given = _parser().parse_args(words)
    if given.version:
        raise Shown(f"check_mastodon {__version__}")
    hosts, pins = _server(given)
    aspects = frozenset(one for one in Aspect if getattr(given, one.value))
    warning, critical = given.warning, given.critical
    if (warning is not None or critical is not None) and aspects and Aspect.STALE not in aspects:
        raise Mistake("-w and -c are ages of backups: they need --stale beside --quota or --spools")
    if warning is not None and critical is not None and warning > critical:
        raise Mistake("-w is more than -c: nothing would ever be a warning")
    if given.machine and Aspect.SPOOLS in aspects:
        raise Mistake("--spools are the server's: ask without --machine")
    if not 1 <= given.timeout <= 600:
        raise Mistake("-t: expected 1 to 600 seconds")
    return Arguments(
        hosts, pins, given.cert or given.home / "client.crt", given.key or given.home / "client.key", given.timeout,
        given.machine, aspects, warning, critical,
    )  # fmt: skip


def _parser() -> _Parser:
    parser = _Parser(
        "check_mastodon", description="Checks backups on a Mastodon server. Without --stale, --quota or --spools: all.",
        allow_abbrev=False,
    )  # fmt: skip
    add = parser.add_argument
    add("-H", "--host", metavar="HOST[:PORT]", help=f"the server's restore port (default: the invitation's; {PORT})")
    add("--server", metavar="PIN", action="append", default=[], help="the server's key; may repeat")
    add("--home", metavar="DIR", type=Path, default=HOME, help="holds client.crt, client.key, invitation (%(default)s)")
    add("--invitation", metavar="FILE", type=Path, help="the operator's invitation (default: in the home)")
    add("--cert", metavar="FILE", type=Path, help="the monitor's certificate (default: client.crt in the home)")
    add("--key", metavar="FILE", type=Path, help="its key (default: client.key in the home)")
    add("--machine", metavar="ID", type=_machine, default=b"", help="this machine alone, by its whole id")
    add("--stale", action="store_true", help="look at the age of the newest complete backups")
    add("--quota", action="store_true", help="look at quotas: a warning from 80 %%, critical when one is used up")
    add("--spools", action="store_true", help="look at the server's spools (the operator's monitor only)")
    add("-w", "--warning", metavar="AGE", type=_age, help="warn when a newest complete backup is older (26h, 2d)")
    add("-c", "--critical", metavar="AGE", type=_age, help="critical when it is older; else each machine's own watch")
    add("-t", "--timeout", metavar="SECONDS", type=int, default=10, help="how long to wait (default: %(default)s)")
    add("-V", "--version", action="store_true", help="show the version")
    return parser


def _server(given: argparse.Namespace) -> tuple[tuple[tuple[str, int], ...], tuple[bytes, ...]]:
    try:
        pins = tuple(parse_pin(one) for one in given.server)
    except CertificateError as error:
        raise Mistake(f"--server: {error}") from None
    hosts = (_host(given.host),) if given.host else ()
    if hosts and pins:
        return hosts, pins
    file = given.invitation or given.home / "invitation"
    try:
        with open(file, encoding="utf-8", errors="replace") as stream:
            invited = parse_invitation(stream.read(INVITATION_LIMIT))
    except OSError as error:
        raise Mistake(f"{file}: {error.strerror}: put the invitation there, or give -H HOST and --server PIN") from None
    except RestoreError as error:
        raise Mistake(f"{file}: {error}") from None
    return hosts or invited.hosts, pins or invited.pins


def _host(text: str) -> tuple[str, int]:
    match = _HOST.fullmatch(text)
    port = int(match["port"] or PORT) if match else 0
    if match is None or not 0 < port < 65536:
        raise Mistake(f"-H: {text!r} is no HOST or HOST:PORT")
    return match["host"].strip("[]"), port


def _machine(text: str) -> bytes:
    if _MACHINE.fullmatch(text) is None:
        raise argparse.ArgumentTypeError("expected the whole id, 64 digits, as `mastodon-admin machine show` prints it")
    return bytes.fromhex(text)


def _age(text: str) -> int:
    try:
        return int(text) if _SECONDS.fullmatch(text) else parse_duration(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{error}, or a number of seconds") from None
