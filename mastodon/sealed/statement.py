"""Statements: instructions to the server, signed by an admin's order key.

protocol-spec.md §11. Tenant and server bind it to one place, the counter and expiry to one time.
"""

from dataclasses import dataclass
from enum import IntEnum
from typing import ClassVar

from mastodon.sealed.errors import Mismatch
from mastodon.sealed.purposes import Purpose
from mastodon.sealed.record import Record, RecordType
from mastodon.sealed.schema import choice, key, octets, unsigned

LIFE_NS = 3600 * 10**9
CONTENT_LIMIT = 64 * 1024


class StatementVerb(IntEnum):
    """What a statement tells the server to do. ENROL to REMOVE_CERTIFICATE are in use; the rest is reserved."""

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
class Statement(Record):
    """``content`` depends on the verb: an enrolment record, a book's record hash, or a CBOR map."""

    TYPE: ClassVar = RecordType.STATEMENT
    PURPOSE: ClassVar = Purpose.SIGN_STATEMENT
    LIMIT: ClassVar = CONTENT_LIMIT + 1024

    tenant: bytes = key(0, octets(32))
    server: bytes = key(1, octets(32))
    counter: int = key(2, unsigned())
    expires_ns: int = key(3, unsigned())
    verb: StatementVerb = key(4, choice(StatementVerb))
    content: bytes = key(5, octets(0, CONTENT_LIMIT))


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
    return statement
