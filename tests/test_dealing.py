"""Parts of a listing are dealt to processes: each once, in order, and none of a round that is over."""

import os

from twisted.trial.unittest import SynchronousTestCase

from mastodon_agent.dealing import MOST_PARTS, Dealing


class DealingTests(SynchronousTestCase):
    """Between this process and forked ones."""

    def setUp(self) -> None:
        self.dealing = Dealing()
        self.addCleanup(self.dealing.close)

    def test_in_order_and_once(self) -> None:
        """Parts go out in order, to whoever asks; then there are no more."""
        round = self.dealing.begin(3)
        self.assertEqual([self.dealing.take(round, who) for who in (4, 0, 4, 1)], [0, 1, 2, None])
        self.assertEqual([self.dealing.owner(part) for part in range(3)], [4, 0, 4])

    def test_no_owner_yet(self) -> None:
        """What nobody took has no owner, whatever an older round dealt."""
        old = self.dealing.begin(2)
        self.dealing.take(old, 7)
        self.dealing.begin(2)
        self.assertIsNone(self.dealing.owner(0))

    def test_late_process(self) -> None:
        """A process that still works on an older round gets nothing of the new one."""
        old = self.dealing.begin(1)
        new = self.dealing.begin(1)
        self.assertIsNone(self.dealing.take(old, 0))
        self.assertEqual(self.dealing.take(new, 1), 0)

    def test_processes_share_it(self) -> None:
        """Forked processes that take at once take each part once."""
        round = self.dealing.begin(MOST_PARTS)
        children = []
        for who in range(4):
            pid = os.fork()
            if not pid:
                taken = 0
                while self.dealing.take(round, who) is not None:
                    taken += 1
                os._exit(min(taken, 255))
            children.append(pid)
        counts = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children]
        self.assertEqual(sum(counts), MOST_PARTS)
        owners = [self.dealing.owner(part) for part in range(MOST_PARTS)]
        self.assertEqual([owners.count(who) for who in range(4)], counts)
