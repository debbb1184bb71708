"""The forerunner: what it may cost, and that nothing depends on it."""

import os
import threading
import time
from pathlib import Path
from unittest import mock

from twisted.trial.unittest import SynchronousTestCase

from mastodon_agent import forerunner
from mastodon_agent.forerunner import Forerunner, Progress, TooLate
from tests.agent_runs import AgentCase


class ProgressTests(SynchronousTestCase):
    """How far ahead it goes."""

    def setUp(self) -> None:
        self.progress = Progress()
        self.progress.begin()
        self.path = Path(self.mktemp())
        self.path.write_bytes(b"x" * 1000)
        self.st = os.stat(self.path)

    def test_a_bounded_way(self) -> None:
        """It waits while it is too many files or bytes ahead, and goes on when the reader has come closer."""
        for files, bytes_ in ((forerunner.FILES_AHEAD + 1, 0), (1, forerunner.BYTES_AHEAD + 1)):
            self.progress.begin()
            went = threading.Event()

            def run(files: int = files, bytes_: int = bytes_, went: threading.Event = went) -> None:
                self.progress.wait(self.progress.round, files, bytes_)
                went.set()

            thread = threading.Thread(target=run)
            thread.start()
            self.assertFalse(went.wait(0.05))
            self.progress.passed(self.st)
            self.assertTrue(went.wait(10))
            thread.join()

    def test_what_the_reader_has_reached_is_left_to_it(self) -> None:
        """Nothing is opened that the reader has passed."""
        self.progress.passed(self.st)
        self.progress.passed(self.st)
        with mock.patch.object(forerunner, "open_quietly") as opened:
            ahead = Forerunner(self.progress, self.progress.round)
            ahead.changed((), 0, b"one", self.st, False)
            ahead.changed((), 0, b"two", self.st, False)
            opened.assert_not_called()
            opened.side_effect = FileNotFoundError
            ahead.changed((), 0, b"three", self.st, False)
            opened.assert_called_once()

    def test_it_ends_with_the_reader(self) -> None:
        """Once the reader is through, or another round has begun, it gives up."""
        round_ = self.progress.round
        self.progress.finish()
        self.assertRaises(TooLate, self.progress.wait, round_, 1, 0)
        self.progress.begin()
        self.assertRaises(TooLate, self.progress.wait, round_, 1, 0)
        self.assertTrue(self.progress.wait(self.progress.round, 1, 0))


class FirstRunTests(AgentCase):
    """Runs of an agent that has one."""

    readers = 2

    def test_first_run_with_two_processes(self) -> None:
        """The second process runs ahead, the listing is whole, and later runs use both for the scan."""
        for number in range(300):
            self.write(f"d{number % 7}/{number}", os.urandom(700))
        opened = Path(self.mktemp())
        real = forerunner.open_quietly

        def noted(name: bytes, dir_fd: int) -> int:
            with opened.open("ab") as file:
                file.write(name + b"\n")
            return real(name, dir_fd)

        slow = mock.patch("mastodon_agent.reader.whole_hash", side_effect=_slowly)
        with slow, mock.patch.object(forerunner, "open_quietly", noted):
            outcome = self.back_up()
        self.assertEqual(outcome.tally.read_files, 300)
        self.assertGreater(len(opened.read_bytes().splitlines()), 200)
        self.assertEqual(self.content("d1/1"), (self.tree / "d1/1").read_bytes())
        self.assertEqual(self.back_up().tally.read_files, 0)


def _slowly(key: bytes, content: memoryview) -> bytes:
    """A hash that takes its time, so that there is something to run ahead of."""
    from mastodon.sealed.content import whole_hash

    time.sleep(0.002)
    return whole_hash(key, content)
