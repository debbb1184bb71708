"""The machine secret: one id per secret, and keys that have nothing to do with each other."""

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF, HKDFExpand
from twisted.trial.unittest import SynchronousTestCase

from mastodon.sealed.errors import Malformed
from mastodon.sealed.machine_secret import MachineSecret, id_key_commitment, machine_id
from mastodon.sealed.purposes import Purpose, hkdf_expand, hkdf_extract


class MachineSecretTests(SynchronousTestCase):
    def test_everything_follows_from_the_secret(self):
        """The same secret gives the same machine, another another."""
        one, same, other = MachineSecret(bytes(32)), MachineSecret(bytes(32)), MachineSecret(b"\1" + bytes(31))
        for name in ("public_key", "machine_id", "id_key", "chunker_seed", "pair_mac_key"):
            self.assertEqual(getattr(one, name), getattr(same, name))
            self.assertNotEqual(getattr(one, name), getattr(other, name))
        self.assertEqual(one.order_key.public_key, same.order_key.public_key)
        self.assertEqual(one.machine_id, machine_id(one.public_key))

    def test_keys_differ(self):
        """No derived key is another, or the secret."""
        secret = MachineSecret(bytes(range(32)))
        keys = {
            bytes(range(32)), secret.id_key, secret.pair_mac_key, secret.public_key, secret.machine_id,
            secret.signing_key.private_bytes_raw(), id_key_commitment(secret.id_key),
        }  # fmt: skip
        self.assertEqual(len(keys), 7)

    def test_length(self):
        """A secret has 32 bytes."""
        for length in (0, 31, 33):
            self.assertRaises(Malformed, MachineSecret, bytes(length))

    def test_chunker_seed_fits_63_bits(self):
        """So that it is a positive number for any chunker."""
        for number in range(20):
            self.assertLess(MachineSecret(bytes([number]) * 32).chunker_seed, 1 << 63)


class PurposeTests(SynchronousTestCase):
    def test_prefixes_keep_uses_apart(self):
        """No purpose's prefix is the beginning of another's, so no input serves two."""
        prefixes = [purpose.prefix for purpose in Purpose]
        self.assertEqual(len(set(prefixes)), len(list(Purpose)))
        for one in prefixes:
            self.assertTrue(one.startswith(b"mastodon/1 ") and one.endswith(b"\0") and one.count(b"\0") == 1)
            self.assertEqual([other for other in prefixes if other != one and other.startswith(one)], [])

    def test_hkdf_is_rfc_5869(self):
        """Extract and Expand are those of the RFC, purpose as salt and as info."""
        root = hkdf_extract(Purpose.MACHINE_SECRET, b"secret")
        for context in (b"", b"context"):
            info = Purpose.BLOB_KEY.prefix + context
            ours = hkdf_expand(root, Purpose.BLOB_KEY, context)
            self.assertEqual(ours, HKDFExpand(SHA256(), 32, info).derive(root))
            whole = HKDF(SHA256(), 32, Purpose.MACHINE_SECRET.prefix, info).derive(b"secret")
            self.assertEqual(ours, whole)
