"""The edge of the clients' command lines: what goes wrong is one line and an exit code."""

import contextlib
import io

from twisted.trial.unittest import SynchronousTestCase

from mastodon.host.durable import DiskError, DiskFull
from mastodon.restore.edge import BUG, NOTHING_DONE, guarded
from mastodon.restore.errors import NotThere


class EdgeTests(SynchronousTestCase):
    """One command each."""

    def ended(self, error: Exception) -> tuple[int, str]:
        """The exit code, and what was said."""

        def command() -> int:
            raise error

        said = io.StringIO()
        with contextlib.redirect_stderr(said):
            return guarded("program", command), said.getvalue()

    def test_foreseen_errors(self) -> None:
        """What the user can mend is told as it is, also a disk that does not take what has to be remembered."""
        for error in (NotThere("no such snapshot"), DiskError("heads.json: I/O error"), DiskFull("heads.json: full")):
            self.assertEqual(self.ended(error), (NOTHING_DONE, f"program: {error}\n"))

    def test_bug_is_told_as_one(self) -> None:
        """Anything else is a bug, in one line all the same."""
        code, said = self.ended(ValueError("odd"))
        self.assertEqual((code, said.count("\n")), (BUG, 1))
        self.assertIn("a bug", said)
