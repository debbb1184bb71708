"""The sealing pair: its record, its MAC, the payload of its envelope, and re-envelope records.

protocol-spec.md §6. The private half exists only inside the envelope, an OpenPGP message; the public half is
in the pair record, signed by the machine. Record and envelope travel and are kept together.
"""

import hashlib
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import ClassVar

from mastodon.sealed import cbor
from mastodon.sealed.errors import Malformed, Mismatch, Unsupported
from mastodon.sealed.hpke import PUBLIC_KEY_LENGTH, SEED_LENGTH, SealingKey
from mastodon.sealed.purposes import Purpose, mac, sha256
from mastodon.sealed.record import SUITE, VERSION, Record, RecordType
from mastodon.sealed.schema import Body, array, choice, key, octets, octets_or_none, unsigned

PAIR_ID_LENGTH = 16
RECIPIENTS_LIMIT = 16
RECIPIENT_LIMIT = 64 * 1024
ENVELOPE_LIMIT = 128 * 1024
PAYLOAD_LIMIT = 1024
PAYLOAD_MAGIC = b"MENV"
PAYLOAD_HEAD = struct.Struct(">4sBBBB")
SCRYPT_N, SCRYPT_R, SCRYPT_P = 1 << 15, 8, 1


class EnvelopeMode(IntEnum):
    """How the private half is enveloped. There is no mode without encryption."""

    PASSPHRASE = 1
    RECIPIENTS = 2
    BOTH = 3


@dataclass(frozen=True, slots=True)
class PairRecord(Record):
    """Says that a machine seals to ``public_key`` from ``time_ns`` on.

    ``previous`` is the record hash of the pair before (empty for the first); ``recipients`` are the full OpenPGP
    public keys, which a paper key needs to become a key again.
    """

    TYPE: ClassVar = RecordType.PAIR
    PURPOSE: ClassVar = Purpose.SIGN_PAIR
    LIMIT: ClassVar = 512 * 1024

    machine: bytes = key(0, octets(32))
    pair: bytes = key(1, octets(PAIR_ID_LENGTH))
    time_ns: int = key(2, unsigned())
    number: int = key(3, unsigned(32))
    previous: bytes = key(4, octets_or_none(32))
    public_key: bytes = key(5, octets(PUBLIC_KEY_LENGTH))
    mode: EnvelopeMode = key(6, choice(EnvelopeMode))
    recipients: tuple[bytes, ...] = key(7, array(octets(1, RECIPIENT_LIMIT), RECIPIENTS_LIMIT))
    mac: bytes = key(8, octets(32))
    envelope_hash: bytes = key(9, octets(32))

    def check_whole(self) -> None:
        """Raise Malformed for a number that does not fit the predecessor, or recipients that do not fit the mode."""
        if (self.number <= 1) != (not self.previous) or not self.number:
            raise Malformed("pair record: the first has number 1 and no predecessor, the others have both")
        check_recipients(self.mode, self.recipients)


@dataclass(frozen=True, slots=True)
class ReenvelopeRecord(Record):
    """An admin's word that another envelope holds the private half of an existing pair; never makes it current.

    ``recipients`` are the full OpenPGP public keys of the new envelope, as in a pair record and for the same reason.
    """

    TYPE: ClassVar = RecordType.REENVELOPE
    PURPOSE: ClassVar = Purpose.SIGN_REENVELOPE
    LIMIT: ClassVar = PairRecord.LIMIT

    machine: bytes = key(0, octets(32))
    pair: bytes = key(1, octets(PAIR_ID_LENGTH))
    time_ns: int = key(2, unsigned())
    envelope_hash: bytes = key(3, octets(32))
    order_key: bytes = key(4, octets(32))
    mode: EnvelopeMode = key(5, choice(EnvelopeMode))
    recipients: tuple[bytes, ...] = key(6, array(octets(1, RECIPIENT_LIMIT), RECIPIENTS_LIMIT))

    def check_whole(self) -> None:
        """Raise Malformed for recipients that do not fit the mode."""
        check_recipients(self.mode, self.recipients)


@dataclass(frozen=True, slots=True)
class EnvelopePayload(Body):
    """What stands inside the OpenPGP message: a head of magic "MENV", version, suite, critical and ignorable flags (a
    byte each), then this."""

    machine: bytes = key(0, octets(32))
    pair: bytes = key(1, octets(PAIR_ID_LENGTH))
    seed: bytes = key(2, octets(SEED_LENGTH))

    def encode(self) -> bytes:
        """The bytes to put in the OpenPGP message."""
        return PAYLOAD_HEAD.pack(PAYLOAD_MAGIC, VERSION, SUITE, 0, 0) + cbor.encode(self.to_body())

    @classmethod
    def decode(cls, data: bytes) -> "EnvelopePayload":
        """Raises Malformed or Unsupported."""
        if not PAYLOAD_HEAD.size < len(data) <= PAYLOAD_LIMIT:
            raise Malformed(f"an envelope's payload of {len(data)} bytes")
        magic, version, suite, critical, _ = PAYLOAD_HEAD.unpack_from(data)
        if magic != PAYLOAD_MAGIC:
            raise Malformed("not an envelope's payload")
        if version != VERSION or suite != SUITE or critical:
            raise Unsupported(f"envelope payload of version {version}, suite {suite}, flags {critical:#x}")
        return cls.from_body(cbor.decode(data[PAYLOAD_HEAD.size :], PAYLOAD_LIMIT))


def envelope_hash(envelope: bytes) -> bytes:
    """The hash by which a pair record names its envelope."""
    return sha256(Purpose.ENVELOPE_HASH, envelope)


def pair_mac(
    pair_mac_key: bytes, pair: bytes, mode: EnvelopeMode, recipients: Sequence[bytes], passphrase: bytes
) -> bytes:
    """Ties a pair to the passkey and recipients that it was made for, so that a server cannot offer an old one.

    HMAC over mode, sorted recipients and scrypt(passphrase, pair id); an empty passphrase where there is none.
    """
    salt = Purpose.PAIR_PASSPHRASE.prefix + pair
    stretched = hashlib.scrypt(
        passphrase, salt=salt, n=SCRYPT_N, r=SCRYPT_R, p=SCRYPT_P, maxmem=64 * 1024 * 1024, dklen=32
    )
    return mac(Purpose.PAIR_MAC, pair_mac_key, cbor.encode([int(mode), sorted(recipients), stretched]))


def open_payload(data: bytes, record: PairRecord) -> SealingKey:
    """The private half from an envelope's payload, proven to be the one of ``record``.

    Raises Malformed, or Mismatch when it belongs to another machine, pair or public key.
    """
    payload = EnvelopePayload.decode(data)
    if payload.machine != record.machine or payload.pair != record.pair:
        raise Mismatch("the envelope is of another machine or pair")
    private = SealingKey(payload.seed)
    if private.public_key != record.public_key:
        raise Mismatch("the envelope's private key does not belong to the pair record")
    return private


def check_recipients(mode: EnvelopeMode, recipients: Sequence[bytes]) -> None:
    """Raise Malformed when the mode and the list of recipients do not go together."""
    if (mode == EnvelopeMode.PASSPHRASE) != (not recipients):
        raise Malformed(f"mode {mode.name} with {len(recipients)} recipients")
