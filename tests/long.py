"""Which of the long tests run: giant trees, long sweeps, thousands of connections.

Unset, `MASTODON_LONG` skips them, each counted with its reason. `share` runs those that have a bounded share, at that
size; `1` runs all, whole. docs/development.md tells when to use which.
"""

import os
from collections.abc import Callable
from enum import Enum
from typing import TypeVar

Test = TypeVar("Test", bound=Callable[..., object])


class Extent(Enum):
    """How much of the long tests is wanted."""

    QUICK = ""
    SHARE = "share"
    WHOLE = "1"


WANTED = Extent(os.environ.get("MASTODON_LONG", ""))


def reason_to_skip(share: bool, wanted: Extent) -> str | None:
    """Why a long test does not run, if it does not; ``share`` says that it has a bounded share."""
    if wanted is Extent.WHOLE or (share and wanted is Extent.SHARE):
        return None
    return "long test: set MASTODON_LONG=1" + (" (or share, for a part of it)" if share else "")


def long_test(*, share: bool) -> Callable[[Test], Test]:
    """Marks a test or a test case as long; ``share=True`` where it takes its size from `extent`."""

    def mark(test: Test) -> Test:
        reason = reason_to_skip(share, WANTED)
        if reason is not None:
            test.skip = reason  # type: ignore[attr-defined]
        return test

    return mark


def extent(*, share: int, whole: int, wanted: Extent = WANTED) -> int:
    """The size that a long test is to have: ``whole`` under `MASTODON_LONG=1`, else its bounded ``share``."""
    return whole if wanted is Extent.WHOLE else share
