"""The machine's URL: all the configuration that an agent needs.

protocol-spec.md §5: ``mastodon://NAME:SECRET@HOST[:PORT][,HOST[:PORT]...]/?server=PIN&admin=PIN``. SECRET and pins
are base64url without padding, 32 bytes each; ``server`` and ``admin`` may repeat.
"""

import base64
import binascii
import re
from dataclasses import dataclass
from urllib.parse import parse_qsl, quote, unquote

from mastodon.sealed.errors import Malformed
from mastodon.sealed.schema import text

DEFAULT_PORT = 7410
KEY_LENGTH = 32
LINE_LIMIT = 4096
NAME_LIMIT = 255
HOSTS_LIMIT = 8
"""Hosts, and pins of each kind."""
_FORM = re.compile(
    r"mastodon://(?P<name>[^:@/?#]+):(?P<secret>[^:@/?#]+)@(?P<hosts>[^/?#@]+)/?(?:\?(?P<query>[^#]*))?", re.A
)
_name = text(NAME_LIMIT)
_HOST = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::(?P<port>[0-9]{1,5}))?", re.A)


@dataclass(frozen=True, slots=True)
class MachineUrl:
    """``servers`` are SPKI pins (none: check chain and host name), ``admins`` raw order keys (none: no orders)."""

    name: str
    secret: bytes
    hosts: tuple[tuple[str, int], ...]
    servers: tuple[bytes, ...] = ()
    admins: tuple[bytes, ...] = ()

    def __str__(self) -> str:
        hosts = ",".join(f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in self.hosts)
        pins = [("server", pin) for pin in self.servers] + [("admin", pin) for pin in self.admins]
        query = "&".join(f"{name}={encode_key(pin)}" for name, pin in pins)
        return f"mastodon://{quote(self.name, safe='')}:{encode_key(self.secret)}@{hosts}/" + (query and "?" + query)

    def __repr__(self) -> str:
        return f"MachineUrl({self.name!r}, secret hidden)"


def parse_url(line: str) -> MachineUrl:
    """The URL in ``line``. Raises Malformed, saying which part is wrong and never showing the secret."""
    line = line.strip()
    match = _FORM.fullmatch(line) if len(line) <= LINE_LIMIT else None
    if match is None:
        raise Malformed("not a machine URL: expected mastodon://NAME:SECRET@HOST:PORT/?server=PIN&admin=PIN")
    servers, admins = [], []
    for name, value in parse_qsl(match["query"] or "", keep_blank_values=True):
        if name == "server":
            servers.append(decode_key(value, "the URL's server pin"))
        elif name == "admin":
            admins.append(decode_key(value, "the URL's admin pin"))
        else:
            raise Malformed(f"the URL has an unknown part {name!r}: only server and admin may stand there")
    hosts = tuple(_parse_host(host) for host in match["hosts"].split(","))
    secret = decode_key(match["secret"], "the URL's secret")
    if max(len(hosts), len(servers), len(admins)) > HOSTS_LIMIT:
        raise Malformed(f"the URL names more than {HOSTS_LIMIT} hosts or pins of a kind")
    return MachineUrl(_parse_name(match["name"]), secret, hosts, tuple(servers), tuple(admins))


def encode_key(key: bytes) -> str:
    """32 bytes as base64url without padding, 43 characters."""
    return base64.urlsafe_b64encode(key).decode("ascii").rstrip("=")


def decode_key(value: str, what: str) -> bytes:
    """The 32 bytes in ``value``, only from the one canonical form. Raises Malformed, naming ``what``."""
    try:
        data = base64.b64decode(value.encode("ascii") + b"=", altchars=b"-_", validate=True)
    except (binascii.Error, UnicodeEncodeError):
        data = b""
    if len(data) != KEY_LENGTH or encode_key(data) != value:
        raise Malformed(f"{what} is not {KEY_LENGTH} bytes of base64url (43 characters, no padding)")
    return data


def _parse_name(quoted: str) -> str:
    try:
        return str(_name(unquote(quoted, errors="strict")))
    except ValueError:
        raise Malformed(f"the URL's name is not {NAME_LIMIT} bytes of plain UTF-8") from None


def _parse_host(host: str) -> tuple[str, int]:
    match = _HOST.fullmatch(host)
    port = int(match["port"] or DEFAULT_PORT) if match else 0
    if match is None or not 0 < port < 65536:
        raise Malformed(f"the URL's host {host!r} is not HOST or HOST:PORT")
    return match["host"].strip("[]"), port
