"""Restoring trees: everything comes back as it was, in parts and whole, also over what is there already."""

import os
import stat
import subprocess
import sys
from typing import Any

from mastodon.host.existing import Overwrite
from mastodon.restore import delta as delta_module
from mastodon.restore import fetch, tree
from mastodon.restore.errors import Distrusted
from mastodon.sealed.blob import BlobKind
from mastodon.sealed.entry import Delta, EntryFlag, EntryType, Place
from mastodon.sealed.listing import Section
from mastodon.wire.errors import ErrorCode
from mastodon.wire.messages import Message, make_error
from mastodon.wire.restore_client import split_ids
from mastodon.wire.restore_messages import FetchRequest, RunsRequest
from tests import fake_restore_server
from tests.compare_trees import UNPRIVILEGED, compare_trees
from tests.fake_restore_server import FakeAdmin, FakeStream, fake_backup, swap_data
from tests.odd_trees import make_odd_tree, remove_tree
from tests.restore_case import FILES, RestoreCase, entry, listed

MIB = 1024 * 1024


class WholeTreeTests(RestoreCase):
    """A whole snapshot."""

    def test_files_come_back(self):
        """Contents, modes and times of files and directories are those of the listing."""
        report = self.restore()
        self.assertTrue(report.complete, report)
        self.assertEqual(self.files(), FILES)
        self.assertEqual((report.files, report.content_bytes), (3, sum(map(len, FILES.values()))))
        there = os.stat(self.target() / "etc")
        self.assertEqual((stat.S_IMODE(there.st_mode), there.st_mtime_ns), (0o755, entry(b"etc").mtime_ns))

    def test_odd_tree_comes_back(self):
        """A tree with everything that backups get wrong is restored without a difference, over several windows."""
        self.patch(tree, "DIRECTORIES_AT_ONCE", 10)
        self.patch(fetch, "BATCH_BLOBS", 7)
        odd = str(self.top / "odd")
        make_odd_tree(odd)
        self.addCleanup(remove_tree, odd)
        backup = fake_backup()
        backup.tree(odd, entries_a_page=50)
        self.admin = FakeAdmin(backup)
        report = self.restore(workers=2)
        self.addCleanup(remove_tree, str(self.target()))
        left_out = () if os.geteuid() == 0 else UNPRIVILEGED
        differences = [one for one in compare_trees(odd, str(self.target()), leave_out=left_out) if one.path != b"."]
        self.assertEqual(differences, [], "\n".join(map(str, differences[:10])))
        if os.geteuid() == 0:
            self.assertTrue(report.complete, report)

    def test_large_and_sparse_files(self):
        """Files of many chunks, with maps, holes and chunks that repeat, come back whole."""
        top = self.top / "from"
        top.mkdir()
        (top / "big").write_bytes(os.urandom(20 * MIB) + bytes(4 * MIB) + os.urandom(300 * 1024))
        with open(top / "sparse", "wb") as file:
            file.truncate(64 * MIB)
            file.seek(30 * MIB)
            file.write(b"in the middle")
        with open(top / "hole", "wb") as file:
            file.truncate(5 * MIB)
        backup = fake_backup()
        backup.tree(top)
        self.admin = FakeAdmin(backup)
        report = self.restore(workers=2)
        self.assertTrue(report.complete, report)
        self.assertEqual([one for one in compare_trees(str(top), str(self.target())) if one.path != b"."], [])
        self.assertEqual(self.restore(verify=True).kept_files, 3)

    def test_hard_links(self):
        """Names of one link group are one inode again, wherever they lie."""
        files = listed({"a/one": b"same", "b/two": b"", "c/three": b""})
        for _directory, one, _ in files:
            if one.type is EntryType.FILE:
                one.link_group = 7
        content = b"same"
        for _, one, _ in files:
            if one.type is EntryType.FILE:
                one.size, one.hash, one.places = 4, self.backup.hash(content), (Place(0, 0, 4),)
        reference = self.backup.seal(BlobKind.BUNDLE, content)
        sections = [Section(directory, [one]) for directory, one, _ in files if one.type is EntryType.FILE]
        tops = Section((), [one for directory, one, _ in files if not directory])
        page = self.backup.page([tops, *sections], [reference])
        self.backup.snapshot(self.backup.root([(page, [tops, *sections])]))
        report = self.restore(to="linked")
        self.assertEqual((report.files, report.links), (1, 2))
        inodes = {os.stat(self.target("linked") / path).st_ino for path in ("a/one", "b/two", "c/three")}
        self.assertEqual(len(inodes), 1)

    def test_notes_of_the_backup_are_counted(self):
        """Carried over and fuzzy entries are restored and told."""
        files = listed(FILES)
        files[-1][1].flags = EntryFlag.CARRIED | EntryFlag.FUZZY
        self.backup.small(files)
        report = self.restore()
        self.assertEqual((report.carried, report.fuzzy, report.complete), (1, 1, True))

    def test_what_was_never_read_is_told(self):
        """A file that could not be read when it was backed up is named with the reason, and not made."""
        unread = entry(b"shadow", size=900, error=13)
        sections = [Section((), [unread])]
        self.backup.snapshot(self.backup.root([(self.backup.page(sections, ()), sections)]))
        report = self.restore()
        self.assertEqual(report.lost_count, 1)
        self.assertIn("/shadow: its content could not be read when it was backed up: Permission denied", report.losses)
        self.assertEqual(self.files(), {})


class SelectedTests(RestoreCase):
    """Parts of a snapshot."""

    def test_path_brings_what_is_below_and_its_ancestors(self):
        """A PATH is restored with the directories on the way to it, and nothing else."""
        report = self.restore("/etc/passwd")
        self.assertEqual(list(self.files()), ["etc/passwd"])
        self.assertTrue(report.complete)
        self.assertEqual(os.stat(self.target() / "etc").st_mtime_ns, entry(b"etc").mtime_ns)
        self.restore("srv", to="srv")
        self.assertEqual(list(self.files("srv")), ["srv/index.html"])

    def test_pattern(self):
        """Patterns match name by name; ** any depth."""
        self.restore("/*/h*")
        self.restore("**/*.html")
        self.assertEqual(list(self.files()), ["etc/hostname", "srv/index.html"])

    def test_missing_path_is_named(self):
        """A PATH that is not there is told, and the others are restored."""
        report = self.restore("/etc/passwd", "/no/such")
        self.assertEqual(list(self.files()), ["etc/passwd"])
        self.assertEqual(report.losses, ["/no/such"])

    def test_only_wanted_pages_are_fetched(self):
        """For a PATH the pages are found by binary search: the others are not asked for."""
        many = {f"d{number:03}/file": b"x%d" % number for number in range(300)}
        backup = fake_backup()
        top = self.top / "many"
        for path, content in many.items():
            (top / path).parent.mkdir(parents=True)
            (top / path).write_bytes(content)
        backup.tree(top, entries_a_page=10)
        self.admin = FakeAdmin(backup)
        self.restore("/d150/file")
        asked = ids_asked_for(self.admin, FetchRequest, RunsRequest)
        self.assertLess(asked, 10)
        self.assertEqual(self.files(), {"d150/file": b"x150"})


class ResumeTests(RestoreCase):
    """A second run over what is there."""

    def fetched(self) -> int:
        """Blobs asked for so far."""
        return ids_asked_for(self.admin, FetchRequest)

    def test_second_run_fetches_no_content(self):
        """What is there with its size and time is kept, and only the listing is fetched."""
        self.restore()
        before = self.fetched()
        report = self.restore()
        self.assertEqual(self.fetched() - before, 2)
        self.assertEqual((report.files, report.kept_files, report.complete), (0, 3, True))

    def test_second_run_fetches_the_rest(self):
        """What is missing is written; leftovers of a killed run are taken away."""
        self.restore()
        (self.target() / "etc/hostname").unlink()
        leftover = self.target() / "etc" / ".mastodon-0123456789abcdef-100000001.part"
        leftover.write_bytes(b"half of someth")
        report = self.restore()
        self.assertEqual((report.files, report.kept_files), (1, 2))
        self.assertEqual(self.files(), FILES)

    def test_second_run_leaves_the_times_of_directories(self):
        """A directory that the first run finished without one of its files keeps its time in the second."""
        self.restore()
        etc = self.target() / "etc"
        finished = os.stat(etc).st_mtime_ns
        (etc / "hostname").unlink()
        os.utime(etc, ns=(finished, finished))
        self.assertTrue(self.restore().complete)
        self.assertEqual((self.files(), os.stat(etc).st_mtime_ns), (FILES, finished))

    def test_killed_restore_leaves_parts_only(self):
        """Killed anywhere, a restore leaves whole files and parts; the next run completes it."""
        script = (
            "import os, sys, signal\n"
            "from pathlib import Path\n"
            "from tests.restore_case import *\n"
            "from mastodon.restore import dispatch\n"
            "case = RestoreCase('run'); case.setUp()\n"
            "case.top = Path(sys.argv[1])\n"
            "backup = fake_backup(); backup.tree(sys.argv[2]); case.admin = FakeAdmin(backup)\n"
            "seen = []\n"
            "came = dispatch.Dispatcher.blob_came\n"
            "def killed(self, *rest):\n"
            "    seen.append(rest)\n"
            "    if len(seen) == 60: os.kill(os.getpid(), signal.SIGKILL)\n"
            "    came(self, *rest)\n"
            "dispatch.Dispatcher.blob_came = killed\n"
            "case.restore()\n"
        )
        top = self.top / "from"
        top.mkdir()
        (top / "a").write_bytes(os.urandom(3 * MIB))
        (top / "b").write_bytes(os.urandom(3 * MIB))
        (top / "c").write_bytes(b"small")
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        done = subprocess.run(
            [sys.executable, "-c", script, self.top, top], env=environment, capture_output=True, check=False
        )
        self.assertEqual(done.returncode, -9, done.stderr.decode())
        for name, content in self.files().items():
            whole = not name.endswith(".part")
            self.assertTrue(not whole or content == (top / name).read_bytes(), name)
        backup = fake_backup()
        backup.tree(top)
        self.admin = FakeAdmin(backup)
        self.assertTrue(self.restore().complete)
        self.assertEqual(self.files(), {name: (top / name).read_bytes() for name in ("a", "b", "c")})

    def test_existing_others_stay_by_default(self):
        """Under `never` another file of that name stays and is told; under `always` it is replaced."""
        path = self.target() / "etc/hostname"
        path.parent.mkdir(parents=True)
        path.write_bytes(b"mine")
        report = self.restore()
        self.assertFalse(report.complete)
        self.assertEqual(path.read_bytes(), b"mine")
        self.assertTrue(self.restore(overwrite=Overwrite.ALWAYS).complete)
        self.assertEqual(self.files(), FILES)

    def test_verify_finds_changed_content(self):
        """With --verify a file of the same size and time with another content is found, and told or replaced."""
        self.restore()
        path = self.target() / "etc/hostname"
        path.write_bytes(b"WEB01\n")
        os.utime(path, ns=(entry(b"x").mtime_ns, entry(b"x").mtime_ns))
        self.assertTrue(self.restore().complete)
        self.assertFalse(self.restore(verify=True).complete)
        self.assertTrue(self.restore(verify=True, overwrite=Overwrite.IF_CHANGED).complete)
        self.assertEqual(self.files(), FILES)


class DeltaTests(RestoreCase):
    """Files that are kept as xdelta3 deltas."""

    def setUp(self):
        super().setUp()
        base = os.urandom(200_000)
        self.keep(base, base[:90_000] + b"changed here" + base[90_000:])

    def keep(self, base: bytes, content: bytes) -> None:
        """Make the delta from one to the other."""
        self.base, self.content = base, content
        paths = [self.top / name for name in ("base", "new", "delta")]
        paths[0].write_bytes(self.base)
        paths[1].write_bytes(self.content)
        import pyxdelta

        pyxdelta.run(infile=str(paths[0]), outfile=str(paths[1]), patchfile=str(paths[2]))
        self.delta = paths[2].read_bytes()
        self.assertLess(len(self.delta), 10_000)

    def commit(self, content_hash: bytes = b"", base_hash: bytes = b"") -> None:
        """A snapshot with one file kept as a delta."""
        delta = Delta(1, base_hash or self.backup.hash(self.base), len(self.base), (Place(1, 0, len(self.base)),))
        one = entry(b"page.db", size=len(self.content), hash=content_hash or self.backup.hash(self.content))
        one.places, one.delta = (Place(0, 0, len(self.delta)),), delta
        references = [self.backup.seal(BlobKind.DELTA, self.delta), self.backup.seal(BlobKind.BUNDLE, self.base)]
        sections = [Section((), [one])]
        self.backup.snapshot(self.backup.root([(self.backup.page(sections, references), sections)]))

    def test_delta_is_applied(self):
        """The file comes back as it was, and nothing else is left in the target."""
        self.commit()
        report = self.restore()
        self.assertTrue(report.complete, report)
        self.assertEqual(self.files(), {"page.db": self.content})
        self.assertEqual(self.restore(verify=True).kept_files, 1)

    def test_delta_is_applied_by_the_program(self):
        """The xdelta3 program does it, in a window that bounds its memory: pyxdelta is not asked."""
        self.patch(delta_module.importlib, "import_module", _no_module)
        self.commit()
        report = self.restore()
        self.assertTrue(report.complete, report)
        self.assertEqual(self.files(), {"page.db": self.content})

    def test_base_larger_than_the_window(self):
        """A delta that refers to all of its base is applied although only a window of that is in memory."""
        self.patch(delta_module, "WINDOW", 512 * 1024)  # less it does not take
        base = os.urandom(4 * MIB)
        self.keep(base, base[3 * MIB :] + base[2 * MIB : 3 * MIB] + base[: 2 * MIB])
        self.commit()
        self.assertTrue(self.restore().complete)
        self.assertEqual(self.files(), {"page.db": self.content})

    def test_delta_is_applied_without_the_program(self):
        """Where xdelta3 is not installed, pyxdelta does it; where neither is, the file is told as lost, and why."""
        self.patch(delta_module.shutil, "which", lambda name: None)
        self.commit()
        report = self.restore()
        self.assertTrue(report.complete, report)
        self.assertEqual(self.files(), {"page.db": self.content})
        (self.target() / "page.db").unlink()
        self.patch(delta_module.importlib, "import_module", _no_module)
        self.assertIn("install the package xdelta3", self.restore().losses[0])

    def test_promise_p5_result_and_base_have_their_hashes(self):
        """A delta whose base or result is not what the listing says makes no file."""
        for hashes in ({"content_hash": b"h" * 32}, {"base_hash": b"h" * 32}):
            self.commit(**hashes)
            report = self.restore()
            self.assertIn("page.db", report.losses[0])
            self.assertEqual(self.files(), {})


def ids_asked_for(admin: FakeAdmin, *kinds: type[Message]) -> int:
    """How many ids these kinds of requests have named so far."""
    requests: list[Any] = [one for one in admin.server.requests if isinstance(one, kinds)]
    return sum(len(one.ids) // 32 for one in requests)


def _no_module(name: str) -> None:
    raise ImportError(name)


class BoundsTests(RestoreCase):
    """What bounds the work."""

    def test_each_blob_is_asked_for_once_in_a_window(self):
        """A bundle that many pages refer to is fetched once for those that are under way together: eight, for one
        worker."""
        backup = fake_backup()
        top = self.top / "many"
        top.mkdir()
        for number in range(100):
            (top / f"{number:03}").write_bytes(b"%d" % number)
        backup.tree(top, entries_a_page=10)
        self.admin = FakeAdmin(backup)
        self.assertTrue(self.restore().complete)
        self.assertEqual(ids_asked_for(self.admin, FetchRequest), 1 + 10 + 2)

    def test_cut_connection_is_taken_up_again(self):
        """After a cut only what has not come is asked for again, and the tree is complete."""
        backup = fake_backup()
        top = self.top / "big"
        top.mkdir()
        (top / "file").write_bytes(os.urandom(4 * MIB))
        backup.tree(top)
        self.admin = FakeAdmin(backup)
        server = self.admin.server
        cuts = [1, 1, 1]

        class CutStream(FakeStream):
            """Breaks off in the middle of large answers, three times."""

            over = False

            def receive_pieces(self) -> list[bytes]:
                pieces = [] if self.over else super().receive_pieces()
                if cuts and pieces and len(pieces[0]) > 100_000:
                    cuts.pop()
                    self.over = True
                    return [pieces[0][:70_000]]
                return pieces

        self.patch(fake_restore_server, "FakeStream", CutStream)
        report = self.restore()
        self.assertTrue(report.complete, report)
        self.assertEqual((server.connections, cuts), (4, []))

    def test_second_sealing_is_tried(self):
        """Where the first sealing of a blob does not open, another one is."""
        for id, sealings in list(self.backup.made.blobs.items()):
            spoilt = bytearray(sealings[0])
            spoilt[-1] ^= 1
            self.backup.made.blobs[id] = [bytes(spoilt), *sealings]
        report = self.restore()
        self.assertTrue(report.complete, report)
        self.assertEqual(self.files(), FILES)

    def test_blob_withheld_is_named_and_the_rest_restored(self):
        """A missing blob costs the files in it, by name, and nothing else."""
        backup = fake_backup()
        top = self.top / "two"
        top.mkdir()
        (top / "big").write_bytes(os.urandom(MIB))
        (top / "small").write_bytes(b"small")
        backup.tree(top)
        chunk = next(id for id, sealed in backup.made.blobs.items() if sealed[0][4] == BlobKind.CHUNK)
        backup.made.blobs[chunk] = []
        self.admin = FakeAdmin(backup)
        report = self.restore()
        self.assertEqual((report.lost_count, self.files()), (1, {"small": b"small"}))
        self.assertIn("/big: it is missing where the backup is kept, or cannot be read there", report.losses[0])

    def test_promise_p10_blob_that_the_server_cannot_read(self):
        """A blob that the server fails at, whatever else it is asked for, costs the files in it and nothing more."""
        backup = fake_backup()
        top = self.top / "many"
        top.mkdir()
        contents = {f"{number:02}": os.urandom(MIB) for number in range(9)}
        for name, content in contents.items():
            (top / name).write_bytes(content)
        backup.tree(top)
        chunks = [id for id, sealed in backup.made.blobs.items() if sealed[0][4] == BlobKind.CHUNK]
        bad = chunks[len(chunks) // 2]
        self.admin = FakeAdmin(backup)

        def lie(request: Message, messages: list[Message]) -> list[Message]:
            if isinstance(request, FetchRequest) and bad in split_ids(request.ids):
                return [make_error(ErrorCode.INTERNAL, "a spool cannot be read", request=request.request)]
            return messages

        self.admin.server.lie = lie
        report = self.restore()
        self.assertEqual(report.lost_count, 1, report.losses)
        lost = next(name for name in contents if f"/{name}:" in report.losses[0])
        self.assertEqual(self.files(), {name: content for name, content in contents.items() if name != lost})

    def test_promise_p5_server_that_fails_at_everything(self):
        """A server that answers nothing but failures is told, and not asked for ever."""
        self.admin.server.lie = lambda request, messages: (
            [make_error(ErrorCode.INTERNAL, "broken", request=request.request)]
            if isinstance(request, FetchRequest)
            else messages
        )
        self.assertRaises(Distrusted, self.restore)

    def test_swapping_nothing_changes_nothing(self):
        """The lie's own machinery is sound: an unchanged answer restores everything."""
        self.admin.server.lie = swap_data(lambda sealed: sealed)
        self.assertTrue(self.restore().complete)
