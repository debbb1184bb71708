"""What measured steps come to: a table of medians, ratios of medians beside what is promised, a chart."""

import os
import platform
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.chart import Panel, bars, page
from bench.measure import Cost

Steps = dict[str, Cost]
Results = Mapping[str, Sequence[Steps]]
Figure = Callable[[Cost], float]

COLUMNS: tuple[tuple[str, Figure], ...] = (
    ("wall s", lambda cost: cost.wall),
    ("client CPU s", lambda cost: cost.cpu),
    ("server CPU s", lambda cost: cost.server_cpu),
    ("client MiB", lambda cost: cost.peak),
    ("server MiB", lambda cost: cost.server_peak),
    ("sent MB", lambda cost: cost.sent / 1e6),
    ("kept MB", lambda cost: cost.kept / 1e6),
)
SERVER_ONLY = ("server CPU s", "server MiB", "sent MB")
"""Empty for a tool whose server is not a process of its own on loopback."""
PEERS = ("restic", "borg")


@dataclass(frozen=True, slots=True)
class Row:
    """One figure to be compared, and the most that its ratio to a peer may be: on a LAMP tree, on a million files."""

    label: str
    step: str
    figure: Figure
    lamp: Mapping[str, float]
    many: Mapping[str, float]


def wall(cost: Cost) -> float:
    return cost.wall


def wall_without_gpg(cost: Cost) -> float:
    return cost.wall - (cost.gpg or 0.0)


ROWS = (
    Row("first, wall", "first", wall, {"restic": 0.5, "borg": 0.3}, {"restic": 0.6}),
    Row("no change, wall", "no change", wall, {"restic": 0.5, "borg": 0.2}, {"restic": 0.5}),
    Row("day, wall", "day", wall, {"restic": 0.5, "borg": 0.25}, {}),
    Row("day, sent", "day", lambda cost: cost.sent, {"restic": 0.2, "borg": 0.2}, {}),
    Row("restore, wall", "restore", wall, {"restic": 0.5, "borg": 0.25}, {"restic": 0.5}),
    Row("single file, wall", "single file", wall, {}, {}),
    Row("single file, wall without gpg", "single file", wall_without_gpg, {"restic": 0.9, "borg": 0.5}, {}),
    Row("kept after first", "first", lambda cost: cost.kept, {"restic": 0.97, "borg": 1.02}, {}),
    Row("kept after day", "day", lambda cost: cost.kept, {}, {}),
    Row("client memory, first", "first", lambda cost: cost.peak, {}, {}),
    Row("client memory, restore", "restore", lambda cost: cost.peak, {}, {}),
)
DELTA_SENT = 0.1
MOST_MIB = 150


def median(runs: Sequence[Steps], step: str, figure: Figure) -> float | None:
    """Over all runs; None where the step was not measured."""
    values = [figure(run[step]) for run in runs if step in run]
    return statistics.median(values) if values else None


def table(results: Results) -> Iterator[str]:
    """The medians over all runs as lines of Markdown."""
    heads = ["tool", "step", *(head for head, _ in COLUMNS), "of it gpg s", "differences"]
    yield f"| {' | '.join(heads)} |"
    yield "|" + " --- |" * len(heads)
    for name, runs in results.items():
        for step in runs[0]:
            costs = [run[step] for run in runs]
            served = any(cost.server_peak for cost in costs)
            cells = [
                f"{statistics.median(map(figure, costs)):.1f}" if served or head not in SERVER_ONLY else ""
                for head, figure in COLUMNS
            ]
            gpg = [cost.gpg for cost in costs if cost.gpg is not None]
            cells.append(f"{statistics.median(gpg):.2f}" if gpg else "")
            found = max((cost.differences for cost in costs if cost.differences is not None), default="")
            yield f"| {name} | {step} | {' | '.join(cells)} | {found} |"


def ratios(results: Results, lamp: bool) -> Iterator[str]:
    """Mastodon's medians over those of its peers, as Markdown; in brackets the most that was promised."""
    peers = [peer for peer in PEERS if peer in results]
    own = [name for name in results if name.startswith("mastodon")]
    if not peers or not own:
        return
    yield f"| ratio of medians | {' | '.join(f'{name} / {peer}' for name in own for peer in peers)} |"
    yield "| --- |" + " --- |" * (len(own) * len(peers))
    for row in ROWS:
        cells = [ratio(results, row, name, peer, lamp) for name in own for peer in peers]
        if any(cells):
            yield f"| {row.label} | {' | '.join(cells)} |"


def peaks(results: Results) -> Iterator[str]:
    """The most memory that Mastodon's clients took in any step, beside what is promised."""
    for name in [name for name in results if name.startswith("mastodon")]:
        found = {step: median(results[name], step, lambda cost: cost.peak) or 0.0 for step in results[name][0]}
        step = max(found, key=lambda each: found[each])
        missed = "" if found[step] <= MOST_MIB else ", MISSED"
        yield f"{name}: at most {found[step]:.0f} MiB (≤ {MOST_MIB}{missed}), in the step {step!r}"


def ratio(results: Results, row: Row, name: str, peer: str, lamp: bool) -> str:
    """One cell: empty where either was not measured, or sent nothing that could be counted."""
    ours, theirs = (median(results[each], row.step, row.figure) for each in (name, peer))
    if ours is None or not theirs:
        return ""
    floor = (row.lamp if lamp else row.many).get(peer)
    if row.label == "day, sent" and name == "mastodon-delta" and peer == "restic":
        floor = DELTA_SENT
    value = ours / theirs
    if floor is None:
        return f"{value:.2f}"
    return f"{value:.2f} (≤ {floor:g}{'' if value <= floor else ', MISSED'})"


def chart(results: Results) -> str:
    """Wall time, memory and bytes of all tools and steps, as SVG."""
    steps = list(dict.fromkeys(step for runs in results.values() for step in runs[0]))

    def panel(title: str, unit: str, figure: Figure, chosen: Sequence[str]) -> Panel:
        groups = {}
        for step in chosen:
            found = {name: median(runs, step, figure) for name, runs in results.items()}
            groups[step] = {name: value for name, value in found.items() if value is not None}
        return bars(title, unit, groups)

    backups = [step for step in steps if step in ("first", "day")]
    return page(
        [
            panel("Wall time", "s, cold cache", wall, steps),
            panel("Peak memory of the client", "MiB", lambda cost: cost.peak, steps),
            panel("Bytes sent", "MB", lambda cost: cost.sent / 1e6, backups),
            panel("Bytes kept", "MB", lambda cost: cost.kept / 1e6, backups),
        ]
    )


def machine() -> str:
    """What this was measured on, in a line."""
    model = platform.machine()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / (1 << 30)
    cores = len(os.sched_getaffinity(0))
    return f"{cores} cores of {model}, {memory:.0f} GiB, Linux {platform.release()}"
