"""A server that lies about blobs and listings (P5), and listings that would lead outside of the target (P4).

Whatever comes out below --to is byte for byte what the machine sealed, or is not there and was named.
"""

import os
import struct
from collections.abc import Callable
from typing import Any

import zstandard
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from mastodon.restore.session import find_entry
from mastodon.sealed.blob import HEAD, INNER, MAGIC, NONCE, BlobKind, padded_length, parse_header
from mastodon.sealed.content import encode_map
from mastodon.sealed.entry import Entry, EntryType, Place
from mastodon.sealed.listing import Section, encode_page
from mastodon.sealed.purposes import Purpose, hkdf_expand
from mastodon.wire.restore_messages import DataItem, FetchRequest
from tests.fake_restore_server import FakeAdmin, fake_backup, swap_data
from tests.restore_case import FILES, LyingCase, entry
from tests.tiny_backup import TinyBackup


class BlobLies(LyingCase):
    """Root, page, map and content blobs."""

    def blob(self, kind: BlobKind) -> bytes:
        """Id of the one blob of a kind."""
        return next(id for id, sealed in self.backup.made.blobs.items() if parse_header(sealed[0]).kind == kind)

    def forger(self) -> TinyBackup:
        """Somebody with a run's key, whose run the machine has signed: what it seals opens."""
        forger = fake_backup()
        self.backup.made.runs |= forger.made.runs
        return forger

    def all_files(self) -> list[str]:
        return [f"/{path}" for path in FILES]

    def test_promise_p5_every_byte_of_a_bundle_counts(self):
        """Any changed byte of a sealed bundle makes its files lost, by name."""
        bundle = self.blob(BlobKind.BUNDLE)
        (sealed,) = self.backup.made.blobs[bundle]
        for at in (*range(40, 128, 9), 129, 140, len(sealed) // 2, len(sealed) - 1):
            flipped = bytearray(sealed)
            flipped[at] ^= 0x20
            if not 72 <= at < 104 and parse_sizes(flipped) == parse_sizes(sealed):
                self.admin.server.lie = swap_data(constant(bytes(flipped)), bundle)
                self.assert_named(*self.all_files())

    def test_promise_p5_truncated_answer(self):
        """An answer that ends in the middle of a blob is an error, first time and later."""

        def lie(request, messages):
            if not isinstance(request, FetchRequest):
                return messages
            data = b"".join(one.data for one in messages if isinstance(one, DataItem))
            return [DataItem(request.request, data[:-5]), messages[-1]]

        self.admin.server.lie = lie
        self.assert_refused(text="does not keep to the protocol")
        self.assert_refused(text="does not keep to the protocol")

    def test_promise_p5_swapped_blob(self):
        """Another authentic blob of the same machine under the wanted id is not taken."""
        bundle = self.blob(BlobKind.BUNDLE)
        other = self.backup.seal(BlobKind.BUNDLE, b"x" * 10_000)
        (data,) = self.backup.made.blobs[other]
        self.admin.server.lie = swap_data(lambda _: data[:72] + bundle + data[104:], bundle)
        self.assert_named(*self.all_files())

    def test_promise_p5_unasked_blob(self):
        """A blob that nobody asked for ends the connection."""
        other = self.backup.made.blobs[self.backup.seal(BlobKind.BUNDLE, b"x")][0]
        self.admin.server.lie = swap_data(lambda sealed: other)
        self.assert_refused(text="was not asked for")

    def test_promise_p5_blob_of_another_machine(self):
        """A blob sealed by another machine under the same id is refused."""
        bundle = self.blob(BlobKind.BUNDLE)
        stranger = fake_backup(secret=b"o" * 32)
        stranger.seal(BlobKind.BUNDLE, b"evil" * 1000, id=bundle)
        self.backup.made.runs |= stranger.made.runs
        self.admin.server.lie = swap_data(lambda _: stranger.made.blobs[bundle][0], bundle)
        self.assert_named(*self.all_files())

    def test_promise_p5_whoever_was_handed_keys_cannot_make_content(self):
        """A blob that opens with the run's key, but whose content has another id, puts out nothing."""
        bundle = self.blob(BlobKind.BUNDLE)
        forger = self.forger()
        forger.seal(BlobKind.BUNDLE, b"evil" * 3000, id=bundle)
        self.admin.server.lie = swap_data(lambda _: forger.made.blobs[bundle][0], bundle)
        self.assert_named(*self.all_files())

    def test_promise_p5_made_up_page_and_root(self):
        """A page or root that does not have the id named above it is refused, the page by the names that it covers."""
        forger = self.forger()
        sections = [Section((), [entry(b"evil")])]
        page = self.blob(BlobKind.PAGE)
        forger.seal(BlobKind.PAGE, encode_page(sections), id=page)
        self.admin.server.lie = swap_data(lambda _: forger.made.blobs[page][0], page)
        report = self.restore()
        self.assertIn("listing from /etc to its end", report.losses[0])
        self.assertEqual(self.files(), {})
        root = self.blob(BlobKind.ROOT)
        forger.seal(BlobKind.ROOT, b"no root", id=root)
        self.admin.server.lie = swap_data(lambda _: forger.made.blobs[root][0], root)
        self.assert_refused(text="snapshot 1: the root of its listing cannot be had")

    def test_promise_p5_withheld_page_costs_its_names_only(self):
        """A withheld page is told with the range of names that it covers; other pages are restored."""
        backup = fake_backup()
        top = self.top / "many"
        top.mkdir()
        for number in range(30):
            (top / f"{number:02}").write_bytes(b"%d" % number)
        backup.tree(top, entries_a_page=10)
        pages = [id for id, sealed in backup.made.blobs.items() if parse_header(sealed[0]).kind == BlobKind.PAGE]
        backup.made.blobs[pages[1]] = []
        self.admin = FakeAdmin(backup)
        report = self.restore()
        lost = "it is missing where the backup is kept, or cannot be read there"
        self.assertEqual(report.losses, [f"listing from /10 up to before /20: {lost}"])
        self.assertEqual(len(self.files()), 20)

    def test_promise_p5_page_at_another_place(self):
        """A page that starts with another name than the root says, or runs into the next, is told as lost."""
        first, second = [Section((), [entry(b"b")])], [Section((), [entry(b"c"), entry(b"x")])]
        pages = [self.backup.page(sections, ()) for sections in (first, second)]
        for keys in (
            [(pages[0], [Section((), [entry(b"a")])])],
            [(pages[1], second), (pages[0], [Section((), [entry(b"d")])])],
        ):
            self.backup.snapshot(self.backup.root(keys))
            report = self.restore()
            self.assertEqual((report.lost_count, self.files()), (len(keys), {}))

    def test_promise_p5_zip_bomb(self):
        """A blob that would decompress to more than it says, or than any may, is refused before it fills memory."""
        bundle = self.blob(BlobKind.BUNDLE)
        (sealed,) = self.backup.made.blobs[bundle]
        bomb = zstandard.ZstdCompressor(level=3).compress(bytes(64 * 1024 * 1024))
        for length in (10_000, 64 * 1024 * 1024):
            data = reseal(self.backup, sealed, INNER.pack(1, length, len(bomb)) + bomb)
            self.admin.server.lie = swap_data(constant(data), bundle)
            self.assert_named(*self.all_files())

    def test_promise_p5_map_of_other_length(self):
        """A map that does not stand for what its file says makes that file lost, by name."""
        chunk = self.backup.seal(BlobKind.CHUNK, b"c" * 1000)
        for map_length, offset, outer in ((900, 0, 0), (1000, 5, 0), (1000, 0, 7)):
            reference = self.backup.seal(BlobKind.MAP, encode_map([Place(0, offset, map_length)]), [chunk])
            one = entry(b"mapped", size=1000, hash=b"h" * 32)
            one.places = (Place(0, outer, 1000),)
            sections = [Section((), [one])]
            self.backup.snapshot(self.backup.root([(self.backup.page(sections, [reference]), sections)]))
            report = self.restore()
            self.assertTrue(not report.complete and self.files() == {}, (map_length, offset, outer))

    def test_promise_p5_places_outside_their_blob(self):
        """A listing that names bytes outside of a blob makes no file."""
        reference = self.backup.seal(BlobKind.BUNDLE, b"short")
        one = entry(b"long", size=10, hash=b"h" * 32)
        one.places = (Place(0, 3, 10),)
        sections = [Section((), [one])]
        self.backup.snapshot(self.backup.root([(self.backup.page(sections, [reference]), sections)]))
        self.assertFalse(self.restore().complete)
        self.assertEqual(self.files(), {})

    def test_promise_p5_page_as_content(self):
        """References go downwards: a page or delta where content should be makes no file."""
        page = self.blob(BlobKind.PAGE)
        delta = self.backup.seal(BlobKind.DELTA, b"d" * 10)
        for reference in (page, delta):
            one = entry(b"strange", size=10, hash=b"h" * 32)
            one.places = (Place(0, 0, 10),)
            sections = [Section((), [one])]
            self.backup.snapshot(self.backup.root([(self.backup.page(sections, [reference]), sections)]))
            report = self.restore()
            self.assertIn("/strange", report.losses[0])
            self.assertEqual(self.files(), {})

    def test_promise_p5_missing_said_of_what_was_not_asked(self):
        """A server that says something else is missing breaks the protocol."""

        def lie(request, messages):
            return [*messages[:-1], type(messages[-1])(request.request, b"m" * 32)] if is_fetch(request) else messages

        self.admin.server.lie = lie
        self.assert_refused(text="not asked for")

    def test_same_blob_for_ever(self):
        """A server that sends one blob again and again is cut off."""
        self.admin.server.lie = lambda request, messages: (
            [one for one in messages if isinstance(one, DataItem)] * 100 if is_fetch(request) else messages
        )
        self.assert_refused(text="again and again")


class EscapeTests(LyingCase):
    """Listings that would lead outside of the target (a machine's key may be in the attacker's hands)."""

    def test_promise_p4_symlink_as_a_directory(self):
        """A listing that makes a symlink, then writes through it, writes nothing outside."""
        outside = self.top / "outside"
        outside.mkdir()
        link = entry(b"link", EntryType.SYMLINK, target=os.fsencode(outside), mode=0o777)
        self.backup.small([((), link, b""), ((b"link",), entry(b"evil"), b"evil")])
        report = self.restore()
        self.assertFalse(report.complete)
        self.assertEqual(list(outside.iterdir()), [])

    def test_promise_p4_link_that_is_there_already(self):
        """A symlink that stands in the target where a directory should be is not followed."""
        outside = self.top / "outside"
        outside.mkdir()
        self.target().mkdir()
        (self.target() / "etc").symlink_to(outside)
        report = self.restore()
        self.assertFalse(report.complete)
        self.assertEqual(list(outside.iterdir()), [])

    def test_promise_p4_names_that_lead_outside_have_no_listing(self):
        """Names with slashes or dots cannot stand in a page at all: the page is told as lost."""
        for name in (b"..", b".", b"a/b", b"/etc/passwd", b"nul\0"):
            sections = [Section((), [entry(name)])]
            page = self.backup.seal(BlobKind.PAGE, encode_page(sections))
            fine = [Section((), [entry(b"fine")])]
            self.backup.snapshot(self.backup.root([(page, fine)]))
            report = self.restore()
            self.assertEqual((report.lost_count, self.files()), (1, {}), name)

    def test_promise_p4_empty_name_in_a_directory(self):
        """The empty name, which sources have at the top, is refused anywhere else."""
        sections = [Section((b"etc",), [entry(b"")])]
        page = self.backup.seal(BlobKind.PAGE, encode_page(sections))
        fine = [Section((b"etc",), [entry(b"fine")])]
        self.backup.snapshot(self.backup.root([(page, fine)]))
        self.assertEqual(self.restore().lost_count, 1)

    def test_sources_are_restored_below_their_shown_name(self):
        """Typed sources, under the empty first name, come below .source."""
        kind: Entry = entry(b"mysql", EntryType.DIRECTORY)
        self.backup.small([((b"",), kind, b""), ((b"", b"mysql"), entry(b"dump"), b"create table")])
        self.assertTrue(self.restore().complete)
        self.assertEqual(self.files(), {".source/mysql/dump": b"create table"})
        listing = self.admin.session().listing(self.admin.session().snapshot("latest"))
        self.assertEqual(find_entry(listing, (b"", b"mysql", b"dump"))[1].size, 12)


def constant(data: bytes) -> Callable[[bytes], bytes]:
    """Gives this, whatever it should change."""
    return lambda _: data


def is_fetch(request: object) -> bool:
    return isinstance(request, FetchRequest)


def parse_sizes(sealed: bytes | bytearray) -> tuple[int, ...]:
    """The lengths in a blob's header: changing them cuts the stream elsewhere, which other tests are about."""
    return HEAD.unpack_from(sealed)[-3:] if sealed[:2] == MAGIC else ()


def reseal(backup: Any, sealed: bytes, inner: bytes) -> bytes:
    """A blob with the same id and run, its key used rightly, around other inner bytes."""
    header = parse_header(sealed)
    inner += bytes(padded_length(len(inner)) - len(inner))
    length = struct.pack(">I", len(inner) + 16)
    associated = sealed[:120] + length + sealed[124 : header.header_length]
    run_key = bytes([1]) * 32
    key = hkdf_expand(run_key, Purpose.BLOB_KEY, bytes([1]) + header.id + header.salt)
    return associated + AESGCM(key).encrypt(NONCE, inner, associated)
