"""What a request on the restore port is answered with, sent piece by piece in turn.

Promises: of all answers that a connection is owed only a few pieces are in memory, and none is made while the peer
does not take what was sent before; blobs are read in threads, a piece ahead of the turn. A sealing that cannot be
read is left out, and told to whoever keeps the packs: the others come all the same.
"""

import os
from collections import deque
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from typing import Protocol

from twisted.internet.defer import Deferred, fail
from twisted.internet.threads import deferToThread
from twisted.python.failure import Failure

from mastodon.daemon.scheduling import Scheduler
from mastodon.wire.fair import QUANTUM, Kind
from mastodon.wire.messages import Message
from mastodon.wire.restore_messages import DATA_LIMIT, Done, data_head

PIECE_LIMIT = 1024 * 1024
"""Bytes of a pack that are read at once: a blob that fits is never cut, so it is known to be readable to its end."""
READ_AHEAD = 2
"""Frames of one answer that are ready to be sent before no more is read."""
ACTIVE = 3
"""Answers of one connection that are being sent at a time; the others wait."""
BATCH = 256 * 1024
ITEM_COST = 1024
"""Added to each item's size: what it costs to encode."""

Range = tuple[str, int, int]
"""Path, offset and size of one sealed blob."""


@dataclass(frozen=True, slots=True)
class Part:
    """What one piece holds of a blob."""

    blob: Range
    offset: int
    length: int

    @property
    def is_first(self) -> bool:
        """Whether nothing of the blob was sent before it."""
        return self.offset == self.blob[1]

    @property
    def end(self) -> int:
        """Where it ends in the pack."""
        return self.offset + self.length


class Gone(Exception):
    """The connection ended before the answer did."""


class Recipient(Protocol):
    """The connection that asked."""

    def may_send(self) -> bool:
        """Whether the peer takes more data."""

    def send_bytes(self, frames: bytes | memoryview) -> None:
        """Send encoded messages, or the next part of one, unless the connection is over."""


class Answer(Protocol):
    """One answer: a source of the scheduler's once it is started."""

    def start(self, answers: "Answers") -> None:
        """Make the first piece."""

    def next_cost(self) -> int | None:
        """As of any source."""

    def run(self) -> None:
        """As of any source."""


class Answers:
    """All answers that a connection is owed."""

    def __init__(self, recipient: Recipient, scheduler: Scheduler) -> None:
        self.recipient = recipient
        self._scheduler = scheduler
        self._active: dict[Answer, Deferred[None]] = {}
        self._waiting: deque[tuple[Hashable, Answer, Deferred[None]]] = deque()
        self._closed = False

    def send(self, unit: Hashable, answer: Answer) -> "Deferred[None]":
        """Send an answer; fires when it was sent whole. Fails with Gone, or with what befell it."""
        if self._closed:
            return fail(Gone())
        sent: Deferred[None] = Deferred()
        self._waiting.append((unit, answer, sent))
        self._begin()
        return sent

    def wake(self, *answers: Answer) -> None:
        """These answers, or all, may have something to send again."""
        for answer in answers or self._active:
            self._scheduler.wake(answer)

    def is_active(self, answer: Answer) -> bool:
        """Whether the answer has begun and not ended."""
        return answer in self._active

    def end(self, answer: Answer, failure: Failure | None = None) -> None:
        """An answer was sent whole, or cannot go on. No effect the second time."""
        sent = self._active.pop(answer, None)
        if sent is None:
            return
        self._scheduler.remove(answer)
        sent.callback(None) if failure is None else sent.errback(failure)
        self._begin()

    def close(self) -> None:
        """The connection is gone."""
        self._closed = True
        for _, _, sent in self._waiting:
            sent.errback(Gone())
        self._waiting.clear()
        for answer in list(self._active):
            self.end(answer, Failure(Gone()))

    def _begin(self) -> None:
        while self._waiting and len(self._active) < ACTIVE:
            unit, answer, sent = self._waiting.popleft()
            self._active[answer] = sent
            self._scheduler.add(unit, Kind.RESTORE, answer)
            try:
                answer.start(self)
            except Exception:
                self.end(answer, Failure())


class ItemAnswer:
    """Items, then DONE."""

    def __init__(self, request: int, items: Iterable[Message]) -> None:
        self._request = request
        self._items = iter(items)
        self._batch: list[bytes] = []
        self._whole = False

    def start(self, answers: Answers) -> None:
        """Encode the first batch."""
        self._answers = answers
        self._encode()

    def next_cost(self) -> int | None:
        """The cost of the next batch, when the peer takes it."""
        if not self._answers.recipient.may_send():
            return None
        return min(QUANTUM, sum(map(len, self._batch)) + ITEM_COST * len(self._batch))

    def run(self) -> None:
        """Send one batch, and make the next."""
        self._answers.recipient.send_bytes(b"".join(self._batch))
        if self._whole:
            self._answers.end(self)
            return
        try:
            self._encode()
        except Exception:
            self._answers.end(self, Failure())

    def _encode(self) -> None:
        self._batch = []
        size = 0
        while size < BATCH and not self._whole:
            item = next(self._items, None)
            self._whole = item is None
            self._batch.append((item or Done(self._request)).encode())
            size += len(self._batch[-1])


class BlobAnswer:
    """The bytes of a FETCH, then DONE with what is missing. ``unreadable`` is told path and reason."""

    def __init__(
        self, request: int, blobs: list[Range], missing: list[bytes], unreadable: Callable[[str, str], None]
    ) -> None:
        self._request = request
        self._missing = b"".join(missing)
        self._pieces = cut_blobs(blobs)
        self._unreadable = unreadable
        self._left_out: dict[Range, str] = {}
        self._told: set[str] = set()
        self._ready: deque[memoryview] = deque()
        self._reading = False

    def start(self, answers: Answers) -> None:
        """Begin to read."""
        self._answers = answers
        self._read_on()

    def next_cost(self) -> int | None:
        """The size of the next piece, when it is read and the peer takes it."""
        if not self._answers.recipient.may_send():
            return None
        if self._ready:
            return max(ITEM_COST, len(self._ready[0]))
        return None if self._pieces or self._reading else ITEM_COST

    def run(self) -> None:
        """Send one piece, or the end."""
        recipient = self._answers.recipient
        if self._ready:
            data = self._ready.popleft()
            recipient.send_bytes(data_head(self._request, len(data)))
            recipient.send_bytes(data)  # by itself: to join the two would copy all that a restore gets
            self._read_on()
        else:
            recipient.send_bytes(Done(self._request, self._missing).encode())
            self._answers.end(self)

    def _read_on(self) -> None:
        if self._pieces and not self._reading and len(self._ready) < READ_AHEAD:
            self._reading = True
            piece = self._pieces.popleft()
            deferToThread(read_piece, piece, self._left_out).addCallback(self._have).addErrback(self._failed)

    def _have(self, data: bytes) -> None:
        self._reading = False
        for (path, _, _), reason in self._left_out.items():
            if path not in self._told:
                self._told.add(path)
                self._unreadable(path, reason)
        if not self._answers.is_active(self):
            return
        view = memoryview(data)
        self._ready.extend(view[at : at + DATA_LIMIT] for at in range(0, len(data), DATA_LIMIT))
        self._read_on()
        self._answers.wake(self)

    def _failed(self, failure: Failure) -> None:
        self._answers.end(self, failure)


def cut_blobs(blobs: list[Range]) -> "deque[list[Part]]":
    """The blobs grouped into pieces of at most PIECE_LIMIT bytes each; only one that is larger is cut."""
    pieces: deque[list[Part]] = deque()
    room = 0
    for blob in blobs:
        _, offset, left = blob
        if left > room:
            room = 0
        while left:
            if not room:
                pieces.append([])
                room = PIECE_LIMIT
            taken = min(left, room)
            pieces[-1].append(Part(blob, offset, taken))
            offset, left, room = offset + taken, left - taken, room - taken
    return pieces


def read_piece(piece: list[Part], left_out: dict[Range, str]) -> bytes:
    """The bytes of a piece, in a thread, without the blobs left out; those that cannot be read are added to them.

    Raises OSError when the beginning of such a blob was read in an earlier piece.
    """
    read = []
    for run in _neighbours(part for part in piece if part.blob not in left_out):
        try:
            read.append(_read_run(run))
            continue
        except OSError:
            pass  # one of them, perhaps not all: look at each
        for part in run:
            try:
                read.append(_read_run([part]))
            except OSError as error:
                if not part.is_first:
                    raise
                left_out[part.blob] = str(error)
    return read[0] if len(read) == 1 else b"".join(read)


def _neighbours(parts: Iterable[Part]) -> list[list[Part]]:
    """Parts that lie side by side are read at once."""
    runs: list[list[Part]] = []
    for part in parts:
        if runs and runs[-1][-1].blob[0] == part.blob[0] and runs[-1][-1].end == part.offset:
            runs[-1].append(part)
        else:
            runs.append([part])
    return runs


def _read_run(run: list[Part]) -> bytes:
    """The bytes of neighbours. Raises OSError, also when the blob that begins here and does not end cannot be read."""
    path, start, size = run[-1].blob
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        data = _read_whole(descriptor, path, run[0].offset, run[-1].end - run[0].offset)
        if run[-1].is_first:  # once its beginning is sent there is no leaving it out
            for offset in range(run[-1].end, start + size, PIECE_LIMIT):
                _read_whole(descriptor, path, offset, min(PIECE_LIMIT, start + size - offset))
    finally:
        os.close(descriptor)
    return data


def _read_whole(descriptor: int, path: str, offset: int, length: int) -> bytes:
    data = os.pread(descriptor, length, offset)
    if len(data) != length:
        raise OSError(f"{path} is shorter than the catalogue says")
    return data
