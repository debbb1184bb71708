"""Decides what has to be sent, and sees it through: id, offer, seal, pack, acknowledgement.

A blob whose id is known to be stored is dropped at once; one that is under way is not made again; the rest is offered,
unless the server has nothing at all, and sealed where it is wanted. Nothing waits for a single answer: offers, sealing
and packs each have so much under way and no more, which also bounds the memory. What the server has acknowledged goes
into the content map, and from then on is never sent again.
"""

from collections.abc import Sequence

from mastodon.sealed.blob import BlobKind, blob_id
from mastodon.sealed.purposes import Purpose, keyed_hasher
from mastodon_agent.content_map import ContentMap
from mastodon_agent.packing import PackMaker, SealedBlob, SealedPack, make_pack
from mastodon_agent.references import BlobRef
from mastodon_agent.sealing import PlainBlob, SealingPool
from mastodon_agent.session import Durable, Offended, Session, SessionEvent, Wants

OFFER_IDS = 256
OFFER_BYTES = 4 * 1024 * 1024
OFFERED_BYTES = 12 * 1024 * 1024
"""Plaintext that waits for answers to offers."""
UNDERWAY_BYTES = 33 * 1024 * 1024
"""Packs that wait for their acknowledgement: two."""

Held = tuple[bytes, int, int]
"""(content hash, offset, length) of what lies in a bundle."""


class Outlet:
    """``offers``: whether the server may have some of it already; ``window``: most bytes of packs that it takes ahead
    of its acknowledgements."""

    def __init__(
        self, id_key: bytes, known: ContentMap, sealing: SealingPool, packs: PackMaker, session: Session, offers: bool,
        window: int = UNDERWAY_BYTES,
    ) -> None:  # fmt: skip
        self._id_key = id_key
        self._piece_hasher = keyed_hasher(Purpose.AGENT_STATE, id_key)
        self._known = known
        self._sealing = sealing
        self._packs = packs
        self._session = session
        self._offers = offers
        self._window = min(window, UNDERWAY_BYTES)
        self._batch: list[PlainBlob] = []
        self._batch_bytes = 0
        self._offered: dict[int, list[PlainBlob]] = {}
        self._offered_bytes = 0
        self._number = 0
        self._underway: dict[bytes, Sequence[Held]] = {}
        self._fresh: dict[bytes, tuple[BlobRef, int, int]] = {}
        self._packs_underway: dict[bytes, SealedPack] = {}
        self._pack_bytes = 0
        self._machine_run: tuple[bytes, bytes] = packs.identity
        self.sent_bytes = 0
        self.sent_blobs = 0

    def hash_piece(self, piece: memoryview) -> bytes:
        """By what a piece of a large file is found again; in no other use is this a hash of content."""
        state = self._piece_hasher.copy()
        state.update(piece)
        return state.digest()

    def has(self, id: bytes) -> bool:
        """Whether the server is known to have this blob, be it one that new content is not to be found in."""
        return self._known.has(id)

    def find(self, hash: bytes, length: int) -> tuple[BlobRef, int] | None:
        """Where content of this hash and length lies, or will lie."""
        fresh = self._fresh.get(hash)
        if fresh is not None and fresh[2] == length:
            return fresh[0], fresh[1]
        place = self._known.place(hash, length)
        return None if place is None else (BlobRef(place[0]), place[1])

    def expect(self, hash: bytes, ref: BlobRef, offset: int, length: int) -> None:
        """Content that will lie in a blob which is still open."""
        self._fresh[hash] = (ref, offset, length)

    def put(
        self, kind: BlobKind, references: Sequence[bytes], plaintext: bytes | memoryview, held: Sequence[Held] = ()
    ) -> bytes:
        """The id of this blob, which the server has or will have. ``held`` is what lies in a bundle."""
        id = blob_id(self._id_key, kind, references, plaintext)
        if id in self._underway:
            return id
        if self._known.knows(id):
            self._settle_contents(id, held)
            return id
        self._underway[id] = held
        blob = PlainBlob(kind, id, references, plaintext)
        if self._offers:
            self._add_to_offer(blob)
        else:
            self._seal(blob)
        self.pump()
        return id

    def pump(self) -> None:
        """Take what has come and pass on what is ready, without waiting."""
        for event in self._session.events(wait=False):
            self._take(event)
        while sealed := self._sealing.take(wait=False):
            self._pack(sealed)
        if self._packs.is_due:
            self._send(self._packs.finish())

    def finish(self) -> None:
        """Returns when everything that was put is durable."""
        self._send_offer()
        while self._offered:
            self._wait()
        while sealed := self._sealing.take(wait=True):
            self._pack(sealed)
        self._send(self._packs.finish())
        while self._packs_underway:
            self._wait()

    def offer_from_now_on(self) -> None:
        """The server has some of it by now."""
        self._offers = True

    def note_durable(self) -> None:
        """When the run ends early: keep in mind what the server has acknowledged and nobody has looked at yet."""
        for event in self._session.events(wait=False):
            if isinstance(event, Durable):
                self._take(event)

    # Offers

    def _add_to_offer(self, blob: PlainBlob) -> None:
        self._batch.append(blob)
        self._batch_bytes += len(blob.plaintext)
        if len(self._batch) >= OFFER_IDS or self._batch_bytes >= OFFER_BYTES:
            self._send_offer()
        while self._offered_bytes > OFFERED_BYTES:
            self._wait()

    def _send_offer(self) -> None:
        if not self._batch:
            return
        self._number += 1
        self._offered[self._number] = self._batch
        self._offered_bytes += self._batch_bytes
        self._session.offer(self._number, [blob.id for blob in self._batch])
        self._batch, self._batch_bytes = [], 0

    # Sealing and packs

    def _seal(self, blob: PlainBlob) -> None:
        while self._sealing.is_full:
            self._pack(self._sealing.take(wait=True))
        self._sealing.put(blob)

    def _pack(self, sealed: list[SealedBlob]) -> None:
        for blob in sealed:
            self._send(self._packs.add(blob))

    def _send(self, pack: SealedPack | None) -> None:
        if pack is None:
            return
        while self._packs_underway and self._pack_bytes + pack.size > self._window:
            self._wait()
        self._packs_underway[pack.id] = pack
        self._pack_bytes += pack.size
        self.sent_bytes += pack.size
        self.sent_blobs += len(pack.blobs)
        self._session.send_pack(pack)

    # Answers

    def _wait(self) -> None:
        for event in self._session.events(wait=True):
            self._take(event)

    def _take(self, event: SessionEvent) -> None:
        if isinstance(event, Wants):
            self._answered(event)
        elif isinstance(event, Durable):
            pack = self._packs_underway.pop(event.pack, None)
            if pack is not None:
                self._pack_bytes -= pack.size
                for id, _, _ in pack.blobs:
                    self._settle(id)
        else:
            self._repack(event)

    def _answered(self, event: Wants) -> None:
        blobs = self._offered.pop(event.number, [])
        for blob, wanted in zip(blobs, event.wanted, strict=False):
            self._offered_bytes -= len(blob.plaintext)
            if wanted:
                self._seal(blob)
            else:
                self._settle(blob.id)

    def _repack(self, event: Offended) -> None:
        """The server has these blobs in other sealings: the pack goes anew without them."""
        pack = self._packs_underway.pop(event.pack, None)
        if pack is None:
            return
        self._pack_bytes -= pack.size
        for id in event.ids:
            self._settle(id)
        left = [blob for blob in pack.blobs if blob[0] not in event.ids]
        if left:
            self._send(make_pack(*self._machine_run, left))

    def _settle(self, id: bytes) -> None:
        """The server has this blob."""
        held = self._underway.pop(id, None)
        if held is not None:
            self._known.add_blob(id)
            self._settle_contents(id, held)

    def _settle_contents(self, id: bytes, held: Sequence[Held]) -> None:
        self._known.add_contents(id, held)
        for hash, _, _ in held:
            self._fresh.pop(hash, None)
