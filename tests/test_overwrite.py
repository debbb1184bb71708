"""Overwrite policies: what is there stays, is verified or is replaced, as each of them says."""

import errno
import os
import stat

from mastodon.host.existing import Overwrite, Verdict
from mastodon.sealed.entry import Entry, EntryType
from tests.writer_case import MOMENT, WriterCase, file_entry


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
        link = Entry(b"f", EntryType.SYMLINK, 0o777, os.geteuid(), os.getegid(), target=b"x")
        self.assertFalse(writer.make((), link))
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
