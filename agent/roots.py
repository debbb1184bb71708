"""The paths to back up, as a tree of names: what leads to them is recorded, overlapping ones are folded into one.

A path is made absolute, and symlinks on the way to it are followed, so that it names the same directory as long as
the links point there; its last name is not followed, unless a slash stands behind it.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field

from mastodon.host.paths import Directory


@dataclass(slots=True)
class Node:
    """A directory on the way to a root, or a root itself (``whole``: everything below it is backed up)."""

    whole: bool = False
    children: dict[bytes, "Node"] = field(default_factory=dict)


def resolve(path: bytes) -> Directory:
    """The names that lead from / to a path as somebody wrote it."""
    absolute = os.path.abspath(path)
    if path.endswith((b"/", b"/.", b"/..")) or absolute == b"/":
        resolved = os.path.realpath(absolute)
    else:
        parent, name = os.path.split(absolute)
        resolved = os.path.join(os.path.realpath(parent), name)
    return tuple(name for name in resolved.split(b"/") if name)


def fold(paths: Sequence[Directory]) -> tuple[Directory, ...]:
    """The same without those that lie below another one, sorted."""
    kept: list[Directory] = []
    for path in sorted(set(paths)):
        if not kept or path[: len(kept[-1])] != kept[-1]:
            kept.append(path)
    return tuple(kept)


def make_tree(roots: Sequence[Directory]) -> Node:
    """The tree of folded roots."""
    top = Node()
    for root in roots:
        node = top
        for name in root:
            node = node.children.setdefault(name, Node())
        node.whole = True
    return top
