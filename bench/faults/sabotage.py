"""The rig put to the test: something acknowledged is really destroyed, and the check has to notice.

Not among the kinds that ``all`` names, since here a check that finds nothing is the failure.
"""

import os
import random
from collections.abc import Callable

from bench.faults.check import check_road
from bench.faults.point import Point
from bench.faults.site import Broken

ROADS = ("restored", "recovered")


def pack(point: Point) -> None:
    """A pack is removed from its spool."""
    _prepare(point)
    packs = sorted(path for spool in point.site.spools for path in spool.glob("packs/**/*.pack"))
    own = [path for path in packs if path.stem in point.machine.packs]
    point.rng.choice(own).unlink()
    _demand_noticed(point, point.check)


def bytes_of_pack(point: Point) -> None:
    """Bytes of every pack are others."""
    _prepare(point)
    for spool in point.site.spools:
        for path in spool.glob("packs/**/*.pack"):
            size = path.stat().st_size
            with path.open("r+b") as file:
                file.seek(size // 2)
                file.write(random.Random(size).randbytes(64))
    for road in ROADS:
        _demand_noticed(point, lambda road=road: _restore_all(point, road))  # type: ignore[misc]
    _demand_noticed(point, point.check)


def ledger(point: Point) -> None:
    """The last entries of every copy of the ledger are cut off; the daemon does not run meanwhile."""
    _prepare(point)
    point.site.stop_daemon()
    for spool in point.site.spools:
        for path in spool.glob("ledger/*/*.ledger"):
            os.truncate(path, path.stat().st_size - 300)
    _demand_noticed(point, lambda: _restore_all(point, "recovered"))
    _demand_noticed(point, point.site.start_daemon)


def record(point: Point) -> None:
    """The rig's record says that a file was another one: restores that come back otherwise are noticed."""
    _prepare(point)
    number = max(point.machine.acked)
    was = dict(point.machine.acked[number])
    path = point.rng.choice([path for path in was if path.startswith("large")])
    was[path] = (*was[path][:6], "another content", *was[path][7:])
    point.machine.acked[number] = was
    for road in ROADS:
        _demand_noticed(point, lambda road=road: _restore_all(point, road))  # type: ignore[misc]


def _prepare(point: Point) -> None:
    point.spent = True
    point.site.change(point.machine)
    point.settle()


def _restore_all(point: Point, road: str) -> None:
    check_road(point.site, point.machine, sorted(point.machine.acked), road)


def _demand_noticed(point: Point, look: Callable[[], object]) -> None:
    try:
        look()
    except Broken as error:
        point.said.append(f"noticed: {str(error)[:100]}")
        return
    raise Broken("something was destroyed, and the check did not notice")


KINDS: dict[str, Callable[[Point], None]] = {
    "sabotage-pack": pack,
    "sabotage-bytes": bytes_of_pack,
    "sabotage-ledger": ledger,
    "sabotage-record": record,
}
