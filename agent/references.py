"""Content on its way into the listing: places in blobs, of which one, the open bundle, has no id yet."""

from dataclasses import dataclass, field

from mastodon_agent.uses import Use


@dataclass(slots=True, eq=False)
class BlobRef:
    """A blob that entries refer to; without an id while it is still open."""

    id: bytes = b""
    is_map: bool = False
    below: tuple[Use, ...] = ()
    """What a map that was made in this run uses of its blobs."""


Stretch = tuple[BlobRef | None, int, int]
"""(blob, offset, length); no blob: a hole."""


@dataclass(frozen=True, slots=True)
class Base:
    """The content to which a delta is to be applied: its keyed hash, and where it lies in full."""

    hash: bytes
    size: int
    stretches: list[Stretch]


@dataclass(slots=True)
class Content:
    """What a file holds; with a base, what its stretches make of that (a VCDIFF)."""

    hash: bytes
    size: int
    stretches: list[Stretch] = field(default_factory=list)
    base: Base | None = None
