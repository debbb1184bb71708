"""The tree writer: odd trees come out the same, policies hold, and what is refused is logged and nothing else."""

import errno
import os
import pickle
import stat
import struct
from collections.abc import Callable
from functools import partial

from twisted.trial.unittest import SynchronousTestCase

from mastodon.host.attributes import ProblemLog
from mastodon.host.existing import Overwrite, Verdict
from mastodon.host.linux import inode_flags
from mastodon.host.owners import OwnerMap
from mastodon.host.tree_writer import TreeWriter
from mastodon.host.writing_chain import DIRECTORY_IN_PROGRESS
from mastodon.sealed.entry import Entry, EntryType
from tests.compare_trees import UNPRIVILEGED, compare_trees
from tests.long import long_test
from tests.odd_trees import ACL_ACCESS, ACL_DEFAULT, IMMUTABLE, NAMED_ACL, acl, add_flags, make_odd_tree, remove_tree
from tests.tree_copy import Item, finish, read_into_memory, read_root, read_tree, write_item, write_tree

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

    def odd_items(self) -> list[Item]:
        self.source = os.path.join(self.base, "source")
        make_odd_tree(self.source)
        source_fd = os.open(self.source, os.O_RDONLY)
        self.addCleanup(os.close, source_fd)
        self.root = read_root(source_fd)
        os.chmod(self.target, DIRECTORY_IN_PROGRESS)  # made by the restore, as it were
        return read_into_memory(source_fd)

    def refused(self, log: ProblemLog) -> set[tuple[str, int]]:
        return set(log.counts)


class RoundTrip(WriterCase):
    def root_only(self) -> None:
        if not IS_ROOT:
            self.skipTest("an ordinary user can neither make nor read all of an odd tree")

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


class Files(WriterCase):
    def test_out_of_order_with_holes(self) -> None:
        """Pieces may come in any order; what is not written is a hole that takes no space."""
        writer = self.writer()
        size = 64 << 20
        entry = file_entry(b"f", mode=0o4750)
        entry.size = size
        file = writer.begin_file((b"d",), entry)
        assert file is not None
        self.assertTrue(file.write(size - 3, b"end"))
        self.assertTrue(file.write(1 << 20, b"middle"))
        self.assertFalse(os.path.exists(self.at("d", "f")))
        self.assertTrue(writer.finish_file(file))
        st = os.stat(self.at("d", "f"))
        self.assertEqual((st.st_size, st.st_mtime_ns, stat.S_IMODE(st.st_mode)), (size, MOMENT, 0o4750))
        self.assertTrue(st.st_blocks * 512 < 1 << 20)
        content = self.content("d", "f")
        self.assertEqual((content[1 << 20 :][:6], content[-3:], content.count(b"\0")), (b"middle", b"end", size - 9))
        self.assertEqual(os.listdir(self.at("d")), ["f"])

    def test_outside_of_the_size(self) -> None:
        """A piece outside of the file's size fails the file: nothing appears, the reason is logged."""
        for offset in (-1, 8, 1 << 70):
            writer = self.writer()
            entry = file_entry(b"f")
            entry.size = 10
            file = writer.begin_file((), entry)
            assert file is not None
            self.assertFalse(file.write(offset, b"abc"))
            self.assertFalse(file.write(0, b"abc"))
            self.assertFalse(writer.finish_file(file))
            self.assertEqual(os.listdir(self.target), [])
            self.assertEqual(self.refused(writer.problems), {("content", errno.EINVAL)})

    def test_abandoned(self) -> None:
        """A file that is given up leaves nothing."""
        writer = self.writer()
        file = writer.begin_file((), file_entry(b"f", b"content"))
        assert file is not None
        file.write(0, b"con")
        writer.abandon_file(file)
        self.assertEqual(os.listdir(self.target), [])

    def test_killed_leaves_parts_only(self) -> None:
        """What a killed restore has begun stands under a part's name; the next one takes it away, and only that."""
        writer = self.writer()
        file = writer.begin_file((b"d",), file_entry(b"f", b"content"))
        assert file is not None
        file.write(0, b"con")
        file.close()
        (part,) = os.listdir(self.at("d"))
        self.assertTrue(part.startswith(".mastodon-") and part.endswith(".part"))
        kept = f".mastodon-{TOKEN}-77.part"
        for name in (kept, ".mastodon-notes.part", "f.part"):
            self.put(f"d/{name}", b"")
        self.assertEqual(writer.remove_leftovers((b"d",)), 0, "its own parts are in use")
        later = self.writer(token=OTHER_TOKEN)
        self.assertEqual(later.remove_leftovers((b"d",), keep={kept.encode()}), 1)
        self.assertEqual(sorted(os.listdir(self.at("d"))), sorted((kept, ".mastodon-notes.part", "f.part")))
        self.assertEqual(later.remove_leftovers((b"not", b"there")), 0)
        self.assertEqual(later.problems.examples, [])

    def test_nothing_inherited(self) -> None:
        """An existing directory's default ACL, setgid and flags do not reach what is restored in it."""
        os.mkdir(self.at("d"))
        os.chmod(self.at("d"), 0o2755)
        fd = os.open(self.at("d"), os.O_RDONLY)
        self.addCleanup(os.close, fd)
        try:
            os.setxattr(fd, ACL_DEFAULT, NAMED_ACL)
            add_flags(fd, 0x40)
        except OSError as error:
            self.skipTest(f"cannot be made here: {error.strerror}")
        writer = self.writer()
        self.assertTrue(writer.write_small((b"d",), file_entry(b"f", b"c"), b"c"))
        below = Entry(b"sub", EntryType.DIRECTORY, 0o755, os.geteuid(), os.getegid(), MOMENT)
        self.assertTrue(writer.make((b"d",), below))
        self.assertTrue(writer.write_small((b"d", b"sub"), file_entry(b"f", b"c"), b"c"))
        writer.finish_directories([((b"d",), below)])
        self.assertEqual(stat.S_IMODE(os.stat(self.at("d", "sub")).st_mode), 0o755)
        for path in (self.at("d", "f"), self.at("d", "sub"), self.at("d", "sub", "f")):
            self.assertEqual([name for name in os.listxattr(path) if "acl" in name], [])
        self.assertEqual(os.stat(self.at("d", "f")).st_gid, os.getegid())
        with open(self.at("d", "f"), "rb") as file:
            self.assertEqual(inode_flags(file.fileno()), 0)
        self.assertEqual(writer.problems.examples, [])


class Policies(WriterCase):
    def verdicts(self, entry: Entry) -> dict[Overwrite, Verdict]:
        return {policy: self.writer(policy).verdict((), entry) for policy in Overwrite}

    def test_nothing_there(self) -> None:
        """Where nothing is, every policy writes."""
        self.assertEqual(set(self.verdicts(file_entry(b"f")).values()), {Verdict.WRITE})

    def test_same(self) -> None:
        """What has the same type, size and time is to be verified, under every policy: so a restore resumes."""
        self.put("f", b"same")
        self.assertEqual(set(self.verdicts(file_entry(b"f", b"SAME")).values()), {Verdict.VERIFY})

    def test_older_and_newer(self) -> None:
        """What differs is kept under never, and under if-newer unless it is older than the entry; else replaced."""
        self.put("old", b"x", MOMENT - 1)
        self.put("new", b"x", MOMENT + 1)
        write, leave = Verdict.WRITE, Verdict.LEAVE
        expected = {Overwrite.NEVER: leave, Overwrite.IF_CHANGED: write, Overwrite.ALWAYS: write}
        self.assertEqual(self.verdicts(file_entry(b"old", b"xy")), {**expected, Overwrite.IF_NEWER: write})
        self.assertEqual(self.verdicts(file_entry(b"new", b"xy")), {**expected, Overwrite.IF_NEWER: leave})

    def test_symlinks_and_devices_match_by_what_they_are(self) -> None:
        """A symlink with another target does not match, though time and type do."""
        os.symlink("a", self.at("l"))
        os.utime(self.at("l"), ns=(0, MOMENT), follow_symlinks=False)
        entry = Entry(b"l", EntryType.SYMLINK, 0o777, mtime_ns=MOMENT, target=b"a")
        self.assertTrue(self.writer().existing_matches((), entry))
        entry.target = b"b"
        self.assertFalse(self.writer().existing_matches((), entry))

    def test_never_leaves_all(self) -> None:
        """Under never nothing that exists changes, also when it came after the verdict; each is logged."""
        self.put("f", b"mine", 5)
        writer = self.writer()
        self.assertFalse(writer.write_small((), file_entry(b"f", b"theirs"), b"theirs"))
        self.assertFalse(writer.make((), Entry(b"f", EntryType.SYMLINK, target=b"x")))
        file = writer.begin_file((), file_entry(b"f", b"theirs"))
        assert file is not None
        self.assertFalse(writer.finish_file(file))
        self.assertFalse(writer.make((), Entry(b"f", EntryType.DIRECTORY)))
        self.assertEqual((self.content("f"), os.stat(self.at("f")).st_mtime_ns), (b"mine", 5))
        self.assertEqual(os.listdir(self.target), ["f"])
        self.assertEqual(sum(writer.problems.counts.values()), 4)

    def test_existing_directory(self) -> None:
        """A directory of others keeps its attributes under never, and gets the entry's under the other policies."""
        entry = Entry(b"d", EntryType.DIRECTORY, 0o711, os.geteuid(), os.getegid(), MOMENT)
        os.mkdir(self.at("d"))
        os.chmod(self.at("d"), 0o750)
        self.writer().finish_directories([((), entry)])
        self.assertEqual(stat.S_IMODE(os.stat(self.at("d")).st_mode), 0o750)
        for policy in (Overwrite.ALWAYS, Overwrite.IF_CHANGED, Overwrite.IF_NEWER):
            os.chmod(self.at("d"), 0o750)
            self.writer(policy).finish_directories([((), entry)])
            st = os.stat(self.at("d"))
            self.assertEqual((stat.S_IMODE(st.st_mode), st.st_mtime_ns), (0o711, MOMENT))

    def test_replaced_whole(self) -> None:
        """Replacing takes a new inode: other names of the old one keep what they had."""
        self.put("f", b"old")
        os.link(self.at("f"), self.at("other"))
        self.assertTrue(self.writer(Overwrite.ALWAYS).write_small((), file_entry(b"f", b"new"), b"new"))
        self.assertEqual((self.content("f"), self.content("other")), (b"new", b"old"))

    def test_type_changes(self) -> None:
        """Always replaces a file by a directory, an empty directory by a file; a full one is kept and logged."""
        self.put("f", b"")
        os.mkdir(self.at("empty"))
        os.mkdir(self.at("full"))
        self.put("full/x", b"x")
        writer = self.writer(Overwrite.ALWAYS)
        self.assertTrue(writer.write_small((b"f",), file_entry(b"x", b"x"), b"x"))
        self.assertTrue(writer.write_small((), file_entry(b"empty", b"x"), b"x"))
        self.assertFalse(writer.write_small((), file_entry(b"full", b"x"), b"x"))
        self.assertEqual((self.content("f", "x"), self.content("empty"), self.content("full", "x")), (b"x",) * 3)
        self.assertEqual(self.refused(writer.problems), {("place", errno.ENOTEMPTY)})
        self.assertEqual(sorted(os.listdir(self.target)), ["empty", "f", "full"])

    def test_accept_sets_attributes(self) -> None:
        """Accepting what is there gives it the entry's attributes and takes away xattrs of its own; never does not."""
        self.put("f", b"same")
        try:
            os.setxattr(self.at("f"), "user.extra", b"1")
        except OSError as error:
            self.skipTest(f"no user xattrs here: {error.strerror}")
        entry = file_entry(b"f", b"same", mode=0o600, xattrs=((b"user.a", b"1"),))
        self.assertTrue(self.writer().accept((), entry))
        self.assertEqual(os.listxattr(self.at("f")), ["user.extra"])
        self.assertTrue(self.writer(Overwrite.IF_CHANGED).accept((), entry))
        self.assertEqual(os.listxattr(self.at("f")), ["user.a"])
        self.assertEqual(stat.S_IMODE(os.stat(self.at("f")).st_mode), 0o600)


class Links(WriterCase):
    def test_across_directories(self) -> None:
        """Further names of a link group become links of the first, in other directories too; others are written."""
        writer = self.writer()
        first, second = file_entry(b"1", b"c", link_group=4), file_entry(b"2", b"c", link_group=4)
        self.assertFalse(writer.link_to_first((b"a",), first))
        self.assertTrue(writer.write_small((b"a",), first, b"c"))
        self.assertTrue(writer.link_to_first((b"b", b"c"), second))
        self.assertFalse(writer.link_to_first((b"b",), file_entry(b"3", b"c", link_group=5)))
        self.assertFalse(writer.link_to_first((b"b",), file_entry(b"4", b"c")))
        self.assertTrue(os.path.samefile(self.at("a", "1"), self.at("b", "c", "2")))

    def test_replaces_a_copy(self) -> None:
        """Where a copy stands, it is replaced by the link, and no part is left; under never it stays."""
        self.put("1", b"c")
        self.put("2", b"c")
        for policy, linked in ((Overwrite.NEVER, False), (Overwrite.ALWAYS, True), (Overwrite.ALWAYS, True)):
            self.assertEqual(self.writer(policy).link((), file_entry(b"2", b"c"), (), b"1"), linked)
            self.assertEqual(os.path.samefile(self.at("1"), self.at("2")), linked)
            self.assertEqual(sorted(os.listdir(self.target)), ["1", "2"])

    def test_immutable(self) -> None:
        """An immutable file still gets its further names: the flag comes after them."""
        try:
            with open(self.at("probe"), "wb") as probe:
                add_flags(probe.fileno(), IMMUTABLE)
        except OSError as error:
            self.skipTest(f"no such flag here: {error.strerror}")
        writer = self.writer()
        fields = {"link_group": 1, "inode_flags": IMMUTABLE}
        self.assertTrue(writer.write_small((), file_entry(b"1", b"c", **fields), b"c"))
        self.assertTrue(writer.link_to_first((), file_entry(b"2", b"c", **fields)))
        writer.finish_links()
        self.assertEqual(writer.problems.examples, [])
        self.assertTrue(os.path.samefile(self.at("1"), self.at("2")))
        self.assertRaises(PermissionError, open, self.at("1"), "wb")
        again = self.writer(Overwrite.ALWAYS)
        self.assertTrue(again.accept((), file_entry(b"1", b"c", **fields)))
        self.assertEqual(again.problems.examples, [])


class Owners(WriterCase):
    def setUp(self) -> None:
        super().setUp()
        if not IS_ROOT:
            self.skipTest("only root gives files away")

    def test_by_number(self) -> None:
        """By number a file gets the recorded numbers, whatever the names, and keeps setuid."""
        entry = file_entry(b"f", uid=4_000_001, gid=4_000_002, user="daemon", group="no such group", mode=0o6755)
        self.assertTrue(self.writer().write_small((), entry, b""))
        st = os.stat(self.at("f"))
        self.assertEqual((st.st_uid, st.st_gid, stat.S_IMODE(st.st_mode)), (4_000_001, 4_000_002, 0o6755))

    def test_by_name(self) -> None:
        """By name a file gets the numbers that its names have here."""
        writer = self.writer(owners=OwnerMap.by_name())
        self.assertTrue(writer.write_small((), file_entry(b"f", uid=77, gid=78, user="nobody", group="daemon"), b""))
        st = os.stat(self.at("f"))
        self.assertEqual((st.st_uid, st.st_gid), (65534, 1))
        self.assertEqual(writer.problems.examples, [])

    def test_unknown_name(self) -> None:
        """A name that does not resolve never becomes its number: restoring user, no setuid, no setgid, and logged."""
        cases = (("no such user", "daemon"), ("nobody", "no such group"), ("", ""))
        for number, (user, group) in enumerate(cases):
            writer = self.writer(owners=OwnerMap.by_name())
            name = b"%d" % number
            entry = file_entry(name, b"", uid=77, gid=78, user=user, group=group, mode=0o6755)
            self.assertTrue(writer.write_small((), entry, b""))
            st = os.stat(self.at(name.decode()))
            self.assertEqual(stat.S_IMODE(st.st_mode), 0o755)
            self.assertEqual(st.st_uid, 65534 if user == "nobody" else 0)
            self.assertEqual(st.st_gid, 1 if group == "daemon" else 0)
            self.assertTrue(writer.problems.examples)

    def test_minus_one(self) -> None:
        """The number that chown takes for "leave it" is no owner: it does not make a setuid file of root."""
        writer = self.writer()
        entry = file_entry(b"f", uid=0xFFFFFFFF, gid=0xFFFFFFFF, mode=0o6755)
        self.assertTrue(writer.write_small((), entry, b""))
        self.assertEqual(stat.S_IMODE(os.stat(self.at("f")).st_mode), 0o755)
        self.assertEqual(sum(writer.problems.counts.values()), 2)

    def test_acl_by_name(self) -> None:
        """Whom an ACL names is renumbered by name; who has no number here is left out of it, and logged."""
        names = (("g", 1, "no such group"), ("u", 1, "nobody"), ("u", 2, "no such user"))
        entry = file_entry(b"f", xattrs=((ACL_ACCESS.encode(), NAMED_ACL),), acl_names=names, mode=0o660)
        entry.user = entry.group = "root"
        writer = self.writer(owners=OwnerMap.by_name())
        self.assertTrue(writer.write_small((), entry, b""))
        expected = acl((1, 6, None), (2, 4, 65534), (4, 4, None), (0x10, 6, None), (0x20, 0, None))
        self.assertEqual(os.getxattr(self.at("f"), ACL_ACCESS), expected)
        self.assertEqual(sum(writer.problems.counts.values()), 2)


class Refusals(WriterCase):
    def test_one_refused_xattr(self) -> None:
        """An xattr that the system refuses is logged; the others, and all else, are set."""
        entry = file_entry(b"f", b"c", mode=0o640, xattrs=((b"nowhere.x", b"1"), (b"user.ok", b"2")))
        writer = self.writer()
        self.assertTrue(writer.write_small((), entry, b"c"))
        self.assertEqual(self.refused(writer.problems), {("xattr nowhere.x", errno.EOPNOTSUPP)})
        self.assertEqual(os.listxattr(self.at("f")), ["user.ok"])
        self.assertEqual(stat.S_IMODE(os.stat(self.at("f")).st_mode), 0o640)

    def test_impossible_numbers(self) -> None:
        """Numbers that the kernel cannot take are logged, never raised."""
        writer = self.writer()
        writer.write_small((), file_entry(b"time", mtime_ns=1 << 100), b"")
        writer.make((), Entry(b"device", EntryType.CHARACTER_DEVICE, rdev=(1 << 40, 1 << 40)))
        writer.make((), Entry(b"none", EntryType.BLOCK_DEVICE))
        writer.make((), Entry(b"target", EntryType.SYMLINK, target=b"a\0b"))
        writer.make((), Entry(b"empty", EntryType.SYMLINK))
        huge = file_entry(b"size")
        huge.size = 1 << 80
        self.assertIsNone(writer.begin_file((), huge))
        self.assertTrue(len(writer.problems.examples) >= 5, writer.problems.examples)
        self.assertEqual([name for name in os.listdir(self.target) if name.startswith(".mastodon")], [])

    def test_full_disk(self) -> None:
        """A write that fails fails the file for good: nothing under its name, no part, the reason logged."""
        writer = self.writer()
        entry = file_entry(b"f")
        entry.size = 100
        file = writer.begin_file((), entry)
        assert file is not None
        full = os.open("/dev/full", os.O_WRONLY)
        os.dup2(full, file.fd)
        os.close(full)
        self.assertFalse(file.write(0, b"data"))
        self.assertFalse(writer.finish_file(file))
        self.assertEqual(self.refused(writer.problems), {("content", errno.ENOSPC)})
        self.assertEqual(os.listdir(self.target), [])

    def test_log_is_bounded(self) -> None:
        """Problems are all counted, but only so many kept."""
        log = ProblemLog()
        for number in range(12_000):
            log.add((b"d",), b"%d" % number, "owner", errno.EPERM)
        self.assertEqual((len(log.examples), log.counts["owner", errno.EPERM]), (10_000, 12_000))
        self.assertEqual(str(log.examples[3]), "d/3: owner: Operation not permitted")

    def test_directories_in_progress(self) -> None:
        """A directory that is not finished is closed to others, and marked so that a later restore knows it."""
        self.writer().make((), Entry(b"d", EntryType.DIRECTORY, 0o777))
        self.assertEqual(stat.S_IMODE(os.stat(self.at("d")).st_mode), DIRECTORY_IN_PROGRESS)

    def test_capability(self) -> None:
        """File capabilities survive owner and mode, which the kernel would take them away with in another order."""
        value = struct.pack("<5I", 0x02000001, 1 << 10, 0, 0, 0)
        writer = self.writer()
        writer.write_small((), file_entry(b"f", uid=1, mode=0o755, xattrs=((b"security.capability", value),)), b"")
        if writer.problems.examples:
            self.skipTest("capabilities cannot be set here")
        self.assertEqual(os.getxattr(self.at("f"), "security.capability"), value)
