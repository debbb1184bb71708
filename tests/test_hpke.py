"""Sealing to a public key: the published vectors of the KEM, an independent key schedule, and refusals."""

from twisted.trial.unittest import SynchronousTestCase

from mastodon.sealed.errors import Forged, FormatError, Malformed
from mastodon.sealed.hpke import OVERHEAD, PUBLIC_KEY_LENGTH, SealingKey, seal
from tests.hostile import accepted_cuts, accepted_flips
from tests.hpke_reference import published, seal_known


class HpkeTests(SynchronousTestCase):
    def test_published_key_expansion(self):
        """The seed gives the key pair of draft-ietf-hpke-pq and draft-connolly-cfrg-xwing-kem."""
        for vector in published():
            self.assertEqual(SealingKey(vector.seed).public_key, vector.public_key)
        self.assertTrue(published()[0].seed.hex().startswith("7f9c2ba4e88f827d616045507605853e"))
        self.assertTrue(published()[0].public_key.hex().startswith("e2236b35a8c24b39b10aa1323a96a919a2ced884"))

    def test_published_encapsulations_open(self):
        """Sealed over a published encapsulation with RFC 9180's key schedule written out, a message opens."""
        for vector in published():
            sealed = seal_known(vector, b"payload", b"info")
            self.assertEqual(len(sealed), OVERHEAD + 7)
            self.assertEqual(SealingKey(vector.seed).open(sealed, b"info"), b"payload")

    def test_round_trip(self):
        """What is sealed to a public key opens with its private half and the same info, and with nothing else."""
        private, other = SealingKey(bytes(32)), SealingKey(b"\1" * 32)
        self.assertEqual(len(private.public_key), PUBLIC_KEY_LENGTH)
        sealed = seal(b"run key", private.public_key, b"info")
        self.assertEqual(private.open(sealed, b"info"), b"run key")
        self.assertRaises(Forged, private.open, sealed, b"other info")
        self.assertRaises(Forged, other.open, sealed, b"info")
        self.assertNotEqual(seal(b"run key", private.public_key, b"info"), sealed)

    def test_every_change_is_noticed(self):
        """No flip, cut or addition opens."""
        vector = published()[0]
        private = SealingKey(vector.seed)
        sealed = seal_known(vector, b"payload", b"info")
        self.assertEqual(accepted_flips(lambda one: private.open(one, b"info"), sealed, Forged, 37), {})
        self.assertEqual(accepted_cuts(lambda one: private.open(one, b"info"), sealed, Forged, 41), [])

    def test_bad_keys(self):
        """Keys that are none are Malformed: too short, coefficients out of range, an X25519 point of small order."""
        good = SealingKey(bytes(32)).public_key
        for bad in (b"", good[:-1], good + b"\0", b"\xff" * PUBLIC_KEY_LENGTH, good[:-32] + bytes(32)):
            self.assertRaises(Malformed, seal, b"x", bad, b"")
        for seed in (b"", bytes(31), bytes(33)):
            self.assertRaises(FormatError, SealingKey, seed)
