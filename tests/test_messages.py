"""The append port's messages: each comes back, and whatever else arrives is a typed error."""

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mastodon.sealed import cbor
from mastodon.sealed.errors import Malformed
from mastodon.sealed.pair import PairRecord
from mastodon.sealed.snapshot import SnapshotStatus
from mastodon.wire.errors import RETRYABLE, BadMessage, ErrorCode, UnknownVerb, WireError
from mastodon.wire.frame import APPEND_FRAME_LIMIT, HELLO_FRAME_LIMIT
from mastodon.wire.messages import (
    CLIENT_MESSAGES,
    MISSING_LIMIT,
    OFFER_LIMIT,
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
    Verb,
    Wanted,
    decode_client,
    decode_server,
    make_error,
)
from tests import sealed_samples as samples
from tests.hostile import accepted_cuts, accepted_flips, frame_of, peak_memory, quick

H = b"h" * 32
HELLO = Hello(1, H, b"s" * 64, b"n" * 16, 2, H, samples.TIME_NS, "1.0", 1, 0)

FROM_CLIENT: list[Message] = [
    HELLO,
    Progress(5, 1 << 40),
    Finish(1, "one file could not be read"),
    Offer(3, H * 5),
    Piece(b"raw bytes"),
    PackEnd(H),
    NewPair(samples.pair(), samples.ENVELOPE),
    NewSnapshot(samples.snapshot()),
]
FROM_SERVER: list[Message] = [
    Greeting(H, 1, 1, 0),
    Answer(samples.TIME_NS, 7, 0, 2, H, samples.pair(), 99, (samples.sealed_order(),), samples.ledger_head()),
    Wanted(3, b"\xf8"),
    Ack(H),
    Committed(H, samples.TIME_NS, SnapshotStatus.COMPLETE),
    Missing(H * 3, True),
    Error(ErrorCode.PACK_REFUSED, False, 0, "another sealing is here", (H,), 0),
    Keepalive(),
    Push(b"o" * 16, b"data"),
    Pace(1 << 20),
    Goodbye(),
]


class MessageTests(SynchronousTestCase):
    def test_round_trip(self):
        """Every message of both ends comes back out of its frame."""
        for messages, decode in ((FROM_CLIENT, decode_client), (FROM_SERVER, decode_server)):
            for message in messages:
                self.assertEqual(decode(*frame_of(message, APPEND_FRAME_LIMIT)), message)
        self.assertEqual({type(message) for message in FROM_CLIENT}, set(CLIENT_MESSAGES.values()))
        self.assertEqual({type(message) for message in FROM_SERVER}, set(SERVER_MESSAGES.values()))

    def test_promise_p1_two_verbs(self):
        """A client has the frame types CHECKIN and APPEND with their parts; all else is an unknown verb."""
        self.assertEqual({kind for kind, _ in CLIENT_MESSAGES}, {1, 2})
        self.assertEqual({int(verb) for verb in Verb}, {1, 2})
        for kind in range(256):
            for part in range(256):
                if (kind, part) not in CLIENT_MESSAGES:
                    self.assertRaises(UnknownVerb, decode_client, kind, bytes([part]))
            self.assertRaises(UnknownVerb, decode_client, kind, b"")

    def test_unknown_replies(self):
        """An agent takes no frame type that it does not know."""
        for kind in set(range(256)) - set(SERVER_MESSAGES):
            self.assertRaises(BadMessage, decode_server, kind, b"\xa0")

    def test_hostile_bytes(self):
        """A flip gives a typed error or another message; cut or lengthened, all but raw pieces are refused."""
        for messages, decode in ((FROM_CLIENT, decode_client), (FROM_SERVER, decode_server)):
            for message in messages:
                kind, payload = frame_of(message, APPEND_FRAME_LIMIT)
                step = 1 if len(payload) < 300 else 29
                taken = accepted_flips(lambda one: decode(kind, one), payload, WireError, step)  # noqa: B023
                self.assertNotIn(message, [result for results in taken.values() for result in results])
                if not isinstance(message, Piece):
                    cuts = accepted_cuts(lambda one: decode(kind, one), payload, WireError, step)  # noqa: B023
                    self.assertEqual(cuts, [], message)

    @quick
    @given(st.integers(0, 255), st.binary(max_size=80))
    def test_fuzz(self, kind, payload):
        """Any frame is a message or a typed error."""
        for decode in (decode_client, decode_server):
            try:
                decode(kind, payload)
            except WireError:
                continue

    def test_ids_are_whole(self):
        """Lists of ids are multiples of 32 bytes, neither empty nor beyond their bound."""
        for data in (b"", H[:-1], H + b"x", bytes(32 * (OFFER_LIMIT + 1))):
            self.assertRaises(Malformed, Offer(1, data).encode)
            self.assertRaises(BadMessage, decode_client, 2, b"\1" + cbor.encode({0: 1, 1: data}))
        self.assertEqual(OFFER_LIMIT, MISSING_LIMIT)
        frame_of(Offer(1, bytes(32 * OFFER_LIMIT)), APPEND_FRAME_LIMIT)

    def test_nothing_is_sent_that_the_other_end_refuses(self):
        """A sender notices its own message's bounds."""
        for message in (Finish(256, ""), Finish(0, "a\nb"), Error(ErrorCode.BUSY, True, 0, "x" * 1025), Ack(b"short")):
            self.assertRaises(Malformed, message.encode)

    def test_longest_messages_fit_their_frames(self):
        """With everything at its bound, the largest messages of each end still fit; HELLO fits a stranger's frame."""
        pair = bytes(PairRecord.LIMIT)
        for message in (
            Answer(1 << 63, 1 << 63, 0, 1, H, pair, 1 << 63, (bytes(64 * 1024),) * 4, bytes(16384)),
            NewPair(pair, bytes(128 * 1024)),
            Error(ErrorCode.PACK_REFUSED, False, 0, "x" * 1024, (H,) * 1024, 1),
            Missing(bytes(32 * MISSING_LIMIT), True),
        ):
            self.assertEqual(len(frame_of(message, APPEND_FRAME_LIMIT)), 2)
        longest = Hello(65535, H, b"s" * 64, b"n" * 16, 1 << 63, H, 1 << 63, "v" * 64, (1 << 32) - 1, 1 << 63)
        self.assertLess(len(longest.encode()), HELLO_FRAME_LIMIT)

    def test_small_messages_are_bounded(self):
        """A message that is always short takes no long body, whatever the frame's bound."""
        for kind, part in ((1, 1), (1, 2), (2, 3)):
            data = bytes([part]) + cbor.encode([b"\x80" * 100_000])
            self.assertLess(peak_memory(lambda: self.assertRaises(BadMessage, decode_client, kind, data)), 1 << 18)  # noqa: B023

    def test_hello_from_an_older_agent(self):
        """Fields that came later may be absent."""
        body = {number: value for number, value in HELLO.to_body().items() if number < 8}
        self.assertEqual(decode_client(1, b"\1" + cbor.encode(body)).notices, 0)  # type: ignore[attr-defined]


class ErrorTests(SynchronousTestCase):
    def test_retryable_follows_from_the_code(self):
        """What may be tried again says so, and when."""
        for code in ErrorCode:
            error = make_error(code, "text")
            self.assertEqual((error.retryable, error.retry_after_s > 0), (code in RETRYABLE,) * 2)

    def test_any_text_fits(self):
        """Whatever an exception said, the message can be sent."""
        error = make_error(ErrorCode.INTERNAL, "a\nb\udc80" + "ä" * 2000, (H,) * 2000)
        self.assertEqual(decode_server(*frame_of(error, APPEND_FRAME_LIMIT)), error)
        self.assertTrue(error.text.startswith("a?b?ä"))

    def test_later_codes(self):
        """A code of a later release is taken as unknown: the message itself says whether to retry."""
        body = make_error(ErrorCode.BUSY, "text").to_body()
        error = decode_server(134, cbor.encode(body | {0: 99}))
        self.assertEqual((error.code, error.retryable), (ErrorCode.UNKNOWN, True))  # type: ignore[attr-defined]
        for bad in (-1, 1 << 16, True, "1"):
            self.assertRaises(BadMessage, decode_server, 134, cbor.encode(body | {0: bad}))

    def test_to_exception(self):
        """The receiving end raises what was sent."""
        raised = Error(ErrorCode.QUOTA, True, 60, "full", (H,), 3).to_exception()
        self.assertEqual((raised.code, raised.retryable, raised.retry_after_s), (ErrorCode.QUOTA, True, 60))
        self.assertEqual((str(raised), raised.context), ("full", (H,)))
