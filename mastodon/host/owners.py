"""Owners' numbers and names: read from this system's accounts, and mapped back to numbers on restore.

A recorded name that does not resolve is never taken for its number where names were asked for: the map answers
None, and whoever sets owners then keeps the file for the restoring user and drops setuid and setgid.
"""

import grp
import pwd
from collections.abc import Callable

NO_OWNER = 0xFFFFFFFF
"""The number that chown takes for "leave as it is": nobody's."""

NAME_BYTES = 256
"""The longest owner name that an entry holds."""

Find = Callable[[int, str], int | None]


class OwnerMapError(ValueError):
    """A line of an owner map file that cannot be used; the text says which and what it should look like."""


class OwnerNames:
    """This system's names of users and groups, each looked up once; "" for a number without a usable name."""

    def __init__(self) -> None:
        self._users: dict[int, str] = {}
        self._groups: dict[int, str] = {}

    def user(self, uid: int) -> str:
        """The name of a user id."""
        name = self._users.get(uid)
        if name is None:
            name = self._users[uid] = _name(lambda: pwd.getpwuid(uid).pw_name)
        return name

    def group(self, gid: int) -> str:
        """The name of a group id."""
        name = self._groups.get(gid)
        if name is None:
            name = self._groups[gid] = _name(lambda: grp.getgrgid(gid).gr_name)
        return name


def _name(look_up: Callable[[], str]) -> str:
    try:
        name = look_up()
        size = len(name.encode())
    except (KeyError, OSError, OverflowError, UnicodeEncodeError):
        return ""
    return name if size <= NAME_BYTES else ""


def local_user(name: str) -> int | None:
    """The number that this system gives a user name."""
    try:
        return pwd.getpwnam(name).pw_uid if name else None
    except (KeyError, ValueError, OSError):
        return None


def local_group(name: str) -> int | None:
    """The number that this system gives a group name."""
    try:
        return grp.getgrnam(name).gr_gid if name else None
    except (KeyError, ValueError, OSError):
        return None


class OwnerMap:
    """From a recorded owner (number, name) to the number to use here, None where there is none; remembers answers."""

    def __init__(self, find_user: Find, find_group: Find, *, renumbers: bool) -> None:
        self._find = {"u": find_user, "g": find_group}
        self._known: dict[tuple[str, int, str], int | None] = {}
        self.renumbers = renumbers
        """Whether numbers may change at all, so that ACLs have to be rewritten."""

    @classmethod
    def by_number(cls) -> "OwnerMap":
        """Numbers as they were recorded."""
        return cls(_same_number, _same_number, renumbers=False)

    @classmethod
    def by_name(cls) -> "OwnerMap":
        """The numbers that this system gives the recorded names."""
        return cls(lambda _number, name: local_user(name), lambda _number, name: local_group(name), renumbers=True)

    @classmethod
    def from_text(cls, text: str) -> "OwnerMap":
        """A map file: lines ``user OLD NEW`` and ``group OLD NEW``, each a name or a number; ``#`` starts a comment.

        OLD is looked for as the recorded name, then as the recorded number; what no line names goes by name.
        Raises OwnerMapError.
        """
        given: dict[str, dict[str, int]] = {"user": {}, "group": {}}
        for position, line in enumerate(text.splitlines(), 1):
            words = line.split("#", 1)[0].split()
            if not words:
                continue
            if len(words) != 3 or words[0] not in given:
                raise OwnerMapError(f"line {position}: write 'user OLD NEW' or 'group OLD NEW'")
            kind, old, new = words
            given[kind][old] = _number_here(kind, new, position)
        return cls(_from_file(given["user"], local_user), _from_file(given["group"], local_group), renumbers=True)

    def user(self, uid: int, name: str) -> int | None:
        """The user id to use here."""
        return self._number("u", uid, name)

    def group(self, gid: int, name: str) -> int | None:
        """The group id to use here."""
        return self._number("g", gid, name)

    def qualifier(self, kind: str, number: int, name: str) -> int | None:
        """The id to use here for one in an ACL, kind "u" or "g"."""
        return self._number(kind, number, name)

    def _number(self, kind: str, number: int, name: str) -> int | None:
        key = (kind, number, name)
        if key not in self._known:
            found = self._find[kind](number, name)
            self._known[key] = found if found is not None and 0 <= found < NO_OWNER else None
        return self._known[key]


def _same_number(number: int, _name: str) -> int:
    return number


def _number_here(kind: str, new: str, position: int) -> int:
    found = int(new) if new.isascii() and new.isdigit() else (local_user if kind == "user" else local_group)(new)
    if found is None:
        raise OwnerMapError(f"line {position}: this system has no {kind} {new!r}: make it, or write a number")
    if found >= NO_OWNER:
        raise OwnerMapError(f"line {position}: {new} is not a {kind} number")
    return found


def _from_file(given: dict[str, int], local: Callable[[str], int | None]) -> Find:
    def find(number: int, name: str) -> int | None:
        if name and name in given:
            return given[name]
        if str(number) in given:
            return given[str(number)]
        return local(name)

    return find
