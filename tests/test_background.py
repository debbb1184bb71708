"""Threads in the background."""

import os
import threading

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThreadPool
from twisted.trial.unittest import TestCase

from mastodon.daemon.background import NICEST, STEP_BACK, background_pool


def niceness() -> tuple[int, int]:
    return threading.get_ident(), os.getpriority(os.PRIO_PROCESS, 0)


class BackgroundPoolTests(TestCase):
    """The pool that appends are verified in."""

    def test_steps_back_from_the_reactor(self) -> "Deferred[None]":
        """Its threads are nicer than the one that made them, which stays as it was."""
        pool = background_pool(2, "background")
        pool.start()
        self.addCleanup(pool.stop)
        usual = os.getpriority(os.PRIO_PROCESS, 0)

        def check(found: tuple[int, int]) -> None:
            thread, nice = found
            self.assertNotEqual(thread, threading.get_ident())
            self.assertEqual(nice, min(NICEST, usual + STEP_BACK))
            self.assertEqual(os.getpriority(os.PRIO_PROCESS, 0), usual)

        return deferToThreadPool(reactor, pool, niceness).addCallback(check)  # type: ignore[arg-type]
