"""The agent's half of the append port: its tables, its HELLO, its answers to a server that misbehaves."""

from itertools import product

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from twisted.trial.unittest import SynchronousTestCase

from mastodon.sealed.record import raw_public_key
from mastodon.sealed.snapshot import SnapshotStatus
from mastodon.wire.append_client import (
    ENDING,
    HEARS,
    SAYS,
    AppendClient,
    Effect,
    Heard,
    Introduction,
    Over,
    Ready,
    RemoteVersion,
    Send,
    State,
)
from mastodon.wire.append_server import TRANSITIONS
from mastodon.wire.append_server import State as ServerState
from mastodon.wire.errors import BadMessage, ErrorCode, FrameTooLong, OutOfTurn, RemoteError
from mastodon.wire.frame import APPEND_FRAME_LIMIT, LENGTH, FrameReader, encode_frame
from mastodon.wire.hello import VERSION, hello_fits
from mastodon.wire.messages import (
    CLIENT_MESSAGES,
    SERVER_MESSAGES,
    Ack,
    Answer,
    Committed,
    Error,
    Finish,
    Goodbye,
    Greeting,
    Hello,
    Keepalive,
    Message,
    Missing,
    NewPair,
    NewSnapshot,
    Offer,
    Pace,
    PackEnd,
    Piece,
    Progress,
    Push,
    Wanted,
    decode_client,
    make_error,
)

KEY = Ed25519PrivateKey.from_private_bytes(b"k" * 32)
PIN = b"p" * 32
GREETING = Greeting(b"n" * 32, 1, 1, 0)
ANSWER = Answer(1, 1, 0, 0, b"", b"", 0)
HEARABLE: dict[type[Message], Message] = {
    Greeting: GREETING,
    Answer: ANSWER,
    Wanted: Wanted(1, b"\x80"),
    Ack: Ack(b"a" * 32),
    Committed: Committed(b"c" * 32, 1, SnapshotStatus.COMPLETE),
    Missing: Missing(b"m" * 32, False),
    Error: make_error(ErrorCode.LIMIT, "too many"),
    Keepalive: Keepalive(),
    Push: Push(b"o" * 16, b""),
    Pace: Pace(7),
    Goodbye: Goodbye(),
}
SAYABLE: dict[type[Message], Message] = {
    Progress: Progress(1, 2),
    Finish: Finish(0, ""),
    Offer: Offer(1, b"i" * 32),
    Piece: Piece(b"piece"),
    PackEnd: PackEnd(b"e" * 32),
    NewPair: NewPair(b"r", b"e"),
    NewSnapshot: NewSnapshot(b"s"),
    Hello: Hello(1, b"m" * 32, b"s" * 64, b"n" * 16, 0, b"", 1, "test"),
}


def client(state: State = State.CONNECTED) -> AppendClient:
    introduction = Introduction(b"m" * 32, KEY, b"r" * 16, 3, b"h" * 32, "1.2.3", lambda: 99, notices=4)
    one = AppendClient(introduction, PIN)
    one.state = state
    return one


def reason(effects: list[Effect]) -> Exception | None:
    """Why the connection is over, by the last effect."""
    last = effects[-1]
    assert isinstance(last, Over)
    return last.reason


def code(effects: list[Effect]) -> ErrorCode | None:
    """The code of the error that the server gave as the reason."""
    error = reason(effects)
    return error.code if isinstance(error, RemoteError) else None


class TableTests(SynchronousTestCase):
    """What may be said and heard in each state, and nothing else."""

    def test_every_message_is_tried(self):
        """The messages below are all there are."""
        self.assertEqual(set(HEARABLE), set(SERVER_MESSAGES.values()))
        self.assertEqual(set(SAYABLE), set(CLIENT_MESSAGES.values()))

    def test_hearing(self):
        """What is in the table leads where it says; anything else ends the connection."""
        for state, (kind, message) in product(State, HEARABLE.items()):
            if state is State.CLOSED:
                continue
            one = client(state)
            effects = one.receive(message.encode())
            expected = HEARS.get((state, kind), State.CLOSED)
            self.assertEqual(one.state, expected, (state, kind))
            if (state, kind) not in HEARS:
                self.assertIsInstance(reason(effects), OutOfTurn)

    def test_saying(self):
        """What is in the table goes out as its frame; anything else is refused and changes nothing."""
        for state, (kind, message) in product(State, SAYABLE.items()):
            one = client(state)
            following = SAYS.get((state, kind))
            if following is None:
                self.assertRaises(OutOfTurn, one.say, message)
                self.assertEqual(one.state, state)
            else:
                self.assertEqual(one.say(message), message.encode())
                self.assertEqual(one.state, following)

    def test_the_server_takes_all_that_may_be_said(self):
        """Each row of this table is a row of the server's."""
        for (state, kind), following in SAYS.items():
            row = TRANSITIONS[(ServerState(state.value), kind)]
            expected = "finished" if following is State.FINISHING else following.value
            self.assertEqual(row.value, expected, (state, kind))


class ConversationTests(SynchronousTestCase):
    """From greeting to goodbye."""

    def hello(self, one: AppendClient, greeting: Greeting = GREETING) -> Hello:
        (send,) = one.receive(greeting.encode())
        assert isinstance(send, Send)
        reader = FrameReader(APPEND_FRAME_LIMIT)
        reader.receive(send.data)
        frame = reader.next_frame()
        assert frame is not None
        message = decode_client(*frame)
        assert isinstance(message, Hello)
        return message

    def test_hello_answers_the_greeting(self):
        """It is signed for this nonce, server, machine and version, and says what is remembered."""
        hello = self.hello(client())
        public = raw_public_key(KEY)
        self.assertTrue(hello_fits(hello.signature, public, b"n" * 32, PIN, b"m" * 32, VERSION))
        self.assertFalse(hello_fits(hello.signature, public, b"n" * 32, b"q" * 32, b"m" * 32, VERSION))
        self.assertFalse(hello_fits(hello.signature, public, b"o" * 32, PIN, b"m" * 32, VERSION))
        self.assertEqual((hello.remembered_sequence, hello.remembered_hash), (3, b"h" * 32))
        self.assertEqual((hello.time_ns, hello.agent_version, hello.notices), (99, "1.2.3", 4))

    def test_ready_after_the_answer(self):
        """Nothing may be said before."""
        one = client()
        self.hello(one)
        self.assertRaises(OutOfTurn, one.say, SAYABLE[Offer])
        self.assertEqual(one.receive(ANSWER.encode()), [Ready(ANSWER)])
        one.say(SAYABLE[Offer])

    def test_goodbye(self):
        """Finish, then the server's goodbye ends it without a reason."""
        one = client(State.READY)
        one.say(SAYABLE[Finish])
        self.assertEqual(one.receive(HEARABLE[Ack].encode()), [Heard(HEARABLE[Ack])])
        self.assertEqual(one.receive(Goodbye().encode()), [Over(None)])
        self.assertRaises(OutOfTurn, one.say, SAYABLE[Progress])

    def test_however_the_bytes_are_cut(self):
        """Whole, byte by byte, and with what follows behind it."""
        stream = GREETING.encode() + ANSWER.encode() + HEARABLE[Ack].encode() + HEARABLE[Pace].encode()
        whole = client().receive(stream)
        one = client()
        bytewise = [effect for at in range(len(stream)) for effect in one.receive(stream[at : at + 1])]
        self.assertEqual(whole, bytewise)
        self.assertEqual([type(effect) for effect in whole], [Send, Ready, Heard, Heard])

    def test_errors_that_end(self):
        """They come as the reason, at any time after HELLO; the others are passed on and end nothing."""
        for number in ErrorCode:
            if not number:
                continue
            error = make_error(number, "why")
            one = client(State.READY)
            effects = one.receive(error.encode())
            if number in ENDING:
                self.assertEqual((code(effects), one.state), (number, State.CLOSED))
            else:
                self.assertEqual((effects, one.state), ([Heard(error)], State.READY))

    def test_refused_hello(self):
        """Any error before the answer ends the connection."""
        for number in (ErrorCode.NOT_AUTHENTICATED, ErrorCode.UNAVAILABLE):
            self.assertEqual(code(client(State.GREETED).receive(make_error(number, "no").encode())), number)

    def test_server_too_old(self):
        """A server that does not speak ours yet is told apart from a broken one."""
        effects = client().receive(Greeting(b"n" * 32, 0, 0, 0).encode())
        self.assertIsInstance(reason(effects), RemoteVersion)

    def test_server_too_new(self):
        """It is told who comes, in our version, so that it can tell the admin; its refusal is final."""
        one = client()
        (send,) = one.receive(Greeting(b"n" * 32, VERSION + 1, VERSION + 3, 0).encode())
        self.assertIsInstance(send, Send)
        effects = one.receive(make_error(ErrorCode.VERSION, "update the agent on this machine").encode())
        self.assertEqual(code(effects), ErrorCode.VERSION)
        self.assertIn("update the agent", str(reason(effects)))

    def test_broken_frames(self):
        """Too long, of an unknown type, not the message: final, and nothing is taken after it."""
        for data, error in (
            (LENGTH.pack(APPEND_FRAME_LIMIT + 1), FrameTooLong),
            (LENGTH.pack(0), FrameTooLong),
            (encode_frame(1, b"\x01"), BadMessage),
            (encode_frame(Ack.KIND, b"rubbish"), BadMessage),
        ):
            one = client(State.READY)
            self.assertIsInstance(reason(one.receive(data)), error)
            self.assertEqual(one.receive(HEARABLE[Ack].encode()), [])
