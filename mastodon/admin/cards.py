"""The local cache of the book: names, ids, public keys and adopted pairs, never a passkey.

Everyday reading needs just this. It is written from a book that was verified, and by ``machine add``; pairs adopted
here are kept until the book knows them.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from mastodon.admin.home import Home
from mastodon.restore.errors import NotThere, RestoreError
from mastodon.restore.trust import KnownMachine
from mastodon.sealed.book import BookContent, Card, Generation

Pairs = tuple[tuple[bytes, bytes], ...]


@dataclass(frozen=True, slots=True)
class CachedGeneration:
    """What is cached of one secret of a machine; ``has_passkey`` says that its card keeps one."""

    machine: bytes
    public_key: bytes
    id_key_commitment: bytes
    pairs: Pairs
    has_passkey: bool


@dataclass(frozen=True, slots=True)
class CachedCard:
    """What is cached of a machine; ``origin`` is the machine that it was split from, empty for none."""

    name: str
    generations: tuple[CachedGeneration, ...]
    origin: bytes = b""


class Cards:
    """cards.json."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self.cards: tuple[CachedCard, ...] = ()
        if home.cards.exists():
            fields = home.read(home.cards, "remove it and run `mastodon-admin machine list --book`")
            try:
                self.cards = tuple(_card(one) for one in fields["cards"])
            except (KeyError, TypeError, ValueError):
                raise RestoreError(
                    f"{home.cards}: damaged; remove it and run `mastodon-admin machine list --book`"
                ) from None

    def find(self, wanted: str) -> tuple[CachedCard, CachedGeneration]:
        """By name (the newest generation), or by the beginning of a machine id. Raises NotThere."""
        for card in self.cards:
            if card.name == wanted:
                return card, card.generations[-1]
        found = [
            (card, one)
            for card in self.cards
            for one in card.generations
            if len(wanted) >= 8 and one.machine.hex().startswith(wanted)
        ]
        if len(found) == 1:
            return found[0]
        names = ", ".join(card.name for card in self.cards) or "none"
        raise NotThere(
            f"no machine {wanted!r} is known here (known: {names}); `mastodon-admin machine list --book` reads the book"
        )

    def known(self, wanted: str, order_key: bytes) -> tuple[KnownMachine, bool]:
        """What trust starts from, and whether the card keeps a passkey. Raises NotThere."""
        card, one = self.find(wanted)
        known = KnownMachine(card.name, one.machine, one.public_key, one.id_key_commitment, one.pairs, (order_key,))
        return known, one.has_passkey

    def take_book(self, book: BookContent) -> None:
        """Cache a verified book; pairs adopted here stay adopted."""
        adopted = {one.machine: one.pairs for card in self.cards for one in card.generations}
        self.cards = tuple(
            CachedCard(
                card.name,
                tuple(_cached(one, adopted.get(one.machine, ())) for one in card.generations),
                card.origin[0] if card.origin is not None else b"",
            )
            for card in book.cards
        )
        self._write()

    def adopt(self, machine: bytes, pairs: Iterable[tuple[bytes, bytes]]) -> None:
        """Remember adopted pairs, durably."""
        new = tuple(pairs)
        if new:
            self.cards = tuple(
                replace(card, generations=tuple(_with_pairs(one, new, machine) for one in card.generations))
                for card in self.cards
            )
            self._write()

    def adopted(self, machine: bytes) -> Pairs:
        """The pairs adopted of a machine."""
        return next((one.pairs for card in self.cards for one in card.generations if one.machine == machine), ())

    def _write(self) -> None:
        self._home.write(self._home.cards, {"cards": [_fields(card) for card in self.cards]})


def card_with_pairs(card: Card, cards: Cards) -> Card:
    """A card of the book with the pairs that were adopted here."""
    generations = tuple(
        replace(one, pairs=tuple(dict.fromkeys((*one.pairs, *cards.adopted(one.machine))))) for one in card.generations
    )
    return replace(card, generations=generations)


def _with_pairs(one: CachedGeneration, new: Pairs, machine: bytes) -> CachedGeneration:
    return replace(one, pairs=tuple(dict.fromkeys((*one.pairs, *new)))) if one.machine == machine else one


def _cached(one: Generation, adopted: Pairs) -> CachedGeneration:
    pairs = tuple(dict.fromkeys((*one.pairs, *adopted)))
    return CachedGeneration(one.machine, one.public_key, one.id_key_commitment, pairs, bool(one.passkey))


def _card(fields: dict[str, Any]) -> CachedCard:
    return CachedCard(
        str(fields["name"]),
        tuple(
            CachedGeneration(
                bytes.fromhex(one["machine"]),
                bytes.fromhex(one["public_key"]),
                bytes.fromhex(one["id_key_commitment"]),
                tuple((bytes.fromhex(pair), bytes.fromhex(digest)) for pair, digest in one["pairs"]),
                bool(one["has_passkey"]),
            )
            for one in fields["generations"]
        ),
        bytes.fromhex(fields.get("origin", "")),
    )


def _fields(card: CachedCard) -> dict[str, Any]:
    return {
        "name": card.name,
        "origin": card.origin.hex(),
        "generations": [
            {
                "machine": one.machine.hex(),
                "public_key": one.public_key.hex(),
                "id_key_commitment": one.id_key_commitment.hex(),
                "pairs": [[pair.hex(), digest.hex()] for pair, digest in one.pairs],
                "has_passkey": one.has_passkey,
            }
            for one in card.generations
        ],
    }
