"""The daemon's configuration: a TOML file, read strictly.

Unknown keys and bad values are refused with file, key and reason. Paths are relative to the file's directory.
"""

import ipaddress
import re
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mastodon.daemon.rates import rate_value
from mastodon.sealed.addresses import mail_addresses
from mastodon.sealed.errors import Malformed
from mastodon.sealed.url import decode_key

LOOPBACK = "127.0.0.1"
METRICS_PORT = 7412
UNITS = {"": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}
_MISSING = object()
_SIZE = re.compile(r"(\d{1,12})\s*(|KiB|MiB|GiB|TiB)", re.A)


class ConfigError(Exception):
    """The configuration cannot be used; the text names file, key and reason."""


@dataclass(frozen=True, slots=True)
class SpoolConfig:
    """A directory for packs and ledger. ``weight`` shares new packs out, ``reserve`` bytes stay free."""

    path: Path
    weight: int
    reserve: int


@dataclass(frozen=True, slots=True)
class ListenConfig:
    """Where a port listens."""

    address: str
    port: int


@dataclass(frozen=True, slots=True)
class KeysConfig:
    """The server's keys. ``spare_pins`` are SPKI hashes of keys kept offline."""

    server_key: Path
    server_certificate: Path
    ledger_key: Path
    spare_pins: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class LimitsConfig:
    """Bounds on what strangers can use up, and caps on what agents send, in bytes a second (0: none)."""

    connections: int = 12_000
    handshakes: int = 1_000
    handshake_seconds: int = 20
    silence_seconds: int = 60
    append_rate: int = 0
    machine_rate: int = 0


@dataclass(frozen=True, slots=True)
class TellingConfig:
    """How the server tells of events: the mail relay ("": no mail) and the operator's own mail addresses.

    ``allow_private``: webhooks and heartbeats may lead to hosts that are not public. ``digest_hour`` is in UTC.
    """

    smtp_host: str = ""
    smtp_port: int = 587
    starttls: bool = True
    user: str = ""
    password_file: Path | None = None
    sender: str = ""
    operator: tuple[str, ...] = ()
    allow_private: bool = False
    digest_hour: int = 6


@dataclass(frozen=True, slots=True)
class Config:
    """All of mastodon.toml."""

    file: Path
    name: str
    state: Path
    append: ListenConfig
    restore: ListenConfig
    keys: KeysConfig
    spools: tuple[SpoolConfig, ...]
    limits: LimitsConfig
    telling: TellingConfig
    metrics: ListenConfig | None
    """None: figures for Prometheus are off."""


class _Table:
    """One table of the file; what is not taken out of it is refused at the end."""

    def __init__(self, file: Path, name: str, values: Any) -> None:
        self._file = file
        self._name = name
        if not isinstance(values, dict):
            raise self.error("", "expected a table")
        self._left = dict(values)

    def __contains__(self, key: str) -> bool:
        return key in self._left

    def error(self, key: str, reason: str) -> ConfigError:
        where = ".".join(part for part in (self._name, key) if part)
        return ConfigError(f"{self._file}: {where}: {reason}")

    def take(self, key: str, check: Callable[[Any], Any], default: Any = _MISSING) -> Any:
        """The checked value; a ``check`` raises ValueError with the reason."""
        if key not in self._left:
            if default is _MISSING:
                raise self.error(key, "is missing")
            return default
        try:
            return check(self._left.pop(key))
        except ValueError as error:
            raise self.error(key, str(error)) from None

    def table(self, key: str, required: bool = True) -> "_Table":
        if key not in self._left and required:
            raise self.error(key, "is missing")
        return _Table(self._file, ".".join(filter(None, (self._name, key))), self._left.pop(key, {}))

    def tables(self, key: str) -> "list[_Table]":
        values = self._left.pop(key, None)
        if not isinstance(values, list) or not values:
            raise self.error(key, f"expected at least one [[{key}]]")
        return [_Table(self._file, f"{key}[{number}]", value) for number, value in enumerate(values, 1)]

    def end(self) -> None:
        for key in self._left:
            raise self.error(key, "unknown key")


def load_config(file: Path) -> Config:
    """Read and check a configuration. Raises ConfigError."""
    try:
        values = tomllib.loads(file.read_text("utf-8"))
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: not TOML: {error}") from None
    top = _Table(file, "", values)
    base = file.parent

    def path(value: Any) -> Path:
        return base / _text(value)

    name = top.take("name", _text)
    state = top.take("state", path)
    append, restore = _listen(top.table("append")), _listen(top.table("restore"))
    keys_table = top.table("keys")
    keys = KeysConfig(
        keys_table.take("server_key", path),
        keys_table.take("server_certificate", path),
        keys_table.take("ledger_key", path),
        keys_table.take("spare_pins", _pins, ()),
    )
    keys_table.end()
    spools = tuple(_spool(table, path) for table in top.tables("spool"))
    limits = _limits(top.table("limits", required=False))
    telling = _telling(top.table("telling", required=False), name, path)
    metrics = _metrics(top)
    top.end()
    if append == restore and append.port:
        raise ConfigError(f"{file}: restore.port: is the append port too")
    if len({spool.path.resolve() for spool in spools}) != len(spools):
        raise ConfigError(f"{file}: spool: the same path twice")
    return Config(file, name, state, append, restore, keys, spools, limits, telling, metrics)


def parse_size(value: Any) -> int:
    """Bytes from a number or a text such as "10 GiB". Raises ValueError."""
    if type(value) is int and value >= 0:
        return value
    match = _SIZE.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise ValueError('expected a number of bytes, or a size such as "10 GiB"')
    return int(match[1]) * UNITS[match[2]]


def _listen(table: _Table) -> ListenConfig:
    listen = ListenConfig(table.take("listen", _address), table.take("port", _number(0, 65535)))
    table.end()
    return listen


def _metrics(top: _Table) -> ListenConfig | None:
    if "metrics" not in top:
        return None
    table = top.table("metrics")
    listen = ListenConfig(table.take("listen", _address, LOOPBACK), table.take("port", _number(0, 65535), METRICS_PORT))
    table.end()
    return listen


def _spool(table: _Table, path: Callable[[Any], Path]) -> SpoolConfig:
    spool = SpoolConfig(
        table.take("path", path), table.take("weight", _number(0, 1000), 1), table.take("reserve", parse_size, 1 << 30)
    )
    table.end()
    return spool


def _limits(table: _Table) -> LimitsConfig:
    usual = LimitsConfig()
    limits = LimitsConfig(
        table.take("connections", _number(10, 1_000_000), usual.connections),
        table.take("handshakes", _number(1, 1_000_000), usual.handshakes),
        table.take("handshake_seconds", _number(1, 600), usual.handshake_seconds),
        table.take("silence_seconds", _number(20, 3600), usual.silence_seconds),
        table.take("append_rate", _rate, usual.append_rate),
        table.take("machine_rate", _rate, usual.machine_rate),
    )
    table.end()
    return limits


def _telling(table: _Table, name: str, path: Callable[[Any], Path]) -> TellingConfig:
    usual = TellingConfig()
    telling = TellingConfig(
        table.take("smtp_host", _text, usual.smtp_host),
        table.take("smtp_port", _number(1, 65535), usual.smtp_port),
        table.take("starttls", _yes_or_no, usual.starttls),
        table.take("user", _ascii, usual.user),
        table.take("password_file", path, None),
        table.take("from", _one_mail_address, _usual_sender(name)),
        table.take("operator", _mail_addresses, usual.operator),
        table.take("allow_private", _yes_or_no, usual.allow_private),
        table.take("digest_hour", _number(0, 23), usual.digest_hour),
    )
    table.end()
    return _judged(table, telling)


def _judged(table: _Table, telling: TellingConfig) -> TellingConfig:
    """What is good alone but does not go together is refused."""
    if telling.operator and not telling.smtp_host:
        raise table.error("operator", "needs telling.smtp_host, the relay that takes the mails")
    if bool(telling.user) != (telling.password_file is not None):
        raise table.error("user", "user and password_file go together")
    if telling.user and not telling.starttls:
        raise table.error("user", "would send the password in the clear: leave starttls = true")
    if telling.smtp_host and not telling.sender:
        raise table.error("from", "is missing: give the address that the mails are to come from")
    return telling


def _usual_sender(name: str) -> str:
    """mastodon@ the server's name, when that is a name that mail can come from."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        try:
            return mail_addresses(f"mastodon@{name}")[0]
        except ValueError:
            return ""
    return ""


def _rate(value: Any) -> int:
    rate = parse_size(value)
    rate_value(rate)
    return rate


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value or any(ord(c) < 32 for c in value):
        raise ValueError("expected a text without control characters")
    return value


def _ascii(value: Any) -> str:
    if not _text(value).isascii():
        raise ValueError("expected ASCII text")
    return str(value)


def _yes_or_no(value: Any) -> bool:
    if type(value) is not bool:
        raise ValueError("expected true or false")
    return value


def _one_mail_address(value: Any) -> str:
    found = mail_addresses(_text(value))
    if len(found) != 1:
        raise ValueError("expected one mail address")
    return found[0]


def _mail_addresses(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        raise ValueError('expected a list of mail addresses, such as ["ops@example.org"]')
    return mail_addresses(",".join(value))


def _address(value: Any) -> str:
    try:
        return str(ipaddress.ip_address(_text(value)))
    except ValueError:
        raise ValueError('expected an IP address, such as "0.0.0.0", "::" or "127.0.0.1"') from None


def _number(least: int, most: int) -> Callable[[Any], int]:
    def check(value: Any) -> int:
        if type(value) is not int or not least <= value <= most:
            raise ValueError(f"expected a whole number from {least} to {most}")
        return value

    return check


def _pins(value: Any) -> tuple[bytes, ...]:
    if not isinstance(value, list):
        raise ValueError("expected a list of pins")
    try:
        return tuple(decode_key(_text(one), "the pin") for one in value)
    except Malformed as error:
        raise ValueError(str(error)) from None
