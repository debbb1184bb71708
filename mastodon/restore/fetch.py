"""Gets the blobs that files need: in the order of the listing, in batches, several of them on the way at once."""

from collections import deque
from collections.abc import Iterable

from mastodon.restore.blobs import NOT_HAD
from mastodon.restore.dispatch import Dispatcher
from mastodon.restore.needs import Need, Piece, SmallFile
from mastodon.restore.source import BlobCame, Intake

BATCH_BYTES = 8 * 1024 * 1024
BATCH_BLOBS = 1024
BATCHES_AHEAD = 4


class Fetcher:
    """Needs in, blobs to the dispatcher. A blob is asked for once, however many files need it at that time."""

    def __init__(self, intake: Intake) -> None:
        self._intake = intake
        self.dispatcher: Dispatcher
        self._needs: dict[bytes, Need] = {}
        self._todo: deque[bytes] = deque()
        self._asked: dict[int, set[bytes]] = {}

    @property
    def waiting(self) -> int:
        """Blobs that are needed and were not asked for yet."""
        return len(self._todo)

    def need_file(self, id: bytes, level: int, file: SmallFile) -> None:
        """A file that lies whole in a blob."""
        self._need(id, level).files.append(file)

    def need_pieces(self, id: bytes, level: int, pieces: Iterable[Piece]) -> None:
        """Stretches of large files that lie in a blob."""
        self._need(id, level).pieces.extend(pieces)

    def pump(self, *, all_of_it: bool) -> None:
        """Ask and take until everything was asked for; ``all_of_it``: until everything has come."""
        while self._todo or (all_of_it and self._asked):
            while self._todo and len(self._asked) < BATCHES_AHEAD:
                self._ask_batch()
            if len(self._asked) >= BATCHES_AHEAD or not self._todo:
                if not self._todo and not all_of_it:
                    return
                self._take()

    def _need(self, id: bytes, level: int) -> Need:
        need = self._needs.get(id)
        if need is None:
            need = self._needs[id] = Need(id, level)
            self._todo.append(id)
        need.level = min(need.level, level)
        return need

    def _ask_batch(self) -> None:
        ids: list[bytes] = []
        size = 0
        while self._todo and len(ids) < BATCH_BLOBS and size < BATCH_BYTES:
            ids.append(self._todo.popleft())
            size += self._needs[ids[-1]].reach
        self._asked[self._intake.ask(ids)] = set(ids)

    def _take(self) -> None:
        event = self._intake.next_event()
        if isinstance(event, BlobCame):
            need = self._needs.pop(event.header.id, None)
            if need is not None:  # a further sealing of an id is looked at only if the first does not open
                self._asked[event.question].discard(event.header.id)
                self.dispatcher.blob_came(need, event.header, event.data)
            return
        self.dispatcher.flush()
        for missing in self._asked.pop(event.question):
            need = self._needs.pop(missing, None)
            if need is not None:
                self.dispatcher.lost(need, NOT_HAD)
