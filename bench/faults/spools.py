"""Spools that come back wrong: older, empty as if not mounted, or another's; with one spool, and with two.

What the design demands: it is noticed, nothing is written to such a spool before the operator said so, the others go
on, and nothing but what that spool alone held is missing; what it lost and the machine still has is sent again, and old
snapshots name what they lack. With the right spool back, all is there.
"""

import contextlib
import hashlib
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from bench.faults import programs
from bench.faults.check import Lost, check_packs, check_road
from bench.faults.point import Point
from bench.faults.site import Broken, Machine, Site
from bench.faults.steps import Plan
from bench.faults.tree import take_manifest
from mastodon.daemon.events import EventCode
from mastodon.daemon.spool import make_spool
from mastodon.host.ledger_reader import ChainReader
from mastodon.host.spool_layout import chains, segments
from mastodon.sealed.ledger_entries import Event


def spool_returns(point: Point) -> None:
    """A spool is gone, empty, older or another's for a while; the right one comes back and everything is there."""
    site, machine = point.site, point.machine
    older = _copy_of_spools(point)
    for _ in range(point.rng.randrange(1, 3)):
        site.change(machine)
        site.back_up(machine)
    site.stop_daemon()
    spool = point.rng.choice(site.spools)
    how = point.rng.choice(("older", "empty", "gone", "other"))
    point.said.append(f"{spool.name} is {how} for a while")
    with _replaced(point, spool, older / spool.name, how) as there:
        before = _fingerprint(there)
        if len(site.spools) == 1:
            _demand_refusal(site)
        else:
            site.start_daemon()
            _demand_said(site, "offline")
            site.change(machine)
            site.begin_agent(machine).end((0, 1))
            site.stop_daemon()
            _demand_event(site, EventCode.SPOOL_OFFLINE)
        if _fingerprint(there) != before:
            raise Broken(f"a spool that is {how} was written to")
    shutil.rmtree(older)
    point.settle()
    point.check()


def spool_unmounted(point: Point) -> None:
    """A spool goes away under a running daemon, as by an unmount, and comes back after a restart."""
    site, machine = point.site, point.machine
    spool = point.rng.choice(site.spools)
    away = spool.with_name(spool.name + ".away")
    spool.rename(away)
    spool.mkdir(mode=0o755)
    try:
        site.change(machine)
        site.begin_agent(machine, retry_s=1).end((0, 1, 2, 4))
        strange = [path for path in spool.rglob("*") if path.is_file()]
        if strange:
            raise Broken(f"written below the mount point: {strange[:3]}")
        site.stop_daemon()
    finally:
        shutil.rmtree(spool)
        away.rename(spool)
    point.settle()
    point.check()


def spool_stays_older(point: Point) -> None:
    """A spool is older for good, and the operator lets it in: what it lost is sent again, or named."""
    site, machine = point.site, point.machine
    point.settle()
    older = _copy_of_spools(point)
    kept = set(machine.acked)
    for _ in range(point.rng.randrange(1, 3)):
        site.change(machine)
        site.back_up(machine)
    site.stop_daemon()
    spool = point.rng.choice(site.spools)
    lost = _packs(spool) - _packs(older / spool.name)
    point.said.append(f"{spool.name} stays older, {len(lost)} packs are gone")
    shutil.rmtree(spool)
    (older / spool.name).rename(spool)
    if len(site.spools) == 1:
        _demand_refusal(site, "went back in time")
    again = ("spool", "add", spool, "--again", "--no-recovery")
    site.do(programs.operator("--config", site.config, *again), what="spool add --again")
    if len(site.spools) == 1:
        _confirm(site)
        for number in set(machine.acked) - kept:
            del machine.acked[number]  # only that spool had them
    machine.packs -= lost
    point.spent = True
    site.start_daemon()
    site.back_up(machine)
    if len(site.spools) == 1:
        _demand_event(site, EventCode.LEDGER_CONFIRMED)
    elif lost:
        _demand_event(site, EventCode.PACK_LOST)
    sound = kept | {max(machine.acked)}
    check_packs(site, machine)
    for road in ("restored", "recovered"):
        check_road(site, machine, sorted(sound), road)
        for number in sorted(set(machine.acked) - sound):
            _demand_truth(site, machine, number, road)
    point.counts.snapshots += len(machine.acked)
    point.counts.restores += len(machine.acked)
    point.counts.recoveries += len(machine.acked)


@contextlib.contextmanager
def _replaced(point: Point, spool: Path, older: Path, how: str) -> Iterator[Path]:
    """In the spool's place lies something else for a while; where."""
    away = spool.with_name(spool.name + ".away")
    spool.rename(away)
    try:
        if how == "older":
            shutil.copytree(older, spool, symlinks=True)
        elif how == "empty":
            spool.mkdir(mode=0o755)
        elif how == "other":
            make_spool(spool, point.rng.randbytes(16))
        yield spool
    finally:
        shutil.rmtree(spool, ignore_errors=True)
        away.rename(spool)


def _copy_of_spools(point: Point) -> Path:
    copy = point.site.work / f"older-{point.number}"
    shutil.rmtree(copy, ignore_errors=True)
    for spool in point.site.spools:
        shutil.copytree(spool, copy / spool.name, symlinks=True)
    return copy


def _packs(spool: Path) -> set[str]:
    return {path.stem for path in spool.glob("packs/**/*.pack")}


def _fingerprint(top: Path) -> dict[str, str]:
    files = sorted(path for path in top.rglob("*") if path.is_file()) if top.exists() else []
    return {os.fspath(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def _demand_refusal(site: Site, why: str = "") -> None:
    """Without its only spool the daemon does not start, and says why."""
    if site.start_daemon(Plan(())):
        raise Broken("the daemon serves without its only spool")
    daemon, site.daemon = site.daemon, None
    assert daemon is not None
    if "cannot start" not in daemon.said() or why not in daemon.said():
        raise Broken(f"the daemon does not say why it does not start:\n{daemon.said()}")


def _demand_said(site: Site, what: str) -> None:
    assert site.daemon is not None
    if what not in site.daemon.said(100_000):
        raise Broken(f"the daemon does not say {what!r}:\n{site.daemon.said()}")


def _demand_event(site: Site, code: EventCode) -> None:
    """The ledger of a spool that is in use tells of it."""
    for spool in site.spools:
        for chain in chains(spool):
            entries = ChainReader(chain, segments(spool, chain)).entries()
            if any(isinstance(entry.body, Event) and entry.body.code == code for entry, _ in entries):
                return
    raise Broken(f"no ledger has an event {code.name}")


def _confirm(site: Site) -> None:
    """The operator's road when the whole ledger went back: compare the head, confirm it."""
    program = site.do(programs.operator("--config", site.config, "rebuild"), (1,), "rebuild")
    head = re.search(r"Ledger's head: (\S+)", program.said())
    if head is None:
        raise Broken(f"rebuild names no head:\n{program.said()}")
    site.do(programs.operator("--config", site.config, "rebuild", "--confirm", head[1]), what="rebuild --confirm")


def _demand_truth(site: Site, machine: Machine, number: int, road: str) -> None:
    """A snapshot that may have lost something: what is restored is right, and what is not is told by the exit code."""
    to = site.work / "truth"
    if road == "restored":
        main = programs.admin(site.restore_words(machine, number, to))
    else:
        main = programs.recover(site.recover_words(machine, number, to))
    program = site.do(main, (0, 1, 2, 3), f"{road}, possibly in part")
    top = to / machine.tree.relative_to("/")
    expected = machine.acked[number]
    found = take_manifest(top) if top.exists() else {}
    content = slice(6, 7)
    wrong = [path for path in found if path in expected and found[path][content] != expected[path][content]]
    wrong += [path for path in found if path not in expected]
    missing = [path for path in expected if path not in found]
    if wrong:
        raise Lost(f"{machine.name}, snapshot {number}, {road}: wrong content: {wrong[:5]}")
    if missing and program.status == 0:
        raise Lost(f"{machine.name}, snapshot {number}, {road}: exit 0, but {len(missing)} are missing: {missing[:5]}")
    unnamed = [path for path in missing if Path(path).name not in program.said(1_000_000)]
    if unnamed and "page" not in program.said(1_000_000) and "listing" not in program.said(1_000_000):
        raise Broken(f"missing, and not named: {unnamed[:5]}; it said:\n{program.said()}")
    shutil.rmtree(to, ignore_errors=True)
