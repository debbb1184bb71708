"""The restore port's messages, and its table of verbs and roles."""

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mastodon.sealed.book import BOOK_LIMIT
from mastodon.sealed.enrolment import Role
from mastodon.sealed.errors import Malformed
from mastodon.sealed.events import EventCode
from mastodon.sealed.ledger_entries import MachineState
from mastodon.sealed.snapshot import SnapshotStatus
from mastodon.sealed.statement import Statement
from mastodon.wire.certificate_messages import CertificateItem, CertificatesRequest
from mastodon.wire.errors import BadMessage, ErrorCode, UnknownVerb, WireError
from mastodon.wire.frame import RESTORE_FRAME_LIMIT
from mastodon.wire.messages import Keepalive, Message, make_error
from mastodon.wire.read_messages import ReadItem, ReadsRequest
from mastodon.wire.restore_messages import (
    DATA_LIMIT,
    FETCH_LIMIT,
    REPLIES,
    REQUESTS,
    BookItem,
    BookRequest,
    DataItem,
    Done,
    EnvelopeItem,
    EnvelopesRequest,
    FetchRequest,
    MachineItem,
    MachinesRequest,
    PairItem,
    PairsRequest,
    RunItem,
    RunsRequest,
    SnapshotItem,
    SnapshotsRequest,
    StateRequest,
    WhoItem,
    WhoRequest,
    decode_reply,
    decode_request,
)
from mastodon.wire.restore_verbs import ALLOWED, RestoreVerb
from mastodon.wire.status_messages import (
    ServerStatusItem,
    SpoolState,
    StatusItem,
    StatusRequest,
    TenantUse,
    WatchState,
)
from mastodon.wire.telling_messages import AcknowledgeRequest, ChannelItem, EventItem, EventsRequest, NotifyRequest
from tests import sealed_samples as samples
from tests.hostile import accepted_cuts, accepted_flips, frame_of, quick

H = b"h" * 32

FROM_CLIENT: list[Message] = [
    WhoRequest(1),
    MachinesRequest(2),
    SnapshotsRequest(3, H, 1, 100),
    PairsRequest(4, H, 1, 100),
    RunsRequest(5, H, H * 2),
    FetchRequest(6, H, H * 3),
    BookRequest(7),
    StateRequest(8, samples.statement(), b""),
    EnvelopesRequest(9, H, b"p" * 16),
    StatusRequest(10, H),
    EventsRequest(11, b"", 5, 6, 100),
    AcknowledgeRequest(12, (5, 6)),
    NotifyRequest(13, 1),
    ReadsRequest(14, H, 5, 6, 100),
    CertificatesRequest(15),
]
FROM_SERVER: list[Message] = [
    WhoItem(1, H, "alice", Role.ADMIN, (samples.SERVER,), 5, 7, ("h:7410",), samples.ledger_head()),
    MachineItem(2, samples.enrolment(), MachineState.ACTIVE, 5, 2, 1 << 40),
    SnapshotItem(3, samples.snapshot(), 5),
    PairItem(4, 2, b"p" * 16, H, 5),
    RunItem(5, samples.run()),
    DataItem(6, b"raw bytes"),
    BookItem(7, samples.book()),
    EnvelopeItem(9, samples.pair(), samples.ENVELOPE, 0),
    StatusItem(
        10, H, H, MachineState.ACTIVE, WatchState.PARTIAL, 5, 9, 3, 8, 5, 3600, 18000, 2, 1 << 40,
        ((int(EventCode.PARTIAL_LONG), "", 7),), SnapshotStatus.PARTIAL, 1 << 41,
    ),
    ServerStatusItem(
        10, 5, "1.0", 7, H, 9, 1, 4, (SpoolState("/spool", "not mounted", 0, 0),),
        (TenantUse(H, "alice", 2, 5, ((int(EventCode.QUOTA_80), "", 7),), 6),),
        ((int(EventCode.SPOOL_OFFLINE), "ab", 6),),
    ),
    EventItem(11, 5, int(EventCode.CLONE), H, 6, "came back", 0, 1),
    ChannelItem(13, "mail", b"", "admin@example.org", 0, "", b""),
    ReadItem(14, 5, H, "laptop", H, 6, 7, 8, 9, 10),
    CertificateItem(15, H, Role.MONITOR, "nagios", 5, 0),
    Done(8, H),
    make_error(ErrorCode.NOT_FOUND, "no such machine", request=9),
    Keepalive(),
]  # fmt: skip


class RestoreMessageTests(SynchronousTestCase):
    def test_round_trip(self):
        """Every message of both ends comes back out of its frame."""
        for messages, decode in ((FROM_CLIENT, decode_request), (FROM_SERVER, decode_reply)):
            for message in messages:
                self.assertEqual(decode(*frame_of(message, RESTORE_FRAME_LIMIT)), message)
        self.assertEqual({type(message) for message in FROM_CLIENT}, set(REQUESTS.values()))
        self.assertEqual({type(message) for message in FROM_SERVER}, set(REPLIES.values()))

    def test_table_of_verbs_and_roles(self):
        """Every verb has its row; a monitor reads nothing but status, a ticket no more than a restore needs."""
        self.assertEqual(set(ALLOWED), set(RestoreVerb))
        self.assertEqual(set(REQUESTS), {int(verb) for verb in RestoreVerb})
        by_role = {role: {verb for verb, roles in ALLOWED.items() if role in roles} for role in Role}
        self.assertEqual(by_role[Role.ADMIN], set(RestoreVerb))
        self.assertEqual(by_role[Role.MONITOR], {RestoreVerb.WHO, RestoreVerb.STATUS})
        self.assertEqual(
            by_role[Role.TICKET], {RestoreVerb.WHO, RestoreVerb.SNAPSHOTS, RestoreVerb.RUNS, RestoreVerb.FETCH}
        )

    def test_unknown(self):
        """A frame type that is no verb, or no reply, is refused as such."""
        for kind in set(range(256)) - set(REQUESTS):
            self.assertRaises(UnknownVerb, decode_request, kind, b"\xa0")
        for kind in set(range(256)) - set(REPLIES):
            self.assertRaises(BadMessage, decode_reply, kind, b"\xa0")

    def test_hostile_bytes(self):
        """A flip gives a typed error or another message; cut or lengthened, all but raw data is refused."""
        for messages, decode in ((FROM_CLIENT, decode_request), (FROM_SERVER, decode_reply)):
            for message in messages:
                kind, payload = frame_of(message, RESTORE_FRAME_LIMIT)
                step = 1 if len(payload) < 300 else 31
                taken = accepted_flips(lambda one: decode(kind, one), payload, WireError, step)  # noqa: B023
                self.assertNotIn(message, [result for results in taken.values() for result in results])
                if not isinstance(message, DataItem):
                    cuts = accepted_cuts(lambda one: decode(kind, one), payload, WireError, step)  # noqa: B023
                    self.assertEqual(cuts, [], message)

    @quick
    @given(st.integers(0, 255), st.binary(max_size=80))
    def test_fuzz(self, kind, payload):
        """Any frame is a message or a typed error."""
        for decode in (decode_request, decode_reply):
            try:
                decode(kind, payload)
            except WireError:
                continue

    def test_longest_messages_fit_their_frames(self):
        """A book with its statement, a book, and the longest fetch fit; one id more does not."""
        for message in (
            StateRequest(1, bytes(Statement.LIMIT), bytes(BOOK_LIMIT)),
            BookItem(1, bytes(BOOK_LIMIT)),
            FetchRequest(1, H, bytes(32 * FETCH_LIMIT)),
            Done(1, bytes(32 * FETCH_LIMIT)),
            DataItem(1, bytes(DATA_LIMIT)),
        ):
            self.assertEqual(len(frame_of(message, RESTORE_FRAME_LIMIT)), 2)
        self.assertRaises(Malformed, FetchRequest(1, H, bytes(32 * (FETCH_LIMIT + 1))).encode)

    def test_ids_are_whole(self):
        """Ids are 32 bytes each; a fetch names at least one, an answer may miss none."""
        for data in (b"", H[:-1], H + b"x"):
            self.assertRaises(Malformed, FetchRequest(1, H, data).encode)
        self.assertRaises(Malformed, Done(1, b"x").encode)
        self.assertEqual(decode_reply(*frame_of(Done(1), RESTORE_FRAME_LIMIT)), Done(1))

    def test_empty_data(self):
        """Raw data has its request's number and at least a byte."""
        for payload in (b"", b"\0\0\0\1"):
            self.assertRaises(BadMessage, decode_reply, 165, payload)
