"""What keeps a restore from going on; the text says what happened and what to do.

What concerns single files is no exception: it is logged as a problem of that file, and the restore goes on.
"""


class RestoreError(Exception):
    """Base of all of them. ``exit_code`` is what the program ends with."""

    exit_code = 2


class NotThere(RestoreError):
    """No such machine, snapshot or path."""


class Locked(RestoreError):
    """No envelope opens with the passkey or GPG key that was given."""


class Unreachable(RestoreError):
    """The server cannot be reached, or the connection was lost for good."""


class Refused(RestoreError):
    """The server refused a request; its text says why. ``conflict``: somebody else was first."""

    def __init__(self, text: str, *, conflict: bool = False) -> None:
        super().__init__(text)
        self.conflict = conflict


class Distrusted(RestoreError):
    """What was shown is not what the machine or the admin signed, or not all of it: nothing was taken from it."""

    exit_code = 3


class Untrusted(Distrusted):
    """A sealing pair that is not believed: what is sealed to it cannot be read."""


class ProtocolBroken(Distrusted):
    """The server does not keep to the protocol: nothing more is taken from it."""


class WentBack(Distrusted):
    """An older state, or another history, than was seen before: data is withheld, or the server lost some."""
