"""A server that lies to the restore client (P5), and what must follow: an error that names the thing, or the truth.

Each lie is told on a machine's first restore and again on a later one; whatever comes out below --to is byte for byte
what the machine sealed, or is not there.
"""

import os
import struct
from collections.abc import Callable
from typing import Any

import zstandard
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from mastodon.restore.errors import Distrusted, Locked, NotThere, RestoreError, WentBack
from mastodon.restore.memory import Memory
from mastodon.restore.session import find_entry
from mastodon.sealed.blob import HEAD, INNER, MAGIC, NONCE, BlobKind, padded_length, parse_header
from mastodon.sealed.content import encode_map
from mastodon.sealed.entry import Entry, EntryType, Place
from mastodon.sealed.hpke import SealingKey
from mastodon.sealed.listing import Section, encode_page
from mastodon.sealed.pair import EnvelopeMode, EnvelopePayload, PairRecord, ReenvelopeRecord, envelope_hash
from mastodon.sealed.purposes import Purpose, hkdf_expand
from mastodon.sealed.record import record_hash
from mastodon.sealed.run import make_run
from mastodon.wire.messages import Message
from mastodon.wire.restore_messages import DataItem, FetchRequest, PairItem, RunItem, SnapshotItem
from tests.fake_restore_server import FakeAdmin, Lie, fake_backup, known_from, swap_data
from tests.restore_case import FILES, RestoreCase, entry, listed


class LyingCase(RestoreCase):
    """Checks that nothing wrong ever comes out."""

    def assert_refused(self, kind: type[Exception] = Distrusted, text: str = "", **options: Any) -> str:
        """The restore is refused as a whole, nothing is written; the error's text."""
        error = self.assertRaises(kind, self.restore, **options)
        self.assertIn(text, str(error))
        self.assertEqual(self.files(), {})
        return str(error)

    def assert_named(self, *names: str) -> None:
        """These files are told as lost; all others are right."""
        report = self.restore()
        self.assertEqual(report.lost_count, len(names), report.losses)
        for name in names:
            self.assertTrue(any(name in loss for loss in report.losses), (name, report.losses))
        self.assertEqual(self.files(), {path: content for path, content in FILES.items() if f"/{path}" not in names})


class BlobLies(LyingCase):
    """Root, page, map and content blobs."""

    def blob(self, kind: BlobKind) -> bytes:
        """Id of the one blob of a kind."""
        return next(id for id, sealed in self.backup.made.blobs.items() if parse_header(sealed[0]).kind == kind)

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
        forger = fake_backup()
        forger.seal(BlobKind.BUNDLE, b"evil" * 3000, id=bundle)
        self.admin.server.lie = swap_data(lambda _: forger.made.blobs[bundle][0], bundle)
        self.assert_named(*self.all_files())

    def test_promise_p5_made_up_page_and_root(self):
        """A page or root that does not have the id named above it is refused, the page by the names that it covers."""
        forger = fake_backup()
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
        self.assertEqual(report.losses, ["listing from /10 up to before /20: it is missing where the backup is kept"])
        self.assertEqual(len(self.files()), 20)

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
        for map_length, offset in ((900, 0), (1000, 5)):
            reference = self.backup.seal(BlobKind.MAP, encode_map([Place(0, offset, map_length)]), [chunk])
            one = entry(b"mapped", size=1000, hash=b"h" * 32)
            one.places = (Place(0, 0, 1000),)
            sections = [Section((), [one])]
            self.backup.snapshot(self.backup.root([(self.backup.page(sections, [reference]), sections)]))
            report = self.restore()
            self.assertTrue(not report.complete and self.files() == {}, (map_length, offset))

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


class RecordLies(LyingCase):
    """Machine, pair, envelope, run and snapshot records."""

    def test_promise_p5_made_up_machine(self):
        """Records of a machine that the server made up, under the name of ours, are nobody's."""
        evil = fake_backup(secret=b"o" * 32)
        evil.small(listed({"etc/passwd": b"evil"}))
        self.admin.server.made = evil.made
        self.assert_refused(NotThere, "no snapshot")
        self.assertTrue(any("passed over" in warning for warning in self.admin.warnings))

    def test_promise_p5_made_up_snapshot(self):
        """A snapshot record that the machine did not sign is passed over with a warning, the others are shown."""
        evil = fake_backup(secret=b"o" * 32)
        evil.small(listed({"etc/passwd": b"evil"}))
        self.backup.made.snapshots.append(evil.made.snapshots[0])
        self.restore()
        self.assertEqual(self.files(), FILES)
        self.assertIn("a snapshot record was passed over", " ".join(self.admin.warnings))

    def test_promise_p5_older_latest(self):
        """Once a newer snapshot was seen, an older one as the newest is refused, unless told to take it."""
        self.backup.small(listed(FILES | {"new": b"new"}))
        memory = Memory(self.top / "heads.json")
        self.admin.memory = memory
        self.restore(to="first")
        self.backup.made.snapshots.pop()
        self.admin.memory = Memory(self.top / "heads.json")
        text = self.assert_refused(WentBack, "snapshot 1 as the newest is shown, but snapshot 2 was seen on")
        self.assertIn("--allow-older", text)
        self.restore(session=self.admin.session(allow_older=True), to="older")
        self.assertEqual(self.files("older"), FILES)
        self.assertIn("withheld", " ".join(self.admin.warnings))

    def test_promise_p5_nothing_at_all(self):
        """A server that has lost all snapshots that were seen is refused."""
        self.admin.memory = Memory(self.top / "heads.json")
        self.restore(to="first")
        self.backup.made.snapshots.clear()
        self.assert_refused(WentBack, "no snapshot is shown, but snapshot 1 was seen")

    def test_promise_p5_exchanged_history(self):
        """Another history under the same numbers, signed by whoever stole the machine's key, is noticed."""
        self.admin.memory = Memory(self.top / "heads.json")
        self.restore(to="first")
        other = fake_backup()
        other.small(listed({"etc/passwd": b"other"}))
        other.small(listed({"etc/passwd": b"other still"}))
        self.admin.server.made = other.made
        self.assert_refused(WentBack, "another snapshot 1 is shown")

    def test_promise_p5_forked_history_is_told(self):
        """Two snapshots of one number are both shown, and which is meant has to be said."""
        other = fake_backup()
        other.small(listed({"etc/passwd": b"other"}))
        self.backup.made.snapshots += other.made.snapshots
        self.backup.made.blobs |= other.made.blobs
        session = self.admin.session()
        self.assertEqual(len(session.history.snapshots), 2)
        self.assertIn("two histories", " ".join(self.admin.warnings))
        self.assertIn("name one by its hash", str(self.assertRaises(NotThere, session.snapshot, "1")))
        wanted = record_hash(self.backup.made.snapshots[0][0]).hex()[:16]
        self.restore(wanted=wanted)
        self.assertEqual(self.files(), FILES)

    def test_promise_p5_gap_is_told(self):
        """A snapshot that is withheld in the middle is told."""
        self.backup.small(listed(FILES | {"new": b"new"}))
        self.backup.small(listed(FILES | {"new": b"newer"}))
        del self.backup.made.snapshots[1]
        self.restore()
        self.assertIn("snapshot 2 withheld or lost", " ".join(self.admin.warnings))

    def test_promise_p5_made_up_pair(self):
        """A pair that the server made, whose envelope opens, is nobody's."""
        evil = fake_backup(secret=b"o" * 32)
        self.backup.made.pairs[:] = evil.made.pairs
        self.assert_refused(text="no record of sealing pair")

    def test_promise_p5_later_pair_needs_the_admins_word(self):
        """What is sealed to a second pair is read with --accept-pair only; the first pair's snapshots stay readable."""
        self.backup.add_pair(b"q" * 16, b"f" * 32)
        self.backup.new_run()
        self.backup.small(listed({"etc/new": b"new"}))
        self.assert_refused(text="cannot be had: web01: sealing pair 2")
        self.assertIn("is not known to the book", " ".join(self.admin.warnings))
        self.restore(wanted="1", to="first")
        self.assertEqual(self.files("first"), FILES)
        session = self.admin.session(accept_pairs=True)
        self.restore(session=session)
        self.assertEqual(self.files(), {"etc/new": b"new"})
        self.assertEqual([pair for pair, _ in session.trust.adopted], [b"q" * 16])

    def test_promise_p5_later_pair_is_not_adopted_as_first(self):
        """A machine of which only its second pair is shown: that one is not taken for the first."""
        self.backup.add_pair(b"q" * 16, b"f" * 32)
        self.backup.new_run()
        self.backup.small(listed({"etc/new": b"new"}))
        del self.backup.made.pairs[0]
        self.assert_refused(text="not known to the book")

    def test_promise_p5_another_record_of_an_adopted_pair(self):
        """A pair that was adopted is known by its record's hash; another record of that id is passed over."""
        known = known_from(self.backup, pairs=((b"p" * 16, b"h" * 32),))
        self.assert_refused(text="no record of sealing pair", session=self.admin.session(known=known))

    def test_promise_p5_unencrypted_or_foreign_envelope(self):
        """An envelope that is not the one that the pair record names is never handed to gpg."""
        (record, envelope, _) = self.backup.made.pairs[0]
        for other in (b"plain", envelope[7:], b"sealed:" + EnvelopePayload(b"m" * 32, b"p" * 16, b"e" * 32).encode()):
            self.backup.made.pairs[:] = [(record, other, 0)]
            self.admin.opened.clear()
            self.assert_refused(text="no record of sealing pair")
            self.assertEqual(self.admin.opened, [])
            self.assertIn("another envelope than the pair record names", " ".join(self.admin.warnings))

    def test_promise_p5_envelope_whose_key_does_not_fit(self):
        """An envelope with another private half than the pair record's public one opens nothing."""
        payload = EnvelopePayload(self.backup.machine, b"p" * 16, b"z" * 32).encode()
        self.backup.made.pairs[:] = [signed_pair(self.backup, b"sealed:" + payload)]
        self.assert_refused(text="does not belong to the pair record")

    def test_promise_p5_hostile_envelopes_do_not_hide_the_good_one(self):
        """All envelopes of a pair are tried; those that do not open or fit are passed over."""
        good = self.backup.made.pairs[0]
        foreign = b"sealed:" + EnvelopePayload(self.backup.machine, b"p" * 16, b"z" * 32).encode()
        bad = [reenvelope(self.backup, envelope) for envelope in (b"junk", foreign)]
        self.backup.made.pairs[:] = [*bad, good, (b"no record", b"x", 0), (b"no record", b"x", 1)]
        self.assertTrue(self.restore().complete)
        self.assertEqual(self.files(), FILES)

    def test_reenvelope_opens_where_the_first_envelope_does_not(self):
        """An envelope that the admin added opens the pair; one by somebody else is not even tried."""
        payload = EnvelopePayload(self.backup.machine, b"p" * 16, b"e" * 32).encode()
        known = known_from(self.backup, order_keys=(self.backup.secret.public_key,))
        self.backup.made.pairs[:] = [signed_pair(self.backup, b"lost"), reenvelope(self.backup, b"sealed:" + payload)]
        self.restore(session=self.admin.session(known=known))
        self.assertEqual(self.files(), FILES)
        known = known_from(self.backup, order_keys=(b"k" * 32,))
        self.assert_refused_keeping("cannot be opened", self.admin.session(known=known))

    def assert_refused_keeping(self, text: str, session: Any) -> None:
        """Refused, whatever earlier restores have written."""
        self.assertIn(text, str(self.assertRaises(Distrusted, self.restore, session=session, to="other")))

    def test_promise_p5_replayed_or_made_up_run(self):
        """Run records count with the machine's signature, for a believed pair, and with the card's id_key only."""
        evil = fake_backup(secret=b"o" * 32)
        key = self.backup.secret.signing_key
        other_id_key = make_run(key, self.backup.pair, b"n" * 16, 1, b"k" * 32, b"i" * 32)
        other_pair = make_run(key, evil.pair, b"n" * 16, 1, b"k" * 32, self.backup.secret.id_key)
        unsigned = make_run(
            evil.secret.signing_key, self.backup.pair, b"n" * 16, 1, b"k" * 32, self.backup.secret.id_key
        )
        for run, text in (
            (other_id_key, "another id key than the card commits to"),
            (other_pair, "another machine"),
            (unsigned, "signature does not fit"),
            (evil.made.runs[evil.run], "signature does not fit"),
        ):
            self.admin.server.lie = instead_of_runs(run)
            self.assert_refused(RestoreError, text)

    def test_promise_p5_withheld_run(self):
        """Without its run record a blob is of no use: told as such."""
        self.backup.made.runs.clear()
        self.assert_refused(text="the record of run")

    def test_promise_p2_wrong_key_opens_nothing(self):
        """With a key that opens no envelope nothing is shown, and the reason told."""
        self.backup.made.pairs[:] = [signed_pair(self.backup, b"sealed to somebody else")]
        error = self.assertRaises(Locked, self.admin.session().trust.private, b"p" * 16)
        self.assertIn("cannot be opened", str(error))

    def test_snapshot_records_of_nonsense(self):
        """Garbage among the snapshot records hinders nothing."""

        def lie(request, messages):
            if type(request).__name__ != "SnapshotsRequest":
                return messages
            return [SnapshotItem(request.request, b"garbage" * 20, 1), *messages]

        self.admin.server.lie = lie
        self.restore()
        self.assertEqual(self.files(), FILES)

    def test_pair_items_in_answer_to_something_else(self):
        """An item of the wrong kind ends the connection."""
        pair = self.backup.made.pairs[0]

        def lie(request: Any, messages: list[Message]) -> list[Message]:
            return [PairItem(request.request, *pair), *messages]

        self.admin.server.lie = lie
        self.assert_refused(text="in answer to")


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


def instead_of_runs(run: bytes) -> Lie:
    """A lie that shows this run record whichever was asked for."""

    def lie(request: Any, messages: list[Message]) -> list[Message]:
        return [RunItem(one.request, run) if isinstance(one, RunItem) else one for one in messages]

    return lie


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


def signed_pair(backup: Any, envelope: bytes) -> tuple[bytes, bytes, int]:
    """The machine's first pair, but with this envelope."""
    record = PairRecord(
        backup.machine, b"p" * 16, 1, 1, b"", SealingKey(b"e" * 32).public_key, EnvelopeMode.PASSPHRASE, (), bytes(32),
        envelope_hash(envelope),
    )  # fmt: skip
    return record.sign(backup.secret.signing_key), envelope, 0


def reenvelope(backup: Any, envelope: bytes) -> tuple[bytes, bytes, int]:
    """A re-envelope record, signed by the machine's own key in the role of some admin's."""
    record = ReenvelopeRecord(
        backup.machine, b"p" * 16, 1, envelope_hash(envelope), backup.secret.public_key, EnvelopeMode.PASSPHRASE, ()
    )
    return record.sign(backup.secret.signing_key), envelope, 1
