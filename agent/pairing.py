"""The sealing pair: the server's newest is taken back only if it was made for the present passkey and recipients.

An agent without state knows its own pair again by the MAC in its record; a server that offers an older one, or
somebody else's, gets a new pair instead. gpg runs when a pair is made, and to bring recipients' keys into their short
form, which is remembered by the key files' hash: a run that finds everything as it was does without it.
"""

import functools
import hashlib
import hmac
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

import cbor2

from mastodon.host.durable import write_file
from mastodon.sealed.errors import FormatError
from mastodon.sealed.hpke import SEED_LENGTH, SealingKey
from mastodon.sealed.machine_secret import MachineSecret
from mastodon.sealed.pair import (
    PAIR_ID_LENGTH,
    RECIPIENT_LIMIT,
    RECIPIENTS_LIMIT,
    EnvelopeMode,
    EnvelopePayload,
    PairRecord,
    envelope_hash,
    pair_mac,
)
from mastodon.sealed.record import record_hash
from mastodon_agent.refusals import RecipientsRefused

NAME = "recipients"
REMEMBERED_LIMIT = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Credentials:
    """How backups of this machine can be opened: a passphrase, OpenPGP public keys in their short form, or both."""

    passphrase: bytes | None
    recipients: tuple[bytes, ...]

    @property
    def mode(self) -> EnvelopeMode:
        """How the private half is enveloped."""
        if not self.recipients:
            return EnvelopeMode.PASSPHRASE
        return EnvelopeMode.RECIPIENTS if self.passphrase is None else EnvelopeMode.BOTH


@dataclass(frozen=True, slots=True)
class NewSealingPair:
    """A pair that the server does not have yet."""

    record: PairRecord
    signed: bytes
    envelope: bytes


def load_recipients(directory: str, key_files: Sequence[bytes]) -> tuple[bytes, ...]:
    """The public keys in key files' contents, in their short form, sorted. Raises RecipientsRefused."""
    if not key_files:
        return ()
    path = os.path.join(directory, NAME)
    name = hashlib.sha256(b"".join(hashlib.sha256(each).digest() for each in sorted(key_files))).digest()
    with suppress(OSError, cbor2.CBORError, ValueError, TypeError):
        with open(path, "rb") as file:
            data = file.read(REMEMBERED_LIMIT)
        remembered, keys = cbor2.loads(data[32:])
        if hashlib.sha256(data[32:]).digest() == data[:32] and remembered == name:
            return tuple(keys)
    # gnupg is a heavy import, and nearly no run needs it.
    from mastodon.host.openpgp import OpenPGPError, export_minimal

    try:
        exported = tuple(sorted({key for each in key_files for key in export_minimal(each)}))
    except OpenPGPError as error:
        raise RecipientsRefused(f"--recipient: {error}") from None
    if len(exported) > RECIPIENTS_LIMIT or any(len(key) > RECIPIENT_LIMIT for key in exported):
        raise RecipientsRefused(
            f"at most {RECIPIENTS_LIMIT} recipients, of at most {RECIPIENT_LIMIT} bytes each, can be given"
        )
    packed = cbor2.dumps([name, list(exported)])
    write_file(path, hashlib.sha256(packed).digest() + packed)
    return exported


def stretch_ahead(pair: bytes, secret: MachineSecret, credentials: Credentials) -> None:
    """Do what is slow in ``adopt`` for the pair that will most likely come."""
    _mac(pair, secret, credentials)


def adopt(record: bytes, secret: MachineSecret, credentials: Credentials) -> PairRecord | None:
    """The pair in a record that the server sent, if it is this machine's and fits the credentials."""
    try:
        pair = PairRecord.verify(record, secret.public_key)
    except FormatError:
        return None
    if pair.machine != secret.machine_id or pair.mode != credentials.mode:
        return None
    expected = _mac(pair.pair, secret, credentials)
    return pair if hmac.compare_digest(pair.mac, expected) else None


def make_pair(
    secret: MachineSecret,
    credentials: Credentials,
    before: bytes,
    time_ns: int,
    random_bytes: Callable[[int], bytes],
) -> NewSealingPair:
    """A new pair; ``before`` is the record of the newest one that the server has. Raises OpenPGPError."""
    from mastodon.host.openpgp import seal

    pair = random_bytes(PAIR_ID_LENGTH)
    seed = random_bytes(SEED_LENGTH)
    payload = EnvelopePayload(secret.machine_id, pair, seed).encode()
    envelope = seal(payload, passphrase=credentials.passphrase, recipients=credentials.recipients)
    number, previous = 1, b""
    if before:
        with suppress(FormatError):
            number, previous = PairRecord.verify(before, secret.public_key).number + 1, record_hash(before)
    record = PairRecord(
        secret.machine_id, pair, time_ns, number, previous, SealingKey(seed).public_key, credentials.mode,
        credentials.recipients, _mac(pair, secret, credentials), envelope_hash(envelope),
    )  # fmt: skip
    return NewSealingPair(record, record.sign(secret.signing_key), envelope)


@functools.lru_cache(maxsize=1)
def _mac(pair: bytes, secret: MachineSecret, credentials: Credentials) -> bytes:
    return pair_mac(secret.pair_mac_key, pair, credentials.mode, credentials.recipients, credentials.passphrase or b"")
