"""Commands as a user runs them, started in milliseconds.

`run_command` is ``subprocess.run([sys.executable, "-m", MODULE, ...])``: a process with arguments, environment, working
directory and descriptors of its own, which calls the module's `main`. Only the imports have been done before, once, in
a process that forks all commands. What that has read of its own environment stays: a command that is
to come up with another locale or another path for modules is started whole.

The passphrase of an admin secret is stretched as little as the format allows.
"""

import atexit
import gc
import importlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import NoReturn

from bench.installation import Installation
from mastodon.sealed import admin_secret

PROGRAMS = {
    "mastodon": "mastodon.operator.main",
    "mastodon-admin": "mastodon.admin.main",
    "mastodon-recover": "mastodon.recover.main",
    "mastodon-agent": "mastodon_agent.main",
}
"""The modules behind the console scripts."""


class Forker:
    """The process that forks commands, seen from a test; of several threads one has its turn."""

    def __init__(self) -> None:
        self._turn = threading.Lock()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.commands"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )  # fmt: skip
        atexit.register(self._process.communicate)

    def run(self, order: Mapping[str, object]) -> int:
        """The exit status of a command, or minus the signal that ended it."""
        assert self._process.stdin is not None and self._process.stdout is not None
        with self._turn:
            self._process.stdin.write(json.dumps(order).encode() + b"\n")
            self._process.stdin.flush()
            return int(self._process.stdout.readline())


@cache
def forker() -> Forker:
    """Started when it is first needed, ended with the tests' process."""
    return Forker()


def run_command(
    module: str, words: Sequence[object], environment: Mapping[str, str], folder: Path, merge: bool = False
) -> "subprocess.CompletedProcess[str]":
    """A command to its end, with nothing on standard input; ``merge`` has all that it says in ``stdout``."""
    arguments = [module, *map(str, words)]
    with tempfile.TemporaryDirectory() as said:
        out, err = Path(said, "out"), Path(said, "err")
        status = forker().run({
            "words": arguments, "environment": dict(environment), "folder": str(folder), "out": str(out),
            "err": str(out if merge else err),
        })  # fmt: skip
        texts = [path.read_text("utf-8", "replace") if path.exists() else "" for path in (out, err)]
    return subprocess.CompletedProcess(arguments, status, *texts)


class QuickInstallation(Installation):
    """Commands of operator, admin and recovery are forked; what faults are done to, agent and daemon, is not."""

    def run(self, *command: str | Path, changes: Mapping[str, str] | None = None) -> "subprocess.CompletedProcess[str]":
        """Run a command to its end, whatever comes of it."""
        program, *words = command
        if program == "mastodon-agent":
            return super().run(*command, changes=changes)
        environment = {**self.environment, **(changes or {})}
        return run_command(PROGRAMS[str(program)], words, environment, self.work)


def become(order: Mapping[str, object]) -> None:
    """In the forked process: what it would be had it been started."""
    words, environment = order["words"], order["environment"]
    assert isinstance(words, list) and isinstance(environment, dict)
    for target, path in ((0, os.devnull), (1, order["out"]), (2, order["err"])):
        opened = os.open(str(path), os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        os.dup2(opened, target)
        os.close(opened)
    os.chdir(str(order["folder"]))
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = words


def end(program: Callable[[], int | None]) -> NoReturn:
    """Does what the program does, and ends at once: to free all that was imported would take longer than most."""
    status = 1
    try:
        status = program() or 0
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def main() -> None:
    """A line on standard input is a command; its status is the answer."""
    admin_secret.encrypt_secret.__defaults__ = (admin_secret.LOG_N_LEAST,)
    for program in PROGRAMS.values():
        importlib.import_module(program)
    gc.freeze()  # what a command collects, and frees at its end, is its own alone
    for line in sys.stdin.buffer:
        if pid := os.fork():
            _, status = os.waitpid(pid, 0)
            print(os.waitstatus_to_exitcode(status), flush=True)
        else:
            become(json.loads(line))
            end(sys.modules[sys.argv[0]].main)


if __name__ == "__main__":
    main()
