"""A channel: one address of one admin's, or of the operator's; and what has been told on it, kept durably.

A channel's state is a file of its own in the state directory: up to which event of the ledger it was decided what to
tell, and the letter that is on its way. Promises: a letter is on the disk before its first attempt, and the position
behind its events with it, in one file; so after kill -9 at any instant each event is told, at most with one letter
twice, and that one bears the same id. A file that cannot be read is set aside, and the last day is told again.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from mastodon.daemon.telling.letter import Letter, from_plain, to_plain
from mastodon.host.durable import SYSTEM_DISK, Disk, fsync_directory, is_temporary, write_file

DIRECTORY = "telling"
VERSION = 1
FILE_LIMIT = 4 << 20

Subject = tuple[int, bytes, bytes]
"""Code, tenant and machine."""
Place = tuple[bytes, bytes]
"""Tenant and machine: where a snooze was set."""


class ChannelKind(StrEnum):
    """How letters travel."""

    MAIL = "mail"
    WEBHOOK = "webhook"


@dataclass(frozen=True, slots=True)
class Channel:
    """An address. ``tenant`` is empty for the operator's."""

    tenant: bytes
    kind: ChannelKind
    address: str

    @property
    def id(self) -> str:
        """A name for files and Message-IDs that says nothing of the address."""
        return hashlib.sha256(b"\0".join((self.tenant, self.kind.encode(), self.address.encode()))).hexdigest()[:32]


@dataclass(frozen=True, slots=True)
class ChannelState:
    """What was told. ``position``: events up to this one are decided, those that were to be told are in a letter.

    ``digested``: likewise for the digest, and when. ``sent`` are the times of recent letters, ``caused`` which machine
    caused one. ``told`` is when something was told that need not be told again soon, ``quiet`` where a snooze held.
    ``until``: the address was replaced, and this is the last event that it is told.
    """

    position: int
    digested: int
    digested_ns: int
    sent: tuple[int, ...] = ()
    caused: tuple[tuple[bytes, int], ...] = ()
    told: dict[Subject, int] = field(default_factory=dict)
    quiet: frozenset[Place] = frozenset()
    letter: Letter | None = None
    failing_ns: int = 0
    failing_told: bool = False
    until: int = 0

    def taken(self) -> "ChannelState":
        """The letter on its way was taken."""
        return replace(self, letter=None, failing_ns=0, failing_told=False)


class ChannelFiles:
    """The states of all channels."""

    def __init__(self, state: Path, disk: Disk = SYSTEM_DISK) -> None:
        self._directory = state / DIRECTORY
        self._disk = disk

    def write(self, channel: Channel, state: ChannelState) -> None:
        """Keep a state durably. Raises DiskError or OSError."""
        self._directory.mkdir(mode=0o700, exist_ok=True)
        content = json.dumps(_plain(channel, state)).encode("ascii")
        write_file(self._path(channel), content, disk=self._disk)

    def remove(self, channel: Channel) -> None:
        """Forget a channel. Raises DiskError or OSError."""
        self._path(channel).unlink(missing_ok=True)
        fsync_directory(self._directory, self._disk)

    def read(self) -> Iterator[tuple[Channel, ChannelState] | Path]:
        """All that are kept; the path of a file that cannot be read, which is set aside."""
        if not self._directory.is_dir():
            return
        for path in sorted(self._directory.iterdir()):
            if is_temporary(path.name):
                path.unlink(missing_ok=True)
            if path.suffix != ".json" or is_temporary(path.name):
                continue
            try:
                with path.open("rb") as file:
                    found = _from_plain(json.loads(file.read(FILE_LIMIT)))
            except (OSError, ValueError, KeyError, TypeError, RecursionError):
                path.rename(path.with_suffix(".damaged"))
                yield path
            else:
                yield found

    def _path(self, channel: Channel) -> Path:
        return self._directory / f"{channel.id}.json"


def _plain(channel: Channel, state: ChannelState) -> dict[str, Any]:
    return {
        "version": VERSION,
        "channel": [channel.tenant.hex(), channel.kind.value, channel.address],
        "position": state.position,
        "digested": [state.digested, state.digested_ns],
        "sent": list(state.sent),
        "caused": [[machine.hex(), when] for machine, when in state.caused],
        "told": [[code, tenant.hex(), machine.hex(), when] for (code, tenant, machine), when in state.told.items()],
        "quiet": sorted([tenant.hex(), machine.hex()] for tenant, machine in state.quiet),
        "letter": None if state.letter is None else to_plain(state.letter),
        "failing": [state.failing_ns, state.failing_told],
        "until": state.until,
    }


def _from_plain(kept: Any) -> tuple[Channel, ChannelState]:
    if kept["version"] != VERSION:
        raise ValueError("of another release")
    tenant, kind, address = kept["channel"]
    digested, digested_ns = kept["digested"]
    failing_ns, failing_told = kept["failing"]
    state = ChannelState(
        int(kept["position"]),
        int(digested),
        int(digested_ns),
        tuple(int(when) for when in kept["sent"]),
        tuple((bytes.fromhex(machine), int(when)) for machine, when in kept["caused"]),
        {
            (int(code), bytes.fromhex(tenant), bytes.fromhex(machine)): int(when)
            for code, tenant, machine, when in kept["told"]
        },
        frozenset((bytes.fromhex(tenant), bytes.fromhex(machine)) for tenant, machine in kept["quiet"]),
        None if kept["letter"] is None else from_plain(kept["letter"]),
        int(failing_ns),
        bool(failing_told),
        int(kept["until"]),
    )
    return Channel(bytes.fromhex(tenant), ChannelKind(kind), str(address)), state
