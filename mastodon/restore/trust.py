"""What is believed of a machine, and why: everything hangs from its public key, which a source never supplies.

The key comes from the card or the machine's URL. Pair, run and snapshot records count only with its signature; an
envelope only if it opens and its private half fits the pair record; a run's keys only with the id_key that the card
commits to. What a source adds besides, however hostile, is passed over with a warning and hinders nothing else.

A generation's first pair is adopted once its envelope opens and fits; a later one only by the admin's word
(--accept-pair), since whoever has had root on the machine could have made it.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from mastodon.restore.errors import Distrusted, Locked, Untrusted
from mastodon.restore.source import OfferedPair
from mastodon.sealed.errors import FormatError, Mismatch
from mastodon.sealed.hpke import SealingKey
from mastodon.sealed.machine_secret import id_key_commitment
from mastodon.sealed.pair import PairRecord, ReenvelopeRecord, envelope_hash, open_payload
from mastodon.sealed.record import record_hash
from mastodon.sealed.run import run_id, verify_run

OpenEnvelope = Callable[[bytes], bytes]
"""The payload of an OpenPGP message, proven to have been encrypted. Raises EnvelopeClosed."""


class EnvelopeClosed(Exception):
    """This key does not open this envelope; the text says why."""


@dataclass(frozen=True, slots=True)
class KnownMachine:
    """What is known of a machine before anything is asked.

    ``id_key_commitment`` is empty where there is no card. ``pairs`` are (pair id, record hash) adopted before.
    ``order_keys`` sign re-envelope records (none: any is tried, since the private half has to fit anyway).
    ``proven``: the public key comes from a card, a URL or an id that the user gave, not from the source.
    """

    name: str
    machine: bytes
    public_key: bytes
    id_key_commitment: bytes = b""
    pairs: tuple[tuple[bytes, bytes], ...] = ()
    order_keys: tuple[bytes, ...] = ()
    proven: bool = True


@dataclass(slots=True)
class BelievedPair:
    """A pair record that the machine signed, and all envelopes offered for it."""

    record: PairRecord
    hash: bytes
    envelopes: list[bytes] = field(default_factory=list)


class Trust:
    """The keys of one machine, opened as they are needed. ``warnings`` say what was passed over."""

    def __init__(
        self,
        known: KnownMachine,
        offered: Iterable[OfferedPair],
        open_envelope: OpenEnvelope,
        *,
        accept_pairs: bool = False,
    ) -> None:
        self.known = known
        self.warnings: list[str] = []
        self.adopted: list[tuple[bytes, bytes]] = []
        """Pairs adopted just now, for the memory."""
        self._open_envelope = open_envelope
        self._accept = accept_pairs
        self._pairs = self._verified(list(offered))
        self._private: dict[bytes, SealingKey] = {}
        self._refused: dict[bytes, Exception] = {}
        self._run_keys: dict[bytes, bytes] = {}
        self._id_key = b""

    @property
    def id_key(self) -> bytes:
        """Keys the machine's ids; known once a run record was learnt."""
        if not self._id_key:
            raise Distrusted(f"{self.known.name}: no run record has been opened yet")
        return self._id_key

    @property
    def pairs(self) -> Sequence[BelievedPair]:
        """The machine's pairs, oldest first."""
        return sorted(self._pairs.values(), key=lambda pair: pair.record.number)

    def strangers(self) -> list[BelievedPair]:
        """Pairs that the book does not know and that are not simply the first: the admin should look at them."""
        return [pair for pair in self.pairs if not self._may_use(pair)]

    def run_key(self, run: bytes) -> bytes | None:
        """The key of a run that was learnt."""
        return self._run_keys.get(run)

    def learn_run(self, data: bytes) -> bytes:
        """Open a run record, remember its key, and tell its id.

        Raises FormatError, Locked or Distrusted.
        """
        run = run_id(data)
        if run in self._run_keys:
            return run
        record = verify_run(data, self.known.machine, self.known.public_key)
        run_key, id_key = record.open(self.private(record.pair))
        commitment = self.known.id_key_commitment
        if commitment and id_key_commitment(id_key) != commitment:
            raise Mismatch("run record: another id key than the card commits to")
        if self._id_key and id_key != self._id_key:
            raise Mismatch("run record: another id key than the machine's other runs")
        self._id_key = id_key
        self._run_keys[run] = run_key
        return run

    def private(self, pair: bytes) -> SealingKey:
        """The private half of a pair. Raises Locked or Distrusted; the answer is remembered."""
        if pair in self._refused:
            raise self._refused[pair]
        if pair not in self._private:
            try:
                self._private[pair] = self._unlock(pair)
            except (Locked, Untrusted) as error:
                self._refused[pair] = error
                raise
        return self._private[pair]

    def _unlock(self, pair: bytes) -> SealingKey:
        believed = self._pairs.get(pair)
        if believed is None:
            raise Untrusted(f"{self.known.name}: no record of sealing pair {pair.hex()} with the machine's signature")
        if not self._may_use(believed):
            raise Untrusted(
                f"{self.known.name}: sealing pair {believed.record.number} ({pair.hex()}) is not known to the book. If "
                "the machine was given a new passkey, recipients or state, accept it with --accept-pair; else find out "
                "who had root there"
            )
        private = self._try_envelopes(believed)
        if (pair, believed.hash) not in self.known.pairs:
            self.adopted.append((pair, believed.hash))
        return private

    def _try_envelopes(self, believed: BelievedPair) -> SealingKey:
        reasons = []
        for envelope in believed.envelopes:
            try:
                return open_payload(self._open_envelope(envelope), believed.record)
            except (EnvelopeClosed, FormatError) as error:
                reasons.append(str(error))
        told = "; ".join(dict.fromkeys(reasons)) or "no envelope was shown"
        raise Locked(f"{self.known.name}: sealing pair {believed.record.number} cannot be opened: {told}")

    def _may_use(self, believed: BelievedPair) -> bool:
        if self._accept or (believed.record.pair, believed.hash) in self.known.pairs:
            return True
        return not self.known.pairs and believed.record.number == 1

    def _verified(self, offered: Sequence[OfferedPair]) -> dict[bytes, BelievedPair]:
        pairs: dict[bytes, BelievedPair] = {}
        adopted = dict(self.known.pairs)
        for one in offered:
            if one.reenvelope:
                continue
            try:
                record = self._verify_pair(one)
            except FormatError as error:
                self.warnings.append(f"{self.known.name}: a sealing pair was passed over: {error}")
                continue
            digest = record_hash(one.record)
            if adopted.get(record.pair, digest) != digest:
                self.warnings.append(f"{self.known.name}: another record of pair {record.pair.hex()} than the book's")
                continue
            believed = pairs.setdefault(record.pair, BelievedPair(record, digest))
            if believed.hash == digest:
                believed.envelopes.append(one.envelope)
        for one in offered:
            if one.reenvelope:
                self._add_reenvelope(pairs, one)
        return pairs

    def _verify_pair(self, one: OfferedPair) -> PairRecord:
        record = PairRecord.verify(one.record, self.known.public_key)
        if record.machine != self.known.machine:
            raise Mismatch("pair record of another machine")
        if envelope_hash(one.envelope) != record.envelope_hash:
            raise Mismatch("another envelope than the pair record names")
        return record

    def _add_reenvelope(self, pairs: dict[bytes, BelievedPair], one: OfferedPair) -> None:
        try:
            record = ReenvelopeRecord.read_unverified(one.record)
            keys = self.known.order_keys
            if keys and record.order_key not in keys:
                raise Mismatch("re-envelope record by another admin")
            ReenvelopeRecord.check_signature(one.record, record.order_key)
            if record.machine != self.known.machine or envelope_hash(one.envelope) != record.envelope_hash:
                raise Mismatch("re-envelope record of another machine or envelope")
        except FormatError as error:
            self.warnings.append(f"{self.known.name}: an envelope was passed over: {error}")
            return
        if record.pair in pairs:
            pairs[record.pair].envelopes.append(one.envelope)
