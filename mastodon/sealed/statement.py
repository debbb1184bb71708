"""Statements: instructions to the server, signed by an admin's order key.

protocol-spec.md §11. Tenant and server bind it to one place, the counter and expiry to one time.
"""

from dataclasses import dataclass
from enum import IntEnum
from typing import ClassVar, TypeVar

from mastodon.sealed import cbor
from mastodon.sealed.enrolment import Role
from mastodon.sealed.errors import Malformed, Mismatch
from mastodon.sealed.purposes import Purpose
from mastodon.sealed.record import Record, RecordType
from mastodon.sealed.schema import Body, array, choice, key, octets, octets_or_none, row, text, unsigned

LIFE_NS = 3600 * 10**9
"""How long a client lets its statements be good."""
LIFE_LIMIT_NS = 24 * LIFE_NS
"""How far ahead a server lets them expire."""
CONTENT_LIMIT = 64 * 1024


Content = TypeVar("Content", bound=Body)


class StatementVerb(IntEnum):
    """What a statement tells the server to do. 14-127 are reserved."""

    ENROL = 1
    SWAP_BOOK = 2
    REGISTER_CERTIFICATE = 3
    REMOVE_CERTIFICATE = 4
    DISABLE_MACHINE = 5
    ENABLE_MACHINE = 6
    REGISTER_TICKET = 7
    TRANSFER = 8
    ERASE = 9
    POLICY = 10
    RETIRE_MACHINE = 11
    CLOSE_GENERATION = 12
    ALLOW_PIECES = 13


@dataclass(frozen=True, slots=True)
class CertificateContent(Body):
    """Of REGISTER_CERTIFICATE and REGISTER_TICKET; machine, root and expiry bind a ticket."""

    pin: bytes = key(0, octets(32))
    role: Role = key(1, choice(Role))
    label: str = key(2, text(64))
    machine: bytes = key(3, octets_or_none(32), default=b"")
    root: bytes = key(4, octets_or_none(32), default=b"")
    expires_ns: int = key(5, unsigned(), default=0)

    def check_whole(self) -> None:
        """Raise Malformed unless just a ticket is bound."""
        ticket = self.role == Role.TICKET
        if bool(self.machine) != ticket or bool(self.root) != ticket or bool(self.expires_ns) != ticket:
            raise Malformed("a ticket has machine, root and expiry, another certificate none of them")


@dataclass(frozen=True, slots=True)
class PinContent(Body):
    """Of REMOVE_CERTIFICATE."""

    pin: bytes = key(0, octets(32))


@dataclass(frozen=True, slots=True)
class MachineContent(Body):
    """Of DISABLE_MACHINE, ENABLE_MACHINE, RETIRE_MACHINE and CLOSE_GENERATION. ``snapshot`` is the record hash of the
    last one that the admin trusts of a closed generation; ``until_ns`` how long a retired machine is kept."""

    machine: bytes = key(0, octets(32))
    snapshot: bytes = key(1, octets_or_none(32), default=b"")
    until_ns: int = key(2, unsigned(), default=0)


@dataclass(frozen=True, slots=True)
class PolicyContent(Body):
    """Of POLICY: values (empty for none) of settings, of a machine, or (b"") of the admin's all."""

    machine: bytes = key(0, octets_or_none(32))
    settings: tuple[tuple[str, str], ...] = key(1, array(row(text(64), text(1024)), 64, 1))


@dataclass(frozen=True, slots=True)
class Statement(Record):
    """``content`` depends on the verb: ENROL an enrolment record, SWAP_BOOK the new book's record hash, the others a
    CBOR map: CertificateContent, PinContent, MachineContent, PolicyContent; TRANSFER, ERASE, ALLOW_PIECES bring their
    own."""

    TYPE: ClassVar = RecordType.STATEMENT
    PURPOSE: ClassVar = Purpose.SIGN_STATEMENT
    LIMIT: ClassVar = CONTENT_LIMIT + 1024

    tenant: bytes = key(0, octets(32))
    server: bytes = key(1, octets(32))
    counter: int = key(2, unsigned())
    expires_ns: int = key(3, unsigned())
    verb: StatementVerb = key(4, choice(StatementVerb))
    content: bytes = key(5, octets(0, CONTENT_LIMIT))


def encode_content(content: Body) -> bytes:
    """What goes into a statement's or an order's content field."""
    return cbor.encode(content.to_body())


def decode_content(kind: type[Content], content: bytes) -> Content:
    """What stands in a statement's or an order's content field. Raises FormatError."""
    return kind.from_body(cbor.decode(content, CONTENT_LIMIT))


def check_statement(
    data: bytes, order_key: bytes, tenant: bytes, servers: frozenset[bytes], last_counter: int, now_ns: int
) -> Statement:
    """The statement in ``data``, if ``order_key`` made it for this tenant and server, and it is new and in time.

    Raises Forged, Mismatch or another FormatError.
    """
    statement = Statement.verify(data, order_key)
    if statement.tenant != tenant or statement.server not in servers:
        raise Mismatch("a statement for another tenant or server")
    if statement.counter <= last_counter:
        raise Mismatch(f"statement {statement.counter} is not newer than the last one taken, {last_counter}")
    if statement.expires_ns <= now_ns:
        raise Mismatch("the statement has expired: check the clocks and make it again")
    if statement.expires_ns > now_ns + LIFE_LIMIT_NS:
        raise Mismatch("the statement would be good for too long: check the clocks and make it again")
    return statement
