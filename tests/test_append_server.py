"""The server's session on the append port: what may be said when, and what follows."""

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from twisted.trial.unittest import SynchronousTestCase

from mastodon.sealed.machine_secret import MachineSecret
from mastodon.sealed.snapshot import SnapshotStatus
from mastodon.wire import append_server
from mastodon.wire.append_server import TRANSITIONS, AppendSession, LookUp, Open, Perform, State, TooOld
from mastodon.wire.effects import Close, SecurityEvent, Send
from mastodon.wire.errors import ErrorCode, FrameTooLong, UnknownVerb
from mastodon.wire.hello import VERSION, sign_hello
from mastodon.wire.messages import (
    CLIENT_MESSAGES,
    Ack,
    Answer,
    Committed,
    Error,
    Finish,
    Goodbye,
    Greeting,
    Hello,
    Missing,
    NewPair,
    NewSnapshot,
    Offer,
    PackEnd,
    Piece,
    Progress,
    Verb,
    Wanted,
    decode_client,
    make_error,
)

NONCE, PIN, OTHER_PIN = b"n" * 32, b"p" * 32, b"q" * 32
SECRET = MachineSecret(b"s" * 32)
ANSWER = Answer(1, 1, 0, 0, b"", b"", 0)
SAMPLES = {
    Hello: Hello(VERSION, SECRET.machine_id, bytes(64), b"r" * 16, 0, b"", 0, "1"),
    Progress: Progress(0, 0),
    Finish: Finish(0, ""),
    Offer: Offer(1, b"i" * 32),
    Piece: Piece(b"x"),
    PackEnd: PackEnd(b"i" * 32),
    NewPair: NewPair(b"r", b"e"),
    NewSnapshot: NewSnapshot(b"r"),
}


def hello(nonce: bytes = NONCE, pin: bytes = PIN, key: Ed25519PrivateKey = SECRET.signing_key) -> Hello:
    signature = sign_hello(key, nonce, pin, SECRET.machine_id, VERSION)
    return Hello(VERSION, SECRET.machine_id, signature, b"r" * 16, 0, b"", 0, "1")


def session_in(state: State) -> AppendSession:
    session = AppendSession(NONCE, PIN)
    session.greet()
    session.state = state
    return session


class AuthenticationTests(SynchronousTestCase):
    """HELLO proves the machine's key to this server, in this session."""

    def refusal(self, message: Hello, public_key: bytes | None) -> list[object]:
        session = AppendSession(NONCE, PIN)
        session.greet()
        self.assertEqual(session.receive(message), [LookUp(SECRET.machine_id)])
        effects = session.known(public_key)
        self.assertIs(session.state, State.CLOSED)
        return [effect for effect in effects if not isinstance(effect, SecurityEvent)]

    def test_good(self) -> None:
        """A good signature opens the session, and only the edge's word makes it ready."""
        session = AppendSession(NONCE, PIN)
        self.assertEqual(session.greet(), [Send(Greeting(NONCE, VERSION, VERSION, 0))])
        message = hello()
        self.assertEqual(session.receive(message), [LookUp(SECRET.machine_id)])
        self.assertEqual(session.known(SECRET.public_key), [Open(message)])
        self.assertEqual(session.opened(ANSWER), [Send(ANSWER)])
        self.assertIs(session.state, State.READY)

    def test_promise_p6_unknown_is_like_wrong(self) -> None:
        """An unknown machine and a wrong signature get the same answer."""
        unknown = self.refusal(hello(), None)
        wrong = self.refusal(hello(key=Ed25519PrivateKey.generate()), SECRET.public_key)
        self.assertEqual(unknown, wrong)
        self.assertEqual(unknown[0].message.code, ErrorCode.NOT_AUTHENTICATED)  # type: ignore[attr-defined]

    def test_promise_p1_replayed(self) -> None:
        """A HELLO of another session does not fit this one's nonce."""
        self.assertEqual(len(self.refusal(hello(nonce=b"o" * 32), SECRET.public_key)), 2)

    def test_promise_p4_relayed(self) -> None:
        """A HELLO made for another server's key is refused: it cannot be relayed."""
        self.assertEqual(len(self.refusal(hello(pin=OTHER_PIN), SECRET.public_key)), 2)

    def test_nobodys_key_is_nobodys(self) -> None:
        """The key that unknown machines are checked against opens no session, whatever it is asked to sign."""
        self.assertTrue(self.refusal(hello(), None))

    def of_version(self, version: int, key: Ed25519PrivateKey = SECRET.signing_key) -> list[append_server.Effect]:
        """What a HELLO of this version leads to, on a server that speaks 3 to 5."""
        session = AppendSession(NONCE, PIN, 3, 5)
        self.assertEqual(session.greet(), [Send(Greeting(NONCE, 3, 5, 0))])
        signature = sign_hello(key, NONCE, PIN, SECRET.machine_id, version)
        said = Hello(version, SECRET.machine_id, signature, b"r" * 16, 0, b"", 0, "0.9")
        self.assertEqual(session.receive(said), [LookUp(SECRET.machine_id)])
        return session.known(SECRET.public_key)

    def test_versions(self) -> None:
        """The two versions before the newest work on. Older and newer ones are told what to update, and end."""
        for version in (3, 4, 5):
            self.assertEqual([type(effect) for effect in self.of_version(version)], [Open])
        told, said, close = self.of_version(2)
        assert isinstance(told, TooOld) and isinstance(said, Send) and isinstance(said.message, Error)
        self.assertEqual((told.hello.agent_version, said.message.code, close), ("0.9", ErrorCode.VERSION, Close()))
        self.assertIn("update the agent", said.message.text)
        said, close = self.of_version(6)
        assert isinstance(said, Send) and isinstance(said.message, Error)
        self.assertEqual((said.message.code, close), (ErrorCode.VERSION, Close()))
        self.assertIn("the server is to be updated", said.message.text)

    def test_promise_p2_versions_are_said_to_the_machine_alone(self) -> None:
        """A stranger who claims an old version for a machine gets the answer of all strangers, and nobody is told."""
        stranger = self.of_version(2, Ed25519PrivateKey.generate())
        self.assertEqual([type(effect) for effect in stranger], [SecurityEvent, Send, Close])
        self.assertEqual(stranger[1].message.code, ErrorCode.NOT_AUTHENTICATED)  # type: ignore[union-attr]


class TableTests(SynchronousTestCase):
    """What is not in the table ends the connection."""

    def test_promise_p1_only_listed(self) -> None:
        """Every message in every state does what the table says, or is a security event and the end."""
        for state in State:
            for kind in CLIENT_MESSAGES.values():
                session = session_in(state)
                effects = session.receive(SAMPLES[kind])
                if (state, kind) in TRANSITIONS:
                    self.assertIs(session.state, TRANSITIONS[state, kind])
                    self.assertIsInstance(effects[0], LookUp if kind is Hello else Perform)
                elif state is State.CLOSED:
                    self.assertEqual(effects, [])
                else:
                    self.assertIs(session.state, State.CLOSED)
                    self.assertIsInstance(effects[0], SecurityEvent)
                    self.assertEqual(effects[-1], Close())

    def test_promise_p1_only_two_verbs(self) -> None:
        """Of all frame types and parts, the parts of CHECKIN and APPEND alone are messages."""
        for kind in range(256):
            for part in range(256):
                if (kind, part) not in CLIENT_MESSAGES:
                    self.assertRaises(UnknownVerb, decode_client, kind, bytes([part]))
        self.assertEqual({kind for kind, _ in CLIENT_MESSAGES}, set(Verb))
        for kind in Verb:
            self.assertRaises(UnknownVerb, decode_client, kind, b"")

    def test_first_error_is_final(self) -> None:
        """After the end a session says and does nothing."""
        session = session_in(State.READY)
        self.assertEqual(session.broken(FrameTooLong("x"))[-1], Close())
        self.assertEqual(session.broken(FrameTooLong("x")), [])
        self.assertEqual(session.receive(SAMPLES[Progress]), [])
        for reply in (
            session.durable(b"i" * 32),
            session.wanted(1, b"i" * 32, set()),
            session.refused(make_error(ErrorCode.QUOTA, "x")),
            session.turned_away(ErrorCode.DISPLACED, "x"),
            session.known(SECRET.public_key),
            session.opened(ANSWER),
        ):
            self.assertNotIn(Send, [type(effect) for effect in reply])


class ReplyTests(SynchronousTestCase):
    """The edge's words become messages."""

    def test_promise_p9_ack_comes_from_durable(self) -> None:
        """Nothing but ``durable`` makes an Ack."""
        session = session_in(State.IN_PACK)
        self.assertEqual(session.receive(SAMPLES[PackEnd]), [Perform(SAMPLES[PackEnd])])
        self.assertEqual(session.durable(b"i" * 32), [Send(Ack(b"i" * 32))])

    def test_wanted_bitmap(self) -> None:
        """One bit an id, highest bit first, set for what is not stored."""
        ids = [bytes([number]) * 32 for number in range(10)]
        reply = session_in(State.READY).wanted(7, b"".join(ids), {ids[0], ids[9]})
        self.assertEqual(reply, [Send(Wanted(7, bytes([0b01111111, 0b10000000])))])

    def test_outcomes(self) -> None:
        """Committed, missing and refused leave the session ready."""
        session = session_in(State.READY)
        committed = Committed(b"h" * 32, 5, SnapshotStatus.COMPLETE)
        missing = Missing(b"i" * 32, False)
        error = make_error(ErrorCode.PACK_REFUSED, "no", (b"p" * 32,))
        self.assertEqual(session.committed(committed), [Send(committed)])
        self.assertEqual(session.missing(missing), [Send(missing)])
        self.assertEqual(session.refused(error), [Send(error)])
        self.assertIs(session.state, State.READY)
        session.receive(SAMPLES[Finish])
        self.assertEqual(session.finished(), [Send(Goodbye()), Close()])

    def test_retryable_errors_say_so(self) -> None:
        """Whether to try again follows from the code."""
        busy, bad = make_error(ErrorCode.BUSY, "x"), make_error(ErrorCode.MALFORMED, "x")
        self.assertEqual((busy.retryable, busy.retry_after_s > 0), (True, True))
        self.assertEqual((bad.retryable, bad.retry_after_s), (False, 0))
        self.assertIsInstance(busy, Error)
