"""The programs, forked from a process that has imported them all: the real entry points, started in milliseconds.

Four things are made cheap, the same for all: how far passphrases are stretched (the pair's MAC, the admin secret); the
first wait before an agent connects anew; the agent's questions about the machine's disks, which nothing answers; and
gpg: what it said of an envelope is remembered, so that it is asked once. Packs and bundles are made small.
"""

import contextlib
import ctypes
import gc
import hashlib
import importlib
import os
import pkgutil
import random
import select
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import mastodon
import mastodon_agent
from bench.faults.steps import Plan, watch
from mastodon.admin import main as admin_main
from mastodon.daemon import service
from mastodon.host import openpgp
from mastodon.operator import main as operator_main
from mastodon.recover import main as recover_main
from mastodon.restore import fetch, keys
from mastodon.sealed import admin_secret, pair
from mastodon.sealed.record import record_hash
from mastodon.sealed.snapshot import SnapshotRecord
from mastodon.wire.messages import Committed, Missing
from mastodon_agent import bundle, chunk, connection, facts, packing
from mastodon_agent import main as agent_main
from mastodon_agent.session import Durable, SessionEvent

PR_SET_PDEATHSIG = 1
RECONNECT_S = 0.1
ORPHANS_S = 30.0
LONGEST_FOR_GPG = 70
"""Of a directory's path: a Unix socket's path is bounded, and gpg's is longer by some 37 bytes."""
KIB = 1024
SMALL = (
    (packing, "TARGET", 48 * KIB), (packing, "SMALLEST_TARGET", 16 * KIB), (bundle, "MINIMUM", 2 * KIB),
    (bundle, "SPREAD", 4 * KIB), (bundle, "MAXIMUM", 16 * KIB), (chunk, "BLOB_MINIMUM", 24 * KIB),
    (chunk, "BLOB_SPREAD", 16 * KIB), (chunk, "BLOB_MAXIMUM", 64 * KIB), (fetch, "BATCH_BYTES", 64 * KIB),
    (fetch, "BATCH_BLOBS", 4),
)  # fmt: skip
"""Packs, bundles, and what is fetched at once: small, so that even a tiny tree makes several of each."""
IMPORT_THE_REACTOR = ("mastodon.daemon.telling.courier",)
"""What a daemon imports when it needs it, since that brings Twisted's reactor along."""
_libc = ctypes.CDLL(None)
_acks = -1
_opened = Path()


class TooLong(Exception):
    """A program did not end in time; it was killed."""


class Program:
    """A running program; ``log`` is what it says."""

    def __init__(self, pid: int, log: Path, plan: Plan | None) -> None:
        self.pid = pid
        self.log = log
        self.plan = plan
        self.begun = time.monotonic()
        self.took = 0.0
        self.status: int | None = None
        """Its exit status, or minus the signal that ended it; None while it runs."""
        self.handle = os.pidfd_open(pid)

    @property
    def running(self) -> bool:
        """Whether it has not ended yet."""
        return not self.wait(0)

    def wait(self, seconds: float) -> bool:
        """Whether it ends within that time."""
        if self.status is None:
            poll = select.poll()
            poll.register(self.handle, select.POLLIN)
            if poll.poll(max(0, seconds * 1000)):
                self._reap()
        return self.status is not None

    def end(self, seconds: float) -> int:
        """Its status; raises TooLong after so many seconds."""
        if not self.wait(seconds):
            self.kill()
            raise TooLong(f"did not end within {seconds:.0f} s; it said:\n{self.said()}")
        assert self.status is not None
        return self.status

    def signal(self, number: int) -> None:
        """Send a signal to it alone."""
        if self.running:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """SIGKILL to it and all that it forked."""
        if self.running:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
            self.wait(60)

    def kill_alone(self) -> None:
        """SIGKILL to it alone. What it forked has to see that and end: raises TooLong otherwise."""
        if not self.running:
            return
        os.kill(self.pid, signal.SIGKILL)
        self._reap(whole_group=False)
        end = time.monotonic() + ORPHANS_S
        while orphans := _members(self.pid):
            if time.monotonic() > end:
                os.killpg(self.pid, signal.SIGKILL)
                raise TooLong(f"{len(orphans)} processes outlive the one that forked them:\n{self.said()}")
            time.sleep(0.01)

    def said(self, most: int = 4000) -> str:
        """The end of what it said."""
        return self.log.read_text("utf-8", "replace")[-most:]

    def _reap(self, whole_group: bool = True) -> None:
        _, status = os.waitpid(self.pid, 0)
        if whole_group:
            with contextlib.suppress(ProcessLookupError):  # what it forked does not outlive it for long
                os.killpg(self.pid, signal.SIGKILL)
        self.status = os.waitstatus_to_exitcode(status)
        self.took = time.monotonic() - self.begun
        os.close(self.handle)


def _members(group: int) -> list[int]:
    """The processes of a group that live."""
    found = []
    for name in os.listdir("/proc"):
        with contextlib.suppress(OSError, ValueError):
            state, _, of = Path("/proc", str(int(name)), "stat").read_text("latin-1").rpartition(")")[2].split()[:3]
            if int(of) == group and state != "Z":
                found.append(int(name))
    return found


def wait_any(programs: Sequence[Program], seconds: float) -> None:
    """Return when one of them has ended, or after that time."""
    if any(one.status is not None for one in programs):
        return
    poll = select.poll()
    for one in programs:
        poll.register(one.handle, select.POLLIN)
    poll.poll(seconds * 1000)


def prepare(opened: Path) -> None:
    """Once, before anything is forked. ``opened`` is a directory for what gpg has said."""
    global _opened
    _opened = opened
    opened.mkdir(mode=0o700, exist_ok=True)
    pair.SCRYPT_N = 2
    admin_secret.LOG_N = admin_secret.LOG_N_LEAST
    admin_secret.encrypt_secret.__defaults__ = (admin_secret.LOG_N_LEAST,)
    connection.FIRST_WAIT_S = RECONNECT_S
    facts.PATH = ""
    for module, name, size in SMALL:
        if not hasattr(module, name):
            raise AttributeError(f"{module.__name__}.{name}, which the rig makes small, is not there any more")
        setattr(module, name, size)
    keys.open_sealed = _remembered_open
    if len(os.fsencode(opened)) < LONGEST_FOR_GPG:  # what a killed program leaves of gpg goes with the rig's own
        openpgp._make_home = lambda: tempfile.mkdtemp(prefix="gpg-", dir=opened)
    _note_acks()
    _import_all()
    gc.collect()
    gc.freeze()


def start(
    main: Callable[[], int], log: Path, environment: dict[str, str], plan: Plan | None = None, acks: Path | None = None,
    keep: Collection[int] = (),
) -> Program:  # fmt: skip
    """Fork a program, which keeps the descriptors ``keep``. What it says goes to ``log``, what an agent was
    acknowledged to ``acks``."""
    sys.stdout.flush()
    sys.stderr.flush()
    rig = os.getpid()
    pid = os.fork()
    if pid:
        with contextlib.suppress(OSError):
            os.setpgid(pid, pid)
        return Program(pid, log, plan)
    status = 70
    try:
        os.setpgid(0, 0)
        _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != rig:
            os._exit(70)
        _dress(log, environment, acks, keep)
        if plan is not None:
            watch(plan)
        status = _status_of(main)
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)


def _status_of(main: Callable[[], int]) -> int:
    try:
        return main()
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else int(error.code is not None)


def _dress(log: Path, environment: dict[str, str], acks: Path | None, keep: Collection[int]) -> None:
    """What a program started from a shell would find."""
    global _acks
    for name in os.listdir("/proc/self/fd"):
        if int(name) > 2 and int(name) not in keep:
            with contextlib.suppress(OSError):
                os.close(int(name))
    out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    os.dup2(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC), 0)
    os.dup2(out, 1)
    os.dup2(out, 2)
    os.environ.update(environment)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if acks is not None:
        _acks = os.open(acks, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)


# The entry points


def agent(words: Sequence[object]) -> Callable[[], int]:
    """``mastodon-agent``."""
    return lambda: agent_main.main([str(word) for word in words])


def admin(*commands: Sequence[object]) -> Callable[[], int]:
    """``mastodon-admin``, several commands one after the other; the first bad exit code ends it."""

    def main() -> int:
        for words in commands:
            code = admin_main.run([str(word) for word in words])
            if code:
                return code
        return 0

    return main


def recover(*commands: Sequence[object]) -> Callable[[], int]:
    """``mastodon-recover``, the same."""

    def main() -> int:
        for words in commands:
            sys.argv = ["mastodon-recover", *(str(word) for word in words)]
            code = _status_of(_recover)
            if code:
                return code
        return 0

    return main


def _recover() -> int:
    recover_main.main()
    return 0


def on_one_core(main: Callable[[], int]) -> Callable[[], int]:
    """The same, as on a machine with one core: a restore then forks one worker, which is all that a tiny tree needs."""

    def alone() -> int:
        os.sched_setaffinity(0, {random.choice(sorted(os.sched_getaffinity(0)))})
        return main()

    return alone


def operator(*words: object) -> Callable[[], int]:
    """``mastodon``."""

    def main() -> int:
        operator_main.main(args=[str(word) for word in words], prog_name="mastodon")
        return 0

    return main


def daemon(config: Path, ready: int) -> Callable[[], int]:
    """What ``twistd mastodon`` runs; a byte goes to the descriptor ``ready`` once both ports listen."""

    def main() -> int:
        options = service.Options()
        options.parseOptions(["--config", str(config)])
        from twisted.internet import reactor
        from twisted.python.log import startLogging

        startLogging(sys.stdout, setStdout=False)
        failed: list[bool] = []
        one = service.MastodonService(options["loaded"], options["identity"], reactor, lambda: failed.append(True))
        running: Any = reactor
        running.addSystemEventTrigger("before", "shutdown", one.stopService)
        one.started.addCallback(lambda _: os.write(ready, b"r"))
        running.callWhenRunning(one.startService)
        running.run()
        return 1 if failed else 0

    return main


# What is made cheap, and what is noted


def _import_all() -> None:
    """What the programs would import one by one later on. Twisted's reactor is each daemon's own."""
    for package in (mastodon, mastodon_agent):
        for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not found.name.endswith("__main__") and found.name not in IMPORT_THE_REACTOR:
                importlib.import_module(found.name)
    for name in ("encodings.idna", "cryptography.hazmat.backends.openssl.backend", "difflib"):
        importlib.import_module(name)
    if "twisted.internet.reactor" in sys.modules:
        raise RuntimeError("something imports Twisted's reactor: no daemon could be forked")


def _remembered_open(message: bytes, **how: Any) -> bytes:
    kept = _opened / hashlib.sha256(message + repr(how).encode()).hexdigest()
    if not kept.exists():
        payload = openpgp.open_sealed(message, **how)
        whole = kept.with_suffix(f".{os.getpid()}")
        whole.write_bytes(payload)
        whole.rename(kept)
    return kept.read_bytes()


def _note_acks() -> None:
    commit, events = connection.Connection.commit, connection.Connection.events

    def noting_commit(self: connection.Connection, record: bytes) -> Committed | Missing:
        word = commit(self, record)
        if isinstance(word, Committed):
            _note(f"snapshot {SnapshotRecord.read_unverified(record).sequence} {record_hash(record).hex()}")
        return word

    def noting_events(self: connection.Connection, wait: bool) -> list[SessionEvent]:
        found = events(self, wait)
        for event in found:
            if isinstance(event, Durable):
                _note(f"pack {event.pack.hex()}")
        return found

    connection.Connection.commit = noting_commit  # type: ignore[method-assign]
    connection.Connection.events = noting_events  # type: ignore[method-assign]


def _note(line: str) -> None:
    if _acks >= 0:
        os.write(_acks, line.encode("ascii") + b"\n")
