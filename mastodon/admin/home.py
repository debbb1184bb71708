"""An admin's home directory: the sealed secret, the client's key, where the server is, and what was seen.

All files are 0600 in a 0700 directory. Lost ones cost: admin.secret everything (keep a copy elsewhere, printed);
client.key and client.crt a new certificate; the others a fresh ``connect`` and the protection of memory.
"""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mastodon.host.durable import DiskError, write_file
from mastodon.restore.errors import RestoreError

HOME_VARIABLE = "MASTODON_ADMIN_HOME"
FILE_LIMIT = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Server:
    """Where the restore port is, and which keys it may have; ``name`` is the admin's name there."""

    name: str
    hosts: tuple[tuple[str, int], ...]
    pins: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Identity:
    """What is public of the admin: tenant, order key, and the offline successor's order key."""

    tenant: bytes
    order_key: bytes
    successor: bytes


class Home:
    """Paths and small files of one admin."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.secret = path / "admin.secret"
        self.client_key = path / "client.key"
        self.client_certificate = path / "client.crt"
        self.request = path / "request"
        self.cards = path / "cards.json"
        self.heads = path / "heads.json"
        self._server = path / "server.json"
        self._identity = path / "admin.json"

    def make(self) -> None:
        """The directory itself. Raises RestoreError."""
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise RestoreError(f"{self.path}: {error.strerror}") from None

    def pending(self, name: str) -> Path:
        """Where a machine that is being added is kept until it is enrolled."""
        return self.path / f"adding-{name.encode().hex()}.json"

    def identity(self) -> Identity:
        """What is public of the admin. Raises RestoreError."""
        fields = self.read(self._identity, "run `mastodon-admin init` first")
        try:
            return Identity(*(bytes.fromhex(fields[name]) for name in ("tenant", "order_key", "successor")))
        except (KeyError, TypeError, ValueError):
            raise RestoreError(f"{self._identity}: damaged; make the home anew from the admin secret") from None

    def save_identity(self, identity: Identity) -> None:
        """Keep what is public of the admin."""
        fields = {"tenant": identity.tenant, "order_key": identity.order_key, "successor": identity.successor}
        self.write(self._identity, {name: value.hex() for name, value in fields.items()})

    def server(self) -> Server:
        """Where the server is. Raises RestoreError."""
        fields = self.read(self._server, "run `mastodon-admin connect INVITATION` first, `mastodon-admin init` before")
        try:
            hosts = tuple((str(host), int(port)) for host, port in fields["hosts"])
            return Server(str(fields["name"]), hosts, tuple(bytes.fromhex(pin) for pin in fields["pins"]))
        except (KeyError, TypeError, ValueError):
            raise RestoreError(f"{self._server}: damaged; run `mastodon-admin connect INVITATION` again") from None

    def save_server(self, server: Server) -> None:
        """Keep where the server is."""
        pins = [pin.hex() for pin in server.pins]
        self.write(self._server, {"name": server.name, "hosts": [list(host) for host in server.hosts], "pins": pins})

    def read(self, path: Path, otherwise: str) -> dict[str, Any]:
        """A JSON file's object. Raises RestoreError, saying what to do."""
        try:
            with open(path, "rb") as file:
                fields = json.loads(file.read(FILE_LIMIT))
        except FileNotFoundError:
            raise RestoreError(f"{path} is not there: {otherwise}") from None
        except OSError as error:
            raise RestoreError(f"{path}: {error.strerror}") from None
        except ValueError as error:
            raise RestoreError(f"{path}: damaged ({error}): {otherwise}") from None
        if not isinstance(fields, dict):
            raise RestoreError(f"{path}: damaged: {otherwise}")
        return fields

    def write(self, path: Path, fields: dict[str, Any]) -> None:
        """Put an object durably into a JSON file. Raises RestoreError."""
        try:
            write_file(path, json.dumps(fields, indent=1, sort_keys=True).encode("ascii") + b"\n")
        except DiskError as error:
            raise RestoreError(str(error)) from None


def default_home() -> Path:
    """$MASTODON_ADMIN_HOME, else the usual place for configuration."""
    named = os.environ.get(HOME_VARIABLE)
    if named:
        return Path(named)
    base = os.environ.get("XDG_CONFIG_HOME") or os.path.join(os.path.expanduser("~"), ".config")
    return Path(base) / "mastodon-admin"


def host_texts(hosts: Sequence[tuple[str, int]]) -> list[str]:
    """Hosts as people read them."""
    return [f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in hosts]
