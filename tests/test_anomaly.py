"""What is odd in a machine's backups, from sizes that the server sees; and what a hostile machine does about it."""

from collections.abc import Iterable
from random import Random

from twisted.trial.unittest import SynchronousTestCase

from mastodon.catalogue.measures import BackupDay as Day
from mastodon.daemon.anomaly import HISTORY, MINIMUM, STRETCH, Finding, judge

GIB = 1 << 30
DAY_NS = 86400 * 10**9


def days(sent: Iterable[float], reached: Iterable[float] | float = 100.0, listing: float = 0.1) -> list[Day]:
    """One a day, in GiB sent and reached; a blob has a MiB."""
    shares = list(sent)
    sizes = [reached] * len(shares) if isinstance(reached, float) else list(reached)
    return [
        Day(at + 1, at * DAY_NS, int(one * GIB), int(one * 1024), int(listing * GIB), int(size * GIB), int(size * 1024))
        for at, (one, size) in enumerate(zip(shares, sizes, strict=True))
    ]


def first_told(series: list[Day], finding: Finding) -> int | None:
    """The place of the first day on which it is found."""
    return next((at for at in range(len(series)) if finding in judge(series[: at + 1])), None)


class UsualTests(SynchronousTestCase):
    """Nothing is said of what is as ever."""

    def test_quiet(self) -> None:
        """Days that vary as days do, weekends, a growing disk, a machine that sends all of it anew each day."""
        random = Random(1)
        for series in (
            days(random.uniform(0.5, 3) for _ in range(HISTORY)),
            days((0.0 if at % 7 > 4 else random.uniform(1, 3)) for at in range(HISTORY)),
            days([2.0] * HISTORY, [100 + 2.0 * at for at in range(HISTORY)]),
            days([95.0] * HISTORY),
            days([0.0] * HISTORY),
            days([25.0 if at % 30 == 0 else 1.0 for at in range(3 * STRETCH)], 400.0),
        ):
            for at in range(len(series)):
                self.assertEqual(judge(series[: at + 1]), {}, at)

    def test_minimum_history(self) -> None:
        """Before a week is known nothing is said, however odd: the first backup is sent whole."""
        series = days([100.0, *[1.0] * (MINIMUM - 2), 90.0], [100.0] * (MINIMUM - 1) + [1.0])
        self.assertEqual(judge(series), {})
        self.assertEqual(judge([]), {})

    def test_little(self) -> None:
        """A handful of files may change or go as a whole."""
        tiny = [Day(at, at, 10_000, 10, 1000, 500_000, 60) for at in range(20)]
        self.assertEqual(judge([*tiny, Day(20, 20, 500_000, 60, 1000, 400, 1)]), {})

    def test_grown_for_good(self) -> None:
        """More and larger than before is told while it is new, and is the usual after a few weeks."""
        series = days([1.0] * STRETCH + [30.0] + [1.0] * STRETCH, [100.0] * STRETCH + [130.0] * (STRETCH + 1))
        self.assertEqual(first_told(series, Finding.CHURN), STRETCH)
        self.assertEqual(judge(series), {})


class OddTests(SynchronousTestCase):
    """What is told."""

    def test_ransomware(self) -> None:
        """Nearly everything is sent anew: told on that day, with the figures."""
        found = judge(days([2.0] * 20 + [95.0]))
        self.assertEqual(found, {Finding.CHURN: "95.0 GiB sent in a day, usual 2.0 GiB; there are 100.1 GiB in all"})

    def test_wipe(self) -> None:
        """Little is left: told on that day. So is a listing that became short while one large file remains."""
        found = judge(days([2.0] * 21, [100.0] * 20 + [3.0]))
        self.assertEqual(found, {Finding.SHRINK: "what it reaches is 3.0 GiB, usual 100.0 GiB"})
        series = days([2.0] * 20)
        last = Day(21, 21, GIB, 10, GIB // 1000, 95 * GIB, 95 * 1024)
        self.assertEqual(judge([*series, last]), {Finding.SHRINK: "its listing is 1.0 MiB, usual 102.4 MiB"})

    def test_many_small_blobs(self) -> None:
        """Files that became so small that their bytes hardly count are told by their number."""
        usual = [Day(at, at, 2 * GIB, 2000, GIB // 10, 100 * GIB, 100_000) for at in range(20)]
        found = judge([*usual, Day(20, 20, 3 * GIB, 90_000, GIB // 10, 100 * GIB, 100_000)])
        self.assertEqual(list(found), [Finding.CHURN])
        self.assertIn("90000 blobs sent", found[Finding.CHURN])


class HostileTests(SynchronousTestCase):
    """Root on the machine wants to encrypt or delete everything without a word being said."""

    def test_trickle_over_days(self) -> None:
        """All of it sent anew at the same pace in 4 days, 10 days, 3 weeks: told before it is done."""
        for length in (4, 10, 21):
            attack = 100.0 / length
            series = days([1.0] * (3 * STRETCH) + [1.0 + attack] * length)
            told = first_told(series, Finding.CHURN)
            assert told is not None, length
            self.assertGreaterEqual(told, 3 * STRETCH)

    def test_deleted_slowly(self) -> None:
        """A twentieth less each day, for two months: told when half of what was is gone, or little later."""
        sizes = [100.0] * STRETCH + [100.0 * 0.95**day for day in range(60)]
        told = first_told(days([1.0] * len(sizes), sizes), Finding.SHRINK)
        assert told is not None
        self.assertGreater(sizes[told], 20.0)

    def test_growing_first(self) -> None:
        """Encrypted copies beside the files, and the files deleted later: told when the copies are sent."""
        series = days([1.0] * 20 + [100.0, 1.0, 1.0], [100.0] * 20 + [200.0, 200.0, 100.0])
        self.assertEqual(first_told(series, Finding.CHURN), 20)
        huge = days([1.0] * 20 + [900.0] + [1.0] * 8 + [95.0], [100.0] * 20 + [1000.0] * 9 + [100.0])
        self.assertEqual(first_told(huge, Finding.CHURN), 20)
        self.assertIn(Finding.CHURN, judge(huge))  # against the usual size, not the size of a week

    def test_poisoned_history(self) -> None:
        """Odd days are no usual ones: the first is told, and after twelve of them one more is still odd."""
        for days_of_poison in (1, 5, 12):
            series = days([1.0] * STRETCH + [60.0] * days_of_poison + [95.0])
            self.assertEqual(first_told(series, Finding.CHURN), STRETCH)
            self.assertIn(Finding.CHURN, judge(series))

    def test_ramp(self) -> None:
        """Ever a little more, so that no day is far above the ones before: told before half of it is sent anew."""
        sent = [1.0] * (3 * STRETCH)
        while sent[-1] < 90.0:
            sent.append(sent[-1] * 1.15)
        told = first_told(days(sent), Finding.CHURN)
        assert told is not None
        self.assertLess(sum(sent[3 * STRETCH : told]), 100.0)
