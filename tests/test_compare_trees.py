"""The comparer sees each kind of difference, that one and nothing else, and none where there is none."""

import errno
import io
import os
import shutil
import stat
import sys
from collections.abc import Callable
from functools import partial

from twisted.trial.unittest import SynchronousTestCase

from tests.compare_trees import UNPRIVILEGED, compare_trees, main
from tests.odd_trees import ACL_ACCESS, NAMED_ACL, NODUMP, add_flags, make_odd_tree, remove_tree

IS_ROOT = os.geteuid() == 0
MOMENT = 1_500_000_000_123_456_789


class CompareCase(SynchronousTestCase):
    """Two equal small trees, to be changed in one respect."""

    def setUp(self) -> None:
        base = os.path.abspath(self.mktemp())
        os.makedirs(base)
        self.addCleanup(remove_tree, base)
        self.a, self.b = os.path.join(base, "a"), os.path.join(base, "b")
        for tree in (self.a, self.b):
            os.makedirs(os.path.join(tree, "d"))
            for name in ("f", "g", "d/h"):
                with open(os.path.join(tree, name), "wb") as file:
                    file.write(b"the same in both")
            os.symlink("f", os.path.join(tree, "l"))
            os.mkfifo(os.path.join(tree, "p"))
        self.settle()

    def settle(self) -> None:
        """Gives all names of both trees, links and directories too, the same time."""
        for tree in (self.a, self.b):
            for directory, directories, files in os.walk(tree, topdown=False):
                for name in (*files, *directories):
                    os.utime(os.path.join(directory, name), ns=(0, MOMENT), follow_symlinks=False)
            os.utime(tree, ns=(0, MOMENT))

    def expect(self, *kinds_and_paths: tuple[str, bytes]) -> None:
        self.settle()
        self.expect_as_is(*kinds_and_paths)

    def expect_as_is(self, *kinds_and_paths: tuple[str, bytes]) -> None:
        found = compare_trees(self.a, self.b)
        self.assertEqual([(one.kind, one.path) for one in found], list(kinds_and_paths), found)

    def attempt(self, action: Callable[[], object]) -> None:
        try:
            action()
        except OSError as error:
            if error.errno in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOTTY):
                self.skipTest(f"cannot be made here: {error.strerror}")
            raise

    def at_b(self, name: str) -> str:
        return os.path.join(self.b, name)


class EachKind(CompareCase):
    def test_equal(self) -> None:
        """Equal trees have no difference."""
        self.expect()

    def test_missing_and_extra(self) -> None:
        """A name in one tree only is missing or extra."""
        os.unlink(self.at_b("f"))
        shutil.copy(self.at_b("g"), self.at_b("d/new"))
        self.expect(("missing", b"f"), ("extra", b"d/new"))

    def test_content(self) -> None:
        """One other byte is seen."""
        with open(self.at_b("d/h"), "r+b") as file:
            file.write(b"T")
        self.expect(("content", b"d/h"))

    def test_size(self) -> None:
        """Another size is seen."""
        with open(self.at_b("f"), "ab") as file:
            file.write(b"\0")
        self.expect(("size", b"f"))

    def test_content_in_a_hole(self) -> None:
        """Data on one side where the other has a hole is compared, too."""
        for path in (os.path.join(self.a, "f"), self.at_b("f")):
            os.truncate(path, 8 << 20)
        with open(self.at_b("f"), "r+b") as file:
            file.seek(5 << 20)
            file.write(b"x")
        self.expect(("content", b"f"))

    def test_holes(self) -> None:
        """A hole that was filled with zeros is seen; one that was made is not a difference."""
        os.truncate(os.path.join(self.a, "f"), 8 << 20)
        with open(self.at_b("f"), "ab") as file:
            file.write(bytes((8 << 20) - file.tell()))
        self.expect(("holes", b"f"))
        self.a, self.b = self.b, self.a
        self.expect()

    def test_type(self) -> None:
        """Another type is seen, and not looked into."""
        os.unlink(self.at_b("f"))
        os.mkdir(self.at_b("f"))
        self.expect(("type", b"f"))

    def test_mode(self) -> None:
        """Permissions, setuid and sticky are seen, of files, directories and fifos."""
        os.chmod(self.at_b("f"), 0o4644)
        os.chmod(self.at_b("d"), 0o1755)
        os.chmod(self.at_b("p"), 0o600)
        self.expect(("mode", b"d"), ("mode", b"f"), ("mode", b"p"))

    def test_root_directory(self) -> None:
        """The roots themselves are compared."""
        os.chmod(self.b, 0o711)
        self.expect(("mode", b"."))

    def test_owner(self) -> None:
        """User and group are seen, of a symlink too."""
        self.attempt(lambda: os.chown(self.at_b("f"), 1, -1))
        os.chown(self.at_b("l"), -1, 1, follow_symlinks=False)
        self.expect(("owner", b"f"), ("owner", b"l"))

    def test_mtime(self) -> None:
        """One nanosecond is seen, of files, symlinks and directories."""
        for name in ("d", "f", "l"):
            os.utime(self.at_b(name), ns=(0, MOMENT + 1), follow_symlinks=False)
        self.expect_as_is(("mtime", b"d"), ("mtime", b"f"), ("mtime", b"l"))

    def test_xattrs(self) -> None:
        """An xattr more, less or other is seen; of directories too."""
        self.attempt(lambda: os.setxattr(os.path.join(self.a, "f"), "user.less", b"1"))
        for tree, value in ((self.a, b"1"), (self.b, b"2")):
            os.setxattr(os.path.join(tree, "g"), "user.other", value)
            os.setxattr(os.path.join(tree, "d/h"), "user.same", b"same")
        os.setxattr(self.at_b("d"), "user.more", b"")
        self.expect(("xattr", b"d"), ("xattr", b"f"), ("xattr", b"g"))

    def test_trusted_xattr_of_a_symlink(self) -> None:
        """An xattr of the symlink itself is seen."""
        self.attempt(lambda: os.setxattr(self.at_b("l"), "trusted.own", b"1", follow_symlinks=False))
        self.expect(("xattr", b"l"))

    def test_acl(self) -> None:
        """An ACL that differs in one id is seen."""
        other = bytearray(NAMED_ACL)
        other[4 + 8 + 4] = 3
        for tree, value in ((self.a, NAMED_ACL), (self.b, bytes(other))):
            self.attempt(partial(os.setxattr, os.path.join(tree, "f"), ACL_ACCESS, value))
        self.expect(("xattr", b"f"))

    def test_links(self) -> None:
        """Names linked in one tree only are seen, whichever that is; the same links are no difference."""
        os.unlink(self.at_b("d/h"))
        os.link(self.at_b("g"), self.at_b("d/h"))
        self.expect(("links", b"d/h"))
        self.a, self.b = self.b, self.a
        self.expect(("links", b"d/h"))
        os.unlink(self.at_b("d/h"))
        os.link(self.at_b("g"), self.at_b("d/h"))
        self.expect()

    def test_links_in_other_groups(self) -> None:
        """As many links, but of other names, are seen."""
        os.link(os.path.join(self.a, "f"), os.path.join(self.a, "x"))
        os.link(self.at_b("g"), self.at_b("x"))
        self.assertEqual({one.kind for one in compare_trees(self.a, self.b)} & {"links"}, {"links"})

    def test_flags(self) -> None:
        """Inode flags are seen, of files and directories."""
        for name in ("f", "d"):
            fd = os.open(self.at_b(name), os.O_RDONLY)
            self.addCleanup(os.close, fd)
            self.attempt(partial(add_flags, fd, NODUMP))
        self.expect(("flags", b"d"), ("flags", b"f"))

    def test_target(self) -> None:
        """Another symlink target is seen."""
        os.unlink(self.at_b("l"))
        os.symlink("g", self.at_b("l"))
        self.expect(("target", b"l"))

    def test_device(self) -> None:
        """Another device number is seen."""
        for tree, minor in ((self.a, 3), (self.b, 5)):
            path = os.path.join(tree, "null")
            self.attempt(partial(os.mknod, path, stat.S_IFCHR | 0o600, os.makedev(1, minor)))
        self.expect(("device", b"null"))


class Options(CompareCase):
    def test_leave_out(self) -> None:
        """What is left out is not said; the rest is."""
        os.chmod(self.at_b("f"), 0o600)
        os.utime(self.at_b("f"), ns=(0, 5))
        found = compare_trees(self.a, self.b, leave_out=["mtime"])
        self.assertEqual([one.kind for one in found], ["mode"])

    def test_unprivileged(self) -> None:
        """What an ordinary user cannot restore is left out: owners, setuid, trusted xattrs, devices; nothing else."""
        if not IS_ROOT:
            self.skipTest("only root can make these differences")
        path = os.path.join(self.a, "f")
        os.chown(path, 1, 1)
        os.chmod(path, 0o4644)
        os.setxattr(path, "trusted.own", b"1")
        os.mknod(os.path.join(self.a, "null"), stat.S_IFCHR | 0o600, os.makedev(1, 3))
        os.chmod(self.at_b("g"), 0o600)
        self.settle()
        found = compare_trees(self.a, self.b, leave_out=UNPRIVILEGED)
        self.assertEqual([(one.kind, one.path) for one in found], [("mode", b"g")])

    def test_command_line(self) -> None:
        """The exit status is 0 without, 1 with differences, 2 where a tree is missing; each difference is a line."""
        self.settle()
        output = io.StringIO()
        self.patch(sys, "stdout", output)
        self.patch(sys, "stderr", io.StringIO())
        self.assertEqual(main([self.a, self.b]), 0)
        self.assertEqual(output.getvalue(), "")
        os.chmod(self.at_b("f"), 0o600)
        self.assertEqual(main([self.a, self.b]), 1)
        self.assertEqual(output.getvalue().count("\n"), 1)
        self.assertIn("mode: b'f'", output.getvalue())
        self.assertEqual(main([self.a, self.b, "--leave-out", "mode"]), 0)
        self.assertEqual(main([self.a, self.at_b("nowhere")]), 2)


class OddTrees(SynchronousTestCase):
    def test_odd_trees(self) -> None:
        """Two odd trees differ in nothing but the clock; a byte at the far end of a long path is seen."""
        base = os.path.abspath(self.mktemp())
        os.makedirs(base)
        self.addCleanup(remove_tree, base)
        a, b = os.path.join(base, "a"), os.path.join(base, "b")
        self.assertEqual(make_odd_tree(a), make_odd_tree(b))
        if not IS_ROOT:
            self.skipTest("an ordinary user cannot read all of an odd tree")
        self.assertEqual(compare_trees(a, b, leave_out=["mtime"]), [])
        fd = os.open(os.path.join(b, "deep"), os.O_RDONLY)
        for level in range(40):
            below = os.open((b"%03d-" % level).ljust(200, b"x"), os.O_RDONLY, dir_fd=fd)
            os.close(fd)
            fd = below
        with open(os.open(b"bottom", os.O_WRONLY, dir_fd=fd), "wb") as file:
            file.write(b"F")
        os.close(fd)
        (difference,) = compare_trees(a, b, leave_out=["mtime"])
        self.assertEqual((difference.kind, difference.path[-6:]), ("content", b"bottom"))
        self.assertTrue(len(difference.path) > 8_000)
