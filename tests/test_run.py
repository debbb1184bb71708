"""Run records: the run's key, sealed to the pair, committed to, and of one machine."""

from dataclasses import replace

from twisted.trial.unittest import SynchronousTestCase

from mastodon.sealed.errors import Forged, FormatError, Mismatch
from mastodon.sealed.hpke import SealingKey
from mastodon.sealed.machine_secret import id_key_commitment
from mastodon.sealed.record import record_hash
from mastodon.sealed.run import RunRecord, make_run, run_id, verify_run
from tests import sealed_samples as samples

MACHINE, OTHER = samples.MACHINE, samples.OTHER_MACHINE
COMMITMENT = id_key_commitment(MACHINE.id_key)


class RunTests(SynchronousTestCase):
    def test_round_trip(self):
        """The pair's private half gives run key and id_key."""
        data = make_run(MACHINE.signing_key, samples.pair_record(), b"m" * 16, 5, b"k" * 32, MACHINE.id_key)
        record = verify_run(data, MACHINE.machine_id, MACHINE.public_key)
        self.assertEqual(record.open(samples.PRIVATE, COMMITMENT), (b"k" * 32, MACHINE.id_key))
        self.assertEqual((record.pair, record.nonce, record.time_ns), (samples.PAIR_ID, b"m" * 16, 5))

    def test_sealed_to_the_pair_alone(self):
        """Another private half does not open it."""
        self.assertRaises(Forged, samples.run_record().open, SealingKey(bytes(32)))

    def test_seal_is_bound_to_machine_pair_and_nonce(self):
        """Moved to another machine, pair or run, the same seal does not open."""
        for changes in ({"machine": OTHER.machine_id}, {"pair": b"q" * 16}, {"nonce": b"m" * 16}):
            moved = replace(samples.run_record(), **changes)  # type: ignore[arg-type]
            self.assertRaises(Forged, moved.open, samples.PRIVATE)

    def test_commitment(self):
        """Keys that do not fit the commitment are Forged: GCM alone does not commit."""
        record = replace(samples.run_record(), commitment=samples.run_record(run_key=bytes(32)).commitment)
        self.assertRaises(Forged, record.open, samples.PRIVATE)

    def test_another_id_key_than_the_cards(self):
        """A run that brings an id_key of its own, well sealed, is refused against the card."""
        record = samples.run_record(id_key=bytes(32))
        self.assertEqual(record.open(samples.PRIVATE), (samples.RUN_KEY, bytes(32)))
        self.assertRaises(Mismatch, record.open, samples.PRIVATE, COMMITMENT)

    def test_another_machine(self):
        """A run signed by one machine and naming another is refused for both."""
        data = samples.run_record(OTHER).sign(MACHINE.signing_key)
        self.assertRaises(Mismatch, verify_run, data, MACHINE.machine_id, MACHINE.public_key)
        self.assertRaises(FormatError, verify_run, data, OTHER.machine_id, OTHER.public_key)

    def test_id_covers_the_signature(self):
        """The run's id is over the whole record, under a purpose of its own."""
        data = samples.run()
        self.assertNotEqual(run_id(data[:-1] + bytes([data[-1] ^ 1])), run_id(data))
        self.assertNotEqual(run_id(data), record_hash(data))
        self.assertEqual(RunRecord.read_unverified(data), samples.run_record())
