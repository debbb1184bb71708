"""Orders: for one machine, by the pinned admin, under the key that they name."""

from dataclasses import replace

from twisted.trial.unittest import SynchronousTestCase

from mastodon.sealed.errors import Forged, FormatError, Malformed, Mismatch
from mastodon.sealed.order import (
    RESTORE_ORDER_LIFE_NS,
    SEALED_ORDER_LIMIT,
    JobContent,
    Order,
    OrderType,
    PinsContent,
    RestoreContent,
    open_order,
    order_key_hash,
    seal_order,
)
from mastodon.sealed.statement import decode_content, encode_content
from tests import sealed_samples as samples
from tests.hostile import accepted_cuts, accepted_flips
from tests.sealed_samples import ADMIN, MACHINE, ORDER_PRIVATE, OTHER_MACHINE, SUCCESSOR, TIME_NS, order_record


def opened(sealed: bytes) -> Order:
    return open_order(sealed, MACHINE.machine_id, ORDER_PRIVATE, ADMIN.order_public)


class OrderTests(SynchronousTestCase):
    def test_round_trip(self):
        """What the admin sealed to the machine's own key is opened by it."""
        order = order_record(order_key_hash=order_key_hash(MACHINE.order_key.public_key))
        sealed = seal_order(order, ADMIN.order_key, MACHINE.order_key.public_key)
        self.assertEqual(open_order(sealed, MACHINE.machine_id, MACHINE.order_key, ADMIN.order_public), order)
        self.assertEqual(opened(samples.sealed_order()), order_record())

    def test_promise_p4_another_admin(self):
        """Signed by another key than the pinned one, or naming another, an order is refused."""
        self.assertRaises(Forged, opened, seal_order(order_record(), SUCCESSOR.order_key, ORDER_PRIVATE.public_key))
        other = order_record(admin_key=SUCCESSOR.order_public)
        self.assertRaises(Mismatch, opened, seal_order(other, ADMIN.order_key, ORDER_PRIVATE.public_key))

    def test_another_machine(self):
        """An order for one machine cannot be passed on to another, by the server or by the machine."""
        for_other = order_record(machine=OTHER_MACHINE.machine_id)
        self.assertRaises(Forged, opened, seal_order(for_other, ADMIN.order_key, ORDER_PRIVATE.public_key))
        info = samples.Purpose.ORDER_SEAL.prefix + b"\1" + MACHINE.machine_id
        sealed = samples.seal_known(samples.ORDER_ENCAPSULATION, for_other.sign(ADMIN.order_key), info)
        self.assertRaises(Mismatch, opened, sealed)

    def test_another_key(self):
        """Sealed to another key than the order names, it is refused: nobody can seal it anew."""
        order = order_record(order_key_hash=bytes(32))
        self.assertRaises(Mismatch, opened, seal_order(order, ADMIN.order_key, ORDER_PRIVATE.public_key))

    def test_hostile_bytes(self):
        """No flip, cut or addition opens; what is too long is not even tried."""
        sealed = samples.sealed_order()
        self.assertEqual(accepted_flips(opened, sealed, FormatError, 41), {})
        self.assertEqual(accepted_cuts(opened, sealed, FormatError, 43), [])
        self.assertRaises(Malformed, opened, bytes(SEALED_ORDER_LIMIT + 1))

    def test_kinds(self):
        """A restore order has an anchor and at most 7 days; a job order has neither anchor nor expiry."""
        restore = {"type": OrderType.RESTORE, "anchor": b"a" * 32, "expires_ns": TIME_NS + RESTORE_ORDER_LIFE_NS}
        self.assertTrue(order_record(**restore).sign(ADMIN.order_key))
        self.assertTrue(order_record(type=OrderType.PINS, expires_ns=TIME_NS + 1).sign(ADMIN.order_key))
        for changes in (
            restore | {"anchor": b""}, restore | {"expires_ns": 0}, restore | {"expires_ns": TIME_NS},
            restore | {"expires_ns": TIME_NS + RESTORE_ORDER_LIFE_NS + 1}, {"anchor": b"a" * 32},
            {"expires_ns": TIME_NS + 1}, {"type": OrderType.PINS, "anchor": b"a" * 32},
        ):  # fmt: skip
            self.assertRaises(Malformed, order_record(**changes).sign, ADMIN.order_key)

    def test_contents(self):
        """What each type needs comes back, within its bounds."""
        for content in (
            JobContent((b"/etc",), (b"*.tmp",), 3600, (("delta", "yes"),)),
            RestoreContent(b"m" * 32, b"k" * 32, b"s" * 32, b"i" * 32, ((b"r" * 32, b"q" * 32),), (b"/etc",), b"/srv"),
            PinsContent((b"p" * 32,), ("new.example.org:7410",), (b"a" * 32,)),
        ):
            self.assertEqual(decode_content(type(content), encode_content(content)), content)
        long = replace(PinsContent((), (), ()), servers=(b"p" * 32,) * 9)
        self.assertRaises(Malformed, decode_content, PinsContent, encode_content(long))
