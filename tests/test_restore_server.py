"""The server's session on the restore port, and the table of verbs and roles."""

from twisted.trial.unittest import SynchronousTestCase

from mastodon.sealed.ledger_entries import Role
from mastodon.wire.effects import Close, SecurityEvent, Send
from mastodon.wire.errors import ErrorCode, UnknownVerb
from mastodon.wire.messages import make_error
from mastodon.wire.restore_messages import REQUESTS, decode_request
from mastodon.wire.restore_server import Authorise, RestoreSession, Serve, State
from mastodon.wire.restore_verbs import ALLOWED, RestoreVerb
from tests.test_restore_messages import FROM_CLIENT as SAMPLES

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
                    number: int = request.request  # type: ignore[attr-defined]
                    self.assertEqual(effects[1], Send(make_error(ErrorCode.NOT_ALLOWED, text, request=number)))
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
