"""Kill points: each program dies by SIGKILL, at a step on its files or at a moment; and connections that are cut."""

import os
import shutil
import time

from bench.faults import programs
from bench.faults.check import compare
from bench.faults.point import Missed, Point, read_count
from bench.faults.programs import start, wait_any
from bench.faults.proxy import Cut, CuttingProxy, proxy_program
from bench.faults.site import RUN_S, Run
from bench.faults.steps import CHANGES, STATEMENTS, Fault, Plan, What

BY_STEP = 0.75
"""The share of kills that come at a step; the others come at a moment."""


def _kill(point: Point, who: str) -> Fault:
    """When it is to come: at a step, or never for one that is killed from outside."""
    if point.rng.random() >= BY_STEP:
        return Fault(0)
    return Fault(point.draw(who), point.rng.choice((What.KILL_BEFORE, What.KILL_AFTER)))


def measure(point: Point) -> None:
    """Count the steps that each program has when nothing stops it."""
    site, machine = point.site, point.machine
    for who, calls in (("daemon", CHANGES), ("catalogue", STATEMENTS)):
        site.stop_daemon()
        site.change(machine)
        plan = Plan((site.server, *site.spools), Fault(calls=calls))
        site.start_daemon(plan)
        daemon = site.daemon
        assert daemon is not None
        agent = Plan((machine.state.parent,))
        run = site.begin_agent(machine, agent)
        point.count("agent", agent, run.end())
        site.stop_daemon()
        point.count(who, plan, daemon)
    site.start_daemon()
    to = point.target("measured")
    restore = Plan((to, site.work / "admin"))
    words = site.restore_words(machine, max(machine.acked), to)
    program = start(programs.admin(words), site.log("restore"), site.environment, restore)
    point.count("restore", restore, site.ended(program, (0,), "restore"))
    shutil.rmtree(to, ignore_errors=True)


def kill_daemon(point: Point) -> None:
    """The daemon dies while it starts, while an agent works, or while it stops; it is started anew, the run goes on."""
    site = point.site
    site.stop_daemon()
    site.change(point.machine)
    plan = point.plan("daemon", _kill(point, "daemon"), site.server, *site.spools)
    run = wait_for_hit(point, plan)
    site.start_daemon()
    run.end()
    if plan.fault.step and not plan.counter.hit:
        raise Missed
    point.settle()
    point.check()


def wait_for_hit(point: Point, plan: Plan) -> Run:
    """Start the daemon and an agent; return when the daemon is dead, by its plan, by a kill at a moment where the
    plan has no step, or because it was through with everything. The agent may still be at work."""
    site = point.site
    is_up = site.start_daemon(plan)
    daemon = site.daemon
    assert daemon is not None
    run = site.begin_agent(point.machine)
    if is_up and not plan.fault.step:
        time.sleep(point.moment("agent"))
        daemon.kill()
    elif is_up:
        wait_any([daemon, run.program], RUN_S)
        if daemon.running:
            site.stop_daemon()
    daemon.wait(RUN_S)
    site.daemon = None
    point.count("catalogue" if plan.fault.calls == STATEMENTS else "daemon", plan, daemon)
    return run


def kill_agent(point: Point) -> None:
    """The agent dies anywhere; the next run completes."""
    site, machine = point.site, point.machine
    site.change(machine)
    plan = point.plan("agent", _kill(point, "agent"), machine.state.parent)
    run = site.begin_agent(machine, plan)
    if not plan.fault.step:
        time.sleep(point.moment("agent"))
        _kill_now(point, run.program)
        run.note()
        is_hit = run.program.status == -9
    else:
        run.program.end(RUN_S)
        run.note()
        is_hit = plan.counter.hit
    point.count("agent", plan, run.program)
    if not is_hit:
        raise Missed
    point.settle()
    point.check()


def kill_restore(point: Point) -> None:
    """The restore client dies anywhere; the same command again completes what it began."""
    site, machine = point.site, point.machine
    number = point.rng.choice(point.acked())
    to = point.target("interrupted")
    words = site.restore_words(machine, number, to)
    below = (to, site.work / "admin")
    plan = point.plan("restore", _kill(point, "restore"), *below)
    program = start(programs.admin(words), site.log("restore"), site.environment, plan)
    if not plan.fault.step:
        time.sleep(point.moment("restore"))
        _kill_now(point, program)
    program.wait(RUN_S)
    point.count("restore", plan, program)
    if program.status != -9:
        raise Missed
    site.do(programs.admin(words), what="restore again")
    compare(machine, number, to)
    point.counts.restores += 1
    shutil.rmtree(to, ignore_errors=True)
    point.settle()
    point.check()


def _kill_now(point: Point, program: programs.Program) -> None:
    """All of its processes, or the first alone: then the others end by themselves."""
    if point.rng.random() < 0.5:
        program.kill()
    else:
        point.said.append("its first process alone")
        program.kill_alone()


def cut_append(point: Point) -> None:
    """The agent's connections are cut at random bytes, either way; the run goes on and completes."""
    site, machine = point.site, point.machine
    site.change(machine)
    cuts = [_cut(point, 60_000, 3000) for _ in range(point.rng.randrange(1, 4))]
    proxy, program, told = _start_proxy(point, site.append_port, cuts)
    url = site.work / f"proxy-{point.number}.url"
    url.touch(mode=0o600)
    url.write_text(machine.url.read_text("ascii").replace(f":{site.append_port}", f":{proxy}"), "ascii")
    try:
        site.begin_agent(machine, url=url).end()
    finally:
        program.kill()
    if not read_count(told):
        os.close(told)
        raise Missed
    os.close(told)
    point.settle()
    point.check()


def cut_restore(point: Point) -> None:
    """The restore's connections are cut at random bytes, either way; it goes on, or the same command again does."""
    site, machine = point.site, point.machine
    number = max(point.acked())
    cuts = [_cut(point, 4000, 150_000) for _ in range(point.rng.randrange(1, 4))]
    proxy, program, told = _start_proxy(point, site.restore_port, cuts)
    to = point.target("cut")
    home = site.work / "admin/server.json"
    before = home.read_text("utf-8")
    try:
        home.write_text(before.replace(str(site.restore_port), str(proxy)), "utf-8")
        words = site.restore_words(machine, number, to)
        first = start(programs.admin(words), site.log("restore"), site.environment)
        site.ended(first, (0, 1, 2), "restore through a proxy")
        home.write_text(before, "utf-8")
        if first.status:
            site.do(programs.admin(words), what="restore again")
    finally:
        home.write_text(before, "utf-8")
        program.kill()
    compare(machine, number, to)
    point.counts.restores += 1
    shutil.rmtree(to, ignore_errors=True)
    if not read_count(told):
        os.close(told)
        raise Missed
    os.close(told)
    point.settle()
    point.check()


def _cut(point: Point, up: int, down: int) -> Cut:
    rng = point.rng
    reset = rng.random() < 0.5
    return Cut(up=rng.randrange(up), reset=reset) if rng.random() < 0.5 else Cut(down=rng.randrange(down), reset=reset)


def _start_proxy(point: Point, port: int, cuts: list[Cut]) -> tuple[int, programs.Program, int]:
    proxy = CuttingProxy(port, cuts)
    told, tell = os.pipe()
    program = start(proxy_program(proxy, tell), point.site.log("proxy"), {}, keep=(tell, proxy.descriptor))
    os.close(tell)
    proxy.release()
    point.said.append(f"cuts: {cuts}")
    return proxy.port, program, told
