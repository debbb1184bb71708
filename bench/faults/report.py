"""What a run of the rig came to, for people and for programs."""

import json
from collections import Counter
from dataclasses import asdict
from pathlib import Path

from bench.faults.rig import Totals


def failures(totals: Totals) -> int:
    """Points at which something was lost or broken."""
    return sum(bool(one.failure) for one in totals.results)


def as_markdown(totals: Totals, seed: int, seconds: float) -> list[str]:
    """Lines: how many points of each kind, what was checked, what failed."""
    done, failed, missed, slowest = Counter[str](), Counter[str](), Counter[str](), dict[str, float]()
    for one in totals.results:
        done[one.kind] += not one.missed
        failed[one.kind] += bool(one.failure)
        missed[one.kind] += one.missed
        slowest[one.kind] = max(one.seconds, slowest.get(one.kind, 0))
    lines = ["| fault | points | not hit | failures | slowest |", "| --- | --- | --- | --- | --- |"]
    lines += [
        f"| {kind} | {done[kind]} | {missed[kind]} | {failed[kind]} | {slowest[kind]:.1f} s |" for kind in sorted(done)
    ]
    points = sum(done.values()) - done["audit"]
    kills = sum(count for kind, count in done.items() if kind.startswith("kill-"))
    rebuilt = sum(one.rebuilt for one in totals.results)
    lines += [
        "",
        f"{points} points ({kills} of them kills), seed {seed}: {failures(totals)} failures. "
        f"Acknowledged snapshots checked: {totals.snapshots}; restores: {totals.restores}; recoveries from the spools "
        f"alone: {totals.recoveries}; `mastodon check`: {totals.checks}; catalogues that took a `mastodon rebuild`: "
        f"{rebuilt}. {seconds:.0f} s, {totals.cpu_s:.0f} s of CPU.",
    ]
    return lines


def write_json(path: Path, totals: Totals, seed: int, seconds: float) -> None:
    """All of it."""
    points = Counter(one.kind for one in totals.results if not one.missed)
    content = {
        "seed": seed,
        "seconds": round(seconds, 1),
        "failures": failures(totals),
        "points": dict(sorted(points.items())),
        **asdict(totals),
    }
    path.write_text(json.dumps(content, indent=1), "utf-8")
