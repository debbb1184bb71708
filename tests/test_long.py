"""The long tests' switch: skipped and counted by default, a share on request, all on request."""

import unittest

from twisted.trial.unittest import SynchronousTestCase

from tests.long import WANTED, Extent, extent, long_test, reason_to_skip


class LongTests(SynchronousTestCase):
    def test_unset_skips_with_what_to_do(self) -> None:
        """Without the switch each long test names the switch that runs it."""
        for share in (True, False):
            self.assertIn("MASTODON_LONG=1", reason_to_skip(share, Extent.QUICK) or "")

    def test_share_runs_what_has_a_share(self) -> None:
        """`share` runs the tests that have one and skips the rest."""
        self.assertIsNone(reason_to_skip(True, Extent.SHARE))
        self.assertIsNotNone(reason_to_skip(False, Extent.SHARE))

    def test_whole_runs_all(self) -> None:
        """`1` skips nothing."""
        self.assertEqual([reason_to_skip(share, Extent.WHOLE) for share in (True, False)], [None, None])

    def test_extent(self) -> None:
        """A test is whole only when asked for whole."""
        sizes = [extent(share=5, whole=500, wanted=wanted) for wanted in (Extent.SHARE, Extent.WHOLE)]
        self.assertEqual(sizes, [5, 500])

    def test_mark_skips_in_trial(self) -> None:
        """Trial counts a marked test as skipped exactly when the switch says so."""

        class Marked(SynchronousTestCase):
            @long_test(share=False)
            def test_marked(self) -> None:
                """Does nothing."""

        result = unittest.TestResult()
        Marked("test_marked").run(result)
        self.assertEqual(len(result.skipped), 0 if WANTED is Extent.WHOLE else 1)
        self.assertEqual(result.errors + result.failures, [])
