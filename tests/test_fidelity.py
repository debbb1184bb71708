"""Everything comes back exactly: an odd tree through agent, TLS, daemon and the admin's restore, compared by two
independent comparers. What was left out or skipped is printed, never silent."""

import os
import shutil
import subprocess
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tests.commands import QuickInstallation
from tests.compare_trees import UNPRIVILEGED, compare_trees
from tests.long import long_test
from tests.odd_trees import make_odd_tree, remove_tree

ROOT = os.geteuid() == 0


class FidelityTests(SynchronousTestCase):
    """One installation a test."""

    def setUp(self) -> None:
        self.work = Path(self.mktemp()).resolve()
        self.work.mkdir(parents=True)
        self.tree = self.work / "tree"
        self.here = QuickInstallation(self.work)
        self.addCleanup(self.clean_up)

    def clean_up(self) -> None:
        """Stop the daemon; trees with paths beyond PATH_MAX need their own way out."""
        self.here.stop_daemon()
        for name in ("tree", "restored", "recovered"):
            if (self.work / name).exists():
                remove_tree(str(self.work / name))

    def differences(self, name: str) -> list[str]:
        """What the comparer over directory descriptors sees."""
        restored = self.work / name / self.tree.relative_to("/")
        left_out = () if ROOT else UNPRIVILEGED
        return [str(one) for one in compare_trees(str(self.tree), str(restored), leave_out=left_out)]

    def rsync_says(self, name: str) -> str:
        """What rsync would do to make the restored tree like the original; it gives up on paths beyond PATH_MAX."""
        restored = self.work / name / self.tree.relative_to("/")
        options = "-aHAXSni" if ROOT else "-rlptHSni"
        # What is longer than a path may be is the other comparer's.
        deep = [f"--exclude=/{path.name}" for path in self.tree.iterdir() if self._too_deep(path)]
        done = subprocess.run(
            ["rsync", options, "--checksum", "--delete", *deep, f"{self.tree}/", f"{restored}/"],
            capture_output=True, text=True, errors="replace", check=False,
        )  # fmt: skip
        self.assertEqual(done.returncode, 0, done.stderr)
        return done.stdout

    @staticmethod
    def _too_deep(path: Path) -> bool:
        if not path.is_dir() or path.is_symlink():
            return False
        found = subprocess.run(["find", str(path)], capture_output=True, check=False).stdout.split(b"\n")
        return max(map(len, found)) > 3000

    def there_and_back(self, scale: str) -> None:
        """Back up, restore by the admin's client and from the spools alone, compare."""
        skipped = make_odd_tree(str(self.tree), scale=scale)
        for line in skipped:
            print(f"left out of the odd tree: {line}")
        self.here.set_up()
        first = self.here.run(*self.here.agent_words(), self.tree)
        self.assertEqual(first.returncode, 0 if ROOT else 1, first.stderr)
        again = self.here.run(*self.here.agent_words(), self.tree)
        self.assertEqual(again.returncode, 0 if ROOT else 1, again.stderr)
        for name, words in (
            ("restored", self.here.restore_words(self.work / "restored")),
            ("recovered", self.here.recover_words(self.work / "recovered")),
        ):
            done = self.here.run(*words)
            self.assertEqual(done.returncode, 0 if ROOT else 1, done.stderr[-3000:])
            self.assertEqual(self.differences(name), [])
            if shutil.which("rsync"):
                self.assertEqual(self.rsync_says(name), "")
            else:
                print("rsync is not installed: one comparer less")
            remove_tree(str(self.work / name))

    def test_odd_tree(self) -> None:
        """Odd names, deep paths, holes, links, owners, ACLs, xattrs, devices and times come back with no difference."""
        self.there_and_back("quick")

    @long_test(share=False)
    def test_giant_odd_tree(self) -> None:
        """The same with a 5 GB file, a 3 GB sparse file and a directory of 100,000 files."""
        self.there_and_back("full")
