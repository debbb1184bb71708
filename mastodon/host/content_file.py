"""A file that is being written: pieces in any order, holes where nothing is written."""

import errno
import os

from mastodon.host.paths import Directory
from mastodon.sealed.entry import Entry


def write_all(fd: int, data: bytes | memoryview) -> None:
    """Writes all of it at the descriptor's position, also where the kernel takes it in several bites."""
    written = os.write(fd, data)
    while written < len(data):
        data = memoryview(data)[written:]
        written = os.write(fd, data)


class ContentFile:
    """Handle of a begun file. The first error is final: it takes nothing more, and finishing it fails with that."""

    __slots__ = ("directory", "entry", "failure", "fd", "part")

    def __init__(self, fd: int, part: bytes, directory: Directory, entry: Entry) -> None:
        self.fd = fd
        self.part = part
        self.directory = directory
        self.entry = entry
        self.failure: OSError | None = None

    def write(self, offset: int, data: bytes | memoryview) -> bool:
        """Puts bytes at an offset; False once something has failed. What lies outside the entry's size is refused."""
        if self.failure is not None:
            return False
        try:
            if offset < 0 or offset + len(data) > self.entry.size:
                raise OSError(errno.EINVAL, "content outside the file's size")
            while len(data):
                written = os.pwrite(self.fd, data, offset)
                offset += written
                data = memoryview(data)[written:] if written < len(data) else b""
        except OSError as error:
            self.failure = error
            return False
        return True

    def close(self) -> None:
        """Closes the descriptor."""
        os.close(self.fd)
