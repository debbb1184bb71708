"""Takes a secret off the process's command line, where every user of the system could read it."""

import ctypes

_START_FIELD = 45
"""arg_start in /proc/self/stat, counted behind the program's name."""


def hide_argument(secret: bytes) -> bool:
    """Whether ``secret`` was found on the command line and overwritten there."""
    try:
        with open("/proc/self/cmdline", "rb") as file:
            line = file.read()
        with open("/proc/self/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
        start = int(fields[_START_FIELD])
    except (OSError, ValueError, IndexError):
        return False
    at = line.find(secret)
    if at < 0 or not start or not secret:
        return False
    ctypes.memset(start + at, ord("x"), len(secret))
    return True
