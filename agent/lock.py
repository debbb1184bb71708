"""One run at a time: a lock on a file in the state directory, which the kernel lets go when the process ends."""

import fcntl
import os

NAME = "lock"


class RunLock:
    """``take`` tells whether no other run holds it."""

    def __init__(self, directory: str) -> None:
        self._path = os.path.join(directory, NAME)
        self._fd = -1

    def take(self) -> bool:
        """Whether this run may go on. Raises OSError."""
        fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            return False
        self._fd = fd
        return True
