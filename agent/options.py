"""The command line, the environment and systemd credentials, made into what a run needs to know."""

import argparse
import os
import stat
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NoReturn, TypeVar

from mastodon import __version__
from mastodon.sealed.errors import Malformed
from mastodon.sealed.url import MachineUrl, parse_url
from mastodon_agent.command_line import hide_argument
from mastodon_agent.exclude import BadPattern, Pattern, Rules, parse_file, parse_pattern
from mastodon_agent.niceness import BadNiceness, Niceness, parse_niceness
from mastodon_agent.rate_limit import BadLimit, RateLimit, parse_rate_limit
from mastodon_agent.roots import Node, fold, make_tree, resolve
from mastodon_agent.size import BadSize, parse_size
from mastodon_agent.splay import BadSpan, parse_span

DEFAULT_STATE = "/var/lib/mastodon-agent"
FILE_LIMIT = 1024 * 1024

EXIT_CODES = """\
exit codes:
  0   the snapshot is complete, or another run is still at work
  1   committed, but partial: something could not be read (its last good copy is kept)
  2   nothing was committed
  3   wrong usage or configuration
  4   no connection: server not reachable, another key than the URL's pin, machine unknown there

The URL is taken from the first argument, --url-file, MASTODON_URL_FILE, MASTODON_URL, or the systemd credential "url";
the passkey file from --passkey-file, MASTODON_PASSKEY_FILE, or the systemd credential "passkey".
"""


class UsageError(Exception):
    """The command cannot run as it was given; the text says what to change."""


@dataclass(frozen=True, slots=True)
class Options:
    """What was asked for. ``url`` is None only for --explain and --dry-run."""

    url: MachineUrl | None
    passphrase: bytes | None
    recipients: tuple[bytes, ...]
    paths: tuple[bytes, ...]
    state: str
    rules: Rules
    patterns: tuple[Pattern, ...]
    one_file_system: bool
    reread: bool
    dry_run: bool
    explain: bytes | None
    json: bool
    verbosity: int
    retry_s: float
    checkpoint_s: float
    limit: RateLimit
    nice: Niceness | None
    splay_s: int
    delta_cache: int
    warnings: tuple[str, ...]

    def tree(self) -> Node:
        """The paths as a tree of names."""
        return make_tree(self.roots())

    def roots(self) -> tuple[tuple[bytes, ...], ...]:
        """The paths, absolute and folded."""
        return fold([resolve(path) for path in self.paths])


def parse_options(arguments: Sequence[str], environment: Mapping[str, str]) -> Options:
    """Raises UsageError; exits after --help and --version."""
    given = _parser().parse_intermixed_args(arguments)
    words = [os.fsencode(word) for word in given.words]
    warnings: list[str] = []
    line = words.pop(0) if words and words[0].startswith(b"mastodon://") else None
    if not words:
        raise UsageError("name at least one path to back up, e.g. /")
    if not all(words):
        raise UsageError("a PATH is empty: is a variable not set?")
    needs_url = not (given.dry_run or given.explain)
    url = _url(line, given.url_file, environment, warnings, needs_url)
    patterns = _patterns(given.exclude, given.exclude_from)
    passphrase = _passphrase(given.passkey_file, environment, warnings) if needs_url else None
    recipients = tuple(_read(path, "recipient's key file") for path in given.recipient)
    if needs_url and passphrase is None and not recipients:
        raise UsageError("give --passkey-file FILE or --recipient KEYFILE: there is no backup without encryption")
    tags = [os.fsencode(name) for name in given.exclude_if_present]
    if any(not tag or b"/" in tag for tag in tags):
        raise UsageError("--exclude-if-present takes the name of a file, without slashes")
    return Options(
        url=url,
        passphrase=passphrase,
        recipients=recipients,
        paths=tuple(words),
        state=os.path.abspath(given.state),
        rules=Rules(patterns, tags, given.exclude_caches),
        patterns=tuple(patterns),
        one_file_system=given.one_file_system,
        reread=given.reread,
        dry_run=given.dry_run,
        explain=os.fsencode(given.explain) if given.explain else None,
        json=given.json,
        verbosity=-1 if given.quiet else given.verbose,
        retry_s=given.retry_for,
        checkpoint_s=given.checkpoint_every,
        limit=given.limit_rate,
        nice=given.nice,
        splay_s=given.splay,
        delta_cache=given.delta_cache if given.delta else 0,
        warnings=tuple(warnings),
    )


class _Parser(argparse.ArgumentParser):
    """argparse, whose errors are ours."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; mastodon-agent --help tells all")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="mastodon-agent",
        usage="mastodon-agent [options] [URL] PATH...",
        description="Seal files and append them to a Mastodon server.",
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("words", nargs="*", metavar="PATH", help="files and directories to back up; a machine's URL may come first")
    add("--url-file", metavar="FILE", help="file that holds the machine's URL, e.g. /etc/mastodon-agent/url")
    add("--passkey-file", metavar="FILE", help="file that holds the passphrase that opens the backups")
    add("--recipient", metavar="KEYFILE", action="append", default=[], help="OpenPGP public key that opens them too")
    add("--state", metavar="DIR", default=DEFAULT_STATE, help="what makes the next run fast (default: %(default)s)")
    add("--exclude", metavar="PATTERN", action="append", default=[], help="leave out, as in a .gitignore in /")
    add("--exclude-from", metavar="FILE", action="append", default=[], help="file of such patterns")
    add("--exclude-if-present", metavar="NAME", action="append", default=[],
        help="leave out what is in a directory that holds a file of this name")  # fmt: skip
    add("--exclude-caches", action="store_true", help="leave out what is in a directory with a genuine CACHEDIR.TAG")
    add("-x", "--one-file-system", action="store_true", help="do not go into other file systems")
    add("--reread", action="store_true", help="read every file afresh, whatever its times say")
    add("--explain", metavar="FILE", help="say which rule decides about a file, and do nothing")
    add("--dry-run", action="store_true", help="say what would be read, and send nothing")
    add("--json", action="store_true", help="one JSON object a line, nothing else, on standard output")
    add("-q", "--quiet", action="store_true", help="errors only")
    add("-v", "--verbose", action="count", default=0, help="say more")
    add("--retry-for", metavar="SECONDS", type=_seconds, default=1800.0,
        help="how long to try without an answer from the server (default: %(default).0f)")  # fmt: skip
    add("--checkpoint-every", metavar="SECONDS", type=_seconds, default=1800.0,
        help="how often a first run that lasts commits what it has (default: %(default).0f)")  # fmt: skip
    add("--limit-rate", metavar="RATE", type=_told(parse_rate_limit), default=RateLimit(),
        help="send at most so many bytes a second, e.g. 1M; by local time: 08-18=1M,22:30-06=20M,off")  # fmt: skip
    add("--nice", metavar="LEVEL", type=_told(parse_niceness), default=None,
        help="share of processor and disk: idle, low, normal (the default), or -20 to 19 as in nice")  # fmt: skip
    add("--splay", metavar="SPAN", type=_told(parse_span), default=0,
        help="wait before the run, for a time of this machine's own below SPAN, e.g. 30m")  # fmt: skip
    add("--delta", action="store_true",
        help="send large files that change in place as xdelta3 deltas, where that is less")  # fmt: skip
    add("--delta-cache", metavar="SIZE", type=_told(parse_size), default=2 << 30,
        help="how much of this machine's disk --delta may take (default: 2G)")  # fmt: skip
    add("--version", action="version", version=f"mastodon-agent {__version__}")
    return parser


_Value = TypeVar("_Value")


def _told(parse: Callable[[str], _Value]) -> Callable[[str], _Value]:
    """An argument's parser, whose own words reach the user."""

    def parsed(text: str) -> _Value:
        try:
            return parse(text)
        except (BadLimit, BadNiceness, BadSize, BadSpan) as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return parsed


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 1e9:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a number of seconds above 0")
    return value


def _url(
    line: bytes | None, path: str | None, environment: Mapping[str, str], warnings: list[str], needed: bool
) -> MachineUrl | None:
    if line is not None:
        text = line.decode("utf-8", "replace")
        url = _parse(text, "the command line")
        secret = text.split("@", 1)[0].rpartition(":")[2]
        hide_argument(secret.encode())
        warnings.append("the URL on the command line holds a secret that other users may have seen: use --url-file")
        return url
    path = path or environment.get("MASTODON_URL_FILE") or None
    if path is None and environment.get("MASTODON_URL"):
        return _parse(environment["MASTODON_URL"], "MASTODON_URL")
    path = path or _credential("url", environment)
    if path is None:
        if needed:
            raise UsageError("give the machine's URL: --url-file FILE (mastodon-admin machine add makes one)")
        return None
    data = _read(path, "URL file", secret=True, warnings=warnings)
    return _parse(data.decode("utf-8", "replace"), path)


def _parse(text: str, where: str) -> MachineUrl:
    try:
        return parse_url(text.strip())
    except Malformed as error:
        raise UsageError(f"{where}: {error}") from None


def _passphrase(path: str | None, environment: Mapping[str, str], warnings: list[str]) -> bytes | None:
    path = path or environment.get("MASTODON_PASSKEY_FILE") or _credential("passkey", environment)
    if path is None:
        return None
    data = _read(path, "passkey file", secret=True, warnings=warnings)
    passphrase = data.removesuffix(b"\n")
    if not passphrase:
        raise UsageError(f"{path}: the passkey file is empty")
    if any(byte in passphrase for byte in b"\0\r\n"):
        raise UsageError(f"{path}: the passkey has a line break or zero byte inside: one line, saved Unix style")
    if len(passphrase) > LONGEST_PASSPHRASE:
        raise UsageError(f"{path}: the passkey has more than {LONGEST_PASSPHRASE} bytes")
    return passphrase


LONGEST_PASSPHRASE = 250
"""As in mastodon.host.openpgp, which is too heavy an import for a run that makes no pair."""


def _credential(name: str, environment: Mapping[str, str]) -> str | None:
    directory = environment.get("CREDENTIALS_DIRECTORY")
    path = os.path.join(directory, name) if directory else ""
    return path if path and os.path.exists(path) else None


def _patterns(arguments: Sequence[str], files: Sequence[str]) -> list[Pattern]:
    try:
        patterns = [parse_pattern(os.fsencode(text), f"--exclude {text}") for text in arguments]
        for path in files:
            patterns += parse_file(_read(path, "exclude file"), path)
    except BadPattern as error:
        raise UsageError(str(error)) from None
    return patterns


def _read(path: str, what: str, *, secret: bool = False, warnings: list[str] | None = None) -> bytes:
    try:
        with open(path, "rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            data = file.read(FILE_LIMIT + 1)
    except (OSError, ValueError) as error:
        raise UsageError(f"{what} {path}: {getattr(error, 'strerror', None) or error}") from None
    if len(data) > FILE_LIMIT:
        raise UsageError(f"{what} {path}: larger than {FILE_LIMIT} bytes")
    if secret and warnings is not None and mode & stat.S_IRWXO:
        warnings.append(f"{what} {path}: other users may read it; run: chmod 600 {path}")
    return data
