"""Runs the suite, a process for each test module, on all cores: `python -m tests.parallel`.

Trial runs each module in a process, process group and directory of its own. A module that crashes, hangs or ends
without trial's summary is a failure, shown with what it said; the others run nevertheless. Nothing that it started
outlives it; trial's directory stays if a test failed. A module without failures is one line, any other is shown whole.
The end is why tests were skipped, and a summary for all together as trial prints it, for `tests/summary.py`.
"""

import contextlib
import faulthandler
import os
import re
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

# What most modules need is imported once, here: processes are forked from this one. Never the reactor.
import cryptography.x509
import hypothesis
import twisted.trial.unittest
from twisted.scripts import trial

import mastodon.host.socket_tls
import mastodon.restore.session
import mastodon.wire.restore_messages
import tests
from tests.long import WANTED, Extent
from tests.summary import Tally, tally

SKIPPED = re.compile(r"^\[SKIPPED\]\n(.+)", re.MULTILINE)
"""Trial's reason for skipping tests."""

PRELOADED = (cryptography.x509, hypothesis, twisted.trial.unittest, mastodon.host, mastodon.restore, mastodon.wire)

LIMIT_S = 86_400 if WANTED is Extent.WHOLE else 480
"""For one module; when it is over, the stack of each thread is written and the process ends."""

TRIAL = "trial"
"""The directory of trial's own in a module's."""

LONGEST = (
    "test_faults", "test_fault_rig", "test_promise_many_connections", "test_bench", "test_admin_client",
    "test_recovery_kit", "test_agent_state", "test_crashes", "test_tree_round_trip",
)  # fmt: skip
"""Begun first, so that no core has one of them left over at the end."""


@dataclass(frozen=True, slots=True)
class Ended:
    """A module that has been run."""

    module: str
    seconds: float
    tally: Tally
    output: str

    def __str__(self) -> str:
        return f"{self.module:40} {self.seconds:6.1f} s  {self.tally}"


@dataclass(frozen=True, slots=True)
class Running:
    """A module under way: the process leads a group of its own."""

    module: str
    folder: Path
    begun: float

    def end(self, status: int) -> Ended:
        """What came of it: whatever the summary says, an exit status that is not zero is a failure."""
        output = log_of(self.folder).read_text(errors="replace")
        counted = tally(output)
        if status != 0:
            output += f"\nended with status {status}\n"
            counted = Tally(counted.passed, max(1, counted.failed), counted.skipped)
        if not counted.failed:
            shutil.rmtree(self.folder / TRIAL, ignore_errors=True)
        return Ended(self.module, time.monotonic() - self.begun, counted, output)


def log_of(folder: Path) -> Path:
    """Where the output of a module goes."""
    return folder / "log"


def modules_of(folder: Path) -> list[str]:
    """Names of the test modules in a package, the longest first."""
    names = {path.stem for path in folder.glob("test_*.py")}
    first = [name for name in LONGEST if name in names]
    return [f"{folder.name}.{name}" for name in (*first, *sorted(names.difference(first)))]


def fork_module(module: str, folder: Path, temporary: Path, limit_s: float) -> int:
    """Starts trial with a module; the id of the process and of its group."""
    log = os.open(log_of(folder), os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o666)
    sys.stdout.flush()
    if pid := os.fork():
        os.close(log)
        return pid
    status = 1
    try:
        os.setpgid(0, 0)
        for target, source in ((0, os.open(os.devnull, os.O_RDONLY)), (1, log), (2, log)):
            os.dup2(source, target)
        status = run_module(module, folder, temporary, limit_s)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def run_module(module: str, folder: Path, temporary: Path, limit_s: float) -> int:
    """Trial's exit status."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.environ["TMPDIR"] = tempfile.tempdir = str(temporary)
    faulthandler.dump_traceback_later(limit_s, exit=True)
    sys.argv = ["trial", f"--temp-directory={folder / TRIAL}", module]
    try:
        trial.run()
    except SystemExit as end:
        return int(end.code or 0)


def kill_group(pid: int) -> None:
    """Ends what is left of a module's processes."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)


def run_modules(modules: Sequence[str], folder: Path, temporary: Path, jobs: int, limit_s: float) -> Iterator[Ended]:
    """Each module as it ends."""
    waiting = list(enumerate(modules))
    for number, _ in waiting:  # before anything runs: an agent's test notices when a directory above its tree changes
        for top in (folder, temporary):
            (top / str(number)).mkdir()
    running: dict[int, Running] = {}
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                number, module = waiting.pop(0)
                pid = fork_module(module, folder / str(number), temporary / str(number), limit_s)
                running[pid] = Running(module, folder / str(number), time.monotonic())
            pid, status = os.wait()
            kill_group(pid)
            yield running.pop(pid).end(os.waitstatus_to_exitcode(status))
    finally:
        for pid in running:
            kill_group(pid)


def total(ended: Sequence[Ended]) -> Tally:
    """All together."""
    tallies = [one.tally for one in ended]
    return Tally(
        sum(one.passed for one in tallies), sum(one.failed for one in tallies), sum(one.skipped for one in tallies)
    )


def summary_of(counted: Tally, seconds: float) -> str:
    """As trial says it of one run."""
    counts = {"skips": counted.skipped, "failures": counted.failed, "successes": counted.passed}
    said = ", ".join(f"{name}={count}" for name, count in counts.items() if count)
    verdict = f"{'PASSED' if counted.good else 'FAILED'} ({said})"
    return f"Ran {sum(counts.values())} tests in {seconds:.3f}s\n\n{verdict}"


def skipped(ended: Sequence[Ended]) -> list[str]:
    """Why tests were skipped, and in which modules."""
    where: dict[str, list[str]] = {}
    for one in ended:
        for reason in dict.fromkeys(SKIPPED.findall(one.output)):
            where.setdefault(reason, []).append(one.module)
    return [f"skipped in {', '.join(modules)}: {reason}" for reason, modules in where.items()]


def run(modules: Sequence[str], folder: Path, jobs: int, limit_s: float) -> int:
    """All of them; the exit status."""
    signal.signal(signal.SIGTERM, interrupted)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    begun, ended = time.monotonic(), list[Ended]()
    print(f"{len(modules)} test modules, {jobs} at a time", flush=True)
    with tempfile.TemporaryDirectory(prefix="mastodon-tests-", ignore_cleanup_errors=True) as temporary:
        for one in run_modules(modules, folder, Path(temporary), jobs, limit_s):
            ended.append(one)
            print(f"{one.output}\n{one}" if one.tally.failed else one, flush=True)
    counted = total(ended)
    print(*skipped(ended), "-" * 80, summary_of(counted, time.monotonic() - begun), sep="\n")
    return 0 if counted.good else 1


def interrupted(*_: object) -> NoReturn:
    """SIGTERM ends it as Ctrl-C does, and what it started with it."""
    raise KeyboardInterrupt


def main() -> int:
    """The whole suite: one module more at a time than there are cores, since some wait for disks and clocks."""
    # Whoever started this in the background may ignore Ctrl-C; the programs under test would inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    jobs = int(os.environ.get("MASTODON_JOBS") or len(os.sched_getaffinity(0)) + 1)
    return run(modules_of(Path(tests.__file__).parent), Path("_trial_temp_modules"), jobs, LIMIT_S)


if __name__ == "__main__":
    sys.exit(main())
