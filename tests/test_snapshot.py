"""Snapshot records: bounded, and never in contradiction with themselves."""

from twisted.trial.unittest import SynchronousTestCase

from mastodon.sealed.errors import Malformed, Unsupported
from mastodon.sealed.snapshot import INCOMPLETE, ORDER_RESULTS_LIMIT, Notice, Reason, SnapshotRecord, SnapshotStatus
from tests import sealed_samples as samples
from tests.sealed_samples import MACHINE, snapshot_record


def signed(**changes: object) -> bytes:
    return snapshot_record(**changes).sign(MACHINE.signing_key)


class SnapshotTests(SynchronousTestCase):
    def test_round_trip(self):
        """Every field comes back."""
        record = SnapshotRecord.verify(samples.snapshot(), MACHINE.public_key)
        self.assertEqual(record, snapshot_record())
        self.assertEqual(Notice(record.notices), Notice.STATE_LOST)

    def test_first(self):
        """Sequence 1 has no predecessor, every other has one; what the agent remembers may differ from it."""
        first = {"sequence": 1, "predecessor": b""}
        self.assertEqual(SnapshotRecord.read_unverified(signed(**first)).sequence, 1)
        signed(**first, remembered=b"m" * 32)
        for changes in ({"sequence": 1}, {"predecessor": b""}, {"sequence": 0}, {"sequence": 0, "predecessor": b""}):
            self.assertRaises(Malformed, signed, **changes)

    def test_status_and_counts(self):
        """Complete means that nothing is missing; counts are ascending, each reason once, none zero."""
        for reason in Reason:
            changes = {"status": SnapshotStatus.COMPLETE, "counts": ((reason, 1),)}
            if reason in INCOMPLETE:
                self.assertRaises(Malformed, signed, **changes)
            else:
                self.assertTrue(signed(**changes))
        for counts in (((Reason.GREW, 1), (Reason.GONE, 1)), ((Reason.GONE, 1),) * 2, ((Reason.GONE, 0),)):
            self.assertRaises(Malformed, signed, counts=counts)
        self.assertRaises(Unsupported, signed, counts=((10, 1),))
        self.assertRaises(Unsupported, signed, status=4)

    def test_jobs(self):
        """A job's serial comes with its hash."""
        for changes in ({"job_serial": 0}, {"job_hash": b""}):
            self.assertRaises(Malformed, signed, **changes)
        self.assertTrue(signed(job_serial=0, job_hash=b""))

    def test_longest(self):
        """With everything at its bound a record still fits."""
        data = signed(
            sequence=(1 << 64) - 1,
            counts=tuple((reason, (1 << 64) - 1) for reason in Reason),
            time_ns=(1 << 64) - 1,
            remembered=b"m" * 32,
            order_results=((b"o" * 16, 255),) * ORDER_RESULTS_LIMIT,
            book_version=(1 << 64) - 1,
            job_serial=(1 << 64) - 1,
            notices=(1 << 32) - 1,
        )
        self.assertLess(len(data), SnapshotRecord.LIMIT // 2)
        self.assertRaises(Malformed, signed, order_results=((b"o" * 16, 0),) * (ORDER_RESULTS_LIMIT + 1))
