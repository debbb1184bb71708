"""What is believed of a machine, and why: everything hangs from its public key, which a source never supplies.

The key comes from the card or the machine's URL. Pair, run and snapshot records count only with its signature; an
envelope only if it opens and its private half fits the pair record; a run's keys only with the id_key that the card
commits to. What a source adds besides, however hostile, is passed over with a warning and hinders nothing else.

A generation's first pair is adopted once its envelope opens and fits; a later one only by the admin's word
(--accept-pair), since whoever has had root on the machine could have made it. Only what may be believed is asked for,
each pair once: however many a hostile machine makes, they cost a page of names.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from mastodon.restore.errors import Distrusted, Locked, Untrusted
from mastodon.restore.source import PAIRS_PAGE, ListedPair, OfferedPair, PairSource
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
    """The keys of one machine, asked for and opened as they are needed. ``warn`` is told what was passed over."""

    def __init__(
        self, known: KnownMachine, source: PairSource, open_envelope: OpenEnvelope, warn: Callable[[str], None], *,
        accept_pairs: bool = False,
    ) -> None:  # fmt: skip
        self.known = known
        self.adopted: list[tuple[bytes, bytes]] = []
        """Pairs adopted just now, for the memory."""
        self._source = source
        self._open_envelope = open_envelope
        self._warn = warn
        self._accept = accept_pairs
        self._listed = {one.pair: one for one in source.pairs(known.machine, 0, PAIRS_PAGE)}
        self._pairs: dict[bytes, BelievedPair | None] = {}
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

    def pair(self, pair: bytes) -> BelievedPair | None:
        """The pair of that id, asked for once; None where the machine's signed record of it is not there."""
        if pair not in self._pairs:
            self._pairs[pair] = self._verified(pair, self._source.envelopes(self.known.machine, pair))
        return self._pairs[pair]

    def strangers(self) -> list[ListedPair]:
        """The first pairs that the book does not know and that are not simply the first: the admin should look at
        them. Whatever their number, they are of one page."""
        listed = self._listed.values()
        return [one for one in listed if not self._may_use(one.number, one.pair, one.hash)]

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
        if not self._may_ask_for(pair):
            raise self._unknown_to_book(pair)
        believed = self.pair(pair)
        if believed is None:
            raise Untrusted(f"{self.known.name}: no record of sealing pair {pair.hex()} with the machine's signature")
        if not self._may_use(believed.record.number, pair, believed.hash):
            raise self._unknown_to_book(pair)
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

    def _may_use(self, number: int, pair: bytes, digest: bytes) -> bool:
        return self._accept or (pair, digest) in self.known.pairs or (not self.known.pairs and number == 1)

    def _may_ask_for(self, pair: bytes) -> bool:
        if self._accept or any(pair == adopted for adopted, _ in self.known.pairs):
            return True
        listed = self._listed.get(pair)
        return not self.known.pairs and listed is not None and listed.number == 1

    def _unknown_to_book(self, pair: bytes) -> Untrusted:
        listed = self._listed.get(pair)
        called = f"{listed.number} ({pair.hex()})" if listed is not None else pair.hex()
        return Untrusted(
            f"{self.known.name}: sealing pair {called} is not known to the book. If the machine was given a new "
            "passkey, recipients or state, accept it with --accept-pair; else find out who had root there"
        )

    def _verified(self, pair: bytes, offered: Sequence[OfferedPair]) -> BelievedPair | None:
        believed: BelievedPair | None = None
        adopted = dict(self.known.pairs)
        for one in offered:
            if one.reenvelope:
                continue
            try:
                record = self._verify_pair(pair, one)
            except FormatError as error:
                self._warn(f"{self.known.name}: a sealing pair was passed over: {error}")
                continue
            digest = record_hash(one.record)
            if adopted.get(pair, digest) != digest:
                self._warn(f"{self.known.name}: another record of pair {pair.hex()} than the book's")
                continue
            believed = believed or BelievedPair(record, digest)
            if believed.hash == digest:
                believed.envelopes.append(one.envelope)
        if believed is not None:
            believed.envelopes[:0] = [one.envelope for one in offered if one.reenvelope and self._is_ours(pair, one)]
        return believed

    def _verify_pair(self, pair: bytes, one: OfferedPair) -> PairRecord:
        record = PairRecord.verify(one.record, self.known.public_key)
        if record.machine != self.known.machine or record.pair != pair:
            raise Mismatch("pair record of another machine or pair")
        if envelope_hash(one.envelope) != record.envelope_hash:
            raise Mismatch("another envelope than the pair record names")
        return record

    def _is_ours(self, pair: bytes, one: OfferedPair) -> bool:
        """Whether this is an envelope that an admin of the machine made for the pair."""
        try:
            record = ReenvelopeRecord.read_unverified(one.record)
            keys = self.known.order_keys
            if keys and record.order_key not in keys:
                raise Mismatch("re-envelope record by another admin")
            ReenvelopeRecord.check_signature(one.record, record.order_key)
            if record.machine != self.known.machine or record.pair != pair:
                raise Mismatch("re-envelope record of another machine or pair")
            if envelope_hash(one.envelope) != record.envelope_hash:
                raise Mismatch("another envelope than the re-envelope record names")
        except FormatError as error:
            self._warn(f"{self.known.name}: an envelope was passed over: {error}")
            return False
        return True
