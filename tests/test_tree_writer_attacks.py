"""Attacks on a restore: whatever is listed and whoever swaps names meanwhile, nothing outside the target changes."""

import os
import stat
from collections.abc import Callable

from mastodon.host.existing import Overwrite, Verdict
from mastodon.sealed.entry import Entry, EntryType
from tests.compare_trees import compare_trees
from tests.writer_case import MOMENT, OTHER_TOKEN, WriterCase, file_entry

HOSTILE = (b"", b".", b"..", b"/", b"a/b", b"../x", b"/etc", b"a\0b", b"\0")


class OutsideCase(WriterCase):
    """Beside the target is a victim directory; a copy of it tells afterwards whether anything was touched."""

    def setUp(self) -> None:
        super().setUp()
        for name in ("outside", "as it was"):
            path = os.path.join(self.base, name)
            os.mkdir(path)
            for file in ("file", "x"):
                with open(os.path.join(path, file), "wb") as opened:
                    opened.write(b"untouched")
                os.utime(os.path.join(path, file), ns=(5, 5))
            os.utime(path, ns=(7, 7))
        self.outside = os.path.join(self.base, "outside")

    def assert_untouched(self) -> None:
        self.assertEqual(compare_trees(os.path.join(self.base, "as it was"), self.outside), [])
        self.assertEqual(sorted(os.listdir(self.base)), ["as it was", "outside", "target"])

    def everything(self, overwrite: Overwrite, directory: tuple[bytes, ...], name: bytes) -> int:
        """Every call of the writer with this place; how many said that they did something."""
        writer = self.writer(overwrite)
        entry = file_entry(name, b"evil", mode=0o777, link_group=1)
        entry.mtime_ns = MOMENT + 5
        nodes = [
            Entry(name, EntryType.SYMLINK, target=b"../outside"),
            Entry(name, EntryType.FIFO, 0o666),
            Entry(name, EntryType.SOCKET, 0o666),
            Entry(name, EntryType.DIRECTORY, 0o777, 1, 1),
        ]
        done: list[object] = [writer.write_small(directory, entry, b"evil")]
        file = writer.begin_file(directory, entry)
        if file is not None:
            file.write(0, b"evil")
            done.append(writer.finish_file(file))
        done += [writer.make(directory, node) for node in nodes]
        done += [writer.link(directory, entry, (), b"here"), writer.link((), file_entry(b"n"), directory, name)]
        done += [writer.accept(directory, entry) and overwrite is not Overwrite.NEVER]
        done += [writer.verdict(directory, entry) is not Verdict.LEAVE, writer.existing_matches(directory, entry)]
        opened = writer.open_existing(directory, name)
        if opened is not None:
            os.close(opened)
            done.append(True)
        writer.remove_leftovers((*directory, name))
        writer.finish_directories([(directory, nodes[3])])
        writer.close()
        return sum(map(bool, done))


class NeverWritesOutside(OutsideCase):
    def test_promise_p4_never_writes_outside_hostile_names(self) -> None:
        """A listing with '..', slashes, NUL or empty names, in the path or last, writes nothing anywhere."""
        self.put("here", b"")
        for overwrite in Overwrite:
            for name in HOSTILE:
                self.assertEqual(self.everything(overwrite, (), name), 0, name)
                self.assertEqual(self.everything(overwrite, (b"here2", name), b"x"), 0, name)
                self.assertEqual(self.everything(overwrite, (name, b"outside"), b"x"), 0, name)
        self.assert_untouched()

    def test_promise_p4_never_writes_outside_through_a_symlink_in_the_target(self) -> None:
        """A symlink in the target is not followed: under never and if-newer it stays, else a directory replaces it."""
        self.put("here", b"")
        for overwrite in Overwrite:
            os.symlink("../outside", self.at("link"))
            self.everything(overwrite, (b"link",), b"file")
            self.everything(overwrite, (b"link", b"deeper"), b"file")
            self.assert_untouched()
            replaced = overwrite in (Overwrite.ALWAYS, Overwrite.IF_CHANGED)
            self.assertEqual(os.path.islink(self.at("link")), not replaced)
            os.rename(self.at("link"), self.at(f"after {overwrite.value}"))

    def test_promise_p4_never_writes_outside_through_a_restored_symlink(self) -> None:
        """A listing that first makes a symlink and then entries below it does not get through it."""
        for overwrite in Overwrite:
            name = overwrite.value.encode()
            writer = self.writer(overwrite)
            self.assertTrue(writer.make((), Entry(name, EntryType.SYMLINK, target=b"../outside")))
            writer.write_small((name,), file_entry(b"file", b"evil"), b"evil")
            writer.make((name,), Entry(b"x", EntryType.DIRECTORY))
            writer.finish_directories([((), Entry(name, EntryType.DIRECTORY, 0o777, 1, 1, MOMENT))])
        self.assert_untouched()

    def test_promise_p4_never_writes_outside_over_a_symlink(self) -> None:
        """An entry replaces the symlink in its place or leaves it; what that points to is untouched."""
        for overwrite in Overwrite:
            for write in (self.small, self.begun, self.accepted):
                os.symlink("../outside/file", self.at("f"))
                write(overwrite)
                self.assert_untouched()
                os.unlink(self.at("f"))

    def small(self, overwrite: Overwrite) -> None:
        self.writer(overwrite).write_small((), file_entry(b"f", b"evil", mode=0o777), b"evil")

    def begun(self, overwrite: Overwrite) -> None:
        writer = self.writer(overwrite)
        file = writer.begin_file((), file_entry(b"f", b"evil", mode=0o777))
        assert file is not None
        file.write(0, b"evil")
        writer.finish_file(file)

    def accepted(self, overwrite: Overwrite) -> None:
        self.writer(overwrite).accept((), file_entry(b"f", b"untouched", mode=0o777, uid=1))


class Swapped(OutsideCase):
    """Somebody who may write in the target swaps things while the restore runs."""

    def swap_directory(self) -> None:
        os.rename(self.at("d"), self.at("moved"))
        os.symlink("../outside", self.at("d"))

    def race(self, overwrite: Overwrite, act: Callable[[], object]) -> None:
        act()
        self.assert_untouched()
        for name in ("d", "moved"):
            path = self.at(name)
            if os.path.islink(path):
                os.unlink(path)
            elif os.path.isdir(path):
                for below in os.listdir(path):
                    os.unlink(os.path.join(path, below))
                os.rmdir(path)

    def test_promise_p4_never_writes_outside_directory_swapped_between_entries(self) -> None:
        """A directory swapped for a symlink between two of its entries: the second does not follow it."""
        for overwrite in Overwrite:
            writer = self.writer(overwrite)

            def act(writer=writer) -> None:
                writer.write_small((b"d",), file_entry(b"one", b"1"), b"1")
                self.swap_directory()
                writer.write_small((b"d",), file_entry(b"file", b"evil"), b"evil")
                writer.verdict((), file_entry(b"at the root, so that d is closed"))
                writer.write_small((b"d",), file_entry(b"file", b"evil"), b"evil")
                writer.write_small((b"d", b"e"), file_entry(b"file", b"evil"), b"evil")
                writer.make((b"d", b"e"), Entry(b"x", EntryType.FIFO))
                writer.close()
                self.remove("moved/e")
                self.remove("d/e")

            self.race(overwrite, act)

    def remove(self, path: str) -> None:
        if os.path.isdir(self.at(path)) and not os.path.islink(self.at(path.split("/")[0])):
            for name in os.listdir(self.at(path)):
                os.unlink(self.at(path, name))
            os.rmdir(self.at(path))

    def test_promise_p4_never_writes_outside_directory_swapped_before_finish(self) -> None:
        """A directory swapped while a large file in it is filled: the file is not finished elsewhere."""
        for overwrite in Overwrite:
            writer = self.writer(overwrite)

            def act(writer=writer) -> None:
                file = writer.begin_file((b"d",), file_entry(b"file", b"evil"))
                file.write(0, b"evil")
                writer.make((b"elsewhere",), Entry(b"x", EntryType.DIRECTORY))  # so that d is opened anew
                self.swap_directory()
                self.assertFalse(writer.finish_file(file))
                self.assertTrue(writer.problems.examples)
                writer.close()

            self.race(overwrite, act)

    def test_promise_p4_never_writes_outside_part_swapped(self) -> None:
        """A begun file's part swapped for a symlink: content goes to the file that was begun, nowhere else."""
        writer = self.writer(Overwrite.ALWAYS)
        file = writer.begin_file((b"d",), file_entry(b"file", b"evil", mode=0o777, uid=1))
        assert file is not None
        path = self.at("d", file.part.decode())
        os.unlink(path)
        os.symlink("../../outside/file", path)
        file.write(0, b"evil")
        writer.finish_file(file)
        self.assert_untouched()

    def test_promise_p4_never_writes_outside_directory_swapped_before_its_attributes(self) -> None:
        """Directories that were swapped for symlinks get no attributes through them."""
        entry = Entry(b"d", EntryType.DIRECTORY, 0o777, 1, 1, MOMENT)
        for overwrite in Overwrite:
            writer = self.writer(overwrite, token=OTHER_TOKEN)

            def act(writer=writer) -> None:
                writer.make((), entry)
                writer.verdict((), file_entry(b"at the root, so that d is closed"))
                self.swap_directory()
                writer.finish_directories([((), entry)])
                writer.close()

            self.race(overwrite, act)

    def test_promise_p4_never_writes_outside_link_to_a_symlink(self) -> None:
        """A first name swapped for a symlink: the further name links the symlink itself, never the file behind it."""
        writer = self.writer()
        writer.write_small((), file_entry(b"1", b"c", link_group=1), b"c")
        os.unlink(self.at("1"))
        os.symlink("../outside/file", self.at("1"))
        writer.link_to_first((), file_entry(b"2", b"c", link_group=1))
        self.assertEqual(os.stat(os.path.join(self.outside, "file")).st_nlink, 1)
        self.assertTrue(not os.path.lexists(self.at("2")) or stat.S_ISLNK(os.lstat(self.at("2")).st_mode))
        self.assert_untouched()
