"""The server's session on the restore port, and the table of verbs and roles."""

from twisted.trial.unittest import SynchronousTestCase

from mastodon.sealed.ledger_entries import Role
from mastodon.wire.effects import Close, SecurityEvent, Send
from mastodon.wire.errors import ErrorCode, UnknownVerb
from mastodon.wire.messages import make_error
from mastodon.wire.restore_messages import (
    REQUESTS,
    BookRequest,
    EnvelopesRequest,
    FetchRequest,
    MachinesRequest,
    PairsRequest,
    RunsRequest,
    SnapshotsRequest,
    StateRequest,
    WhoRequest,
    decode_request,
)
from mastodon.wire.restore_server import Authorise, RestoreSession, Serve, State
from mastodon.wire.restore_verbs import ALLOWED, RestoreVerb
from mastodon.wire.status_messages import StatusRequest
from mastodon.wire.telling_messages import AcknowledgeRequest, EventsRequest, NotifyRequest

SAMPLES = [
    WhoRequest(1),
    MachinesRequest(2),
    SnapshotsRequest(3, b"m" * 32, 0, 10),
    PairsRequest(4, b"m" * 32, 1, 100),
    RunsRequest(5, b"m" * 32, b"i" * 32),
    FetchRequest(6, b"m" * 32, b"i" * 32),
    BookRequest(7),
    StateRequest(8, b"s", b""),
    EnvelopesRequest(9, b"m" * 32, b"p" * 16),
    StatusRequest(10, b""),
    EventsRequest(11, b"", 0, 0, 100),
    AcknowledgeRequest(12, (5,)),
    NotifyRequest(13, 0),
]
MAY = {
    Role.ADMIN: set(RestoreVerb),
    Role.TICKET: {RestoreVerb.WHO, RestoreVerb.SNAPSHOTS, RestoreVerb.RUNS, RestoreVerb.FETCH},
    Role.MONITOR: {RestoreVerb.WHO, RestoreVerb.STATUS},
}


class RestoreSessionTests(SynchronousTestCase):
    """Who may ask what."""

    def test_promise_p2_table(self) -> None:
        """Every verb under every role is served or refused as the specification says."""
        self.assertEqual({type(sample) for sample in SAMPLES}, set(REQUESTS.values()))
        self.assertEqual(set(ALLOWED), set(RestoreVerb))
        for role in Role:
            for request in SAMPLES:
                session = RestoreSession()
                self.assertEqual(session.receive(request), [Authorise(request)])
                effects = session.authorised(request, role)
                if RestoreVerb(request.KIND) in MAY[role]:
                    self.assertEqual(effects, [Serve(request)])
                else:
                    self.assertIsInstance(effects[0], SecurityEvent)
                    verb = RestoreVerb(request.KIND).name
                    text = f"a certificate of the role {role.name.lower()} may not ask for {verb}"
                    self.assertEqual(
                        effects[1], Send(make_error(ErrorCode.NOT_ALLOWED, text, request=SAMPLES.index(request) + 1))
                    )
                    self.assertIs(session.state, State.OPEN)

    def test_removed_key(self) -> None:
        """A key that is not registered, or not any more, ends the session at its next request."""
        session = RestoreSession()
        session.receive(SAMPLES[0])
        effects = session.authorised(SAMPLES[0], None)
        self.assertEqual(effects[1].message.code, ErrorCode.NOT_AUTHENTICATED)  # type: ignore[union-attr]
        self.assertEqual(effects[2], Close())
        self.assertEqual(session.receive(SAMPLES[1]), [])
        self.assertEqual(session.authorised(SAMPLES[1], Role.ADMIN), [])

    def test_promise_p1_no_other_verb(self) -> None:
        """A frame type that is no verb is a security event and the end."""
        for kind in set(range(256)) - set(REQUESTS):
            self.assertRaises(UnknownVerb, decode_request, kind, b"\xa0")
        session = RestoreSession()
        effects = session.broken(UnknownVerb("frame type 99"))
        self.assertIsInstance(effects[0], SecurityEvent)
        self.assertIsInstance(effects[1], Send)
        self.assertEqual(effects[2], Close())
        self.assertEqual(session.broken(UnknownVerb("frame type 99")), [])
