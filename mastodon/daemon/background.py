"""Threads that step back where the reactor's own thread wants the core.

Hashing and syncing of packs run in threads, which the fair scheduler does not see: with seven of them at work on one
core the reactor, and with it every restore, would get an eighth of it. Nice 5 leaves each a third of the reactor's
weight, so that appends still keep their fifth (P12). Linux has a niceness for each thread.
"""

import os
import threading
from collections.abc import Callable
from typing import Any

from twisted.python.threadpool import ThreadPool

STEP_BACK = 5
NICEST = 19


def background_pool(most: int, name: str) -> ThreadPool:
    """A pool of at most so many such threads, not started yet."""
    pool = ThreadPool(0, most, name)
    pool.threadFactory = _background_thread  # type: ignore[assignment]
    return pool


def _background_thread(target: Callable[[], Any], name: str) -> threading.Thread:
    def work() -> None:
        os.setpriority(os.PRIO_PROCESS, 0, min(NICEST, os.getpriority(os.PRIO_PROCESS, 0) + STEP_BACK))
        target()

    return threading.Thread(target=work, name=name)
