"""Anomalies from real packs and snapshots: told once, and not to be hidden by the machine."""

from random import Random
from typing import Any

from mastodon.catalogue.measures import BackupDay
from mastodon.daemon.anomaly import MINIMUM
from mastodon.sealed.blob import BlobKind
from mastodon.sealed.events import EventCode
from mastodon.sealed.snapshot import Reason, SnapshotStatus
from tests.lookout_case import DAY_NS, HOUR_NS, LookoutCase
from tests.store_case import Blob

FILE = 32 * 1024
FILES = 40


class UsualCase(LookoutCase):
    """A machine with some files of which one changes a day; each is a bundle, and each ten have a page."""

    def setUp(self) -> None:
        super().setUp()
        self.random = Random(1)
        self.sent: set[bytes] = set()
        self.files = [self.file() for _ in range(FILES)]

    def file(self) -> Blob:
        return self.machine.blob(BlobKind.BUNDLE, [], self.random.randbytes(FILE))

    def map(self, chunks: int) -> list[Blob]:
        """A large file: its map, and the chunks that it leads to."""
        below = [self.machine.blob(BlobKind.CHUNK, [], self.random.randbytes(FILE)) for _ in range(chunks)]
        return [
            self.machine.blob(BlobKind.MAP, [one[0] for one in below], b"map of %d" % self.machine.sequence),
            *below,
        ]

    def back_up(self, files: list[Blob], below: list[Blob] = [], **said: Any) -> None:  # noqa: B006
        """A complete run; ``below`` are chunks that maps among the files lead to."""
        groups = [files[at : at + 10] for at in range(0, len(files), 10)]
        pages = [
            self.machine.blob(BlobKind.PAGE, [one[0] for one in group], b"".join(one[0] for one in group))
            for group in groups
        ]
        root = self.machine.blob(BlobKind.ROOT, [one[0] for one in pages], b"root %d" % self.machine.sequence)
        new = [one for one in [*below, *files, *pages, root] if one[0] not in self.sent]
        self.sent.update(one[0] for one in new)
        self.send(new)
        self.commit(root[0], **said)

    def usual_day(self) -> None:
        """One file changes."""
        self.files[self.machine.sequence % FILES] = self.file()
        self.back_up(self.files)
        self.pass_time(DAY_NS)

    def usual_days(self, count: int = MINIMUM + 1) -> None:
        for _ in range(count):
            self.usual_day()
        self.assertEqual(self.told(), [])

    def days(self) -> list[BackupDay]:
        self.wait(self.lookout.settled())
        return self.wait(self.store.catalogue.measures.days(self.machine.id, 1000))


class MeasureTests(UsualCase):
    """What a day was like."""

    def test_figures(self) -> None:
        """Bytes and blobs sent and reached, as they lie in packs; maps lead to their chunks."""
        large, *chunks = self.map(5)
        self.back_up([*self.files, large], chunks)
        self.pass_time(HOUR_NS)
        self.files[0] = self.file()
        self.back_up([*self.files, large])
        self.pass_time(DAY_NS)
        self.files[1] = self.file()
        self.back_up([*self.files, large])
        first, second = self.days()
        content = sum(len(one[2]) for one in [*self.files, large, *chunks])
        self.assertEqual((first.sequence, first.blobs), (2, 1 + 5 + FILES + 1 + 5))
        self.assertEqual((second.sequence, second.content_bytes), (3, content))
        self.assertEqual(second.blobs, first.blobs)
        sizes = [pack.stat().st_size for pack in self.packs()]
        self.assertEqual(first.sent_bytes + second.sent_bytes, sum(sizes))
        self.assertEqual(second.sent_blobs, 3)  # a file, its page, the root
        self.assertLess(second.listing_bytes, 4096)

    def test_rebuild(self) -> None:
        """Days are measured again from spool and ledger alone, and give the same; nothing is told anew."""
        self.usual_days()
        before = self.days()
        self.stop()
        for path in self.setting.state.glob("catalogue.sqlite*"):
            path.unlink()
        self.start_again()
        after = self.days()
        # The time of a pack is that of its file now, on the clock of the system that runs the test.
        shown = [(one.sequence, one.until_ns, one.listing_bytes, one.content_bytes, one.blobs) for one in before]
        self.assertEqual(
            [(one.sequence, one.until_ns, one.listing_bytes, one.content_bytes, one.blobs) for one in after], shown
        )

    def test_clock_went_back(self) -> None:
        """A day that was counted is not counted again when the server's clock was wrong by a month."""
        self.usual_days(3)
        self.pass_time(30 * DAY_NS)
        self.usual_day()
        self.pass_time(-31 * DAY_NS)
        self.usual_day()
        self.usual_day()
        for day in self.days()[1:]:
            self.assertLess(day.sent_bytes, 3 * FILE)

    def test_partial(self) -> None:
        """Checkpoints and partial snapshots are no days; what they sent counts for the next complete one."""
        self.usual_days(2)
        self.files[0] = self.file()
        self.back_up(self.files, status=SnapshotStatus.CHECKPOINT)
        self.files[1] = self.file()
        self.back_up(self.files, status=SnapshotStatus.PARTIAL, counts=((Reason.UNREADABLE, 2),))
        self.assertEqual(len(self.days()), 2)
        self.back_up(self.files)
        self.assertGreater(self.days()[-1].sent_bytes, 2 * FILE)


class AnomalyTests(UsualCase):
    """What is told."""

    def test_ransomware(self) -> None:
        """Nearly everything sent anew: told on that day, once, with what the agent says; over when days are usual."""
        self.usual_days()
        self.back_up([self.file() for _ in range(FILES)], counts=((Reason.GONE, 3), (Reason.FUZZY, 1)))
        ((code, detail),) = self.told()
        self.assertIs(code, EventCode.ANOMALY)
        self.assertRegex(detail, r"^churn: 1\.3 MiB sent in a day, usual 3.\.. KiB; there are 1\.3 MiB in all; ")
        self.assertIn("snapshot 9, its agent counts gone 3, fuzzy 1", detail)
        self.restart()
        for _ in range(3):
            self.pass_time(HOUR_NS)
            self.back_up([self.file() for _ in range(FILES)])
        self.assertEqual(self.told(), [])
        self.files = [self.file() for _ in range(FILES)]
        self.back_up(self.files)
        self.pass_time(DAY_NS)
        for _ in range(7):
            self.usual_day()
        self.assertEqual(self.codes(), [EventCode.USUAL_AGAIN])

    def test_wipe(self) -> None:
        """Little is left: told on that day; and churn besides, were it to come then."""
        self.usual_days()
        self.back_up(self.files[:3])
        ((code, detail),) = self.told()
        self.assertIs(code, EventCode.ANOMALY)
        self.assertRegex(detail, r"^shrink: what it reaches is 10.\.. KiB, usual 1\.3 MiB; snapshot 9, ")
        self.back_up([self.file() for _ in range(FILES)])
        self.assertEqual(set(self.codes()), {EventCode.ANOMALY})

    def test_stopped_before_it_was_judged(self) -> None:
        """A commit that was acknowledged just before the daemon died is judged at its next start."""
        self.usual_days()
        self.wait(self.lookout.stop())
        self.store.committed_watchers.clear()
        self.back_up(self.files[:3])
        self.restart()
        self.assertEqual(self.codes(), [EventCode.ANOMALY])

    def test_stopped_amid_measuring(self) -> None:
        """A daemon that stops while it measures does so at once, and goes on at its next start."""
        self.usual_days()
        self.back_up(self.files[:3])
        self.restart()
        self.assertEqual(self.codes(), [EventCode.ANOMALY])


class EverydayTests(UsualCase):
    """Nothing is told of what is as ever."""

    def test_two_months(self) -> None:
        """Work days and weekends, files that come, grow in number and go, partial runs, a daemon that is restarted."""
        for day in range(60):
            for _ in range(0 if day % 7 > 4 else self.random.randint(1, 4)):
                self.files[self.random.randrange(len(self.files))] = self.file()
            if day % 5 == 0:
                self.files.append(self.file())
            if day % 9 == 0:
                del self.files[self.random.randrange(len(self.files))]
            if day % 6 == 0:
                self.back_up(self.files, status=SnapshotStatus.PARTIAL, counts=((Reason.UNREADABLE, 1),))
            self.back_up(self.files)
            self.pass_time(DAY_NS + self.random.randint(-HOUR_NS, HOUR_NS))
            if day % 20 == 19:
                self.restart()
        self.assertEqual(self.told(), [])


class HostileTests(UsualCase):
    """Root on the machine sends everything anew and wants nobody to hear of it."""

    def encrypt(self, steps: int) -> None:
        """A few files in each run, in as many runs."""
        for at in range(steps):
            for number in range(at * FILES // steps, (at + 1) * FILES // steps):
                self.files[number] = self.file()
            self.back_up(self.files)
            self.pass_time(HOUR_NS // 2)

    def test_promise_p8_trickled_over_a_day(self) -> None:
        """Twenty runs with a twentieth each are told as one that sends all."""
        self.usual_days()
        self.encrypt(20)
        self.assertEqual(self.codes(), [EventCode.ANOMALY])

    def test_promise_p8_hidden_in_partial_runs(self) -> None:
        """To commit it in partial snapshots and end with a quiet complete one does not help."""
        self.usual_days()
        for number in range(FILES):
            self.files[number] = self.file()
            self.back_up(self.files, status=SnapshotStatus.CHECKPOINT)
            self.pass_time(HOUR_NS // 2)
        self.back_up(self.files)
        self.assertEqual(self.codes(), [EventCode.ANOMALY])

    def test_promise_p8_poisoned_history(self) -> None:
        """To make odd days the usual ones is told on the first of them."""
        self.usual_days()
        self.encrypt(1)
        self.assertEqual(self.codes(), [EventCode.ANOMALY])

    def test_promise_p12_flood_of_events(self) -> None:
        """A machine that is odd and usual by turns, as often as it may commit, is told of thrice in an hour."""
        self.usual_days()
        for at in range(50):
            self.back_up(self.files[:3] if at % 2 else self.files)
            self.wait(self.lookout.settled())
            self.pass_time(HOUR_NS // 50)
        self.assertLessEqual(len(self.told()), 3)
