"""Directories by descriptors: depth without bound, few open files, symlinks and hostile names refused."""

import os

from twisted.trial.unittest import SynchronousTestCase

from mastodon.host.paths import Directory, DirectoryChain, HostileName, open_directory
from tests.odd_trees import remove_tree

NAME = b"n" * 200


class Chain(SynchronousTestCase):
    def setUp(self) -> None:
        self.path = os.path.abspath(self.mktemp())
        os.makedirs(self.path)
        self.addCleanup(remove_tree, self.path)
        self.root = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
        self.addCleanup(os.close, self.root)

    def make_deep(self, levels: int) -> Directory:
        fd = os.dup(self.root)
        for _ in range(levels):
            os.mkdir(NAME, dir_fd=fd)
            below = open_directory(fd, NAME)
            os.close(fd)
            fd = below
        os.close(fd)
        return (NAME,) * levels

    def inode(self, fd: int) -> int:
        return os.fstat(fd).st_ino

    def test_deep_with_few_descriptors(self) -> None:
        """A directory 20,000 bytes down is reached, and going up and down again holds no more than the limit."""
        deep = self.make_deep(100)
        before = len(os.listdir("/proc/self/fd"))
        with DirectoryChain(self.root, limit=8) as chain:
            inodes = {depth: self.inode(chain.open(deep[:depth])) for depth in range(101)}
            self.assertEqual(len(set(inodes.values())), 101)
            for depth in (*range(100, -1, -1), 50, 100, 3):
                self.assertEqual(self.inode(chain.open(deep[:depth])), inodes[depth])
                self.assertTrue(len(os.listdir("/proc/self/fd")) <= before + 8)
        self.assertEqual(len(os.listdir("/proc/self/fd")), before)

    def test_siblings(self) -> None:
        """Moving between branches opens the right directories."""
        for path in ("a/x", "a/y", "b/x"):
            os.makedirs(os.path.join(self.path, path))
        with DirectoryChain(self.root) as chain:
            for path in ("a/x", "a/y", "b/x", "a", "", "b"):
                names = tuple(os.fsencode(path).split(b"/")) if path else ()
                self.assertEqual(self.inode(chain.open(names)), os.stat(os.path.join(self.path, path)).st_ino)

    def test_usable_after_failure(self) -> None:
        """A directory that is not there raises, and the chain goes on from where it was."""
        os.makedirs(os.path.join(self.path, "a/b"))
        with DirectoryChain(self.root) as chain:
            self.assertRaises(FileNotFoundError, chain.open, (b"a", b"missing", b"c"))
            self.assertEqual(
                self.inode(chain.open((b"a", b"b"))), os.stat(os.path.join(self.path, "a/b")).st_ino
            )

    def test_symlinks_are_refused(self) -> None:
        """A symlink to a directory is not followed, neither last nor on the way."""
        os.makedirs(os.path.join(self.path, "real/below"))
        os.symlink("real", os.path.join(self.path, "link"))
        with DirectoryChain(self.root) as chain:
            self.assertRaises(OSError, chain.open, (b"link",))
            self.assertRaises(OSError, chain.open, (b"link", b"below"))

    def test_hostile_names(self) -> None:
        """Names that lead elsewhere are refused before the kernel sees them."""
        os.makedirs(os.path.join(self.path, "a/b"))
        with DirectoryChain(self.root) as chain:
            for name in (b"", b".", b"..", b"a/b", b"/", b"a\0", b"../a"):
                self.assertRaises(HostileName, chain.open, (name,))
                self.assertRaises(HostileName, chain.open, (b"a", name))
