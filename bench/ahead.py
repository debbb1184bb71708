"""The daemon with a clock ahead: `python bench/ahead.py SECONDS --nodaemon --pidfile= mastodon --config FILE`.

The daemon takes a bounded number of snapshots of a machine in an hour (protocol-spec.md §19). Measurements that need
weeks of them start it anew, each time a day or an hour later by its clock. Its process alone lives ahead; agents and
clients keep the real time, and nothing that the daemon does is left out.
"""

import sys
import time
from collections.abc import Callable
from typing import TypeVar

Number = TypeVar("Number", int, float)


def later(clock: Callable[[], Number], by: Number) -> Callable[[], Number]:
    """A clock that is ahead of ``clock``."""
    return lambda: clock() + by


def main() -> None:
    """twistd, in a world that is so much later."""
    seconds = int(sys.argv.pop(1))
    # Before anything is imported that keeps a clock for itself.
    time.time, time.time_ns = later(time.time, float(seconds)), later(time.time_ns, seconds * 10**9)
    from twisted.scripts.twistd import run

    run()


if __name__ == "__main__":
    main()
