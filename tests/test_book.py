"""The book: only its admin reads it, and it cannot be another's, another version's or another predecessor's."""

from dataclasses import replace

from twisted.trial.unittest import SynchronousTestCase

from mastodon.sealed.book import Book, BookContent, Card, make_book, open_book
from mastodon.sealed.errors import Forged, FormatError, Malformed, Mismatch
from mastodon.sealed.record import record_hash
from tests import sealed_samples as samples
from tests.sealed_samples import ADMIN, SUCCESSOR

CONTENT = samples.book_content()
CARD = CONTENT.cards[0]


def made(content: BookContent = CONTENT, version: int = 1, previous: bytes = b"") -> bytes:
    return make_book(content, ADMIN.tenant, version, previous, ADMIN.book_key, ADMIN.order_key, b"s" * 16)


def opened(data: bytes) -> tuple[Book, BookContent]:
    return open_book(data, ADMIN.tenant, ADMIN.order_public, ADMIN.book_key)


class BookTests(SynchronousTestCase):
    def test_round_trip(self):
        """Cards and heads come back, and a version names the one before."""
        first = made()
        second = made(version=2, previous=record_hash(first))
        self.assertEqual(opened(first)[1], CONTENT)
        self.assertEqual((opened(second)[0].version, opened(second)[0].previous), (2, record_hash(first)))

    def test_cards(self):
        """A card is found by its name, added, and replaced in its place."""
        other = Card("db01", b"i" * 16, (replace(CARD.current, machine=b"m" * 32),))
        content = CONTENT.with_card(other)
        self.assertEqual(content.cards, (CARD, other))
        self.assertEqual(content.card("db01"), other)
        self.assertIsNone(content.card("db02"))
        renewed = replace(CARD, generations=(CARD.current, replace(CARD.current, machine=b"n" * 32)))
        self.assertEqual(content.with_card(renewed).cards, (renewed, other))
        self.assertEqual(renewed.current.machine, b"n" * 32)
        self.assertEqual(content.with_card(other), content)

    def test_only_the_admin_reads_it(self):
        """Without the book key nothing comes out, and nothing of a card shows in the bytes."""
        book = Book.verify(made(), ADMIN.order_public)
        self.assertRaises(Forged, book.open, SUCCESSOR.book_key)
        self.assertNotIn(b"web01", made())
        self.assertNotIn(samples.PASSPHRASE, made())

    def test_another_admins(self):
        """Another key's signature is Forged, another tenant a Mismatch."""
        self.assertRaises(Forged, open_book, made(), ADMIN.tenant, SUCCESSOR.order_public, ADMIN.book_key)
        self.assertRaises(Mismatch, open_book, made(), SUCCESSOR.tenant, ADMIN.order_public, ADMIN.book_key)

    def test_sealed_part_belongs_to_its_version(self):
        """The cards of one version, signed into another, do not open: an old book cannot be dressed as a new one."""
        book = Book.read_unverified(made())
        for changes in ({"version": 2, "previous": bytes(32)}, {"tenant": bytes(32)}, {"salt": bytes(16)}):
            moved = replace(book, **changes)
            self.assertRaises(Forged, moved.open, ADMIN.book_key)
        second = Book.read_unverified(made(version=2, previous=bytes(32)))
        self.assertRaises(Forged, replace(second, version=3).open, ADMIN.book_key)
        self.assertRaises(Forged, replace(second, previous=b"\1" * 32).open, ADMIN.book_key)

    def test_versions_and_predecessors(self):
        """Version 1 has no predecessor, every other has one."""
        for version, previous in ((0, b""), (1, bytes(32)), (2, b""), (2, bytes(31))):
            self.assertRaises(Malformed, made, version=version, previous=previous)

    def test_contradictions(self):
        """The same name, handle, machine or head twice, and a card without a generation, are refused."""
        other = Card("db01", b"i" * 16, (replace(CARD.current, machine=b"m" * 32),))
        for cards in (
            (CARD, replace(other, name="web01")), (CARD, replace(other, handle=CARD.handle)),
            (CARD, replace(other, generations=CARD.generations)), (replace(CARD, generations=()),),
            (replace(CARD, generations=CARD.generations * 2),), (replace(CARD, name="a\nb"),),
        ):  # fmt: skip
            self.assertRaises(Malformed, made, replace(CONTENT, cards=cards))
        self.assertRaises(Malformed, made, replace(CONTENT, heads=CONTENT.heads * 2))

    def test_too_large(self):
        """A book beyond its bound is refused when it is made, with both numbers."""
        pairs = tuple((number.to_bytes(16, "big"), bytes(32)) for number in range(256))
        cards = tuple(
            Card(f"m{number}", number.to_bytes(16, "big"), (replace(CARD.current, machine=number.to_bytes(32, "big"),
                 pairs=pairs),))
            for number in range(350)
        )  # fmt: skip
        error = self.assertRaises(FormatError, made, replace(CONTENT, cards=cards))
        self.assertIn("bound 4194304", str(error))
