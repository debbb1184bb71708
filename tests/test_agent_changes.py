"""Files that change, vanish or cannot be read while a run is at work: the status that the design gives each."""

import errno
import gc
import os
import shutil
import weakref
from unittest import mock

from mastodon.sealed.entry import EntryFlag, EntryType
from mastodon.sealed.snapshot import Reason, SnapshotStatus
from mastodon_agent import large_reader, reader
from mastodon_agent.chunk import MOST_PIECES, LargeFile, make_chunker
from mastodon_agent.refresh import Noted
from tests.agent_runs import AgentCase


def at(step: str, name: bytes, act):
    """A watch that acts when the reader comes to ``step`` of the file ``name``; each time."""

    def watch(now: str, which: bytes) -> None:
        if (now, which) == (step, name):
            act()

    return watch


class ChangedWhileReadTests(AgentCase):
    """Between lstat, open, read and the look afterwards."""

    def counts(self) -> dict[Reason, int]:
        return dict(self.vault.record().counts)

    def test_gone_before_open_is_gone(self):
        """A file that vanishes before it is opened has no entry; the snapshot is complete."""
        path = self.write("a")
        self.write("b")
        outcome = self.back_up(watch=at("open", b"a", path.unlink))
        self.assertEqual(outcome.status, SnapshotStatus.COMPLETE)
        self.assertEqual(set(self.entries()), {"b"})
        self.assertEqual(self.counts(), {Reason.GONE: 1})

    def test_gone_after_a_first_run_takes_the_old_entry_along(self):
        """A changed file that vanishes before it is opened leaves no old entry behind."""
        path = self.write("a", b"old")
        self.write("b")
        self.back_up()
        path.write_bytes(b"new one")
        self.back_up(watch=at("open", b"a", path.unlink))
        self.assertEqual(set(self.entries()), {"b"})

    def test_unlinked_after_open_is_still_read(self):
        """Once open, a file is read whole although its name goes."""
        path = self.write("a", b"still here")
        self.back_up(watch=at("read", b"a", path.unlink))
        self.assertEqual(self.content("a"), b"still here")

    def test_growth_is_left_for_the_next_run(self):
        """What was appended after the open comes with the next run; complete, counted."""
        path = self.write("log", b"first\n")

        def append() -> None:
            with open(path, "ab") as file:
                file.write(b"second\n")

        outcome = self.back_up(watch=at("read", b"log", append))
        self.assertEqual(outcome.status, SnapshotStatus.COMPLETE)
        self.assertEqual(self.content("log"), b"first\n")
        self.assertEqual(self.entries()["log"].flags, EntryFlag(0))
        self.assertEqual(self.counts(), {Reason.GREW: 1})
        self.back_up()
        self.assertEqual(self.content("log"), b"first\nsecond\n")

    def test_rewritten_once_is_read_again(self):
        """A file that holds still at the second try is recorded as it is then, not fuzzy."""
        path = self.write("a", b"12345")
        with mock.patch.object(reader, "read_into", self.changing(path, times=1)):
            outcome = self.back_up()
        self.assertEqual(outcome.status, SnapshotStatus.COMPLETE)
        self.assertEqual(self.counts(), {})
        self.assertEqual(self.entries()["a"].flags, EntryFlag(0))
        self.assertEqual(self.content("a"), path.read_bytes())

    def test_rewritten_at_each_try_is_fuzzy(self):
        """A file that never holds still is kept as it came, flagged, counted; the snapshot is complete."""
        path = self.write("a", b"12345")
        with mock.patch.object(reader, "read_into", self.changing(path, times=99)):
            outcome = self.back_up()
        self.assertEqual(outcome.status, SnapshotStatus.COMPLETE)
        self.assertEqual(self.counts(), {Reason.FUZZY: 1})
        self.assertEqual(self.entries()["a"].flags, EntryFlag.FUZZY)
        self.assertEqual(len(self.content("a")), 5)
        self.assertEqual(self.back_up().tally.read_files, 1)
        self.assertEqual(self.entries()["a"].flags, EntryFlag(0))

    def test_shrinking_at_each_try_is_fuzzy(self):
        """A file that shrinks under the reader is recorded with the size that was read."""
        path = self.write("a", b"x" * 1000)
        sizes = iter((900, 800, 700, 600))

        def shrink(fd: int, view: memoryview, offset: int) -> int:
            os.truncate(path, next(sizes))
            return large_reader.read_into(fd, view, offset)

        with mock.patch.object(reader, "read_into", shrink):
            self.back_up()
        self.assertEqual(self.counts(), {Reason.FUZZY: 1})
        self.assertEqual(self.entries()["a"].size, len(self.content("a")))

    def test_large_file_that_changes_once(self):
        """A large file starts over, and comes out whole and as it is at the end."""
        path = self.write("big", os.urandom(3_000_000))
        original, calls = large_reader.read_into, []

        def change(fd: int, view: memoryview, offset: int) -> int:
            calls.append(offset)
            got = original(fd, view, offset)
            if len(calls) == 3:
                with open(path, "r+b") as file:
                    file.write(b"changed in place")
            return got

        with mock.patch.object(large_reader, "read_into", change):
            self.back_up()
        self.assertEqual(self.counts(), {})
        self.assertEqual(self.content("big"), path.read_bytes())

    def test_large_file_that_grows(self):
        """Growth of a large file is left for the next run as well."""
        path = self.write("big", os.urandom(2_000_000))
        before = path.read_bytes()

        def append() -> None:
            with open(path, "ab") as file:
                file.write(b"tail" * 1000)

        self.back_up(watch=at("read", b"big", append))
        self.assertEqual(self.content("big"), before)
        self.assertEqual(self.counts(), {Reason.GREW: 1})

    def test_swapped_for_a_symlink_before_open(self):
        """What is a symlink by the time of the open is recorded as that, and not followed."""
        path = self.write("a", b"file")
        secret = self.work / "secret"
        secret.write_bytes(b"not to be read")

        def swap() -> None:
            path.unlink()
            path.symlink_to(secret)

        outcome = self.back_up(watch=at("open", b"a", swap))
        self.assertEqual(outcome.status, SnapshotStatus.COMPLETE)
        self.assertEqual(self.entries()["a"].type, EntryType.SYMLINK)

    def test_swapped_for_a_fifo_before_open(self):
        """A fifo in a file's stead does not block the run."""
        path = self.write("a", b"file")

        def swap() -> None:
            path.unlink()
            os.mkfifo(path)

        self.back_up(watch=at("open", b"a", swap))
        self.assertEqual(self.entries()["a"].type, EntryType.FIFO)

    def test_a_directory_that_vanishes(self):
        """A directory that goes between its listing and its visit is gone with all in it."""
        self.write("d/file")
        self.write("a")

        def remove() -> None:
            (self.tree / "d/file").unlink()
            (self.tree / "d").rmdir()

        outcome = self.back_up(watch=at("open", b"a", remove))
        self.assertEqual(outcome.status, SnapshotStatus.COMPLETE)
        self.assertNotIn("d/file", self.entries())

    @staticmethod
    def changing(path, times: int):
        """``read_into`` that has the file rewritten in place while it is read, so many times."""
        count = iter(range(1000))

        def change(fd: int, view: memoryview, offset: int) -> int:
            got = large_reader.read_into(fd, view, offset)
            number = next(count)
            if number < times:
                with open(path, "r+b") as file:
                    file.write(b"%05d" % number)
                os.utime(path, ns=(0, number + 1))
            return got

        return change


class UnreadableTests(AgentCase):
    """What cannot be read makes the snapshot partial, and its last good copy stays."""

    def refuse(self, name: bytes, number: int = errno.EACCES):
        """Opening that file fails."""
        original = reader.open_quietly

        def refusing(which: bytes, dir_fd: int) -> int:
            if which == name:
                raise OSError(number, os.strerror(number))
            return original(which, dir_fd)

        return mock.patch.object(reader, "open_quietly", refusing)

    def fail_reading(self, content_of: str):
        """Reading from that file fails."""
        inode = os.stat(self.tree / content_of).st_ino
        original = large_reader.read_into

        def failing(fd: int, view: memoryview, offset: int) -> int:
            if os.fstat(fd).st_ino == inode and offset + len(view) > 2:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return original(fd, view, offset)

        stack = mock.patch.object(reader, "read_into", failing), mock.patch.object(large_reader, "read_into", failing)
        for one in stack:
            one.start()
            self.addCleanup(one.stop)
        return stack

    def test_unreadable_file_without_old_copy(self):
        """It is recorded with its metadata and the error, without content; partial."""
        self.write("a", b"secret")
        self.write("b", b"fine")
        with self.refuse(b"a"):
            outcome = self.back_up()
        self.assertEqual(outcome.status, SnapshotStatus.PARTIAL)
        entry = self.entries()["a"]
        self.assertEqual((entry.size, entry.error, entry.places, entry.hash), (6, errno.EACCES, (), b""))
        self.assertEqual(self.vault.record().counts, ((Reason.UNREADABLE, 1),))
        self.assertEqual(self.content("b"), b"fine")

    def test_last_good_copy_is_carried_over(self):
        """The old entry stays, flagged, until the file can be read again."""
        self.write("a", b"good")
        self.back_up()
        self.write("a", b"better")
        with self.refuse(b"a"):
            outcome = self.back_up()
        self.assertEqual(outcome.status, SnapshotStatus.PARTIAL)
        entry = self.entries()["a"]
        self.assertEqual((entry.flags, entry.size), (EntryFlag.CARRIED, 4))
        self.assertEqual(self.content("a"), b"good")
        self.assertEqual(dict(self.vault.record().counts), {Reason.UNREADABLE: 1, Reason.CARRIED: 1})
        with self.refuse(b"a"):
            self.back_up()
        self.assertEqual(self.content("a"), b"good")
        self.assertEqual(self.back_up().status, SnapshotStatus.COMPLETE)
        self.assertEqual(self.content("a"), b"better")
        self.assertEqual(self.entries()["a"].flags, EntryFlag(0))

    def test_a_carried_file_without_content_stays_an_error(self):
        """An entry that never had content is not taken for a good copy."""
        self.write("a", b"never read")
        with self.refuse(b"a"):
            self.back_up()
            self.back_up()
        entry = self.entries()["a"]
        self.assertEqual((entry.error, entry.flags), (errno.EACCES, EntryFlag(0)))

    def test_read_error_in_a_small_file(self):
        """EIO is counted as such; the old copy stays."""
        self.write("a", b"good")
        self.back_up()
        self.write("a", b"on a bad sector")
        self.fail_reading("a")
        self.back_up()
        self.assertEqual(dict(self.vault.record().counts), {Reason.IO_ERROR: 1, Reason.CARRIED: 1})
        self.assertEqual(self.content("a"), b"good")

    def test_read_error_in_the_middle_of_a_large_file(self):
        """What was read of it is dropped; the files after it are as they should be."""
        self.write("big", os.urandom(2_000_000))
        self.write("next", b"fine")
        self.fail_reading("big")
        outcome = self.back_up()
        self.assertEqual(outcome.status, SnapshotStatus.PARTIAL)
        self.assertEqual(self.entries()["big"].error, errno.EIO)
        self.assertEqual(self.content("next"), b"fine")

    def test_unreadable_directory_carries_all_below(self):
        """A directory that cannot be listed keeps all its old entries, in order, flagged."""
        self.write("d/a", b"1")
        self.write("d/e/b", b"2")
        self.write("z", b"3")
        self.back_up()
        self.write("d/new", b"unseen")
        original = os.listdir
        inode = os.stat(self.tree / "d").st_ino

        def refusing(fd):
            if os.stat(fd).st_ino == inode:
                raise PermissionError(errno.EACCES, "no")
            return original(fd)

        with mock.patch.object(os, "listdir", refusing):
            outcome = self.back_up()
        self.assertEqual(outcome.status, SnapshotStatus.PARTIAL)
        entries = self.entries()
        self.assertEqual(set(entries), {"d", "d/a", "d/e", "d/e/b", "z"})
        self.assertEqual(entries["d/e/b"].flags, EntryFlag.CARRIED)
        self.assertEqual(entries["z"].flags, EntryFlag(0))
        self.assertEqual(self.content("d/e/b"), b"2")
        self.assertEqual(dict(self.vault.record().counts), {Reason.UNREADABLE: 1, Reason.CARRIED: 3})
        self.assertEqual(self.back_up().status, SnapshotStatus.COMPLETE)
        self.assertEqual(self.content("d/new"), b"unseen")

    def test_missing_path_carries_what_was_there(self):
        """A path that was backed up before and is not there now keeps its last good copy."""
        self.write("mount/data", b"precious")
        self.back_up(self.tree / "mount")
        os.rename(self.tree / "mount", self.work / "away")
        outcome = self.back_up(self.tree / "mount")
        self.assertEqual(outcome.status, SnapshotStatus.PARTIAL)
        self.assertEqual(self.content("mount/data"), b"precious")
        self.assertEqual(self.entries()["mount/data"].flags, EntryFlag.CARRIED)


class LargeFileTests(AgentCase):
    """Chunks, holes, maps."""

    def test_sparse_file(self):
        """Holes stay holes, content between them is kept, and only data is sent."""
        path = self.tree / "sparse"
        with open(path, "wb") as file:
            file.truncate(300_000_000)
            file.seek(50_000_000)
            file.write(os.urandom(100_000))
            file.seek(250_000_000)
            file.write(os.urandom(70_000))
        outcome = self.back_up()
        self.assertLess(outcome.sent_bytes, 400_000)
        entry = self.entries()["sparse"]
        self.assertEqual(entry.size, 300_000_000)
        holes = [place for place in entry.places if place.reference < 0]
        self.assertEqual(len(holes), 3)
        self.assertGreater(sum(hole.length for hole in holes), 299_000_000)

    def test_file_of_nothing_but_a_hole(self):
        """A file without any data is one hole."""
        with open(self.tree / "hole", "wb") as file:
            file.truncate(10_000_000)
        self.back_up()
        entry = self.entries()["hole"]
        self.assertEqual([(place.reference, place.length) for place in entry.places], [(-1, 10_000_000)])
        self.assertEqual(self.content("hole"), bytes(10_000_000))

    def test_small_sparse_file(self):
        """A file of bundle size with holes keeps them."""
        with open(self.tree / "s", "wb") as file:
            file.write(b"start")
            file.seek(200_000)
            file.write(b"end")
        self.back_up()
        self.assertEqual(self.content("s"), (self.tree / "s").read_bytes())

    def test_change_in_the_middle_sends_little(self):
        """An edit inside a large file sends the chunks around it."""
        content = bytearray(os.urandom(8_000_000))
        self.write("big", bytes(content))
        self.back_up()
        content[4_000_000:4_000_010] = b"0123456789"
        self.write("big", bytes(content))
        outcome = self.back_up()
        self.assertLess(outcome.sent_bytes, 400_000)
        self.assertEqual(self.content("big"), bytes(content))

    def test_insertion_at_the_start_sends_little(self):
        """Cuts follow the content: what is shifted is not sent again."""
        content = os.urandom(8_000_000)
        self.write("big", content)
        self.back_up()
        self.write("big", b"inserted" + content)
        self.assertLess(self.back_up().sent_bytes, 400_000)
        self.assertEqual(self.content("big"), b"inserted" + content)

    def test_long_lists_go_into_maps(self):
        """A file that was edited in many places has a few maps in its entry, opens whole, and its maps stay."""
        content = bytearray(os.urandom(1_000_000) * 2 + os.urandom(22_000_000))
        self.write("huge", bytes(content))
        self.back_up()
        self.assertGreater(len(self.entries()["huge"].places), 10)  # a blob each
        for at in range(0, len(content), 60_000):
            content[at : at + 4] = b"edit"
        self.write("huge", bytes(content))
        self.back_up()
        self.assertLess(len(self.entries()["huge"].places), 5)
        self.assertEqual(self.content("huge"), content)
        content[23_000_000:23_000_004] = b"more"
        self.write("huge", bytes(content))
        with mock.patch("mastodon_agent.refresh.load", return_value=Noted()):  # nothing is made anew
            self.assertLess(self.back_up().sent_bytes, 120_000)
        self.assertEqual(self.content("huge"), content)
        self.assertEqual(self.back_up().tally.read_files, 0)
        self.assertEqual(self.content("huge"), content)

    def test_number_of_pieces_is_bounded(self):
        """Pieces grow with the file, so that their number hardly does."""
        sizes = [1 << bits for bits in (20, 30, 31, 34, 37, 40, 43)]
        averages = [make_chunker(size, 1).avg_size for size in sizes]
        self.assertEqual(averages, sorted(averages))
        self.assertEqual(averages[0], 16 * 1024)
        self.assertLessEqual(max(size // one for size, one in zip(sizes[:-1], averages, strict=False)), MOST_PIECES)
        self.assertEqual(averages[-1], 4 << 20)

    def test_memory_is_given_back_at_once(self):
        """A large file's buffer goes with it: many files of some megabytes need no more than one."""
        gc.disable()
        self.addCleanup(gc.enable)
        large = LargeFile(mock.Mock(find=mock.Mock(return_value=None), hash_piece=bytes), 1, 3_000_000)
        large.data(memoryview(os.urandom(3_000_000)))
        large.finish(b"", 3_000_000)
        alive = weakref.ref(large)
        del large
        self.assertIsNone(alive())

    def test_same_content_is_sent_once(self):
        """Pieces that a file has twice, or another file has too, are not sent again."""
        content = os.urandom(3_000_000)
        self.write("one", content + b"x" * 10 + content)
        self.write("two", b"y" * 100_000 + content)
        self.assertLess(self.back_up().sent_bytes, 3_600_000)
        self.assertEqual(self.content("one"), content + b"x" * 10 + content)
        self.assertEqual(self.content("two"), b"y" * 100_000 + content)

    def test_blobs_are_the_same_without_state(self):
        """A file that nobody remembers makes the blobs that it made at first: none is sent again."""
        self.write("big", os.urandom(6_000_000))
        self.back_up()
        shutil.rmtree(self.state)
        self.state.mkdir()
        self.assertLess(self.back_up().sent_bytes, 20_000)

    def test_large_file_that_fails_leaves_no_place_open(self):
        """What was read of a file that then fails, or starts over, can be referred to by others."""
        content = os.urandom(700_000)
        self.write("a", content)
        self.write("b", content)
        original, calls = large_reader.read_into, []

        def fail_at_the_end(fd, view, offset):
            calls.append(offset)
            if len(calls) == 2:
                raise OSError(5, "Input/output error")
            return original(fd, view, offset)

        with mock.patch.object(large_reader, "read_into", fail_at_the_end):
            outcome = self.back_up()
        self.assertEqual(outcome.status, SnapshotStatus.PARTIAL)
        self.assertEqual(self.content("b"), content)
        self.assertEqual(self.vault.missing(self.vault.record().root), [])
