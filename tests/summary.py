"""Turns trial's own summary into the one line that .ci/run ends with: `N passed, N failed`, and `, N skipped` if any.

Trial ends with `Ran N tests in …` and `PASSED (skips=1, successes=10)` or `FAILED (failures=1, errors=2, successes=7)`.
An expected failure (todo) counts as skipped, an unexpected success as failed. No summary, or none run, is a failure.
"""

import re
import sys
from dataclasses import dataclass
from pathlib import Path

RAN = re.compile(r"^Ran (\d+) tests? in ", re.MULTILINE)
VERDICT = re.compile(r"^(?:PASSED|FAILED)(?: \(([a-zA-Z]+=\d+(?:, [a-zA-Z]+=\d+)*)\))?$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Tally:
    """What a run of trial came to."""

    passed: int
    failed: int
    skipped: int

    def __str__(self) -> str:
        skipped = f", {self.skipped} skipped" if self.skipped else ""
        return f"{self.passed} passed, {self.failed} failed{skipped}"

    @property
    def good(self) -> bool:
        return self.passed > 0 and self.failed == 0


def tally(output: str) -> Tally:
    """Counts from the last summary in ``output``: earlier ones are of runs inside a test."""
    ran = list(RAN.finditer(output))
    verdict = VERDICT.search(output, ran[-1].end()) if ran else None
    if verdict is None or int(ran[-1][1]) == 0:
        return Tally(passed=0, failed=1, skipped=0)
    counts = {name: int(number) for name, number in re.findall(r"(\w+)=(\d+)", verdict[1] or "")}
    return Tally(
        passed=counts.get("successes", 0),
        failed=sum(counts.get(name, 0) for name in ("failures", "errors", "unexpectedSuccesses")),
        skipped=sum(counts.get(name, 0) for name in ("skips", "expectedFailures")),
    )


def main() -> int:
    found = tally(Path(sys.argv[1]).read_text(errors="replace"))
    print(found)
    return 0 if found.good else 1


if __name__ == "__main__":
    sys.exit(main())
