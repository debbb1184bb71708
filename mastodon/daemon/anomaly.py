"""Is a machine's backup as usual? Judged by sizes that the server itself sees, against the machine's own history.

Two things are told. *Churn*: far more was sent than usual, in bytes or in blobs, and much of what there is (files that
a stranger encrypted are sent nearly all anew). *Shrink*: the newest snapshot reaches far less than usual, or its
listing became short (what was deleted is not reached any more).

What a machine that is hostile by now can do about it. Nothing to hide what it sends or reaches: both are counted from
packs and references, not from its word. To spread it over many runs does not help, since all runs of a day count
together, and of a week, and of four; nor does growing first, since all is held against the usual size; nor do a few odd
days, since what is usual is a median. To change what is usual takes weeks, and the first odd day of them is told.

Not promised: a change that looks like the machine's everyday, or one that takes a month and more. Pure.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from statistics import median_low

from mastodon.catalogue.measures import BackupDay
from mastodon.host.sizes import show_size

STRETCH = 28
"""Days from which what is usual is taken."""
HISTORY = 4 * STRETCH
"""Days that are looked at altogether."""
MINIMUM = 7
"""So many earlier days, or windows of days, it takes before anything is said."""
SPANS = ((1, 0.25, 3.0), (7, 0.5, 2.0), (STRETCH, 0.9, 1.5))
"""Churn: so many days together, the least share of the usual size that was sent in them, and how many times what is
usual that is. Sums over more days vary less."""
DEVIATIONS = 6 * 1.4826
"""In median deviations: six standard deviations, where values are distributed normally."""
SHRUNK_TO = 0.5
LEAST_BYTES = 1 << 20
LEAST_BLOBS = 64
LEAST_LISTING = 64 << 10
"""Where there is less than this nothing is said: a handful of files may well change as a whole every day."""


class Finding(StrEnum):
    """What is not as usual."""

    CHURN = "churn"
    SHRINK = "shrink"


@dataclass(frozen=True, slots=True)
class _Measure:
    """What was sent is held against the size of what there is."""

    sent: Callable[[BackupDay], int]
    size: Callable[[BackupDay], int]
    least: int
    show: Callable[[int], str]


BYTES = _Measure(lambda day: day.sent_bytes, lambda day: day.listing_bytes + day.content_bytes, LEAST_BYTES, show_size)
BLOBS = _Measure(lambda day: day.sent_blobs, lambda day: day.blobs, LEAST_BLOBS, lambda count: f"{count} blobs")


def judge(days: Sequence[BackupDay]) -> dict[Finding, str]:
    """The last of ``days`` (oldest first) held against those before it: what is odd, with the figures for people."""
    days = days[-HISTORY:]
    found = {Finding.CHURN: _churn(days), Finding.SHRINK: _shrink(days)}
    return {finding: text for finding, text in found.items() if text}


def _churn(days: Sequence[BackupDay]) -> str:
    for span, share, times in SPANS:
        for measure in (BYTES, BLOBS):
            if text := _churn_in(days, span, share, times, measure):
                return text
    return ""


def _churn_in(days: Sequence[BackupDay], span: int, share: float, times: float, measure: _Measure) -> str:
    """What the last ``span`` days sent, against windows of as many days before them."""
    before = [measure.sent(day) for day in days[:-span]]
    windows = [sum(before[at : at + span]) for at in range(len(before) - span + 1)][-STRETCH:]
    if len(windows) < MINIMUM:
        return ""
    now = sum(measure.sent(day) for day in days[-span:])
    size = median_low([measure.size(day) for day in days[-span - STRETCH : -span]])
    usual = median_low(windows)
    deviation = median_low([abs(one - usual) for one in windows])
    if now < max(measure.least, share * size, times * usual, usual + DEVIATIONS * deviation):
        return ""
    time = "a day" if span == 1 else f"{span} days"
    return f"{measure.show(now)} sent in {time}, usual {measure.show(usual)}; there are {measure.show(size)} in all"


def _shrink(days: Sequence[BackupDay]) -> str:
    before = days[:-1]
    # The highest of several medians: what dwindles slowly is held against what it was weeks ago.
    stretches = [before[max(0, end - STRETCH) : end] for end in range(len(before), MINIMUM - 1, -STRETCH)]
    for what, size, least in (
        ("what it reaches is", _content, LEAST_BYTES),
        ("its listing is", _listing, LEAST_LISTING),
    ):
        usual = max((median_low(map(size, one)) for one in stretches), default=0)
        if usual >= least and (now := size(days[-1])) < SHRUNK_TO * usual:
            return f"{what} {show_size(now)}, usual {show_size(usual)}"
    return ""


def _content(day: BackupDay) -> int:
    return day.content_bytes


def _listing(day: BackupDay) -> int:
    return day.listing_bytes
