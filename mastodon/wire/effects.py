"""What the sessions of both ports ask of their edge alike; each session's own effects stand beside it."""

from dataclasses import dataclass

from mastodon.wire.errors import ErrorCode
from mastodon.wire.messages import Message


@dataclass(frozen=True, slots=True)
class Send:
    """Send this message."""

    message: Message


@dataclass(frozen=True, slots=True)
class SecurityEvent:
    """Somebody tried what no honest peer does. ``code`` is what it was answered."""

    code: ErrorCode
    text: str


@dataclass(frozen=True, slots=True)
class Close:
    """Close the connection when everything has been sent."""
