"""Orders: instructions to an agent, signed by its admin's order key and then sealed to the machine.

protocol-spec.md §12. For the server they are bounded, opaque mail.
"""

from dataclasses import dataclass
from enum import IntEnum
from typing import ClassVar

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from mastodon.sealed import hpke
from mastodon.sealed.errors import Mismatch
from mastodon.sealed.purposes import Purpose, sha256
from mastodon.sealed.record import VERSION, Record, RecordType
from mastodon.sealed.schema import choice, key, octets, unsigned

ORDER_ID_LENGTH = 16
SEALED_ORDER_LIMIT = 64 * 1024
RESTORE_ORDER_LIFE_NS = 7 * 24 * 3600 * 10**9


class OrderType(IntEnum):
    """What an order asks for."""

    JOB = 1
    RESTORE = 2
    PINS = 3


@dataclass(frozen=True, slots=True)
class Order(Record):
    """``order_key_hash`` names the machine's key that it is sealed to; ``expires_ns`` is 0 for job orders.

    ``anchor`` is the hash of a snapshot that the agent made and remembers (restore orders), ``content`` the CBOR
    of what the type needs.
    """

    TYPE: ClassVar = RecordType.ORDER
    PURPOSE: ClassVar = Purpose.SIGN_ORDER
    LIMIT: ClassVar = 60 * 1024

    machine: bytes = key(0, octets(32))
    order_key_hash: bytes = key(1, octets(32))
    admin_key: bytes = key(2, octets(32))
    order: bytes = key(3, octets(ORDER_ID_LENGTH))
    type: OrderType = key(4, choice(OrderType))
    serial: int = key(5, unsigned())
    issued_ns: int = key(6, unsigned())
    expires_ns: int = key(7, unsigned())
    book_version: int = key(8, unsigned())
    anchor: bytes = key(9, octets(0, 32))
    content: bytes = key(10, octets(0, 48 * 1024))


def order_key_hash(public_key: bytes) -> bytes:
    """The hash by which an order names the machine's HPKE key."""
    return sha256(Purpose.ORDER_KEY_HASH, public_key)


def seal_order(order: Order, signing_key: Ed25519PrivateKey, machine_order_key: bytes) -> bytes:
    """The order signed, then sealed to the machine: what the server carries."""
    return hpke.seal(order.sign(signing_key), machine_order_key, _info(order.machine))


def open_order(sealed: bytes, machine: bytes, private: hpke.SealingKey, admin_key: bytes) -> Order:
    """The order in ``sealed``, checked to be for this machine and signed by the pinned ``admin_key``.

    Raises Forged or Mismatch.
    """
    order = Order.verify(private.open(sealed, _info(machine)), admin_key)
    if order.machine != machine or order.admin_key != admin_key:
        raise Mismatch("an order for another machine, or by another admin")
    if order.order_key_hash != order_key_hash(private.public_key):
        raise Mismatch("an order sealed to another key than it names")
    return order


def _info(machine: bytes) -> bytes:
    return Purpose.ORDER_SEAL.prefix + bytes([VERSION]) + machine
