"""A server that lies about machines, pairs, envelopes, runs and snapshots (P5), on first and on later restores.

What is made up hinders nothing; what is withheld, replayed or exchanged is told, and nothing wrong is written.
"""

import datetime
from dataclasses import replace
from typing import Any

from mastodon.restore import actions
from mastodon.restore.errors import Locked, NotThere, RestoreError, WentBack
from mastodon.restore.history import show_time
from mastodon.restore.memory import Memory
from mastodon.restore.present import snapshot_fields, snapshot_line
from mastodon.sealed.hpke import SealingKey
from mastodon.sealed.pair import EnvelopeMode, EnvelopePayload, PairRecord, ReenvelopeRecord, envelope_hash
from mastodon.sealed.record import record_hash
from mastodon.sealed.run import make_run
from mastodon.sealed.snapshot import SnapshotRecord
from mastodon.wire.messages import Message
from mastodon.wire.restore_messages import Done, EnvelopeItem, RunItem, SnapshotItem, SnapshotsRequest
from tests.fake_restore_server import Lie, fake_backup, known_from
from tests.restore_case import FILES, LyingCase, listed
from tests.tiny_backup import BASE_NS

SECOND = 10**9


def moment(time_ns: int) -> str:
    """A time as it is given on the command line."""
    return datetime.datetime.fromtimestamp(time_ns // SECOND, datetime.UTC).isoformat()


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

    def test_promise_p5_snapshot_in_our_machines_name(self):
        """A record that names our machine, signed by another key, is passed over."""
        other = fake_backup(secret=b"o" * 32)
        real = SnapshotRecord.read_unverified(self.backup.made.snapshots[0][0])
        forged = replace(real, sequence=2, predecessor=b"p" * 32).sign(other.secret.signing_key)
        self.backup.made.snapshots.append((forged, 1))
        self.restore()
        self.assertEqual(self.files(), FILES)
        self.assertEqual(len(self.admin.session().history.snapshots), 1)

    def test_promise_p5_records_without_end(self):
        """A server that shows one page after another of records that nobody signed is left after so many."""
        real = SnapshotRecord.read_unverified(self.backup.made.snapshots[0][0])
        key = fake_backup(secret=b"o" * 32).secret.signing_key

        def lie(request: Any, truth: list[Message]) -> list[Message]:
            if not isinstance(request, SnapshotsRequest):
                return truth
            numbers = range(request.first + 2, request.first + 2 + request.limit)
            forged = [replace(real, sequence=number, predecessor=b"p" * 32).sign(key) for number in numbers]
            return [*(SnapshotItem(request.request, record, 1) for record in forged), Done(request.request)]

        self.admin.server.lie = lie
        self.assert_refused(text="that this machine did not sign, 1,000 so far")
        self.assertEqual(sum(isinstance(one, SnapshotsRequest) for one in self.admin.server.requests), 1)

    def test_promise_p5_both_clocks_are_shown(self):
        """Where the server's time of a snapshot is minutes from the machine's, both are shown, to people too."""
        ((record, _),) = self.backup.made.snapshots
        machine_ns = SnapshotRecord.read_unverified(record).time_ns
        for apart_s, shown in ((0, False), (299, False), (301, True), (-301, True)):
            server_ns = machine_ns + apart_s * SECOND
            self.backup.made.snapshots[:] = [(record, server_ns)]
            one = self.admin.session().snapshot("latest")
            self.assertEqual(f"{show_time(server_ns)} by the server's clock" in snapshot_line(one), shown)
            fields = snapshot_fields(one)
            self.assertEqual((fields["time"], fields["server_time"]), (show_time(machine_ns), show_time(server_ns)))
            self.assertEqual((fields["time_ns"], fields["server_time_ns"]), (machine_ns, server_ns))

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

    def test_promise_p5_seen_and_then_left_out(self):
        """A snapshot that was the newest when it was seen may not be left out once there are newer ones."""
        self.backup.small(listed(FILES | {"new": b"new"}))
        self.admin.memory = Memory(self.top / "heads.json")
        self.restore(to="first")
        self.backup.small(listed(FILES | {"new": b"newer"}))
        del self.backup.made.snapshots[1]
        self.assert_refused(WentBack, "snapshot 2, seen on")

    def test_promise_p5_an_older_state_that_was_taken(self):
        """What is taken by --allow-older is the newest from then on, whatever the book remembers; what was given up is
        remembered, and forgotten once it is shown again."""
        self.backup.small(listed(FILES | {"new": b"new"}))
        self.admin.memory = Memory(self.top / "heads.json")
        newest = self.admin.session().history.snapshots[-1]
        withheld = self.backup.made.snapshots.pop()
        self.restore(session=self.admin.session(allow_older=True), to="older")
        memory = self.admin.memory = Memory(self.top / "heads.json")
        memory.learn_head(self.backup.machine, 2, newest.hash)
        session = self.admin.session()
        self.assertEqual(len(session.history.snapshots), 1)
        self.assertIn("snapshot 2, seen on", session.given_up)
        self.backup.made.snapshots.append(withheld)
        session = self.admin.session()
        self.assertEqual((len(session.history.snapshots), session.given_up), (2, ""))
        self.backup.made.snapshots.pop()
        self.assert_refused(WentBack, "snapshot 2 was seen on")

    def test_promise_p7_jumps_are_shown(self):
        """A snapshot whose machine had fallen back is told and marked; age and number of what is shown are printed."""
        ((first, _),) = self.backup.made.snapshots
        self.backup.small(listed(FILES | {"new": b"new"}))
        self.backup.small(listed(FILES))
        data, time_ns = self.backup.made.snapshots.pop()
        record = replace(SnapshotRecord.read_unverified(data), remembered=record_hash(first))
        self.backup.made.snapshots.append((record.sign(self.backup.secret.signing_key), time_ns))
        lines, told = list[str](), list[str]()
        now_ns = record.time_ns + 3 * 3600 * SECOND
        out = actions.Output(lines.append, told.append, now_ns=lambda: now_ns)
        actions.list_snapshots(self.admin.session(), out)
        self.assertIn("snapshot 3 was made by a machine that had fallen back to", " ".join(self.admin.warnings))
        self.assertIn("had gone back to 1", lines[2])
        self.assertIn("the newest shown is snapshot 3 of", told[0])
        self.assertIn("3 hours ago", told[0])
        (fields,) = [snapshot_fields(one) for one in self.admin.session().history.snapshots[2:]]
        self.assertEqual(fields["jump"], "went_back")

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

    def test_promise_p1_backdated_snapshot(self):
        """A snapshot that the machine dates back does not displace the one of that time; that there is one is told."""
        self.backup.small(listed({"etc/passwd": b"evil"}), time_ns=BASE_NS + 3601 * SECOND)
        self.backup.made.snapshots[-1] = (self.backup.made.snapshots[-1][0], BASE_NS + 7200 * SECOND)
        self.restore(wanted=moment(BASE_NS + 3700 * SECOND))
        self.assertEqual(self.files(), FILES)
        self.assertIn("name it by its number", " ".join(self.admin.warnings))

    def test_promise_p5_server_that_dates_back(self):
        """Nor does one that the server dates back."""
        self.backup.small(listed({"etc/passwd": b"evil"}), time_ns=BASE_NS + 7200 * SECOND)
        self.backup.made.snapshots[-1] = (self.backup.made.snapshots[-1][0], BASE_NS + 3601 * SECOND)
        self.restore(wanted=moment(BASE_NS + 3700 * SECOND))
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
        self.assert_refused(Locked, "does not belong to the pair record")

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
        self.assertIn(text, str(self.assertRaises(Locked, self.restore, session=session, to="other")))

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
            return [EnvelopeItem(request.request, *pair), *messages]

        self.admin.server.lie = lie
        self.assert_refused(text="in answer to")


def instead_of_runs(run: bytes) -> Lie:
    """A lie that shows this run record whichever was asked for."""

    def lie(request: Any, messages: list[Message]) -> list[Message]:
        return [RunItem(one.request, run) if isinstance(one, RunItem) else one for one in messages]

    return lie


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
