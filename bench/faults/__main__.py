"""``python -m bench.faults``: faults, runs, checks. Exit code 1 when anything acknowledged was lost, or broke.

Examples::

    python -m bench.faults --points 100                       # of all kinds in turn
    python -m bench.faults --kinds kills --points 500
    python -m bench.faults --whole --jobs 2 --json faults.json # 2,000 kills, every other fault 50 times
    python -m bench.faults --whole --seed 7 --only 1234       # one point of that run alone
    python -m bench.faults --whole --seed 7 --through 1234    # with those before it in its installation
"""

import argparse
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

from bench.faults import programs
from bench.faults.kinds import KILLS, KINDS, OTHERS, chosen
from bench.faults.report import as_markdown, failures, write_json
from bench.faults.rig import ERA, Wanted, deal, run, run_some

WHOLE_KILLS, WHOLE_OTHERS = 2000, 50
SHARES = {"kill-daemon": 0.45, "kill-agent": 0.3, "kill-restore": 0.25}


def main(arguments: list[str] | None = None) -> int:
    """The command."""
    options = _parser().parse_args(arguments)
    begun = time.monotonic()
    try:
        amounts = _amounts(options)
    except ValueError as error:
        print(f"bench.faults: {error}", file=sys.stderr)
        return 2
    if options.work is not None:
        options.work.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix="faults-", dir=options.work or _fast_place())).resolve()
    programs.prepare(work / "opened")
    kinds = deal(options.seed, amounts)
    wanted = Wanted(options.seed, kinds, work, begun + options.minutes * 60)

    def say(line: str) -> None:
        if not options.quiet or "FAILED" in line or "slow" in line:
            print(line, flush=True)

    if options.only is not None or options.through is not None:
        last = options.only if options.only is not None else options.through
        first = last if options.only is not None else last - last % ERA
        totals = run_some(wanted, range(first, last + 1), say)
    else:
        totals = run(wanted, options.jobs, say)
    seconds = time.monotonic() - begun
    print("\n".join(as_markdown(totals, options.seed, seconds)), flush=True)
    if options.json is not None:
        write_json(options.json, totals, options.seed, seconds)
    if failures(totals):
        print(f"What failed is kept in {work}. To repeat point N, add --only N or --through N.", file=sys.stderr)
        return 1
    shutil.rmtree(work, ignore_errors=True)
    return 0


def _amounts(options: argparse.Namespace) -> dict[str, int]:
    """How many points of each kind. Raises ValueError."""
    if options.whole:
        kills = {kind: int(WHOLE_KILLS * share) for kind, share in SHARES.items()}
        return {**kills, **dict.fromkeys(OTHERS, WHOLE_OTHERS)}
    kinds = chosen(options.kinds)
    return {kind: options.points // len(kinds) + (n < options.points % len(kinds)) for n, kind in enumerate(kinds)}


def _fast_place() -> Path | None:
    """Memory, if it keeps attributes: what power loss leaves is simulated, so nothing has to reach a disk."""
    place = Path("/dev/shm")
    try:
        with tempfile.NamedTemporaryFile(dir=place) as probe:
            os.setxattr(probe.name, "user.probe", b"")
    except OSError:
        return None
    return place


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m bench.faults", description=__doc__, formatter_class=_Raw)
    parser.add_argument("--points", type=int, default=100, help="how many points (default: 100)")
    parser.add_argument("--seed", type=int, default=1, help="points, steps and trees are drawn from it (default: 1)")
    parser.add_argument(
        "--kinds", default="all", help=f"comma-separated names or groups; all, kills, others; {', '.join(KINDS)}"
    )
    parser.add_argument("--whole", action="store_true", help="2,000 kill points and 50 of every other kind")
    parser.add_argument("--jobs", type=int, default=1, help="processes that work at once (default: 1)")
    parser.add_argument("--minutes", type=float, default=240, help="begin no point after so long (default: 240)")
    parser.add_argument("--work", type=Path, help="where installations are made (default: memory, else TMPDIR)")
    parser.add_argument("--json", type=Path, help="write the results there")
    parser.add_argument("--only", type=int, metavar="N", help="point N of that run alone")
    parser.add_argument("--through", type=int, metavar="N", help="point N with those before it in its installation")
    parser.add_argument("-q", "--quiet", action="store_true", help="lines for failures only")
    return parser


class _Raw(argparse.RawDescriptionHelpFormatter):
    """Keeps the examples' lines."""


assert set(SHARES) == set(KILLS)
if __name__ == "__main__":
    sys.exit(main())
