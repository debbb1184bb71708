"""Names of machines: what can be one, and lists of them, a name a line.

A list is taken whole or not at all: everything that is wrong with it is told at once, each with its line.
"""

import sys
from collections.abc import Iterable
from pathlib import Path

from mastodon.restore.errors import RestoreError

NAME_LIMIT = 100
"""Bytes: the name stands in names of files, once in hexadecimal."""
LIST_LIMIT = 4 * 1024 * 1024
FORBIDDEN = frozenset("/\\%\0\n\r\t ")
"""Of these `%` is one to cron, which makes a new line of it."""
FIRST_FORBIDDEN = (".", "-", "#")
MISTAKES_SHOWN = 20
STDIN = Path("-")


def demand_name(name: str) -> None:
    """Raise RestoreError unless a machine can bear this name."""
    if why := why_no_name(name):
        raise RestoreError(f"{name!r} {why}")


def why_no_name(name: str) -> str:
    """Why a machine cannot bear this name; empty when it can."""
    if not name.isprintable() or not name or FORBIDDEN & set(name) or name.startswith(FIRST_FORBIDDEN):
        return "cannot be a machine's name: use letters, digits, dots, dashes"
    if len(name.encode()) > NAME_LIMIT:
        return f"is too long for a machine's name: at most {NAME_LIMIT} bytes"
    return ""


def read_names(file: Path) -> list[str]:
    """The names in a file (`-`: on standard input), in its order; empty lines and lines that begin with # are passed
    over. Raises RestoreError for a list that is not right, naming the lines."""
    what = "the names on standard input" if file == STDIN else str(file)
    try:
        if file == STDIN:
            data = sys.stdin.buffer.read(LIST_LIMIT + 1)
        else:
            with open(file, "rb") as opened:
                data = opened.read(LIST_LIMIT + 1)
    except OSError as error:
        raise RestoreError(f"{what}: {error.strerror}") from None
    if len(data) > LIST_LIMIT:
        raise RestoreError(f"{what}: more than {LIST_LIMIT >> 20} MiB: that is no list of names")
    return parse_names(data.split(b"\n"), what)


def parse_names(lines: Iterable[bytes], what: str) -> list[str]:
    """The names in these lines of ``what``. Raises RestoreError."""
    first: dict[str, int] = {}
    mistakes: list[str] = []
    for number, line in enumerate(lines, 1):
        try:
            name = line.decode("utf-8").strip()
        except UnicodeDecodeError:
            mistakes.append(f"line {number}: no UTF-8")
            continue
        if not name or name.startswith("#"):
            continue
        if why := why_no_name(name):
            mistakes.append(f"line {number}: {name!r} {why}")
        elif name in first:
            mistakes.append(f"line {number}: {name!r} stands in line {first[name]} already")
        else:
            first[name] = number
    if mistakes:
        more = len(mistakes) - MISTAKES_SHOWN
        shown = mistakes[:MISTAKES_SHOWN] + ([f"and {more} more"] if more > 0 else [])
        raise RestoreError("\n  ".join([f"{what}: nothing was done, since", *shown]))
    if not first:
        raise RestoreError(f"{what}: there is no name in it; give one a line")
    return list(first)
