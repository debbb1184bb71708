"""What the processes of a restore do together: pages opened where their files are written, directories in shares."""

import os
import stat

from mastodon.restore import directories, kept_pages
from mastodon.restore.directories import shares
from mastodon.restore.jobs import pack_entry
from mastodon.sealed.blob import BlobKind
from mastodon.sealed.content import encode_map
from mastodon.sealed.entry import EntryType, Place
from mastodon.sealed.listing import Directory, Section
from tests.compare_trees import compare_trees
from tests.fake_restore_server import FakeAdmin, fake_backup
from tests.odd_trees import remove_tree
from tests.restore_case import RestoreCase, entry


class WorkersTests(RestoreCase):
    """Several pages, several workers."""

    def test_a_result_larger_than_a_packet(self) -> None:
        """A page of directories with long names is told to the main process whole."""
        names = [b"%04d" % number + b"d" * 200 for number in range(600)]
        sections = [Section((), [entry(name, EntryType.DIRECTORY, mode=0o711) for name in names])]
        self.backup.snapshot(self.backup.root([(self.backup.page(sections, []), sections)], len(names)))
        report = self.restore()
        self.assertTrue(report.complete, report)
        self.assertEqual(report.directories, len(names))
        self.assertEqual(sorted(map(os.fsencode, os.listdir(self.target()))), names)
        self.assertEqual({stat.S_IMODE(one.stat().st_mode) for one in self.target().iterdir()}, {0o711})

    def test_directories_in_shares(self) -> None:
        """Directories that several workers finish at once all get modes and times, those that let nobody in too."""
        self.patch(directories, "SHARE", 2)
        top = self.top / "from"
        for path in ("a/b/c/d", "a/b/e", "f/g", "f/h/i"):
            (top / path).mkdir(parents=True)
            (top / path / "file").write_bytes(path.encode())
        for number, folder in enumerate(sorted(top.rglob("*"), reverse=True)):
            if folder.is_dir():
                os.utime(folder, ns=(10**18 + number, 10**18 + number))
                folder.chmod(0o555 if number % 2 else 0o500)
        self.addCleanup(remove_tree, str(top))
        backup = fake_backup()
        backup.tree(top, entries_a_page=2)
        self.admin = FakeAdmin(backup)
        self.assertTrue(self.restore(workers=3).complete)
        self.addCleanup(remove_tree, str(self.target()))
        differences = [one for one in compare_trees(str(top), str(self.target())) if one.path != b"."]
        self.assertEqual(differences, [])

    def test_shares_are_apart(self) -> None:
        """Each directory is in one share or spans several, and none in a share leads into another one."""
        self.patch(directories, "SHARE", 3)
        paths = sorted(
            {tuple(b"%d" % (number // step % 3) for step in (27, 9, 3, 1))[:depth] for number in range(81)
             for depth in range(1, 5)}
        )  # fmt: skip
        ordered = [(path[:-1], pack_entry(entry(path[-1], EntryType.DIRECTORY)), False) for path in paths]
        apart, spanning = shares(ordered)
        taken: list[Directory] = [(*one[0], one[1][0]) for share in (*apart, spanning) for one in share]
        self.assertEqual(sorted(taken), paths)
        for number, share in enumerate(apart):
            others = [(*one[0], one[1][0]) for other in apart[:number] + apart[number + 1 :] for one in other]
            for one in share:
                path = (*one[0], one[1][0])
                self.assertFalse([other for other in others if other[: len(path)] == path])

    def test_a_small_file_in_a_map(self) -> None:
        """A file that a worker would write by itself, but that lies in a map, comes back."""
        parts = [os.urandom(500), os.urandom(700)]
        chunks = [self.backup.seal(BlobKind.CHUNK, part) for part in parts]
        places = [Place(0, 0, 500), Place(1, 0, 700)]
        reference = self.backup.seal(BlobKind.MAP, encode_map(places), chunks)
        one = entry(b"mapped", size=1200, hash=self.backup.hash(b"".join(parts)))
        one.places = (Place(0, 0, 1200),)
        self.assertTrue(kept_pages.is_simple(one))
        sections = [Section((), [one])]
        self.backup.snapshot(self.backup.root([(self.backup.page(sections, [reference]), sections)], 1))
        report = self.restore()
        self.assertTrue(report.complete, report)
        self.assertEqual(self.files(), {"mapped": b"".join(parts)})
