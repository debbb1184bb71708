"""Gets the blobs that a restore needs: in the order of the listing, in batches, several of them on the way at once.

Needs wait in a queue of each worker's, and batches are taken from that whose worker has least before it, so that all
have work although each works through pages of its own.
"""

from collections import Counter, deque
from collections.abc import Callable, Iterable

from mastodon.restore.blobs import NOT_HAD
from mastodon.restore.jobs import Part
from mastodon.restore.needs import ANY, Need, Piece, SmallFile
from mastodon.restore.source import BlobCame, Intake
from mastodon.sealed.blob import BlobHeader

BATCH_BYTES = 8 * 1024 * 1024
BATCH_BLOBS = 1024
BATCHES_AHEAD = 8
LEVEL_OF_PAGES = 2
LEVEL_OF_ROOT = 3


class Fetcher:
    """Needs in, blobs out: ``came`` and ``lost`` are told. A blob is asked for once, however many files need it at that
    time."""

    def __init__(
        self, intake: Intake, came: Callable[[Need, BlobHeader, bytes | memoryview], None],
        lost: Callable[[Need, str], None], flush: Callable[[], None], load: Callable[[int], int],
    ) -> None:  # fmt: skip
        """``load``: bytes that a worker has before it."""
        self._intake = intake
        self._came = came
        self._lost = lost
        self._flush = flush
        self._load = load
        self._needs: dict[bytes, Need] = {}
        self._todo: dict[int, deque[bytes]] = {}
        self._waits: Counter[int] = Counter()
        self._coming: Counter[int] = Counter()
        self._asked: dict[int, tuple[int, int, dict[bytes, Need]]] = {}

    @property
    def waiting(self) -> int:
        """Blobs that are needed and were not asked for yet."""
        return sum(map(len, self._todo.values()))

    def need_file(self, id: bytes, level: int, file: SmallFile) -> None:
        """A file that lies whole in a blob."""
        need = self._need(id, level, ANY, file.offset + file.size)
        need.files.append(file)

    def need_pieces(self, id: bytes, level: int, pieces: Iterable[Piece]) -> None:
        """Stretches of large files that lie in a blob."""
        for piece in pieces:
            self._need(id, level, ANY, piece.blob_offset + piece.length).pieces.append(piece)

    def need_part(self, id: bytes, worker: int, part: Part, reach: int) -> None:
        """Files that a worker keeps, and that lie in a blob."""
        self._need(id, LEVEL_OF_PAGES, worker, reach).parts.append((worker, part))

    def ask_pages(self, pages: list[tuple[int, bytes]], worker: int) -> None:
        """Ask for pages of the listing at once, for a worker."""
        needs = {id: Need(id, LEVEL_OF_ROOT, page=index, worker=worker) for index, id in pages}
        self._asked[self._intake.ask(list(needs))] = worker, 0, needs

    def step(self, *, more_to_come: bool = False) -> bool:
        """Ask for what is needed, and take what came next; False where nothing is to come. While there is
        ``more_to_come``, only whole batches are asked for, since the next pages may need the same blobs; but for a
        worker that has nothing before it whatever there is."""
        while len(self._asked) < BATCHES_AHEAD and self._ask_batch(least=BATCH_BYTES if more_to_come else 0):
            pass
        if not self._asked:
            return False
        event = self._intake.next_event()
        worker, size, needs = self._asked[event.question]
        if isinstance(event, BlobCame):
            need = needs.pop(event.header.id, None)
            if need is not None:  # a further sealing of an id is looked at only if the first does not open
                self._forget(need)
                self._came(need, event.header, event.data)
            return True
        del self._asked[event.question]
        self._coming[worker] -= size
        self._flush()
        for need in needs.values():
            self._forget(need)
            self._lost(need, NOT_HAD)
        return True

    def _forget(self, need: Need) -> None:
        """From now on the same id is a new need."""
        if self._needs.get(need.id) is need:
            del self._needs[need.id]

    def _need(self, id: bytes, level: int, worker: int, reach: int) -> Need:
        need = self._needs.get(id)
        if need is None:
            need = self._needs[id] = Need(id, level)
            self._todo.setdefault(worker, deque()).append(id)
            need.worker = worker
        need.level = min(need.level, level)
        if reach > need.reach and not need.asked:
            self._waits[need.worker] += reach - need.reach
            need.reach = reach
        return need

    def _backlog(self, worker: int) -> int:
        """Bytes that are to come to a worker, or have come and are not worked off."""
        return self._coming[worker] + (0 if worker == ANY else self._load(worker))

    def _ask_batch(self, least: int) -> bool:
        backlogs = {worker: self._backlog(worker) for worker, ids in self._todo.items() if ids}
        workers = [worker for worker, backlog in backlogs.items() if not backlog or self._waits[worker] >= least]
        if not workers:
            return False
        worker = min(workers, key=backlogs.__getitem__)
        todo = self._todo[worker]
        needs: dict[bytes, Need] = {}
        size = 0
        while todo and len(needs) < BATCH_BLOBS and size < BATCH_BYTES:
            id = todo.popleft()
            need = needs[id] = self._needs[id]
            need.asked = True
            size += need.reach
        self._waits[worker] -= size
        self._asked[self._intake.ask(list(needs))] = worker, size, needs
        self._coming[worker] += size
        return True
