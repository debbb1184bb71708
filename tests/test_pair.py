"""Sealing pairs: the record names its envelope and recipients, and the MAC knows its own passkey again."""

from dataclasses import replace

from twisted.trial.unittest import SynchronousTestCase

from mastodon.sealed.errors import FormatError, Malformed, Mismatch, Unsupported
from mastodon.sealed.hpke import SealingKey
from mastodon.sealed.pair import (
    EnvelopeMode,
    EnvelopePayload,
    PairRecord,
    ReenvelopeRecord,
    check_recipients,
    envelope_hash,
    open_payload,
    pair_mac,
)
from tests import sealed_samples as samples
from tests.hostile import accepted_cuts, accepted_flips

MAC_KEY = samples.MACHINE.pair_mac_key
PAYLOAD = EnvelopePayload(samples.MACHINE.machine_id, samples.PAIR_ID, samples.ENCAPSULATION.seed)


def signed(**changes: object) -> bytes:
    return replace(samples.pair_record(), **changes).sign(samples.MACHINE.signing_key)  # type: ignore[arg-type]


class PairRecordTests(SynchronousTestCase):
    def test_full_public_keys_travel(self):
        """A record carries the recipients' keys whole: a paper key needs them to become a key again."""
        keys = (b"k" * 40_000, b"l" * 3000)
        data = signed(mode=EnvelopeMode.RECIPIENTS, recipients=keys)
        self.assertEqual(PairRecord.verify(data, samples.MACHINE.public_key).recipients, keys)

    def test_modes_and_recipients_go_together(self):
        """A passphrase alone has no recipients, the other modes have some; there is no mode without encryption."""
        for mode, keys in (
            (EnvelopeMode.PASSPHRASE, (b"k",)),
            (EnvelopeMode.RECIPIENTS, ()),
            (EnvelopeMode.BOTH, ()),
        ):
            self.assertRaises(Malformed, check_recipients, mode, keys)
            self.assertRaises(Malformed, signed, mode=mode, recipients=keys)
        self.assertRaises(Unsupported, signed, mode=0)

    def test_numbers_and_predecessors_go_together(self):
        """Number 1 has no predecessor, every other has one."""
        self.assertEqual(PairRecord.read_unverified(signed(number=2, previous=b"p" * 32)).number, 2)
        for changes in ({"number": 0}, {"number": 2}, {"previous": b"p" * 32}, {"number": 2, "previous": b"p" * 31}):
            self.assertRaises(Malformed, signed, **changes)

    def test_reenvelope(self):
        """It names the new envelope and its recipients, and the mode's rule holds."""
        record = ReenvelopeRecord.verify(samples.reenvelope(), samples.ADMIN.order_public)
        self.assertEqual(record.envelope_hash, envelope_hash(samples.ENVELOPE))
        self.assertRaises(Malformed, replace(record, recipients=()).sign, samples.ADMIN.order_key)


class MacTests(SynchronousTestCase):
    def test_mac_knows_passkey_mode_recipients_and_pair(self):
        """Any other passkey, mode, recipient, pair id or machine gives another MAC; the recipients' order does not."""
        mac = pair_mac(MAC_KEY, samples.PAIR_ID, EnvelopeMode.BOTH, (b"a", b"b"), b"passkey")
        self.assertEqual(pair_mac(MAC_KEY, samples.PAIR_ID, EnvelopeMode.BOTH, (b"b", b"a"), b"passkey"), mac)
        others = [
            pair_mac(MAC_KEY, samples.PAIR_ID, EnvelopeMode.BOTH, (b"a", b"b"), b"passkey "),
            pair_mac(MAC_KEY, samples.PAIR_ID, EnvelopeMode.RECIPIENTS, (b"a", b"b"), b"passkey"),
            pair_mac(MAC_KEY, samples.PAIR_ID, EnvelopeMode.BOTH, (b"ab",), b"passkey"),
            pair_mac(MAC_KEY, b"q" * 16, EnvelopeMode.BOTH, (b"a", b"b"), b"passkey"),
            pair_mac(bytes(32), samples.PAIR_ID, EnvelopeMode.BOTH, (b"a", b"b"), b"passkey"),
        ]
        self.assertNotIn(mac, others)

    def test_no_passphrase(self):
        """Where there is none, the empty one stands in."""
        mac = pair_mac(MAC_KEY, samples.PAIR_ID, EnvelopeMode.RECIPIENTS, (b"a",), b"")
        self.assertEqual(len(mac), 32)


class PayloadTests(SynchronousTestCase):
    def test_round_trip(self):
        """The private half comes out of the payload, and fits the record."""
        private = open_payload(PAYLOAD.encode(), samples.pair_record())
        self.assertEqual(private.public_key, samples.PRIVATE.public_key)

    def test_foreign_payloads(self):
        """An envelope of another machine, pair or key is a Mismatch, however well it opens."""
        for changes in ({"machine": bytes(32)}, {"pair": bytes(16)}, {"seed": bytes(32)}):
            foreign = replace(PAYLOAD, **changes)
            self.assertRaises(Mismatch, open_payload, foreign.encode(), samples.pair_record())
        self.assertEqual(SealingKey(PAYLOAD.seed).public_key, samples.pair_record().public_key)

    def test_later_payloads(self):
        """Another version or critical flag is Unsupported; an ignorable flag is ignored."""
        good = PAYLOAD.encode()
        for offset in (4, 5, 6):
            changed = bytearray(good)
            changed[offset] ^= 2
            self.assertRaises(Unsupported, EnvelopePayload.decode, bytes(changed))
        ignorable = bytearray(good)
        ignorable[7] = 0xFF
        self.assertEqual(EnvelopePayload.decode(bytes(ignorable)), PAYLOAD)

    def test_hostile_payloads(self):
        """A flip gives an error, or differs in machine, pair, seed or the ignorable flags; cuts are refused."""
        good = PAYLOAD.encode()
        taken = accepted_flips(EnvelopePayload.decode, good, FormatError)
        same = {offset for offset, results in taken.items() if PAYLOAD in results}
        self.assertEqual(same, {7}, "only the ignorable flags change nothing")
        self.assertEqual(accepted_cuts(EnvelopePayload.decode, good, FormatError), [])
