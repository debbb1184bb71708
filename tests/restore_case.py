"""What tests of restoring share: directories that go away again, a few files backed up, and a restore of them."""

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from mastodon.restore import actions
from mastodon.restore.errors import Distrusted
from mastodon.restore.report import Report
from mastodon.restore.select import Selection
from mastodon.restore.session import Session
from mastodon.restore.tree import RestoreOptions
from mastodon.sealed.entry import Entry, EntryType
from mastodon.sealed.listing import Directory
from tests.fake_restore_server import FakeAdmin, fake_backup
from tests.tiny_backup import BASE_NS, TinyBackup

FILES = {"etc/hostname": b"web01\n", "etc/passwd": b"root:x:0:0\n" * 50, "srv/index.html": b"<h1>hello</h1>\n" * 200}


def entry(name: bytes, kind: EntryType = EntryType.FILE, **fields: Any) -> Entry:
    """An entry that an ordinary user can restore."""
    values = {"mode": 0o755 if kind is EntryType.DIRECTORY else 0o644, "uid": os.getuid(), "gid": os.getgid()}
    return Entry(name, kind, **{**values, "mtime_ns": BASE_NS, **fields})


def listed(files: dict[str, bytes]) -> list[tuple[Directory, Entry, bytes]]:
    """Files and the directories above them, in the order of a listing."""
    found: dict[tuple[Directory, bytes], tuple[Entry, bytes]] = {}
    for path, content in files.items():
        names = tuple(os.fsencode(path).split(b"/"))
        for depth in range(1, len(names)):
            found[names[: depth - 1], names[depth - 1]] = entry(names[depth - 1], EntryType.DIRECTORY), b""
        found[names[:-1], names[-1]] = entry(names[-1]), content
    return [(directory, *found[directory, name]) for directory, name in sorted(found)]


def quiet() -> actions.Output:
    """Output that keeps lines to itself."""
    return actions.Output(lambda line: None, lambda line: None, quiet=True)


class RestoreCase(SynchronousTestCase):
    """A machine with FILES in its first snapshot, and an admin who restores it."""

    def setUp(self) -> None:
        self.top = Path(tempfile.mkdtemp(prefix="restore-"))
        self.addCleanup(shutil.rmtree, self.top)
        self.backup: TinyBackup = fake_backup()
        self.backup.small(listed(FILES))
        self.admin = FakeAdmin(self.backup)

    def target(self, name: str = "out") -> Path:
        """A directory to restore into."""
        return self.top / name

    def restore(
        self, *paths: str, session: Session | None = None, wanted: str = "latest", to: str = "out", **options: Any
    ) -> Report:
        """Restore paths (all) of a snapshot below ``to``."""
        session = session or self.admin.session()
        listing = session.listing(session.snapshot(wanted))
        chosen = RestoreOptions(**{"workers": 1, **options})
        selection = Selection(paths)
        report = actions.restore_listing(session, listing, selection, self.target(to), chosen, quiet())
        for path in selection.unmatched():
            report.lost_text(os.fsdecode(path))
        return report

    def files(self, to: str = "out") -> dict[str, bytes]:
        """All regular files below a target with their contents, parts and hidden ones included."""
        top = self.target(to)
        if not top.exists():
            return {}
        return {
            str(path.relative_to(top)): path.read_bytes()
            for path in sorted(top.rglob("*"))
            if path.is_file() and not path.is_symlink()
        }


class LyingCase(RestoreCase):
    """Checks that nothing wrong ever comes out."""

    def assert_refused(self, kind: type[Exception] = Distrusted, text: str = "", **options: Any) -> str:
        """The restore is refused as a whole, nothing is written; the error's text."""
        error = self.assertRaises(kind, self.restore, **options)
        self.assertIn(text, str(error))
        self.assertEqual(self.files(), {})
        return str(error)

    def assert_named(self, *names: str) -> None:
        """These files are told as lost; all others are right."""
        report = self.restore()
        self.assertEqual(report.lost_count, len(names), report.losses)
        for name in names:
            self.assertTrue(any(name in loss for loss in report.losses), (name, report.losses))
        self.assertEqual(self.files(), {path: content for path, content in FILES.items() if f"/{path}" not in names})
