"""Pair records, envelopes and books in the catalogue held against the ledger: SQLite itself has no checksums.

Promise: what the ledger's entries say, up to the one that the catalogue has followed, stands in the catalogue word for
word; whatever does not is named, with machine or admin. What a running daemon adds meanwhile is no difference.
"""

import hashlib
from dataclasses import dataclass, field

from mastodon.catalogue.interface import Catalogue, ListedPair
from mastodon.sealed.book import Book
from mastodon.sealed.ledger import Head, LedgerEntry
from mastodon.sealed.ledger_entries import BookSwapped, PairAdded
from mastodon.sealed.pair import PairRecord, ReenvelopeRecord
from mastodon.sealed.record import record_hash

ALL = 1 << 31
NAMES_AT_ONCE = 1000


@dataclass(slots=True)
class Recorded:
    """What the ledger says. ``applied`` is the head up to which the catalogue has followed it."""

    applied: Head
    _envelopes: dict[bytes, dict[bytes, set[bytes]]] = field(default_factory=dict)
    """By machine and pair: digests of records with their envelopes."""
    _names: dict[bytes, dict[bytes, tuple[int, bytes]]] = field(default_factory=dict)
    """By machine and pair: the machine's number of it, and the record's hash."""
    _books: dict[bytes, tuple[int, bytes]] = field(default_factory=dict)
    """By tenant: the newest one's version and hash."""

    def note(self, chain: bytes, entry: LedgerEntry) -> None:
        """One entry of one spool's copy."""
        if chain != self.applied.chain or entry.sequence > self.applied.sequence:
            return
        match entry.body:
            case PairAdded() as added:
                self._note_pair(added)
            case BookSwapped(data):
                book = Book.read_unverified(data)
                before = self._books.get(book.tenant, (0, b""))
                self._books[book.tenant] = max(before, (book.version, record_hash(data)))

    def _note_pair(self, added: PairAdded) -> None:
        said = (ReenvelopeRecord if added.reenvelope else PairRecord).read_unverified(added.record)
        digest = _digest(added.record, added.envelope, bool(added.reenvelope))
        self._envelopes.setdefault(added.machine, {}).setdefault(said.pair, set()).add(digest)
        if isinstance(said, PairRecord):
            names = self._names.setdefault(added.machine, {})
            names.setdefault(said.pair, (said.number, record_hash(added.record)))

    async def differences(self, catalogue: Catalogue) -> list[str]:
        """What the catalogue does not say as the ledger does."""
        found = [await self._of_machine(catalogue, machine) for machine in self._envelopes]
        found += [await self._of_tenant(catalogue, tenant) for tenant in self._books]
        return [line for line in found if line]

    async def _of_machine(self, catalogue: Catalogue, machine: bytes) -> str:
        wrong = 0
        for pair, digests in self._envelopes[machine].items():
            rows = await catalogue.envelopes(machine, pair, ALL)
            wrong += len(digests - {_digest(*row) for row in rows})
        listed = {one.pair: (one.number, one.hash) for one in await _listed(catalogue, machine)}
        wrong += sum(listed.get(pair) != name for pair, name in self._names.get(machine, {}).items())
        return f"{wrong} pair records or envelopes of machine {machine.hex()}" if wrong else ""

    async def _of_tenant(self, catalogue: Catalogue, tenant: bytes) -> str:
        version, hash, data = await catalogue.book(tenant)
        told, its_hash = self._books[tenant]
        fits = (version == told and hash == its_hash) or version > told
        return "" if fits and data and record_hash(data) == hash else f"the book of admin {tenant.hex()}"


def _digest(record: bytes, envelope: bytes, reenvelope: bool) -> bytes:
    return hashlib.sha256(b"%d" % reenvelope + record_hash(record) + envelope).digest()


async def _listed(catalogue: Catalogue, machine: bytes) -> list[ListedPair]:
    listed: list[ListedPair] = []
    while found := await catalogue.pairs(machine, listed[-1].number + 1 if listed else 0, NAMES_AT_ONCE):
        listed += found
    return listed
