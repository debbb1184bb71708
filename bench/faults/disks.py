"""Disks that refuse: no space, errors, writes that take a part, syncs that fail; of each file that matters.

While the disk is bad a run may fail, in clear words; nothing acknowledged is lost by it, and with a good disk again
the next run completes.
"""

import errno
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from bench.faults import programs
from bench.faults.check import Lost, compare
from bench.faults.point import Missed, Point
from bench.faults.programs import start
from bench.faults.site import Broken
from bench.faults.steps import CHANGES, NAMES, READS, STATEMENTS, SYNCS, Fault, What

ANY_END = (0, 1, 2, 4)
WRITING = frozenset({"write", "pwrite", "create"})


@dataclass(frozen=True, slots=True)
class Bad:
    """A disk's way to be bad: which calls fail and how; ``most``: the latest of them that is drawn, 0 for
    any statement to the catalogue."""

    calls: frozenset[str]
    what: What
    number: int = 0
    most: int = 4


FULL = Bad(WRITING, What.ERROR, errno.ENOSPC)
BROKEN = Bad(WRITING | NAMES, What.ERROR, errno.EIO)
SHORT = Bad(frozenset({"write", "pwrite"}), What.SHORT)
UNSYNCED = Bad(SYNCS, What.ERROR, errno.EIO, 3)
UNREADABLE = Bad(READS, What.ERROR, errno.EIO, 3)
CATALOGUE_FULL = Bad(STATEMENTS, What.ERROR, errno.ENOSPC, 0)
CATALOGUE_BROKEN = Bad(STATEMENTS, What.ERROR, errno.EIO, 0)


def of_daemon(bad: Bad, part: str) -> Callable[[Point], None]:
    """The daemon's disk is bad while an agent works."""

    def kind(point: Point) -> None:
        site, machine = point.site, point.machine
        site.stop_daemon()
        site.change(machine)
        plan = point.plan("daemon", _fault(point, bad, part), site.server, *site.spools)
        is_up = site.start_daemon(plan)
        if is_up:
            site.begin_agent(machine, retry_s=1).end(ANY_END)
        _demand_foreseen(site.daemon)
        if is_up:
            site.stop_daemon()
        site.daemon = None
        point.settle()
        _demand_hit(plan.counter.hit)
        point.check()

    return kind


def of_agent(bad: Bad, part: str) -> Callable[[Point], None]:
    """The machine's disk is bad: the agent's state, or a file that it reads."""

    def kind(point: Point) -> None:
        site, machine = point.site, point.machine
        site.change(machine)
        plan = point.plan("agent", _fault(point, bad, part), machine.state.parent)
        program = site.begin_agent(machine, plan).end(ANY_END)
        if "Traceback" in program.said():
            raise Broken(f"the agent shows a traceback:\n{program.said()}")
        point.settle()
        _demand_hit(plan.counter.hit)
        point.check()

    return kind


def of_restore(bad: Bad, part: str) -> Callable[[Point], None]:
    """The disk is bad that a restore writes to; the same command again makes it whole, on a good one."""

    def kind(point: Point) -> None:
        site, machine = point.site, point.machine
        number = point.rng.choice(point.acked())
        to = point.target("bad")
        words = site.restore_words(machine, number, to)
        plan = point.plan("restore", _fault(point, bad, part), to, site.work / "admin")
        program = start(programs.admin(words), site.log("restore"), site.environment, plan)
        site.ended(program, (0, 1, 2), "restore on a bad disk")
        if program.status == 0:
            _demand_right(point, number, to)
        again = site.do(programs.admin(words), (0, 1), what="restore again")
        if again.status:  # the bad disk did not let the client take away what was incomplete; it was told
            site.do(programs.admin([*words, "--overwrite", "if-changed"]), what="restore over it")
        _demand_right(point, number, to)
        point.counts.restores += 2
        shutil.rmtree(to, ignore_errors=True)
        point.settle()
        _demand_hit(plan.counter.hit)
        point.check()

    return kind


def of_reading(by: str) -> Callable[[Point], None]:
    """Packs cannot be read while something is restored, by the daemon or from the spools: told, never wrong."""

    def kind(point: Point) -> None:
        site, machine = point.site, point.machine
        number = point.rng.choice(point.acked())
        to = point.target("unread")
        plan = point.plan(by, _fault(point, UNREADABLE, ".pack"), *site.spools)
        if by == "daemon":
            site.stop_daemon()
            site.start_daemon(plan)
            program = start(
                programs.admin(site.restore_words(machine, number, to)), site.log("restore"), site.environment
            )
        else:
            words = site.recover_words(machine, number, to)
            program = start(programs.recover(words), site.log("recover"), site.environment, plan)
        site.ended(program, (0, 1, 2, 3), "restore from a bad disk")
        if program.status == 0:
            _demand_right(point, number, to)
        shutil.rmtree(to, ignore_errors=True)
        if by == "daemon":
            site.stop_daemon()
        point.settle()
        _demand_hit(plan.counter.hit)
        point.check()

    return kind


def _fault(point: Point, bad: Bad, part: str) -> Fault:
    step = point.rng.randrange(1, bad.most + 1) if bad.most else point.draw("catalogue")
    return Fault(step, bad.what, bad.number, bad.calls, part, point.rng.random() < 0.6)


def _demand_hit(hit: bool) -> None:
    if not hit:
        raise Missed


def _demand_right(point: Point, number: int, to: Path) -> None:
    try:
        compare(point.machine, number, to)
    except Lost as error:
        raise Lost(f"a restore said that all is there: {error}") from None


def _demand_foreseen(daemon: programs.Program | None) -> None:
    said = daemon.said(100_000) if daemon is not None else ""
    if "internal error" in said or "Unhandled" in said or "cannot start\n\tTraceback" in said:
        raise Broken(f"the daemon met what it does not foresee:\n{said[-6000:]}")


KINDS: dict[str, Callable[[Point], None]] = {
    "enospc-pack": of_daemon(FULL, "/incoming/"),
    "eio-pack": of_daemon(BROKEN, ".pack"),
    "short-pack": of_daemon(SHORT, "/incoming/"),
    "fsync-pack": of_daemon(UNSYNCED, "/incoming/"),
    "fsync-directory": of_daemon(UNSYNCED, "/packs/"),
    "enospc-ledger": of_daemon(replace(FULL, most=2), ".ledger"),
    "eio-ledger": of_daemon(replace(BROKEN, most=2), ".ledger"),
    "short-ledger": of_daemon(replace(SHORT, most=2), ".ledger"),
    "fsync-ledger": of_daemon(UNSYNCED, ".ledger"),
    "enospc-catalogue": of_daemon(CATALOGUE_FULL, ""),
    "eio-catalogue": of_daemon(CATALOGUE_BROKEN, ""),
    "enospc-server-state": of_daemon(FULL, "/server/state/"),
    "eio-server-state": of_daemon(BROKEN, "/server/state/"),
    "fsync-server-state": of_daemon(UNSYNCED, "/server/state/"),
    "enospc-agent-state": of_agent(replace(FULL, most=12), "/state/"),
    "eio-agent-state": of_agent(replace(BROKEN, most=16), "/state/"),
    "short-agent-state": of_agent(replace(SHORT, most=10), "/state/"),
    "fsync-agent-state": of_agent(UNSYNCED, "/state/"),
    "eio-tree": of_agent(replace(UNREADABLE, most=20), "/tree/"),
    "enospc-restore": of_restore(replace(FULL, most=40), "/bad-"),
    "eio-restore": of_restore(replace(BROKEN, most=60), "/bad-"),
    "short-restore": of_restore(replace(SHORT, most=20), "/bad-"),
    "eio-client-memory": of_restore(Bad(CHANGES, What.ERROR, errno.EIO, 6), "/admin/"),
    "eio-read-server": of_reading("daemon"),
    "eio-read-spool": of_reading("recover"),
}
