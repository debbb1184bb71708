"""Answers of the restore port: whole, in turn, and never much of them in memory."""

import os
from itertools import pairwise
from pathlib import Path
from typing import Any
from unittest import mock

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from mastodon.daemon import answers
from mastodon.daemon.answers import ACTIVE, BATCH, PIECE_LIMIT, READ_AHEAD, Answers, BlobAnswer, Gone, ItemAnswer
from mastodon.daemon.scheduling import Scheduler
from mastodon.wire.frame import RESTORE_FRAME_LIMIT, FrameReader
from mastodon.wire.messages import Message
from mastodon.wire.restore_messages import DATA_LIMIT, BookItem, DataItem, Done, decode_reply


class FakeClient:
    """Takes what is sent while it ``takes``."""

    def __init__(self) -> None:
        self.takes = True
        self.sizes: list[int] = []
        self._reader = FrameReader(RESTORE_FRAME_LIMIT)

    def may_send(self) -> bool:
        return self.takes

    def send_bytes(self, frames: bytes | memoryview) -> None:
        self.sizes.append(len(frames))
        self._reader.receive(bytes(frames))

    def got(self) -> list[Message]:
        items = []
        while (frame := self._reader.next_frame()) is not None:
            items.append(decode_reply(*frame))
        return items


class AnswersTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.client = FakeClient()
        self.scheduler = Scheduler(self.clock)
        self.answers = Answers(self.client, self.scheduler)
        self.reads: list[tuple[Deferred[bytes], Any]] = []
        self.unreadable: list[str] = []
        self.patch(answers, "deferToThread", self.thread)

    def thread(self, read: Any, *piece: Any) -> Deferred[bytes]:
        """Reads when the test says so."""
        waiting: Deferred[bytes] = Deferred()
        self.reads.append((waiting, piece))
        return waiting

    def blobs(self, request: int, blobs: list[answers.Range], missing: list[bytes]) -> BlobAnswer:
        return BlobAnswer(request, blobs, missing, lambda path, reason: self.unreadable.append(path))

    def read(self) -> int:
        """Let all reads that are under way end; how many there were."""
        under_way, self.reads = self.reads, []
        for waiting, piece in under_way:
            maybeDeferred(answers.read_piece, *piece).chainDeferred(waiting)
        return len(under_way)

    def turns(self) -> None:
        for _ in range(20):
            self.clock.advance(0)

    def file(self, size: int) -> tuple[str, bytes]:
        path = Path(self.mktemp())
        path.write_bytes(os.urandom(size))
        return str(path), path.read_bytes()

    def test_items_come_whole(self) -> None:
        """All items, then DONE; then the answer is over."""
        sent = self.answers.send("t", ItemAnswer(7, [BookItem(7, b"b%d" % n) for n in range(1000)]))
        self.turns()
        self.successResultOf(sent)
        got = self.client.got()
        self.assertEqual(got[-1], Done(7))
        self.assertEqual([item.book for item in got[:-1]], [b"b%d" % n for n in range(1000)])  # type: ignore[attr-defined]

    def test_promise_p12_items_wait_for_the_client(self) -> None:
        """A huge answer is encoded as the client takes it, no faster."""
        made = []

        def items() -> Any:
            for number in range(100):
                made.append(number)
                yield BookItem(1, bytes(100_000))

        self.client.takes = False
        sent = self.answers.send("t", ItemAnswer(1, items()))
        self.turns()
        self.assertLessEqual(len(made) * 100_000, BATCH + 100_000)
        self.client.takes = True
        self.answers.wake()
        self.turns()
        self.successResultOf(sent)
        self.assertLessEqual(max(self.client.sizes), BATCH + 101_000)

    def test_promise_p12_blobs_are_read_little_ahead(self) -> None:
        """From a client that takes nothing, a few pieces are read, whatever it asked for."""
        path, data = self.file(12 * DATA_LIMIT)
        self.client.takes = False
        sent = [self.answers.send("t", self.blobs(n, [(path, 0, len(data))], [])) for n in range(10)]
        pieces = 0
        while count := self.read():
            pieces += count
            self.turns()
        self.assertLessEqual(pieces, ACTIVE * READ_AHEAD)
        self.client.takes = True
        self.answers.wake()
        self.turns()
        while self.read():
            self.turns()
        for one in sent:
            self.successResultOf(one)
        by_request: dict[int, bytes] = {}
        for item in self.client.got():
            if isinstance(item, DataItem):
                by_request[item.request] = by_request.get(item.request, b"") + item.data
        self.assertEqual(by_request, dict.fromkeys(range(10), data))

    def finish(self) -> bytes:
        """Let everything be read and sent; the data that came."""
        self.turns()
        while self.read():
            self.turns()
        return b"".join(item.data for item in self.client.got() if isinstance(item, DataItem))

    def test_what_cannot_be_read_is_left_out(self) -> None:
        """Blobs in a pack that is gone, and those behind the end of one that was cut, do not hinder the others."""
        path, data = self.file(100)
        blobs = [(path + "-gone", 0, 50), (path, 0, 40), (path, 40, 60), (path, 100, 9), (path, 109, DATA_LIMIT)]
        sent = self.answers.send("t", self.blobs(1, blobs, [b"m" * 32]))
        while self.read():
            self.turns()
        self.successResultOf(sent)
        self.assertEqual(self.client.got(), [DataItem(1, data), Done(1, b"m" * 32)])
        self.assertEqual(self.unreadable, [path + "-gone", path])

    def test_a_large_blob_is_left_out_whole(self) -> None:
        """Nothing is sent of a blob whose last byte is not there, however many pieces it would have been."""
        short, _ = self.file(3 * PIECE_LIMIT - 1)
        path, data = self.file(3 * PIECE_LIMIT)
        sent = self.answers.send("t", self.blobs(1, [(short, 0, 3 * PIECE_LIMIT), (path, 0, len(data))], []))
        self.assertEqual(self.finish(), data)
        self.successResultOf(sent)
        self.assertEqual(self.unreadable, [short])

    def test_a_pack_that_is_cut_in_the_middle_of_a_blob(self) -> None:
        """When the beginning of a blob was sent and its end is gone meanwhile, that answer fails, the next comes."""
        path, data = self.file(3 * PIECE_LIMIT)
        other, others = self.file(100)
        broken = self.answers.send("t", self.blobs(1, [(path, 0, len(data))], []))
        self.read()
        os.truncate(path, PIECE_LIMIT)
        good = self.answers.send("t", self.blobs(2, [(other, 0, 100)], []))
        self.assertEqual(self.finish(), data[:PIECE_LIMIT] + others)
        self.failureResultOf(broken, OSError)
        self.successResultOf(good)

    def test_what_was_read_is_not_read_again(self) -> None:
        """Neighbours are read at once, and no byte twice unless a blob is larger than what is read at once."""
        path, data = self.file(3 * PIECE_LIMIT)
        read: list[int] = []
        pread = os.pread

        def counted(descriptor: int, size: int, offset: int) -> bytes:
            read.append(size)
            return pread(descriptor, size, offset)

        self.patch(os, "pread", counted)
        cuts = [0, 300_000, 900_000, 1_500_000, 1_600_000, 2_600_000, len(data)]
        blobs = [(path, start, end - start) for start, end in pairwise(cuts)]
        sent = self.answers.send("t", self.blobs(1, blobs, []))
        self.assertEqual(self.finish(), data)
        self.successResultOf(sent)
        self.assertEqual(sum(read), len(data))
        self.assertEqual(len(read), 4)

    def test_an_item_that_cannot_be_sent(self) -> None:
        """A fault while an answer is made fails that answer, at its start and later."""
        good = BookItem(1, bytes(BATCH))
        for items in ([mock.Mock(encode=mock.Mock(side_effect=ValueError))], [good, BookItem(1, b"")]):
            sent = self.answers.send("t", ItemAnswer(1, items))
            self.turns()
            self.failureResultOf(sent)

    def test_a_connection_that_is_gone(self) -> None:
        """All answers end when their connection does, those that wait too; none begins after."""
        self.client.takes = False
        path, data = self.file(10 * DATA_LIMIT)
        sent = [self.answers.send("t", self.blobs(n, [(path, 0, len(data))], [])) for n in range(ACTIVE + 2)]
        self.answers.close()
        sent.append(self.answers.send("t", ItemAnswer(9, [])))
        for one in sent:
            self.failureResultOf(one, Gone)
        self.read()
        self.assertEqual(self.read(), 0)
        self.client.takes = True
        self.turns()
        self.assertEqual(self.client.got(), [])

    def test_ending_twice(self) -> None:
        """An answer that failed and ends again ends once."""
        sent = self.answers.send("t", answer := ItemAnswer(1, [BookItem(1, b"b")]))
        self.answers.end(answer, Failure(Gone()))
        self.answers.end(answer)
        self.failureResultOf(sent, Gone)
