"""Which files are left out: patterns as in a .gitignore whose directory is /, over raw bytes.

* A pattern with a slash at its start or inside is anchored at /; one without matches a name in any directory.
* ``*`` and ``?`` stand for anything but a slash, ``[a-z]``, ``[!a-z]`` and ``[[:digit:]]`` for one byte of a set.
* ``**/`` leads into any number of directories, ``/**`` stands for all that is inside, ``/**/`` for any way between.
* A slash at the end: directories only. ``!`` in front: take back in. The last pattern that matches decides.
* What lies below a directory that is left out cannot be taken back in, since it is never looked at.
* A backslash takes its meaning from the next byte. In a file, empty lines and lines starting with ``#`` are skipped.

Patterns apply to what lies below the paths to be backed up; these themselves, and what leads to them, are kept.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

LONGEST_PATTERN = 4096

_CLASSES = {
    b"alnum": b"0-9A-Za-z", b"alpha": b"A-Za-z", b"blank": rb" \t", b"cntrl": rb"\x00-\x1f\x7f", b"digit": b"0-9",
    b"graph": rb"\x21-\x7e", b"lower": b"a-z", b"print": rb"\x20-\x7e", b"punct": rb"!-/:-@\[-`{-~",
    b"space": rb"\s", b"upper": b"A-Z", b"xdigit": b"0-9A-Fa-f",
}  # fmt: skip


class BadPattern(ValueError):
    """A pattern that matches nothing as it is written; the text says what is wrong."""


@dataclass(frozen=True, slots=True)
class Pattern:
    """One pattern: as it was written, where, and what it does."""

    text: bytes
    origin: str
    negated: bool
    directories_only: bool
    expression: bytes
    """Regular expression that has to match a whole path below /, without the slash at its start."""

    def __str__(self) -> str:
        return f"{self.text.decode('utf-8', 'backslashreplace')} ({self.origin})"


def parse_pattern(line: bytes, origin: str) -> Pattern:
    """The pattern in one line. Raises BadPattern."""
    rest = line
    negated = rest.startswith(b"!")
    if negated:
        rest = rest[1:]
    directories_only = rest.endswith(b"/")
    if directories_only:
        rest = rest.rstrip(b"/")
    if not rest or len(line) > LONGEST_PATTERN:
        raise BadPattern(f"{origin}: the pattern {line[:80]!r} is empty or too long")
    anchored = b"/" in rest
    expression = _translate(rest.removeprefix(b"/"), origin)
    if not anchored:
        expression = rb"(?:.*/)?" + expression
    return Pattern(line, origin, negated, directories_only, expression)


def parse_file(data: bytes, origin: str) -> list[Pattern]:
    """All patterns of an exclude file. Raises BadPattern, naming the line."""
    patterns = []
    for number, line in enumerate(data.split(b"\n"), 1):
        line = _strip_end(line.removesuffix(b"\r"))
        if line and not line.startswith(b"#"):
            patterns.append(parse_pattern(line, f"{origin}, line {number}"))
    return patterns


class Rules:
    """The patterns of one run, the last that matches first."""

    def __init__(self, patterns: Iterable[Pattern] = (), tags: Sequence[bytes] = (), caches: bool = False) -> None:
        self.patterns = tuple(patterns)
        self.tags = tuple(tags)
        """A directory that holds a file of such a name is left out, but for that file (--exclude-if-present)."""
        self.caches = caches
        """Whether a directory with a genuine CACHEDIR.TAG is left out in the same way."""
        compiled = [(one, re.compile(one.expression, re.S)) for one in self.patterns]
        self._backwards = tuple(reversed(compiled))
        joined = b"|".join(b"(?:" + one.expression + b")" for one in self.patterns)
        # Nearly all paths match nothing: one look at all patterns together says so.
        self._any = re.compile(joined, re.S) if self.patterns else None

    @property
    def decides_by_name(self) -> bool:
        """Whether there is any pattern at all."""
        return self._any is not None

    def deciding(self, path: bytes, is_directory: bool) -> Pattern | None:
        """The last pattern that matches ``path`` (without a slash at its start), None when there is none."""
        if self._any is None or self._any.fullmatch(path) is None:
            return None
        for pattern, expression in self._backwards:
            if (is_directory or not pattern.directories_only) and expression.fullmatch(path):
                return pattern
        return None

    def may_exclude(self, prefix: bytes, names: Iterable[bytes]) -> bool:
        """Whether any pattern matches any of these names behind ``prefix``."""
        matches = self._any.fullmatch if self._any is not None else None
        return matches is not None and any(matches(prefix + name) for name in names)

    def excludes(self, path: bytes, is_directory: bool) -> bool:
        """Whether a path is left out by its name, its parents being in."""
        pattern = self.deciding(path, is_directory)
        return pattern is not None and not pattern.negated


def _strip_end(line: bytes) -> bytes:
    """The line without blanks at its end, unless a backslash stands before the last of them."""
    stripped = line.rstrip(b" ")
    if len(stripped) < len(line) and (len(stripped) - len(stripped.rstrip(b"\\"))) % 2:
        stripped += b" "
    return stripped


def _translate(glob: bytes, origin: str) -> bytes:
    """The regular expression for a pattern without its first slash and its last."""
    out: list[bytes] = []
    at = 0
    if glob.startswith(b"**/"):
        out.append(rb"(?:.*/)?")
        at = 3
    while at < len(glob):
        if glob.startswith(b"/**/", at):
            out.append(rb"/(?:.*/)?")
            at += 4
        elif glob[at:] == b"/**":
            out.append(rb"/.+")
            at = len(glob)
        else:
            piece, at = _translate_one(glob, at, origin)
            out.append(piece)
    return b"".join(out)


def _translate_one(glob: bytes, at: int, origin: str) -> tuple[bytes, int]:
    """The expression for the next token of a pattern, and where the one after it starts."""
    one = glob[at : at + 1]
    if one == b"*":
        while glob[at : at + 1] == b"*":
            at += 1
        return rb"[^/]*", at
    if one == b"?":
        return rb"[^/]", at + 1
    if one == b"[":
        return _translate_set(glob, at, origin)
    if one == b"\\":
        at += 1
        one = glob[at : at + 1]
        if not one:
            raise BadPattern(f"{origin}: {glob!r} ends in a backslash: write two for a backslash")
    return re.escape(one), at + 1


def _translate_set(glob: bytes, at: int, origin: str) -> tuple[bytes, int]:
    start = at
    at += 1
    negated = glob[at : at + 1] in (b"!", b"^")
    if negated:
        at += 1
    inside: list[bytes] = []
    first = True
    while first or glob[at : at + 1] != b"]":
        first = False
        member, at = _member(glob, at, start, origin)
        inside.append(member)
    # A set never matches a slash, whatever it lists.
    return rb"(?!/)[" + (b"^" if negated else b"") + b"".join(inside) + b"]", at + 1


def _member(glob: bytes, at: int, start: int, origin: str) -> tuple[bytes, int]:
    """A class, a range or a single byte of a set, for a regular expression's set."""
    if glob.startswith(b"[:", at):
        end = glob.find(b":]", at)
        name = _CLASSES.get(glob[at + 2 : end]) if end > 0 else None
        if name is None:
            raise BadPattern(f"{origin}: {glob[start:]!r} names an unknown class of characters")
        return name, end + 2
    low, at = _literal(glob, at, start, origin)
    if glob[at : at + 1] != b"-" or glob[at + 1 : at + 2] in (b"]", b""):
        return re.escape(low), at
    high, at = _literal(glob, at + 1, start, origin)
    if high < low:
        raise BadPattern(f"{origin}: {glob[start:]!r} has a range that runs backwards")
    return re.escape(low) + b"-" + re.escape(high), at


def _literal(glob: bytes, at: int, start: int, origin: str) -> tuple[bytes, int]:
    if glob[at : at + 1] == b"\\":
        at += 1
    if at >= len(glob):
        raise BadPattern(f"{origin}: {glob[start:]!r} is not closed: write \\[ for a plain bracket")
    return glob[at : at + 1], at + 1
