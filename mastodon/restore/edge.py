"""The edge of a command line: errors become one clear line and an exit code, never a traceback.

Exit codes: 0 all is done; 1 something could not be restored and was named; 2 nothing was done (usage, no connection,
nothing of that name, no key); 3 what was shown is not to be believed; 70 a bug; 130 interrupted.
"""

import gc
import os
import sys
import traceback
from collections.abc import Callable
from typing import NoReturn

from mastodon.host.durable import DiskError
from mastodon.restore.errors import RestoreError
from mastodon.sealed.errors import FormatError

BUG, INTERRUPTED, NOTHING_DONE = 70, 130, 2


class SeenEnough(Exception):
    """Whoever reads our output has closed it, as `head` does."""


def say(line: str) -> None:
    """A result, to stdout."""
    try:
        print(line)
    except BrokenPipeError:
        raise SeenEnough from None


def tell(line: str) -> None:
    """A remark, to stderr."""
    print(line, file=sys.stderr)


def leave(code: int) -> NoReturn:
    """End the program. What is in memory goes with the process: to take it apart first takes a restore 60 ms more."""
    gc.freeze()
    sys.exit(code)


def guarded(program: str, command: Callable[[], int]) -> int:
    """Run a command; what goes wrong is told in one line, and the exit code returned."""
    try:
        code = command()
        if sys.stdout is not None:  # None: it was closed before we began
            sys.stdout.flush()
        return code
    except RestoreError as error:
        return _told(program, str(error), error.exit_code)
    except (FormatError, DiskError) as error:
        return _told(program, str(error), NOTHING_DONE)
    except KeyboardInterrupt:
        return _told(program, "interrupted; the same command goes on where this one stopped", INTERRUPTED)
    except (SeenEnough, BrokenPipeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is still buffered goes nowhere
        return 0
    except OSError as error:
        where = f"{error.filename}: " if isinstance(error.filename, str) else ""
        return _told(program, f"{where}{error.strerror or error}", NOTHING_DONE)
    except Exception as error:
        if os.environ.get("MASTODON_DEBUG"):
            traceback.print_exc()
        text = f"internal error: {type(error).__name__}: {error} (a bug; MASTODON_DEBUG=1 shows where)"
        return _told(program, text, BUG)


def _told(program: str, text: str, code: int) -> int:
    tell(f"{program}: {text}")
    return code
