"""The tree writer: files, links, owners; and what is refused is logged and spoils nothing else."""

import errno
import os
import stat
import struct

from mastodon.host.attributes import ProblemLog
from mastodon.host.existing import Overwrite, Verdict
from mastodon.host.linux import inode_flags
from mastodon.host.owners import OwnerMap
from mastodon.host.parts import FILE_IN_PROGRESS
from mastodon.host.writing_chain import DIRECTORY_IN_PROGRESS
from mastodon.sealed.entry import Entry, EntryType
from tests.odd_trees import ACL_ACCESS, ACL_DEFAULT, IMMUTABLE, NAMED_ACL, acl, add_flags
from tests.writer_case import IS_ROOT, MOMENT, OTHER_TOKEN, TOKEN, WriterCase, file_entry


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

    def killed_in_the_middle(self, *names: str) -> None:
        """Leave what a restore leaves that is killed while it writes a small file: the content is whole or not."""
        os.makedirs(self.at(*names[:-1]), exist_ok=True)
        with open(self.at(*names), "wb") as file:
            file.write(b"half")
        os.chmod(self.at(*names), FILE_IN_PROGRESS)
        os.chmod(self.at(*names[:-1]), DIRECTORY_IN_PROGRESS)

    def test_killed_before_the_mode(self) -> None:
        """A small file that is not complete has a mode that tells so, up to its last step; the next restore writes it
        anew although nothing is to be replaced."""
        seen: list[int] = []
        chmod = os.chmod

        def looked_at(handle: int, mode: int) -> None:
            seen.append(stat.S_IMODE(os.fstat(handle).st_mode))
            self.assertEqual((self.content("d", "f"), os.fstat(handle).st_mtime_ns), (b"content", MOMENT))
            chmod(handle, mode)

        self.patch(os, "chmod", looked_at)
        self.assertTrue(self.writer().write_small((b"d",), file_entry(b"f", b"content"), b"content"))
        self.patch(os, "chmod", chmod)
        self.assertEqual(seen, [FILE_IN_PROGRESS])
        self.killed_in_the_middle("d", "f")
        writer, entry = self.writer(token=OTHER_TOKEN), file_entry(b"f", b"half")
        os.utime(self.at("d", "f"), ns=(MOMENT, MOMENT))
        self.assertIs(writer.verdict((b"d",), entry), Verdict.WRITE)
        self.assertTrue(writer.write_small((b"d",), entry, b"good"))
        self.assertEqual(self.content("d", "f"), b"good")
        self.assertEqual(stat.S_IMODE(os.stat(self.at("d", "f")).st_mode), 0o644)
        self.assertEqual(self.refused(writer.problems), set())

    def test_incomplete_files_of_others(self) -> None:
        """Incomplete files that no entry names are removed too, but only where nobody writes yet; in a directory that
        no restore left unfinished, a file with that mode is somebody's."""
        self.killed_in_the_middle("d", "gone")
        self.killed_in_the_middle("e", "stays")
        os.chmod(self.at("e"), 0o755)
        writer = self.writer()
        self.assertEqual(writer.remove_leftovers((b"d",)), 0)
        self.assertEqual(writer.remove_leftovers((b"d",), named=True), 1)
        self.assertEqual(writer.remove_leftovers((b"e",), named=True), 0)
        self.assertIs(writer.verdict((b"e",), file_entry(b"stays", b"other")), Verdict.LEAVE)
        self.assertEqual((os.listdir(self.at("d")), os.listdir(self.at("e"))), ([], ["stays"]))

    def test_a_file_with_the_mode_of_incomplete_ones(self) -> None:
        """A file whose own mode is that one is never under its name before it is complete."""
        entry = file_entry(b"f", b"content", mode=FILE_IN_PROGRESS)
        seen: list[list[str]] = []
        chmod = os.chmod

        def looked_at(handle: int, mode: int) -> None:
            seen.append(os.listdir(self.at("d")))
            chmod(handle, mode)

        self.patch(os, "chmod", looked_at)
        self.assertTrue(self.writer().write_small((b"d",), entry, b"content"))
        self.assertNotIn("f", seen[0])
        self.assertEqual(os.listdir(self.at("d")), ["f"])

    def test_a_name_that_is_taken(self) -> None:
        """In a directory that is not finished too, what is there stays or goes as the policy says."""
        os.mkdir(self.at("d"))
        os.chmod(self.at("d"), DIRECTORY_IN_PROGRESS)
        for policy, kept in ((Overwrite.NEVER, b"mine"), (Overwrite.ALWAYS, b"new")):
            with open(self.at("d", "f"), "wb") as file:
                file.write(b"mine")
            writer = self.writer(policy)
            done = writer.write_small((b"d",), file_entry(b"f", b"new"), b"new")
            self.assertEqual((done, self.content("d", "f")), (policy is Overwrite.ALWAYS, kept))
            self.assertEqual(os.listdir(self.at("d")), ["f"])

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
