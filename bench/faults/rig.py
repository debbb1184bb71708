"""Runs points: which kind each is, in which installation, by how many processes; and takes down what came of it.

Points are dealt by the seed alone: the same numbers, seed and kinds give the same points, so that one can be repeated.
Some points share an installation (an era), with two spools or one; each era is one process's, and machines take turns.
"""

import json
import os
import random
import resource
import shutil
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from bench.faults.check import Checks, check_road
from bench.faults.kills import measure
from bench.faults.kinds import KINDS
from bench.faults.point import Missed, Point
from bench.faults.site import POINTS_EACH, Broken, Machine, Site

ERA = 25
DRAWS = 25
SLOW_S = 20.0
AUDITED = 3
KEPT = 5
SAVE_EVERY = 20
TEXT = 4000


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is to be run. ``kinds[n]`` is the kind of point n."""

    seed: int
    kinds: Sequence[str]
    work: Path
    until: float
    """By the steady clock: no point begins after that."""


@dataclass(slots=True)
class Result:
    """What came of one point. ``failure`` is empty where all was well; ``missed`` that the fault never came."""

    number: int
    kind: str
    seconds: float = 0.0
    draws: int = 0
    missed: bool = False
    failure: str = ""
    rebuilt: bool = False
    said: list[str] = field(default_factory=list)
    slow: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Totals:
    """What all points came to."""

    results: list[Result] = field(default_factory=list)
    snapshots: int = 0
    restores: int = 0
    recoveries: int = 0
    checks: int = 0
    cpu_s: float = 0.0


def deal(seed: int, amounts: dict[str, int]) -> list[str]:
    """The kinds of all points, mixed."""
    kinds = [kind for kind, amount in sorted(amounts.items()) for _ in range(amount)]
    random.Random(f"{seed} deal").shuffle(kinds)
    return kinds


def run(wanted: Wanted, jobs: int, say: Callable[[str], None]) -> Totals:
    """All points, by that many processes."""
    eras = range((len(wanted.kinds) + ERA - 1) // ERA)
    files, workers = [], []
    for number in range(min(jobs, len(eras))):
        file = wanted.work / f"results-{number}.json"
        pid = os.fork()
        if not pid:
            _work(wanted, [range(era * ERA, (era + 1) * ERA) for era in eras[number::jobs]], file, say)
        files.append(file)
        workers.append(pid)
    for pid in workers:
        os.waitpid(pid, 0)
    return _join(files)


def run_some(wanted: Wanted, numbers: Sequence[int], say: Callable[[str], None]) -> Totals:
    """These points alone, in this process."""
    totals, checks = Totals(), Checks()
    _era(wanted, numbers, totals, checks, {}, say)
    _count(totals, checks)
    return totals


def _work(wanted: Wanted, eras: Sequence[Sequence[int]], file: Path, say: Callable[[str], None]) -> None:
    totals, checks, reach = Totals(), Checks(), dict[str, float]()

    def tell(line: str) -> None:
        """A result: what there is so far outlives this process."""
        say(line)
        if len(totals.results) % SAVE_EVERY == 0:
            _save(totals, checks, file)

    try:
        for numbers in eras:
            _era(wanted, [number for number in numbers if number < len(wanted.kinds)], totals, checks, reach, tell)
            _save(totals, checks, file)
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def _join(files: Sequence[Path]) -> Totals:
    totals = Totals()
    for file in files:
        part = json.loads(file.read_text("utf-8")) if file.exists() else {"results": []}
        totals.results += [Result(**one) for one in part.pop("results")]
        for name, value in part.items():
            setattr(totals, name, getattr(totals, name) + value)
    totals.results.sort(key=lambda one: one.number)
    return totals


def _save(totals: Totals, checks: Checks, file: Path) -> None:
    _count(totals, checks)
    whole = file.with_suffix(".new")
    whole.write_text(json.dumps(asdict(totals)), "utf-8")
    whole.rename(file)


def _count(totals: Totals, checks: Checks) -> None:
    for name, value in asdict(checks).items():
        setattr(totals, name, value)
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    totals.cpu_s = sum(one.ru_utime + one.ru_stime for one in used)


def _era(
    wanted: Wanted, numbers: Sequence[int], totals: Totals, checks: Checks, reach: dict[str, float],
    say: Callable[[str], None],
) -> None:  # fmt: skip
    site: Site | None = None
    try:
        for number in numbers:
            if time.monotonic() > wanted.until:
                return
            try:
                site = site or _new_site(wanted, number, len(numbers))
            except Broken as error:
                result = Result(number, wanted.kinds[number], failure=f"no installation: {error}"[-TEXT:])
                totals.results.append(result)
                say(_line(result))
                continue
            machine = site.machines[number % ERA // POINTS_EACH % len(site.machines)]
            result, spent = _point(wanted, number, site, machine, checks, reach)
            totals.results.append(result)
            say(_line(result))
            _tidy(site)
            if result.failure:
                _keep(wanted, site, number)
                site = None
            elif spent:
                site.remove()
                site = None
        if site is not None:
            _audit(site, numbers, totals, checks, say)
    finally:
        if site is not None:
            site.remove()


def _new_site(wanted: Wanted, number: int, points: int) -> Site:
    era = number // ERA
    rng = random.Random(f"{wanted.seed} era {era} {number}")
    work = wanted.work / f"site-{number}"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(mode=0o700)
    machines = 1 if points == 1 else (min(points, ERA) + POINTS_EACH - 1) // POINTS_EACH
    site = Site(work, rng, 2 - era % 2, machines)
    try:
        site.set_up()
    except BaseException:
        site.remove()
        raise
    return site


def _point(
    wanted: Wanted, number: int, site: Site, machine: Machine, checks: Checks, reach: dict[str, float]
) -> tuple[Result, bool]:
    kind = wanted.kinds[number]
    result = Result(number, kind)
    rng = random.Random(f"{wanted.seed} point {number}")
    site.rng = rng
    begun = time.monotonic()
    site.told.clear()
    point = Point(number, site, machine, rng, checks, reach)
    try:
        if not reach:
            measure(point)
        elif not machine.acked:
            point.settle()
        for _ in range(DRAWS):
            result.draws += 1
            try:
                KINDS[kind](point)
                break
            except Missed:
                if not site.daemon_runs:
                    site.start_daemon()
        else:
            result.missed = True
    except Exception as error:
        text = str(error) if type(error).__name__ in ("Broken", "Lost") else traceback.format_exc()
        result.failure = f"{type(error).__name__}: {text}"[-TEXT:]
        result.said = point.said[-20:]
    result.rebuilt = point.rebuilt
    result.seconds = round(time.monotonic() - begun, 3)
    result.slow = [f"{took:.1f} s {what}\n{_said(site, what)}" for took, what in site.told if took > SLOW_S]
    return result, point.spent


def _said(site: Site, what: str) -> str:
    log = site.work / what.rpartition(" ")[2]
    return log.read_text("utf-8", "replace")[-TEXT:] if log.exists() else ""


def _line(result: Result) -> str:
    verdict = "FAILED" if result.failure else "missed" if result.missed else "ok"
    text = f"{result.number:5} {result.kind:20} {verdict} {result.seconds:6.2f} s, {result.draws} draws"
    if result.failure:
        text += "\n      " + "\n      ".join([*result.said, *result.failure.splitlines()])
    return "\n".join([text, *(f"      slow: {one}" for one in result.slow)])


def _tidy(site: Site) -> None:
    """Logs and journals of points that went well are not kept."""
    current = site.daemon.log if site.daemon is not None else None
    for path in (*site.work.glob("*.log"), *site.work.glob("journal-*")):
        if path.is_dir():
            shutil.rmtree(path)
        elif path != current:
            path.unlink()


def _keep(wanted: Wanted, site: Site, number: int) -> None:
    """An installation in which something was lost stays for a look at it."""
    site.close()
    if len(list(wanted.work.glob("failed-*"))) < KEPT:
        site.work.rename(wanted.work / f"failed-{number}")
    else:
        site.remove()


def _audit(site: Site, numbers: Sequence[int], totals: Totals, checks: Checks, say: Callable[[str], None]) -> None:
    """At the end of an era: of each machine some snapshots, by both roads."""
    result = Result(numbers[-1], "audit")
    begun = time.monotonic()
    try:
        for machine in site.machines:
            some = sorted(site.rng.sample(sorted(machine.acked), min(AUDITED, len(machine.acked))))
            if not some:
                continue
            for road in ("restored", "recovered"):
                check_road(site, machine, some, road)
            checks.snapshots += len(some)
            checks.restores += len(some)
            checks.recoveries += len(some)
    except Exception as error:
        result.failure = f"{type(error).__name__}: {error}"[-TEXT:]
    result.seconds = round(time.monotonic() - begun, 3)
    totals.results.append(result)
    say(_line(result))
