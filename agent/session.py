"""What a backup needs of the server, whoever it is: the append port over TLS, or a folder in the tests."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from mastodon.wire.messages import Answer, Committed, Missing
from mastodon_agent.packing import SealedPack


@dataclass(frozen=True, slots=True)
class Wants:
    """The answer to an offer."""

    number: int
    wanted: tuple[bool, ...]


@dataclass(frozen=True, slots=True)
class Durable:
    """A pack lies on the server's disk."""

    pack: bytes


@dataclass(frozen=True, slots=True)
class Offended:
    """A pack was refused because of these blobs, which the server has in another sealing."""

    pack: bytes
    ids: tuple[bytes, ...]


SessionEvent = Wants | Durable | Offended


class SnapshotRefused(Exception):
    """The server did not take the snapshot record: its head is another one by now, or the pair."""


class Session(Protocol):
    """One run's way to the server. Whatever was asked for and not answered is asked again after a lost connection."""

    @property
    def answer(self) -> Answer:
        """The newest answer to HELLO."""

    def add_pair(self, record: bytes, envelope: bytes) -> None:
        """Store a pair; returns when it is durable."""

    def offer(self, number: int, ids: Sequence[bytes]) -> None:
        """Ask which of these blobs are wanted; Wants comes later."""

    def send_pack(self, pack: SealedPack) -> None:
        """Have a pack sent; Durable or Offended comes later."""

    def events(self, wait: bool) -> list[SessionEvent]:
        """What has come since the last call; with ``wait``, at least one."""

    def commit(self, record: bytes) -> Committed | Missing:
        """Commit a snapshot record. Raises SnapshotRefused."""

    def refresh(self) -> Answer:
        """Check in again, for the head as it is now."""

    def progress(self, files: int, content_bytes: int) -> None:
        """How far the run is; goes out when it is time for a sign of life."""
