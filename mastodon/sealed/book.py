"""The book: all of an admin's cards, sealed under the book key, signed, versioned, kept by the server.

protocol-spec.md §11. A card is what an admin knows of a machine; whoever reads the book needs the admin secret.
"""

from dataclasses import dataclass, replace
from typing import ClassVar

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from mastodon.sealed import cbor
from mastodon.sealed.enrolment import HANDLE_LENGTH
from mastodon.sealed.errors import Forged, Malformed, Mismatch
from mastodon.sealed.hpke import PUBLIC_KEY_LENGTH
from mastodon.sealed.pair import PAIR_ID_LENGTH
from mastodon.sealed.purposes import Purpose, hkdf_expand
from mastodon.sealed.record import Record, RecordType
from mastodon.sealed.schema import Body, array, key, nested, octets, octets_or_none, row, text, unsigned

BOOK_LIMIT = 4 * 1024 * 1024
SALT_LENGTH = 16
CARDS_LIMIT = 10_000


@dataclass(frozen=True, slots=True)
class Generation(Body):
    """One secret of a machine. ``pairs`` are (pair id, record hash) that the admin has adopted.

    ``passkey`` is kept in the symmetric mode, so that a fleet is restored with the admin secret alone; empty
    otherwise. ``frozen`` is the hash of the last snapshot record trusted of a closed generation.
    """

    machine: bytes = key(0, octets(32))
    public_key: bytes = key(1, octets(32))
    order_key: bytes = key(2, octets(PUBLIC_KEY_LENGTH))
    id_key_commitment: bytes = key(3, octets(32))
    created_ns: int = key(4, unsigned())
    pairs: tuple[tuple[bytes, bytes], ...] = key(5, array(row(octets(PAIR_ID_LENGTH), octets(32)), 256), default=())
    passkey: bytes = key(6, octets(0, 1024), default=b"")
    frozen: bytes = key(7, octets_or_none(32), default=b"")


@dataclass(frozen=True, slots=True)
class Card(Body):
    """A machine as its admin knows it: a label, a handle, and its generations, oldest first.

    ``origin`` names the machine that it was split from, and the record hash of that one's newest snapshot then (empty:
    it had none): what both are stands in that history.
    """

    name: str = key(0, text(255))
    handle: bytes = key(1, octets(HANDLE_LENGTH))
    generations: tuple[Generation, ...] = key(2, array(nested(Generation), 64, 1))
    origin: tuple[bytes, bytes] | None = key(3, row(octets(32), octets_or_none(32)), default=None)

    @property
    def current(self) -> Generation:
        """The newest generation."""
        return self.generations[-1]


@dataclass(frozen=True, slots=True)
class BookContent(Body):
    """What is sealed: cards, and the newest head (machine, sequence, record hash) seen of each machine."""

    cards: tuple[Card, ...] = key(0, array(nested(Card), CARDS_LIMIT))
    heads: tuple[tuple[bytes, int, bytes], ...] = key(
        1, array(row(octets(32), unsigned(), octets(32)), CARDS_LIMIT), default=()
    )

    def check_whole(self) -> None:
        """Raise Malformed when two cards have the same name, handle or machine, or a machine has two heads."""
        machines = [one.machine for card in self.cards for one in card.generations]
        for what, values in (
            ("name", [card.name for card in self.cards]),
            ("handle", [card.handle for card in self.cards]),
            ("machine", machines),
            ("head", [head[0] for head in self.heads]),
        ):
            if len(set(values)) != len(values):
                raise Malformed(f"book: the same {what} twice")

    def card(self, name: str) -> Card | None:
        """The card with this name."""
        return next((card for card in self.cards if card.name == name), None)

    def with_card(self, card: Card) -> "BookContent":
        """With the card in place of the one of the same name, or behind the others."""
        cards = tuple(card if one.name == card.name else one for one in self.cards)
        return replace(self, cards=cards if card in cards else (*cards, card))


@dataclass(frozen=True, slots=True)
class Book(Record):
    """``previous`` is the record hash of the version before (empty for version 1)."""

    TYPE: ClassVar = RecordType.BOOK
    PURPOSE: ClassVar = Purpose.SIGN_BOOK
    LIMIT: ClassVar = BOOK_LIMIT

    tenant: bytes = key(0, octets(32))
    version: int = key(1, unsigned())
    previous: bytes = key(2, octets_or_none(32))
    salt: bytes = key(3, octets(SALT_LENGTH))
    sealed: bytes = key(4, octets(16, BOOK_LIMIT))

    def check_whole(self) -> None:
        """Raise Malformed for a version that does not fit the predecessor."""
        if (self.version <= 1) != (not self.previous) or not self.version:
            raise Malformed("book: the first has version 1 and no predecessor, the others have both")

    def open(self, book_key: bytes) -> BookContent:
        """The cards. Raises Forged when the key does not fit, or Malformed."""
        key = hkdf_expand(book_key, Purpose.BOOK_SEAL, self.salt)
        try:
            associated = _associated(self.tenant, self.version, self.previous)
            plaintext = AESGCM(key).decrypt(bytes(12), self.sealed, associated)
        except InvalidTag:
            raise Forged("the book does not open with this admin secret") from None
        return BookContent.from_body(cbor.decode(plaintext, BOOK_LIMIT))


def make_book(
    content: BookContent, tenant: bytes, version: int, previous: bytes, book_key: bytes,
    order_key: Ed25519PrivateKey, salt: bytes,
) -> bytes:  # fmt: skip
    """A signed book; ``salt`` is 16 fresh random bytes. Raises Malformed for cards that contradict each other."""
    plaintext = cbor.encode(content.to_body())
    BookContent.from_body(cbor.decode(plaintext, BOOK_LIMIT))  # never sign what cannot be read again
    key = hkdf_expand(book_key, Purpose.BOOK_SEAL, salt)
    sealed = AESGCM(key).encrypt(bytes(12), plaintext, _associated(tenant, version, previous))
    return Book(tenant, version, previous, salt, sealed).sign(order_key)


def open_book(data: bytes, tenant: bytes, order_public: bytes, book_key: bytes) -> tuple[Book, BookContent]:
    """The book in ``data``, signed by ``order_public`` for ``tenant``. Raises FormatError."""
    book = Book.verify(data, order_public)
    if book.tenant != tenant:
        raise Mismatch("the book of another admin")
    return book, book.open(book_key)


def _associated(tenant: bytes, version: int, previous: bytes) -> bytes:
    return Purpose.BOOK_SEAL.prefix + tenant + version.to_bytes(8, "big") + previous
