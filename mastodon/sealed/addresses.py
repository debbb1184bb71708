"""Addresses that an admin or operator gives: mail addresses and URLs, and which hosts a URL may lead to.

Promises: a mail address is plain ASCII without anything that could end a header or an SMTP command; a URL is https,
names a host and no user, and is bounded. An address of the network is public only if the whole Internet knows it as
that: loopback, private, link-local, shared and reserved ones are not, nor IPv6 forms that hide such an IPv4 address.
"""

import re
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from urllib.parse import urlsplit

ADDRESSES_MOST = 5
URL_MOST = 1000
MAIL_MOST = 254

_LOCAL = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+(?:\.[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+)*"
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_MAIL = re.compile(rf"{_LOCAL}@{_LABEL}(?:\.{_LABEL})*")
_HOST = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")
_PRINTABLE = re.compile(r"[!-~]+")

# IPv6 that carries an IPv4 address which a gateway on the way may take out: judged by that one.
_TRANSLATED = IPv6Network("64:ff9b::/96")
_TRANSLATED_LOCALLY = IPv6Network("64:ff9b:1::/48")
_COMPATIBLE = IPv6Network("::/96")


@dataclass(frozen=True, slots=True)
class Target:
    """Where an https URL leads: host as it is checked and asked for, port, and the path with its query."""

    host: str
    port: int
    path: str

    @property
    def authority(self) -> str:
        """What stands in the Host header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == 443 else f"{host}:{self.port}"


def mail_addresses(value: str) -> tuple[str, ...]:
    """The addresses in a list with commas, each once; () for an empty one. Raises ValueError."""
    found = dict.fromkeys(part.strip(" ") for part in value.split(",")) if value.strip(" ") else {}
    if len(found) > ADDRESSES_MOST:
        raise ValueError(f"at most {ADDRESSES_MOST} mail addresses")
    for one in found:
        if len(one) > MAIL_MOST or not _MAIL.fullmatch(one):
            raise ValueError(f"{one!r} is no mail address: give name@example.org, several with commas")
    return tuple(found)


def target(url: str) -> Target:
    """Where a URL leads. Raises ValueError with what is wrong with it."""
    if len(url) > URL_MOST or not _PRINTABLE.fullmatch(url):
        raise ValueError(f"a URL has at most {URL_MOST} printable ASCII characters")
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError as error:
        raise ValueError(f"{url}: {error}") from None
    if parts.scheme != "https":
        raise ValueError(f"{url}: give a URL that begins with https://")
    if "@" in parts.netloc or parts.fragment or "\\" in url:
        raise ValueError(f"{url}: a URL with a user, a fragment or a backslash is not taken")
    if not _is_host(host) or port == 0:
        raise ValueError(f"{url}: names no host that could be reached")
    return Target(host, 443 if port is None else port, (parts.path or "/") + (f"?{parts.query}" if parts.query else ""))


def is_public(text: str) -> bool:
    """Whether an IP address is one that anybody on the Internet would reach. Raises ValueError for no address."""
    address = ip_address(text)
    if isinstance(address, IPv4Address):
        return _is_public_ipv4(address)
    hidden = _hidden(address)
    if hidden is not None:
        return _is_public_ipv4(hidden)
    return (
        address.is_global and not address.is_multicast and address not in _TRANSLATED_LOCALLY
        and address.scope_id is None
    )  # fmt: skip


def _is_public_ipv4(address: IPv4Address) -> bool:
    return address.is_global and not address.is_multicast and not address.is_reserved


def _hidden(address: IPv6Address) -> IPv4Address | None:
    if address in _TRANSLATED or address in _COMPATIBLE:
        return IPv4Address(address.packed[12:])
    return address.ipv4_mapped or address.sixtofour


def _is_host(host: str) -> bool:
    try:
        ip_address(host)
        return "%" not in host
    except ValueError:
        # A last label of digits is an IPv4 address in a spelling that resolvers read in ways of their own.
        return len(host) <= 253 and _HOST.fullmatch(host) is not None and not host.rpartition(".")[2].isdigit()
