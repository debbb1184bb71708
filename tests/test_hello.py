"""HELLO's signature: for this nonce, this server, this machine and this version only."""

from twisted.trial.unittest import SynchronousTestCase

from mastodon.wire.hello import hello_fits, sign_hello
from tests.hostile import flips
from tests.sealed_samples import MACHINE, OTHER_MACHINE, SERVER

NONCE = b"g" * 32
SIGNATURE = sign_hello(MACHINE.signing_key, NONCE, SERVER, MACHINE.machine_id, 1)


class HelloTests(SynchronousTestCase):
    def test_fits(self):
        """The machine's own signature fits."""
        self.assertTrue(hello_fits(SIGNATURE, MACHINE.public_key, NONCE, SERVER, MACHINE.machine_id, 1))

    def test_promise_p1_neither_replayed_nor_relayed(self):
        """With another nonce, server key, machine, version or public key it does not fit."""
        for changed in (
            (MACHINE.public_key, b"G" * 32, SERVER, MACHINE.machine_id, 1),
            (MACHINE.public_key, NONCE, b"V" * 32, MACHINE.machine_id, 1),
            (MACHINE.public_key, NONCE, SERVER, OTHER_MACHINE.machine_id, 1),
            (MACHINE.public_key, NONCE, SERVER, MACHINE.machine_id, 2),
            (OTHER_MACHINE.public_key, NONCE, SERVER, MACHINE.machine_id, 1),
        ):
            self.assertFalse(hello_fits(SIGNATURE, *changed))

    def test_bad_signatures_and_keys(self):
        """No flip, no other length, and no key that is none fits, or raises."""
        for _, signature in flips(SIGNATURE, 5):
            self.assertFalse(hello_fits(signature, MACHINE.public_key, NONCE, SERVER, MACHINE.machine_id, 1))
        for signature in (b"", SIGNATURE[:-1], SIGNATURE + b"\0"):
            self.assertFalse(hello_fits(signature, MACHINE.public_key, NONCE, SERVER, MACHINE.machine_id, 1))
        for key in (b"", bytes(31), bytes(32), b"\xff" * 32):
            self.assertFalse(hello_fits(SIGNATURE, key, NONCE, SERVER, MACHINE.machine_id, 1))
