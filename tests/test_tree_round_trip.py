"""Odd trees, read and written, come out the same: whole, killed in between, again, by nobody, by two processes."""

import errno
import os
import pickle
import stat
from collections.abc import Callable
from functools import partial

from mastodon.host.attributes import ProblemLog
from mastodon.host.existing import Overwrite
from mastodon.host.tree_writer import TreeWriter
from mastodon.host.writing_chain import DIRECTORY_IN_PROGRESS
from mastodon.sealed.entry import Entry, EntryType
from tests.compare_trees import UNPRIVILEGED, compare_trees
from tests.long import long_test
from tests.odd_trees import make_odd_tree
from tests.tree_copy import Item, finish, read_into_memory, read_root, read_tree, write_item, write_tree
from tests.writer_case import IS_ROOT, OTHER_TOKEN, TOKEN, WriterCase


class RoundTrip(WriterCase):
    def root_only(self) -> None:
        if not IS_ROOT:
            self.skipTest("an ordinary user can neither make nor read all of an odd tree")

    def odd_items(self) -> list[Item]:
        self.source = os.path.join(self.base, "source")
        make_odd_tree(self.source)
        source_fd = os.open(self.source, os.O_RDONLY)
        self.addCleanup(os.close, source_fd)
        self.root = read_root(source_fd)
        os.chmod(self.target, DIRECTORY_IN_PROGRESS)  # made by the restore, as it were
        return read_into_memory(source_fd)

    def test_odd_tree(self) -> None:
        """As root everything in an odd tree is restored without a difference or a problem."""
        self.root_only()
        items = self.odd_items()
        writer = self.writer()
        write_tree(writer, items, self.root)
        self.assertEqual(writer.problems.examples, [])
        self.assertEqual(compare_trees(self.source, self.target), [])

    @long_test(share=False)
    def test_giant_tree(self) -> None:
        """So is one with a 5 GB file, 3 GB of holes, 100,000 files in a directory and a path of 80,000 bytes."""
        self.root_only()
        source = os.path.join(self.base, "source")
        make_odd_tree(source, scale="full")
        source_fd = os.open(source, os.O_RDONLY)
        self.addCleanup(os.close, source_fd)
        os.chmod(self.target, DIRECTORY_IN_PROGRESS)
        writer = self.writer()
        write_tree(writer, read_tree(source_fd), read_root(source_fd))
        self.assertEqual(writer.problems.examples, [])
        self.assertEqual(compare_trees(source, self.target), [])

    def test_killed_and_taken_up_again(self) -> None:
        """A restore that stopped in the middle is finished by a second one under never, directories included."""
        self.root_only()
        items = self.odd_items()
        self.assertFalse(write_tree(self.writer(), items, self.root, stop=lambda count: count > len(items) // 2))
        writer = self.writer(token=OTHER_TOKEN)
        write_tree(writer, items, self.root)
        self.assertEqual(writer.problems.examples, [])
        self.assertEqual(compare_trees(self.source, self.target), [])

    def test_again_over_itself(self) -> None:
        """Restoring over a finished restore changes nothing, whatever the policy: links, ACLs, flags stay whole."""
        self.root_only()
        items = self.odd_items()
        write_tree(self.writer(), items, self.root)
        for number, overwrite in enumerate(Overwrite):
            writer = self.writer(overwrite, token=f"{number:016x}")
            write_tree(writer, items, self.root)
            self.assertEqual(writer.problems.examples, [])
            self.assertEqual(compare_trees(self.source, self.target), [], overwrite)

    def test_as_ordinary_user(self) -> None:
        """An ordinary user restores all but what is not allowed, and each refusal is logged by what it is about."""
        self.root_only()
        items = self.odd_items()
        os.chown(self.target, 65534, 65534)
        log = in_child(lambda: unprivileged_restore(self.target_fd, items, self.root))
        self.assertEqual(compare_trees(self.source, self.target, leave_out=UNPRIVILEGED), [])
        self.assertIn(("owner", errno.EPERM), log.counts)
        self.assertIn(("create", errno.EPERM), log.counts)  # devices
        self.assertIn(("xattr trusted.odd", errno.EPERM), log.counts)
        self.assertEqual({what.split()[0] for what, _errno in log.counts}, {"owner", "create", "xattr"})
        for directory, names, files in os.walk(self.at("owners")):
            for name in (*names, *files):
                mode = os.lstat(os.path.join(directory, name)).st_mode
                self.assertTrue(stat.S_ISLNK(mode) or not mode & 0o6000, name)

    def test_two_processes(self) -> None:
        """Two processes write disjoint files of one tree at once, making directories as they go; one finishes it."""
        self.root_only()
        items = self.odd_items()
        logs = in_children([partial(half_restore, self.target_fd, items, half) for half in (0, 1)])
        writer = self.writer()
        finish(writer, items, self.root)
        self.assertEqual([log.examples for log in (*logs, writer.problems)], [[], [], []])
        self.assertEqual(compare_trees(self.source, self.target), [])


def unprivileged_restore(target_fd: int, items: list[Item], root: Entry) -> ProblemLog:
    """A restore by nobody."""
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
    writer = TreeWriter(target_fd, token=TOKEN)
    write_tree(writer, items, root)
    return writer.problems


def half_restore(target_fd: int, items: list[Item], half: int) -> ProblemLog:
    """One of two processes: every second item, and one has all the links."""
    writer = TreeWriter(target_fd, token=TOKEN, worker=half)
    for number, item in enumerate(items):
        mine = not half if item[1].link_group else number % 2 == half
        if mine and item[1].type is not EntryType.DIRECTORY:
            write_item(writer, item)
    writer.close()
    return writer.problems


def in_children(works: list[Callable[[], ProblemLog]]) -> list[ProblemLog]:
    """Runs each in a process of its own, all at once."""
    pipes = []
    for work in works:
        reading, writing = os.pipe()
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                with open(writing, "wb") as pipe:
                    pickle.dump(work(), pipe)
                status = 0
            finally:
                os._exit(status)
        os.close(writing)
        pipes.append((pid, reading))
    logs = []
    for pid, reading in pipes:
        with open(reading, "rb") as pipe:
            answer = pipe.read()
        os.waitpid(pid, 0)
        logs.append(pickle.loads(answer))
    return logs


def in_child(work: Callable[[], ProblemLog]) -> ProblemLog:
    """Runs something in a process of its own."""
    (log,) = in_children([work])
    return log
