"""The run record: a run's key, sealed to the pair and committed to.

protocol-spec.md §7. The run key lives in one process and never on a disk. Run id = SHA-256 over the whole record.
"""

from dataclasses import dataclass
from typing import ClassVar

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from mastodon.sealed import hpke, machine_secret
from mastodon.sealed.errors import Forged, Malformed, Mismatch
from mastodon.sealed.pair import PAIR_ID_LENGTH, PairRecord
from mastodon.sealed.purposes import Purpose, mac, sha256
from mastodon.sealed.record import VERSION, Record, RecordType
from mastodon.sealed.schema import key, octets, unsigned

NONCE_LENGTH = 16
KEY_LENGTH = 32
SEALED_LENGTH = hpke.OVERHEAD + 2 * KEY_LENGTH


@dataclass(frozen=True, slots=True)
class RunRecord(Record):
    """``sealed`` is HPKE to the pair of run key followed by id_key; ``commitment`` fixes both (GCM does not)."""

    TYPE: ClassVar = RecordType.RUN
    PURPOSE: ClassVar = Purpose.SIGN_RUN
    LIMIT: ClassVar = 4096

    machine: bytes = key(0, octets(32))
    pair: bytes = key(1, octets(PAIR_ID_LENGTH))
    nonce: bytes = key(2, octets(NONCE_LENGTH))
    time_ns: int = key(3, unsigned())
    sealed: bytes = key(4, octets(SEALED_LENGTH))
    commitment: bytes = key(5, octets(32))

    def open(self, private: hpke.SealingKey, id_key_commitment: bytes = b"") -> tuple[bytes, bytes]:
        """The run key and id_key. ``id_key_commitment`` is the card's; none where only id and key are known.

        Raises Forged when seal or commitment do not fit, Mismatch for another id_key than the card's.
        """
        payload = private.open(self.sealed, _info(self.machine, self.pair, self.nonce))
        if len(payload) != 2 * KEY_LENGTH:
            raise Malformed("run record: the sealed payload has another length")
        run_key, id_key = payload[:KEY_LENGTH], payload[KEY_LENGTH:]
        if _commitment(run_key, id_key) != self.commitment:
            raise Forged("run record: the keys do not fit the commitment")
        if id_key_commitment and machine_secret.id_key_commitment(id_key) != id_key_commitment:
            raise Mismatch("run record: another id_key than the machine's card commits to")
        return run_key, id_key


def make_run(
    signing_key: Ed25519PrivateKey, pair: PairRecord, nonce: bytes, time_ns: int, run_key: bytes, id_key: bytes
) -> bytes:
    """A signed run record for a fresh ``run_key``, sealed to ``pair``."""
    sealed = hpke.seal(run_key + id_key, pair.public_key, _info(pair.machine, pair.pair, nonce))
    record = RunRecord(pair.machine, pair.pair, nonce, time_ns, sealed, _commitment(run_key, id_key))
    return record.sign(signing_key)


def run_id(data: bytes) -> bytes:
    """The id by which blobs name their run: over every byte of the record."""
    return sha256(Purpose.RUN_ID, data)


def verify_run(data: bytes, machine: bytes, public_key: bytes) -> RunRecord:
    """The run record in ``data``, signed by ``public_key`` and of ``machine``. Raises FormatError."""
    record = RunRecord.verify(data, public_key)
    if record.machine != machine:
        raise Mismatch("run record of another machine")
    return record


def _info(machine: bytes, pair: bytes, nonce: bytes) -> bytes:
    return Purpose.RUN_SEAL.prefix + bytes([VERSION]) + machine + pair + nonce


def _commitment(run_key: bytes, id_key: bytes) -> bytes:
    return mac(Purpose.RUN_COMMITMENT, run_key, id_key)
