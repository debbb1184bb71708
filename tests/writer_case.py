"""What the tests of the tree writer share: a target in a directory of its own, and entries to write."""

import os

from twisted.trial.unittest import SynchronousTestCase

from mastodon.host.attributes import ProblemLog
from mastodon.host.existing import Overwrite
from mastodon.host.tree_writer import TreeWriter
from mastodon.sealed.entry import Entry, EntryType
from tests.odd_trees import remove_tree

IS_ROOT = os.geteuid() == 0
TOKEN = "0123456789abcdef"
OTHER_TOKEN = "fedcba9876543210"
MOMENT = 1_500_000_000_123_456_789


def file_entry(name: bytes, content: bytes = b"", **fields: object) -> Entry:
    """A file of this user, mode 0644, a fixed time."""
    values: dict[str, object] = {"mode": 0o644, "uid": os.geteuid(), "gid": os.getegid(), "mtime_ns": MOMENT}
    return Entry(name, EntryType.FILE, size=len(content), **(values | fields))  # type: ignore[arg-type]


class WriterCase(SynchronousTestCase):
    """A target directory inside of a base directory, both to be looked at."""

    def setUp(self) -> None:
        self.base = os.path.abspath(self.mktemp())
        self.target = os.path.join(self.base, "target")
        os.makedirs(self.target)
        self.addCleanup(remove_tree, self.base)
        self.target_fd = os.open(self.target, os.O_RDONLY | os.O_DIRECTORY)
        self.addCleanup(os.close, self.target_fd)

    def writer(self, overwrite: Overwrite = Overwrite.NEVER, token: str = TOKEN, **options: object) -> TreeWriter:
        writer = TreeWriter(self.target_fd, token=token, overwrite=overwrite, **options)  # type: ignore[arg-type]
        self.addCleanup(writer.close)
        return writer

    def at(self, *names: str) -> str:
        return os.path.join(self.target, *names)

    def content(self, *names: str) -> bytes:
        with open(self.at(*names), "rb") as file:
            return file.read()

    def put(self, name: str, content: bytes, moment: int = MOMENT) -> None:
        with open(self.at(name), "wb") as file:
            file.write(content)
        os.utime(self.at(name), ns=(moment, moment))

    def refused(self, log: ProblemLog) -> set[tuple[str, int]]:
        return set(log.counts)
