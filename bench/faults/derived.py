"""What is derived, or a hint, comes back wrong: the catalogue and the agent's state, deleted, damaged, cut, or older.

The daemon makes the catalogue anew where it sees the damage; where only a closer look does (``mastodon check``), the
operator's ``mastodon rebuild`` is the road. In no case is anything that was acknowledged lost, or restored wrong.
"""

import random
import shutil
from pathlib import Path

from bench.faults import programs
from bench.faults.point import Point
from bench.faults.power import tear_file
from bench.faults.site import Broken, Site

SIDES = ("", "-wal", "-shm")


def catalogue_deleted(point: Point) -> None:
    """The catalogue is gone, with or without its side files."""
    _stop(point)
    path = _catalogue(point.site)
    for side in SIDES if point.rng.random() < 0.5 else SIDES[:1]:
        Path(f"{path}{side}").unlink(missing_ok=True)
    _go_on(point)


def catalogue_corrupt(point: Point) -> None:
    """Bytes of the catalogue are not what they were."""
    _stop(point)
    path = _catalogue(point.site)
    with path.open("r+b") as file:
        for _ in range(point.rng.randrange(1, 6)):
            file.seek(point.rng.randrange(path.stat().st_size))
            file.write(point.rng.randbytes(point.rng.choice((1, 16, 512, 4096))))
    _go_on(point)


def catalogue_cut(point: Point) -> None:
    """The catalogue's end is cut off, zero or garbage."""
    _stop(point)
    path = _catalogue(point.site)
    point.said.append(tear_file(path, 0, point.rng))
    _go_on(point)


def catalogue_older(point: Point) -> None:
    """The catalogue is the one of some runs ago."""
    site = point.site
    _stop(point)
    copy = site.work / "older-catalogue"
    shutil.rmtree(copy, ignore_errors=True)
    copy.mkdir()
    path = _catalogue(site)
    for side in SIDES:
        if Path(f"{path}{side}").exists():
            shutil.copy2(f"{path}{side}", copy)
    site.start_daemon()
    for _ in range(point.rng.randrange(1, 3)):
        site.change(point.machine)
        site.back_up(point.machine)
    _stop(point)
    for side in SIDES:
        Path(f"{path}{side}").unlink(missing_ok=True)
    for file in copy.iterdir():
        shutil.copy2(file, path.parent)
    _go_on(point)


def state_deleted(point: Point) -> None:
    """The agent's state, or a file of it, is gone."""
    state = _state(point)
    if point.rng.random() < 0.4:
        shutil.rmtree(state)
    else:
        point.rng.choice(sorted(path for path in state.iterdir() if path.is_file())).unlink()
    _run_twice(point)


def state_corrupt(point: Point) -> None:
    """Files of the agent's state are damaged or cut."""
    for path in sorted(_state(point).iterdir()):
        if path.is_file() and path.stat().st_size and point.rng.random() < 0.7:
            _damage(path, point.rng)
    _run_twice(point)


def state_older(point: Point) -> None:
    """The machine's disk falls back in time: the agent's state is that of some runs ago (P7)."""
    site, machine = point.site, point.machine
    copy = site.work / "older-state"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(_state(point), copy)
    for _ in range(point.rng.randrange(1, 3)):
        site.change(machine)
        site.back_up(machine)
    shutil.rmtree(machine.state)
    copy.rename(machine.state)
    _run_twice(point)


def _state(point: Point) -> Path:
    if not point.machine.state.exists():
        point.settle()
    return point.machine.state


def _damage(path: Path, rng: random.Random) -> None:
    if rng.random() < 0.5:
        tear_file(path, 0, rng)
        return
    with path.open("r+b") as file:
        file.seek(rng.randrange(path.stat().st_size))
        file.write(rng.randbytes(rng.randrange(1, 64)))


def _run_twice(point: Point) -> None:
    point.site.change(point.machine)
    point.settle()
    point.site.change(point.machine)
    point.settle()
    point.check()


def _stop(point: Point) -> None:
    """Properly, or not."""
    if point.rng.random() < 0.5:
        point.site.stop_daemon()
    else:
        point.site.kill_daemon()


def _catalogue(site: Site) -> Path:
    return site.state / "catalogue.sqlite"


def _go_on(point: Point) -> None:
    """The next run, and the check; where these find something, after ``mastodon rebuild`` they must not."""
    site = point.site
    site.change(point.machine)
    try:
        point.settle()
        point.check()
        point.check_others()
        return
    except Broken as error:
        point.said.append(f"rebuilt, because: {str(error)[:300]}")
        point.rebuilt = True
    site.stop_daemon()
    site.do(programs.operator("--config", site.config, "rebuild"), what="rebuild")
    point.settle()
    point.check()
    point.check_others()
