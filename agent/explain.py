"""Says which rule decides whether a path is backed up."""

import os
import stat

from mastodon.host.paths import Directory
from mastodon_agent.exclude import Rules
from mastodon_agent.roots import Node, resolve
from mastodon_agent.scan import CACHE_TAG, is_cache


def explain(path: bytes, top: Node, rules: Rules, one_file_system: bool) -> str:
    """One line: in or out, and why."""
    names = resolve(path)
    shown = "/" + b"/".join(names).decode("utf-8", "backslashreplace")
    node = top
    for depth in range(len(names) + 1):
        if node.whole:
            return _below(names, depth, shown, rules, one_file_system)
        if depth == len(names):
            return f"{shown}: recorded as a directory that leads to a path to back up"
        following = node.children.get(names[depth])
        if following is None:
            break
        node = following
    return f"{shown}: left out, it lies below none of the paths to back up"


def _below(names: Directory, depth: int, shown: str, rules: Rules, one_file_system: bool) -> str:
    """What decides below a root, which are the first ``depth`` names."""
    device = _device(names[:depth])
    kept = f"{shown}: backed up, no rule speaks against it"
    for end in range(depth, len(names)):
        directory = b"/" + b"/".join(names[:end])
        where = directory.decode("utf-8", "backslashreplace")
        if one_file_system and device is not None and _device(names[:end]) not in (device, None):
            return f"{shown}: left out, {where} is another file system (--one-file-system)"
        tag = _tag(directory, rules)
        if tag is not None and names[end : end + 1] != (tag,):
            return f"{shown}: left out, {where} holds {tag.decode('utf-8', 'backslashreplace')}"
        inside = names[: end + 1]
        is_directory = end + 1 < len(names) or _is_directory(inside)
        pattern = rules.deciding(b"/".join(inside), is_directory)
        if pattern is not None:
            if not pattern.negated:
                what = (
                    "" if end + 1 == len(names) else f", with {(b'/' + b'/'.join(inside)).decode('utf-8', 'replace')}"
                )
                return f"{shown}: left out{what} by the pattern {pattern}"
            if end + 1 == len(names):
                kept = f"{shown}: backed up, taken back in by the pattern {pattern}"
    return kept


def _tag(directory: bytes, rules: Rules) -> bytes | None:
    for tag in rules.tags:
        if os.path.lexists(os.path.join(directory, tag)):
            return tag
    if rules.caches:
        try:
            fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            return CACHE_TAG if is_cache(fd) else None
        finally:
            os.close(fd)
    return None


def _device(names: Directory) -> int | None:
    try:
        return os.lstat(b"/" + b"/".join(names)).st_dev
    except OSError:
        return None


def _is_directory(names: Directory) -> bool:
    try:
        return stat.S_ISDIR(os.lstat(b"/" + b"/".join(names)).st_mode)
    except OSError:
        return False
