"""Runs of the agent over small trees: what is recorded, what is read, what is sent."""

import os
import shutil
import socket
import stat
import time

from twisted.trial.unittest import SynchronousTestCase

from mastodon.host.linux import inode_flags
from mastodon.sealed.blob import BlobKind
from mastodon.sealed.content import file_hash_key, whole_hash
from mastodon.sealed.entry import Entry, EntryFlag, EntryType, Place, encode_places
from mastodon.sealed.entry_codec import join_entry, pack_entry
from mastodon.sealed.listing import decode_page
from mastodon.sealed.pair import PairRecord
from mastodon.sealed.snapshot import Reason, SnapshotStatus
from mastodon_agent.pages import ListingBuilder, counted_length
from mastodon_agent.records import NO_ROW, pack_listed, unpack_listed
from mastodon_agent.refusals import NothingCommitted
from mastodon_agent.state import ListingWriter
from tests.agent_runs import AgentCase
from tests.fake_append_server import FolderSession


class FirstRunTests(AgentCase):
    """What a first run records."""

    def test_tree_comes_whole(self):
        """Every type, name, mode, time and content stands in the listing, and all content opens with its hash."""
        self.write("plain", b"hello")
        self.write("empty", b"")
        self.write("sub/deep/er", b"x" * 100_000)
        os.symlink("nowhere", self.tree / "dangling")
        os.mkfifo(self.tree / "fifo", 0o640)
        os.chmod(self.tree / "plain", 0o4751)
        os.utime(self.tree / "plain", ns=(5, -1_500_000_001))
        listener = socket.socket(socket.AF_UNIX)
        self.addCleanup(listener.close)
        here = os.open(self.tree, os.O_RDONLY)
        self.addCleanup(os.close, here)
        listener.bind(f"/proc/self/fd/{here}/socket")
        outcome = self.back_up()
        self.assertEqual(outcome.status, SnapshotStatus.COMPLETE)
        entries = self.entries()
        self.assertEqual(
            set(entries), {"plain", "empty", "sub", "sub/deep", "sub/deep/er", "dangling", "fifo", "socket"}
        )
        plain = entries["plain"]
        self.assertEqual(
            (plain.type, plain.mode, plain.mtime_ns, plain.size), (EntryType.FILE, 0o4751, -1_500_000_001, 5)
        )
        self.assertEqual(plain.hash, whole_hash(file_hash_key(self.secret.id_key), b"hello"))
        self.assertEqual(entries["dangling"].target, b"nowhere")
        self.assertEqual((entries["fifo"].type, entries["fifo"].mode), (EntryType.FIFO, 0o640))
        self.assertEqual(entries["socket"].type, EntryType.SOCKET)
        self.assertEqual(self.content("sub/deep/er"), b"x" * 100_000)
        self.assertEqual(self.content("empty"), b"")
        self.assertTrue(entries["empty"].hash)

    def test_ancestors_are_recorded_and_nothing_beside_them(self):
        """What leads to a root is recorded as directories, its siblings are not."""
        self.write("a", b"1")
        self.back_up()
        names = self.vault.tree()
        parts = [os.fsencode(part) for part in self.tree.parts[1:]]
        for depth in range(1, len(parts) + 1):
            self.assertEqual(names[b"/" + b"/".join(parts[:depth])].type, EntryType.DIRECTORY)
        self.assertEqual(len(names), len(parts) + 1)
        root, _ = self.vault.root()
        self.assertEqual(root.roots, (tuple(parts),))
        self.assertEqual((root.entries, root.files, root.content_bytes), (len(names), 1, 1))

    def test_roots_that_are_files_and_symlinks(self):
        """A root may be a file or a symlink; one that lies in another is folded into it."""
        self.write("sub/file", b"1")
        self.write("sub/other", b"2")
        os.symlink("sub", self.tree / "link")
        self.back_up(self.tree / "sub/file", self.tree / "link")
        self.assertEqual(set(self.entries()), {"sub", "sub/file", "link"})
        self.assertEqual(self.entries()["link"].type, EntryType.SYMLINK)
        self.back_up(self.tree / "sub/file", self.tree / "sub")
        self.assertEqual(set(self.entries()), {"sub", "sub/file", "sub/other"})
        self.assertEqual(len(self.vault.root()[0].roots), 1)

    def test_odd_names(self):
        """Names are bytes: newlines, bytes that are no UTF-8, and 255 of them."""
        names = [b"new\nline", b"\xff\xfe", b"n" * 255, b"sp ace", "häß".encode()]
        for name in names:
            with open(os.path.join(os.fsencode(self.tree), name), "wb") as file:
                file.write(name)
        self.back_up()
        self.assertEqual({os.fsencode(name) for name in self.entries()}, set(names))
        for name in names:
            self.assertEqual(self.content(os.fsdecode(name)), name)

    def test_paths_beyond_path_max(self):
        """A tree far deeper than PATH_MAX is walked and recorded."""
        self.addCleanup(shutil.rmtree, self.tree)  # what cleans up after trial stops at PATH_MAX
        depth = 40
        fd = os.open(self.tree, os.O_RDONLY)
        for _ in range(depth):
            os.mkdir(b"d" * 200, dir_fd=fd)
            following = os.open(b"d" * 200, os.O_RDONLY, dir_fd=fd)
            os.close(fd)
            fd = following
        made = os.open(b"leaf", os.O_CREAT | os.O_WRONLY, dir_fd=fd)
        os.write(made, b"deep down")
        os.close(made)
        os.close(fd)
        self.assertEqual(self.back_up().status, SnapshotStatus.COMPLETE)
        leaf = "/".join(["d" * 200] * depth + ["leaf"])
        self.assertEqual(self.content(leaf), b"deep down")

    def test_hard_links_share_group_and_content(self):
        """All names of an inode carry the same group, metadata and content, a symlink's names too."""
        self.write("a/one", b"linked")
        (self.tree / "b").mkdir()
        os.link(self.tree / "a/one", self.tree / "b/two")
        os.symlink("target", self.tree / "a/sym")
        os.link(self.tree / "a/sym", self.tree / "b/sym", follow_symlinks=False)
        self.write("alone", b"alone")
        self.back_up()
        entries = self.entries()
        self.assertTrue(entries["a/one"].link_group)
        self.assertEqual(entries["a/one"].link_group, entries["b/two"].link_group)
        self.assertEqual(entries["a/one"].hash, entries["b/two"].hash)
        self.assertEqual(self.content("b/two"), b"linked")
        self.assertEqual(entries["a/sym"].link_group, entries["b/sym"].link_group)
        self.assertNotEqual(entries["a/sym"].link_group, entries["a/one"].link_group)
        self.assertEqual(entries["alone"].link_group, 0)

    def test_hard_linked_content_is_read_once(self):
        """The second name of an inode does without reading."""
        self.write("a", b"x" * 1000)
        os.link(self.tree / "a", self.tree / "b")
        self.assertEqual(self.back_up().tally.read_files, 1)
        self.assertEqual(self.content("b"), b"x" * 1000)

    def test_identical_files_are_sent_once(self):
        """Content that is there twice lies in one place."""
        content = os.urandom(50_000)
        for name in ("a", "b", "c"):
            self.write(name, content)
        outcome = self.back_up()
        self.assertLess(outcome.sent_bytes, 70_000)
        self.assertEqual(self.content("c"), content)

    def test_flags_and_owners(self):
        """Owner names and inode flags are recorded."""
        self.write("a")
        self.back_up()
        st = os.stat(self.tree / "a")
        entry = self.entries()["a"]
        self.assertEqual((entry.uid, entry.gid), (st.st_uid, st.st_gid))
        fd = os.open(self.tree / "a", os.O_RDONLY)
        self.addCleanup(os.close, fd)
        self.assertEqual(entry.inode_flags, inode_flags(fd))

    def test_many_files_make_many_pages_and_bundles(self):
        """Thousands of files in one directory and in many: each page decodes in order, each content opens."""
        for number in range(3000):
            self.write(f"wide/{number:05}", str(number) * 40)
        for number in range(300):
            self.write(f"many/{number:03}/file", os.urandom(3000))
        self.back_up()
        root, pages = self.vault.root()
        self.assertGreater(len(pages), 2)
        kinds = [blob.header.kind for blob in self.vault.blobs.values()]
        self.assertGreater(kinds.count(BlobKind.BUNDLE), 1)
        self.assertEqual(root.files, 3300)
        self.assertEqual(self.content("wide/02999"), b"2999" * 40)

    def test_the_pair_comes_before_all_else(self):
        """The first run makes pair 1; the second takes it back, since its MAC fits."""
        self.write("a")
        self.back_up()
        self.back_up()
        self.assertEqual(len(self.vault.pairs), 1)
        self.assertEqual(PairRecord.verify(self.vault.pairs[0][0], self.secret.public_key).number, 1)

    def test_an_empty_tree(self):
        """Nothing but directories is a complete snapshot too."""
        self.assertEqual(self.back_up().status, SnapshotStatus.COMPLETE)
        self.assertEqual(self.entries(), {})


class LaterRunTests(AgentCase):
    """What a run does that finds a state."""

    def test_unchanged_files_are_not_opened(self):
        """A second run opens nothing, sends nothing, and commits all the same."""
        self.write("a", b"1")
        self.write("d/b", b"2")
        self.back_up()
        touched = self.work / "touched"

        def tell(step: str, name: bytes) -> None:
            if name in (b"a", b"b"):
                touched.write_bytes(name)

        outcome = self.back_up(watch=tell)
        self.assertFalse(touched.exists())
        self.assertEqual((outcome.sequence, outcome.tally.read_files), (2, 0))
        self.assertLessEqual(outcome.sent_blobs, 2)  # others may have touched a directory on the way to the tree
        self.assertEqual(self.content("d/b"), b"2")

    def test_only_what_changed_is_read_and_sent(self):
        """Of many files, the changed, the new and the gone one make the difference."""
        for number in range(2000):
            self.write(f"d{number % 20:02}/{number:04}", f"content {number} " * 30)
        self.back_up()
        self.write("d03/0003", b"changed")
        self.write("d07/new", b"new")
        os.unlink(self.tree / "d11/0011")
        outcome = self.back_up()
        self.assertEqual(outcome.tally.read_files, 2)
        entries = self.entries()
        self.assertNotIn("d11/0011", entries)
        self.assertEqual(len(entries), 2000 + 20)
        self.assertEqual(self.content("d03/0003"), b"changed")
        self.assertEqual(self.content("d07/new"), b"new")
        self.assertEqual(self.content("d07/0007"), b"content 7 " * 30)
        self.assertEqual(self.content("d03/0003", 0), b"content 3 " * 30)

    def test_unchanged_stretches_keep_their_pages(self):
        """A change in one place leaves the pages elsewhere as they are."""
        for number in range(6000):
            self.write(f"d{number % 10}/{number:05}", b"%d" % number)
        self.back_up()
        before = set(self.vault.root()[1])
        self.write("d5/00005", b"changed")
        self.back_up()
        after = set(self.vault.root()[1])
        self.assertGreater(len(before), 4)
        self.assertLessEqual(len(after - before), 3)

    def test_an_incremental_listing_is_that_of_a_fresh_run(self):
        """Pages that were kept and copied hold what a run without state records."""
        for number in range(1500):
            self.write(f"d{number % 7}/{number:05}", b"%d" % number)
        self.back_up()
        for number in range(0, 1500, 50):
            self.write(f"d{number % 7}/{number:05}", b"changed %d" % number)
        for number in range(7, 1500, 70):
            os.unlink(self.tree / f"d{number % 7}/{number:05}")
        self.back_up()
        kept = self.entries()
        for name in os.listdir(self.state):
            os.unlink(self.state / name)
        self.back_up()
        fresh = self.entries()
        self.assertEqual(set(kept), set(fresh))
        for name, entry in fresh.items():
            self.assertEqual(
                (kept[name].hash, kept[name].size, kept[name].mtime_ns), (entry.hash, entry.size, entry.mtime_ns)
            )
            self.assertEqual(kept[name].link_group, entry.link_group)

    def test_a_renamed_file_is_not_sent_again(self):
        """Content is found again by its hash."""
        self.write("a", os.urandom(300_000))
        self.back_up()
        os.rename(self.tree / "a", self.tree / "z")
        self.assertLess(self.back_up().sent_bytes, 10_000)
        self.assertEqual(len(self.content("z")), 300_000)

    def test_a_change_of_mode_is_recorded(self):
        """ctime alone tells."""
        self.write("a")
        self.back_up()
        os.chmod(self.tree / "a", 0o600)
        self.back_up()
        self.assertEqual(self.entries()["a"].mode, 0o600)

    def test_content_changed_behind_its_mtime_is_noticed(self):
        """Same size and mtime, another ctime: read again."""
        path = self.write("a", b"12345")
        self.back_up()
        st = os.stat(path)
        path.write_bytes(b"54321")
        os.utime(path, ns=(st.st_atime_ns, st.st_mtime_ns))
        self.back_up()
        self.assertEqual(self.content("a"), b"54321")

    def test_racy_files_are_read_again(self):
        """What changed within two seconds of its reading is read again next time, then no more."""
        self.write("a")
        self.back_up(clock=time.time_ns)
        self.assertEqual(self.back_up().tally.read_files, 1)
        self.assertEqual(self.back_up().tally.read_files, 0)

    def test_reread_reads_everything(self):
        """--reread believes no time, and still sends nothing that is there."""
        self.write("a", os.urandom(100_000))
        self.back_up()
        outcome = self.back_up(reread=True)
        self.assertEqual(outcome.tally.read_files, 1)
        self.assertLess(outcome.sent_bytes, 10_000)

    def test_a_file_becomes_a_directory_and_back(self):
        """A change of type takes nothing of the old entry along."""
        self.write("x", b"file")
        self.back_up()
        os.unlink(self.tree / "x")
        self.write("x/inside", b"inside")
        self.back_up()
        self.assertEqual(self.entries()["x"].type, EntryType.DIRECTORY)
        self.assertEqual(self.content("x/inside"), b"inside")
        os.unlink(self.tree / "x/inside")
        os.rmdir(self.tree / "x")
        self.write("x", b"again")
        self.back_up()
        self.assertEqual(set(self.entries()), {"x"})
        self.assertEqual(self.content("x"), b"again")

    def test_other_roots_need_no_other_state(self):
        """The state is merged with whatever is backed up now."""
        self.write("a/1", b"1")
        self.write("b/2", b"2")
        self.back_up(self.tree / "a")
        self.back_up(self.tree / "b")
        self.assertEqual(set(self.entries()), {"b", "b/2"})
        outcome = self.back_up()
        self.assertEqual(set(self.entries()), {"a", "a/1", "b", "b/2"})
        self.assertEqual(outcome.tally.read_files, 1)


class SnapshotTests(AgentCase):
    """The chain of snapshot records."""

    def test_records_follow_each_other(self):
        """Each names the head that the server named, and the one that the agent remembers."""
        self.write("a")
        for number in range(1, 4):
            self.assertEqual(self.back_up().sequence, number)
        first, second = self.vault.record(0), self.vault.record(1)
        self.assertEqual((first.predecessor, first.remembered), (b"", b""))
        self.assertEqual(second.predecessor, second.remembered)
        self.assertEqual(len(second.predecessor), 32)
        self.assertNotEqual(first.run_nonce, second.run_nonce)

    def test_a_head_that_moved_is_taken_up(self):
        """A refused record is made anew on top of the head that the server names then."""
        self.write("a")
        self.back_up()
        session = self.session_behind()
        outcome = self.back_up(session=session)
        self.assertEqual(outcome.sequence, 3)
        self.assertEqual(len(self.vault.snapshots), 3)

    def test_a_head_that_nothing_can_follow(self):
        """A server that names the last number there is, at once or after a refusal, gets no snapshot, which is told."""
        self.write("a")
        self.back_up()
        session = self.session_behind()
        self.patch(self.vault, "head", lambda: (2**64 - 1, b"h" * 32))
        for tried in (session, FolderSession(self.vault)):
            error = self.assertRaises(NothingCommitted, self.back_up, session=tried)
            self.assertIn("no number comes after that: ask its operator", str(error))
        self.assertEqual(len(self.vault.snapshots), 2)

    def session_behind(self):
        """A session that was opened before another run committed."""
        session = FolderSession(self.vault)
        self.back_up()
        return session

    def test_missing_path_is_partial(self):
        """A path that is not there makes the snapshot partial, and is counted."""
        self.write("a")
        outcome = self.back_up(self.tree, self.work / "absent")
        self.assertEqual(outcome.status, SnapshotStatus.PARTIAL)
        self.assertEqual(self.vault.record().counts, ((Reason.MISSING_PATH, 1),))
        self.assertEqual(self.heard.notes[0].path, os.fsencode(self.work / "absent"))
        self.assertIn("a", self.entries())

    def test_modes_survive(self):
        """All twelve mode bits."""
        for mode in (0o7777, 0o1777, 0o2755, 0o0, 0o400):
            path = self.write(f"m{mode:o}")
            os.chmod(path, mode)
        self.back_up()
        for name, entry in self.entries().items():
            self.assertEqual(entry.mode, stat.S_IMODE(os.stat(self.tree / name).st_mode))


class PageLengthTests(SynchronousTestCase):
    """Pages are cut by an estimate of their length, which must never be much too small."""

    def test_estimate_is_no_less(self):
        """For entries of all shapes, with everything at its longest, the estimate covers the encoding."""
        many = tuple(Place(number, 2**40, 2**40) for number in range(256))
        xattrs = tuple((b"user.%03d" % number, b"v" * 900) for number in range(200))
        names = tuple(("u", number, "n" * 200) for number in range(100))
        for entry in (
            Entry(b"n", EntryType.FILE),
            Entry(
                b"n" * 255, EntryType.FILE, 0o7777, 2**32 - 1, 2**32 - 1, -(2**62), 2**62, hash=b"h" * 32, places=many
            ),
            Entry(b"n", EntryType.FILE, size=2**40, hash=b"h" * 32, places=many[:1], birth_ns=2**62, link_group=2**63),
            Entry(b"n", EntryType.SYMLINK, target=b"t" * 4096),
            Entry(b"n", EntryType.FILE, xattrs=xattrs, acl_names=names, inode_flags=2**20, error=5, birth_ns=2**60),
            Entry(b"n", EntryType.BLOCK_DEVICE, rdev=(2**31, 2**31), flags=EntryFlag.CARRIED, user="u" * 256),
        ):
            packed, places = pack_entry(entry), encode_places(entry.places)
            most = counted_length(len(packed.before) + len(packed.behind), len(entry.places))
            self.assertGreaterEqual(most, len(join_entry(packed, places, {})), entry.type)

    def test_pages_of_large_entries_stay_within_their_bound(self):
        """Entries with much metadata, in deep directories, never make a page that a reader refuses."""
        pages: list[tuple[list[bytes], bytes]] = []

        def put(references: list[bytes], plaintext: bytes) -> bytes:
            pages.append((references, plaintext))
            return len(pages).to_bytes(32, "big")

        folder = os.path.abspath(self.mktemp())
        os.mkdir(folder)
        listing = ListingBuilder(put, ListingWriter(folder, b"m" * 32, b"p" * 16))
        xattrs = tuple((b"user.%d" % number, b"v" * 60_000) for number in range(4))
        for depth in range(60):
            directory = (*(b"d" * 255 for _ in range(1400)), b"%03d" % depth)
            entry = Entry(b"e", EntryType.FILE, uid=depth, user="u" * 250, xattrs=xattrs if depth % 3 else ())
            entry.target, entry.hash = b"", b"h" * 32
            listing.add(directory, unpack_listed(pack_listed(entry, NO_ROW, False))[0], None, NO_ROW)
        listing.close()
        self.assertGreater(len(pages), 10)
        for references, plaintext in pages:
            decode_page(plaintext, len(references))
