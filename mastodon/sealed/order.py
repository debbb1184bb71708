"""Orders: instructions to an agent, signed by its admin's order key and then sealed to the machine.

protocol-spec.md §12. For the server they are bounded, opaque mail.
"""

from dataclasses import dataclass
from enum import IntEnum
from typing import ClassVar

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from mastodon.sealed import hpke
from mastodon.sealed.errors import Malformed, Mismatch
from mastodon.sealed.purposes import Purpose, sha256
from mastodon.sealed.record import VERSION, Record, RecordType
from mastodon.sealed.schema import Body, array, choice, key, octets, octets_or_none, row, text, unsigned

ORDER_ID_LENGTH = 16
CONTENT_LIMIT = 48 * 1024
SEALED_ORDER_LIMIT = 64 * 1024
RESTORE_ORDER_LIFE_NS = 7 * 24 * 3600 * 10**9


class OrderType(IntEnum):
    """What an order asks for. 4-127 are reserved."""

    JOB = 1
    RESTORE = 2
    PINS = 3


@dataclass(frozen=True, slots=True)
class JobContent(Body):
    """What to back up, how often; lists are those of the command line, empty for its defaults."""

    paths: tuple[bytes, ...] = key(0, array(octets(1, 4096), 1024))
    excludes: tuple[bytes, ...] = key(1, array(octets(1, 4096), 1024))
    interval_s: int = key(2, unsigned(32))
    settings: tuple[tuple[str, str], ...] = key(3, array(row(text(64), text(1024)), 64), default=())


@dataclass(frozen=True, slots=True)
class RestoreContent(Body):
    """What to restore, from whose snapshot, and the keys of just that. ``target`` has to lie under --allow-restore.

    ``keys`` are (run id, run key) or, where only some blobs are to be opened, (blob id, blob key).
    """

    source: bytes = key(0, octets(32))
    source_key: bytes = key(1, octets(32))
    snapshot: bytes = key(2, octets(32))
    id_key: bytes = key(3, octets(32))
    keys: tuple[tuple[bytes, bytes], ...] = key(4, array(row(octets(32), octets(32)), 512))
    paths: tuple[bytes, ...] = key(5, array(octets(1, 4096), 256))
    target: bytes = key(6, octets(1, 4096))


@dataclass(frozen=True, slots=True)
class PinsContent(Body):
    """Pins and addresses to add; ``admins`` a successor's order key for a planned move."""

    servers: tuple[bytes, ...] = key(0, array(octets(32), 8))
    hosts: tuple[str, ...] = key(1, array(text(300), 8))
    admins: tuple[bytes, ...] = key(2, array(octets(32), 2))


@dataclass(frozen=True, slots=True)
class Order(Record):
    """``order_key_hash`` names the machine's key that it is sealed to; ``expires_ns`` is 0 for job orders.

    ``anchor`` is the hash of a snapshot that the agent made and remembers (restore orders only), ``content`` the CBOR
    map of a JobContent, RestoreContent or PinsContent.
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
    anchor: bytes = key(9, octets_or_none(32))
    content: bytes = key(10, octets(0, CONTENT_LIMIT))

    def check_whole(self) -> None:
        """Raise Malformed for an expiry or anchor that the type may not have, or has to have."""
        if self.type == OrderType.RESTORE:
            if not self.issued_ns < self.expires_ns <= self.issued_ns + RESTORE_ORDER_LIFE_NS or not self.anchor:
                raise Malformed("a restore order has an anchor, and expires within 7 days")
        elif self.anchor or (self.type == OrderType.JOB and self.expires_ns):
            raise Malformed("an anchor belongs to a restore order alone, and a job order does not expire")


def order_key_hash(public_key: bytes) -> bytes:
    """The hash by which an order names the machine's HPKE key."""
    return sha256(Purpose.ORDER_KEY_HASH, public_key)


def seal_order(order: Order, signing_key: Ed25519PrivateKey, machine_order_key: bytes) -> bytes:
    """The order signed, then sealed to the machine: what the server carries."""
    return hpke.seal(order.sign(signing_key), machine_order_key, _info(order.machine))


def open_order(sealed: bytes, machine: bytes, private: hpke.SealingKey, admin_key: bytes) -> Order:
    """The order in ``sealed``, checked to be for this machine and signed by the pinned ``admin_key``.

    Raises Forged, Mismatch or another FormatError.
    """
    if len(sealed) > SEALED_ORDER_LIMIT:
        raise Malformed(f"an order of {len(sealed)} bytes")
    order = Order.verify(private.open(sealed, _info(machine)), admin_key)
    if order.machine != machine or order.admin_key != admin_key:
        raise Mismatch("an order for another machine, or by another admin")
    if order.order_key_hash != order_key_hash(private.public_key):
        raise Mismatch("an order sealed to another key than it names")
    return order


def _info(machine: bytes) -> bytes:
    return Purpose.ORDER_SEAL.prefix + bytes([VERSION]) + machine
