"""The wire's client half: requests pipelined, answers told apart, everything else refused for good."""

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from mastodon.sealed.blob import BlobKind, BlobSealer
from mastodon.sealed.ledger_entries import Role
from mastodon.wire.errors import BadMessage, ErrorCode, FrameTooLong, OutOfTurn, RemoteError, WireError
from mastodon.wire.frame import RESTORE_FRAME_LIMIT
from mastodon.wire.messages import Keepalive, Message, make_error
from mastodon.wire.restore_client import (
    SEALINGS_LIMIT,
    AnswerWhole,
    ClientEvent,
    ItemCame,
    RequestFailed,
    RestoreClient,
    SealedBlobCame,
)
from mastodon.wire.restore_messages import (
    BookItem,
    DataItem,
    Done,
    FetchRequest,
    RunItem,
    RunsRequest,
    WhoItem,
    WhoRequest,
    decode_request,
)

MACHINE = b"m" * 32


def blob(id: bytes, size: int = 100) -> bytes:
    """A sealed blob, its id made up."""
    return BlobSealer(MACHINE, b"r" * 32, b"k" * 32).seal(BlobKind.BUNDLE, id, (), id[:1] * size, b"s" * 16)


def who(number: int) -> WhoItem:
    return WhoItem(number, b"t" * 32, "demo", Role.ADMIN, (b"x" * 32,), 1, 0, ("host:1",))


ONE, TWO, THREE = (bytes([number]) * 32 for number in (1, 2, 3))


class ClientCase(SynchronousTestCase):
    """A client that has asked WHO (1) and FETCH of three ids (2)."""

    def setUp(self) -> None:
        self.client = RestoreClient()
        self.sent = [
            self.client.request(WhoRequest)[1],
            self.client.request(FetchRequest, MACHINE, ONE + TWO + THREE)[1],
        ]

    def feed(self, *messages: Message, step: int = 0) -> list[ClientEvent]:
        """All events of some messages, cut into pieces of ``step`` bytes."""
        data = b"".join(message.encode() for message in messages)
        events = []
        for at in range(0, len(data), step or len(data)):
            self.client.receive(data[at : at + (step or len(data))])
            while (event := self.client.next_event()) is not None:
                events.append(event)
        return events

    def assert_broken(self, kind: type[WireError], *messages: Any) -> None:
        """These messages break the connection, and it stays broken."""
        self.assertRaises(kind, self.feed, *messages)
        self.client.receive(who(1).encode())
        self.assertRaises(kind, self.client.next_event)


class AnswerTests(ClientCase):
    """What is taken."""

    def test_requests_are_numbered(self):
        """Each request is the message of its verb, with a number of its own."""
        numbers = [decode_request(data[4], data[5:]).to_body()[0] for data in self.sent]
        self.assertEqual((numbers, self.client.under_way), ([1, 2], 2))

    def test_interleaved_answers_however_they_are_cut(self):
        """Frames of several answers may alternate; blobs are whole wherever the data was cut."""
        data = blob(TWO) + blob(ONE, 5000) + blob(ONE)
        messages = (
            DataItem(2, data[:100]), who(1), Keepalive(), DataItem(2, data[100:401]), Done(1),
            DataItem(2, data[401:]), Done(2, THREE),
        )  # fmt: skip
        for step in (0, 1, 7, 1000):
            with self.subTest(step=step):
                self.setUp()
                events = self.feed(*messages, step=step)
                blobs = [event for event in events if isinstance(event, SealedBlobCame)]
                self.assertEqual([one.data for one in blobs], [blob(TWO), blob(ONE, 5000), blob(ONE)])
                self.assertEqual([one.header.id for one in blobs], [TWO, ONE, ONE])
                self.assertIn(ItemCame(1, who(1)), events)
                self.assertEqual(events[-1], AnswerWhole(2, frozenset({THREE})))
                self.assertEqual(self.client.under_way, 0)

    def test_refusal_of_one_request(self):
        """An error with a request's number ends that request alone."""
        (event,) = self.feed(make_error(ErrorCode.NOT_FOUND, "unknown", request=2))
        assert isinstance(event, RequestFailed)
        self.assertEqual((event.request, event.error.code), (2, ErrorCode.NOT_FOUND))
        self.assertEqual(len(self.feed(who(1), Done(1))), 2)

    def test_error_for_the_whole_connection(self):
        """An error without a number is raised."""
        error = self.assertRaises(RemoteError, self.feed, make_error(ErrorCode.UNAVAILABLE, "shutting down"))
        self.assertTrue(error.retryable)


class RefusedTests(ClientCase):
    """What breaks the connection."""

    def test_promise_p5_answers_that_nobody_asked_for(self):
        """Numbers not under way, items of another verb, ids not asked for, ids missing that were not wanted."""
        for kind, messages in (
            (OutOfTurn, [who(3)]),
            (OutOfTurn, [who(1), Done(1), Done(1)]),
            (OutOfTurn, [BookItem(1, b"book")]),
            (OutOfTurn, [DataItem(1, b"data")]),
            (OutOfTurn, [who(2)]),
            (BadMessage, [DataItem(2, blob(b"f" * 32))]),
            (BadMessage, [Done(2, b"f" * 32)]),
            (BadMessage, [DataItem(2, blob(ONE)[:-1]), Done(2)]),
            (BadMessage, [DataItem(2, b"no blob" * 100)]),
            (BadMessage, [DataItem(2, blob(ONE))] * (SEALINGS_LIMIT + 1)),
        ):
            with self.subTest(messages=messages[:1]):
                self.setUp()
                self.assert_broken(kind, *messages)

    def test_lengths_are_checked_before_anything_is_kept(self):
        """A blob that says to be larger than any may is refused at its header; so is a frame."""
        for at, value in ((120, b"\xff\xff\xff\xff"), (124, b"\xff\xff\xff\xff"), (128, b"\xff\xff")):
            self.setUp()
            data = bytearray(blob(ONE))
            data[at : at + len(value)] = value
            self.assert_broken(BadMessage, DataItem(2, bytes(data[:200])))
        self.setUp()
        self.client.receive((RESTORE_FRAME_LIMIT + 1).to_bytes(4, "big"))
        self.assertRaises(FrameTooLong, self.client.next_event)

    def test_runs_have_only_runs(self):
        """The answer to RUNS has run records only."""
        number, _ = self.client.request(RunsRequest, MACHINE, ONE)
        self.assertEqual(self.feed(RunItem(number, b"run")), [ItemCame(number, RunItem(number, b"run"))])
        self.assert_broken(OutOfTurn, who(number))
