"""How admins and machines become known to a server: the admin's request and a machine's enrolment.

protocol-spec.md §11.
"""

from dataclasses import dataclass
from enum import IntEnum
from typing import ClassVar

from mastodon.sealed.admin_secret import tenant_id
from mastodon.sealed.errors import Mismatch
from mastodon.sealed.machine_secret import machine_id
from mastodon.sealed.purposes import Purpose
from mastodon.sealed.record import Record, RecordType
from mastodon.sealed.schema import array, key, octets, text, unsigned

HANDLE_LENGTH = 16


class Role(IntEnum):
    """What a client certificate may do on the restore port. 4-127 are reserved."""

    ADMIN = 1
    TICKET = 2
    MONITOR = 3


@dataclass(frozen=True, slots=True)
class AdminRequest(Record):
    """Made by ``mastodon-admin init``, signed by the order key that it names; taken to the operator.

    ``client`` is the SPKI pin of the first client certificate's key, ``successor`` the hash of the offline
    successor's order key.
    """

    TYPE: ClassVar = RecordType.ADMIN_REQUEST
    PURPOSE: ClassVar = Purpose.SIGN_ADMIN_REQUEST

    order_key: bytes = key(0, octets(32))
    client: bytes = key(1, octets(32))
    successor: bytes = key(2, octets(32))
    label: str = key(3, text(64))
    time_ns: int = key(4, unsigned())

    @property
    def tenant(self) -> bytes:
        """The tenant that this request founds."""
        return tenant_id(self.order_key)

    @classmethod
    def open(cls, data: bytes) -> "AdminRequest":
        """The request, signed by its own key. Raises FormatError."""
        request = cls.read_unverified(data)
        cls.check_signature(data, request.order_key)
        return request


@dataclass(frozen=True, slots=True)
class Enrolment(Record):
    """A machine's word, signed by its own key, that it belongs to a tenant on a server.

    ``handle`` groups the generations of one machine; ``servers`` are the pins of the server's keys. ``origin`` is the
    machine of the same tenant that it was split from, if any.
    """

    TYPE: ClassVar = RecordType.ENROLMENT
    PURPOSE: ClassVar = Purpose.SIGN_ENROLMENT

    machine: bytes = key(0, octets(32))
    public_key: bytes = key(1, octets(32))
    tenant: bytes = key(2, octets(32))
    servers: tuple[bytes, ...] = key(3, array(octets(32), 8, 1))
    handle: bytes = key(4, octets(HANDLE_LENGTH))
    generation: int = key(5, unsigned(32))
    time_ns: int = key(6, unsigned())
    origin: bytes | None = key(7, octets(32), default=None)

    @classmethod
    def open(cls, data: bytes) -> "Enrolment":
        """The enrolment, signed by the key that its machine id belongs to. Raises FormatError."""
        enrolment = cls.read_unverified(data)
        if machine_id(enrolment.public_key) != enrolment.machine:
            raise Mismatch("enrolment: the machine id is not that of the key")
        cls.check_signature(data, enrolment.public_key)
        return enrolment


@dataclass(frozen=True, slots=True)
class Succession(Record):
    """Signed by the offline successor key: names the order key that takes over a tenant."""

    TYPE: ClassVar = RecordType.SUCCESSION
    PURPOSE: ClassVar = Purpose.SIGN_SUCCESSION

    tenant: bytes = key(0, octets(32))
    successor_key: bytes = key(1, octets(32))
    order_key: bytes = key(2, octets(32))
    successor: bytes = key(3, octets(32))
    time_ns: int = key(4, unsigned())

    @classmethod
    def open(cls, data: bytes) -> "Succession":
        """The succession, signed by the successor key that it names. Raises FormatError."""
        succession = cls.read_unverified(data)
        cls.check_signature(data, succession.successor_key)
        return succession
