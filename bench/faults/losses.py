"""Loss of power: the program dies, and of what it had not synced some is gone or torn. Steps drawn anywhere, and just
where it hurts most: before a pack, its name, or the ledger is synced."""

import shutil

from bench.faults import programs
from bench.faults.check import compare
from bench.faults.kills import wait_for_hit
from bench.faults.point import Missed, Point
from bench.faults.power import lose, tear_catalogue
from bench.faults.programs import start
from bench.faults.site import RUN_S
from bench.faults.steps import CHANGES, STATEMENTS, SYNCS, Fault, What


def _server(point: Point, fault: Fault) -> None:
    """The server loses power while an agent works; the run goes on when it is back."""
    site = point.site
    site.stop_daemon()
    site.change(point.machine)
    below = (site.server, *site.spools)
    plan = point.plan("daemon", fault, *below, journal=True)
    run = wait_for_hit(point, plan)
    assert plan.journal is not None
    if plan.counter.hit:
        point.said += lose(plan.journal, below, point.rng)
        point.said.append(tear_catalogue(site.state / "catalogue.sqlite", point.rng))
    site.start_daemon()
    run.end()
    if not plan.counter.hit:
        raise Missed
    point.settle()
    point.check()


def power_server(point: Point) -> None:
    """Anywhere."""
    _server(point, Fault(point.draw("daemon"), point.rng.choice((What.KILL_BEFORE, What.KILL_AFTER))))


def torn_pack(point: Point) -> None:
    """Before the pack's bytes or its name are synced."""
    _server(point, Fault(point.rng.randrange(1, 3), What.KILL_BEFORE, calls=SYNCS, part=point.rng.choice(
        ("/incoming/.tmp", "/packs/")
    )))  # fmt: skip


def torn_ledger(point: Point) -> None:
    """Before an entry of the ledger is synced."""
    _server(point, Fault(point.rng.randrange(1, 5), What.KILL_BEFORE, calls=SYNCS, part=".ledger"))


def torn_catalogue(point: Point) -> None:
    """Between two statements to the catalogue."""
    _server(point, Fault(point.draw("catalogue"), What.KILL_AFTER, calls=STATEMENTS))


def power_agent(point: Point) -> None:
    """The machine loses power; what its agent had not synced is gone or torn. The next run completes."""
    site, machine = point.site, point.machine
    site.change(machine)
    fault = Fault(point.draw("agent"), point.rng.choice((What.KILL_BEFORE, What.KILL_AFTER)))
    plan = point.plan("agent", fault, machine.state.parent, journal=True)
    run = site.begin_agent(machine, plan)
    run.program.end(RUN_S)
    run.note()
    point.count("agent", plan, run.program)
    if not plan.counter.hit:
        raise Missed
    assert plan.journal is not None
    point.said += lose(plan.journal, [machine.state], point.rng)
    point.settle()
    point.check()


def power_restore(point: Point) -> None:
    """The machine on which a restore writes loses power; the same command with --verify makes everything right."""
    site, machine = point.site, point.machine
    number = point.rng.choice(point.acked())
    to = point.target("interrupted")
    words = site.restore_words(machine, number, to)
    fault = Fault(point.draw("restore"), What.KILL_BEFORE, calls=CHANGES)
    plan = point.plan("restore", fault, to, site.work / "admin", journal=True)
    program = start(programs.admin(words), site.log("restore"), site.environment, plan)
    program.end(RUN_S)
    point.count("restore", plan, program)
    if not plan.counter.hit:
        raise Missed
    assert plan.journal is not None
    point.said += lose(plan.journal, [to, site.work / "admin"], point.rng)
    site.do(programs.admin([*words, "--verify", "--overwrite", "if-changed"]), what="restore again")
    compare(machine, number, to)
    point.counts.restores += 1
    shutil.rmtree(to, ignore_errors=True)
    point.settle()
    point.check()
