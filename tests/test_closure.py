"""Closure: what a walk marks, what it names, and how much it looks at."""

from collections.abc import Sequence

from twisted.internet.defer import Deferred, succeed
from twisted.trial.unittest import SynchronousTestCase

from mastodon.catalogue.interface import BlobState
from mastodon.daemon import closure
from mastodon.daemon.closure import Closure, Found
from mastodon.daemon.errors import Unavailable
from mastodon.sealed.blob import BlobKind
from tests.store_case import StoreCase

MACHINE = b"m" * 32


def name(text: str) -> bytes:
    return text.encode().ljust(32, b".")


class Blobs:
    """A catalogue of what the test says, that counts what it is asked."""

    def __init__(self) -> None:
        self.kinds: dict[bytes, BlobKind] = {}
        self.refers: dict[bytes, tuple[bytes, ...]] = {}
        self.closed: set[bytes] = set()
        self.changes = 0
        self.unstable = 0
        self.asked: list[bytes] = []

    def add(self, text: str, kind: BlobKind, *references: str) -> bytes:
        self.kinds[name(text)] = kind
        self.refers[name(text)] = tuple(name(one) for one in references)
        return name(text)

    def closure(self, machine: bytes) -> Deferred[int]:
        return succeed(self.changes)

    def blob_states(
        self, machine: bytes, ids: Sequence[bytes], behind_writes: bool = False
    ) -> Deferred[dict[bytes, BlobState]]:
        self.asked += ids
        found = {one: BlobState(self.kinds[one], True, one in self.closed) for one in ids if one in self.kinds}
        return succeed(found)

    def references(self, machine: bytes, ids: Sequence[bytes]) -> Deferred[dict[bytes, tuple[bytes, ...]]]:
        return succeed({one: self.refers[one] for one in ids})

    def mark_closed(self, machine: bytes, ids: Sequence[bytes], expected: int) -> Deferred[bool]:
        if self.unstable:
            self.unstable -= 1
            self.changes += 1
        if expected != self.changes:
            return succeed(False)
        self.closed.update(ids)
        return succeed(True)


class WalkTests(SynchronousTestCase):
    """The walk over a made-up catalogue."""

    def setUp(self) -> None:
        self.blobs = Blobs()
        for text in ("a", "b", "c"):
            self.blobs.add(text, BlobKind.CHUNK)
        self.blobs.add("map", BlobKind.MAP, "a", "b")
        self.blobs.add("page 1", BlobKind.PAGE, "map", "c")
        self.blobs.add("page 2", BlobKind.PAGE, "c")
        self.root = self.blobs.add("root", BlobKind.ROOT, "page 1", "page 2")

    def walk(self, *ids: bytes, budget: int | None = None) -> Found:
        walker = Closure(self.blobs, MACHINE, budget)  # type: ignore[arg-type]
        return self.successResultOf(Deferred.fromCoroutine(walker.walk(ids or (self.root,))))

    def test_whole(self) -> None:
        """When all is there, root, pages and maps are closed, and only they."""
        self.assertEqual(self.walk().whole, {self.root})
        self.assertEqual(self.blobs.closed, {name(one) for one in ("root", "page 1", "page 2", "map")})

    def test_closed_is_not_walked_again(self) -> None:
        """The second time only the root is asked about; with a new page, only what is new."""
        self.walk()
        self.blobs.asked.clear()
        self.walk()
        self.assertEqual(self.blobs.asked, [self.root])
        new = self.blobs.add("new root", BlobKind.ROOT, "page 1", "page 3")
        self.blobs.add("page 3", BlobKind.PAGE, "b")
        self.blobs.asked.clear()
        self.assertEqual(self.walk(new).whole, {new})
        self.assertEqual(self.blobs.asked, [new, name("page 1"), name("page 3"), name("b")])

    def test_missing(self) -> None:
        """What is missing is named once, and nothing above it is closed; what is whole beside it is."""
        del self.blobs.kinds[name("a")], self.blobs.kinds[name("c")]
        self.blobs.add("page 2", BlobKind.PAGE, "b")
        found = self.walk()
        self.assertEqual((list(found.missing), found.more, found.whole), ([name("c"), name("a")], False, set()))
        self.assertEqual(self.blobs.closed, {name("page 2")})

    def test_missing_is_bounded(self) -> None:
        """So many missing ids are named, then it is only said that there are more."""
        self.patch(closure, "MISSING_LIMIT", 5)
        root = self.blobs.add("big", BlobKind.ROOT, *(f"gone {number}" for number in range(9)))
        found = self.walk(root)
        self.assertEqual((len(found.missing), found.more), (5, True))

    def test_levels(self) -> None:
        """A reference to the same level or above it is named as wrong, and nothing above is closed."""
        for kind, wrong in ((BlobKind.ROOT, "root"), (BlobKind.PAGE, "page 1"), (BlobKind.MAP, "map")):
            top = self.blobs.add("top", kind, wrong)
            found = self.walk(top)
            self.assertEqual((list(found.wrong), found.whole), ([name(wrong)], set()))
        deep = self.blobs.add("deep", BlobKind.ROOT, "top")
        self.assertEqual(list(self.walk(deep).wrong), [name("map")])

    def test_without_references(self) -> None:
        """An empty page is whole."""
        page = self.blobs.add("empty", BlobKind.PAGE)
        self.assertEqual(self.walk(page).whole, {page})

    def test_budget(self) -> None:
        """With a bound on what is looked at, the walk ends there."""
        self.assertTrue(self.walk(budget=2).more)
        self.assertEqual(self.walk(budget=100).whole, {self.root})

    def test_loss_meanwhile(self) -> None:
        """When a pack is lost during the walk it begins again; when that goes on and on, it gives up."""
        self.blobs.unstable = 2
        self.assertEqual(self.walk().whole, {self.root})
        self.blobs.closed.clear()
        self.blobs.unstable = 100
        walker = Closure(self.blobs, MACHINE)  # type: ignore[arg-type]
        self.failureResultOf(Deferred.fromCoroutine(walker.walk([self.root])), Unavailable)


class CatalogueTests(StoreCase):
    """The same over the real catalogue."""

    def test_many(self) -> None:
        """Hundreds of pages over shared bundles and maps are walked in a few steps, and marked."""
        chunks = [self.machine.blob(BlobKind.CHUNK, [], b"%d" % number) for number in range(300)]
        ids = [one[0] for one in chunks]
        maps = [self.machine.blob(BlobKind.MAP, ids[n : n + 100], b"map %d" % n) for n in range(0, 300, 100)]
        pages = [
            self.machine.blob(BlobKind.PAGE, [maps[n % 3][0], ids[n % 300], ids[(n + 1) % 300]], b"page %d" % n)
            for n in range(200)
        ]
        root = self.machine.blob(BlobKind.ROOT, [one[0] for one in pages], b"root")
        self.send([*chunks[:-1], *maps, *pages, root])
        self.assertEqual(self.commit(root[0]).missing, (ids[-1],))
        self.send(chunks[-1:])
        self.assertEqual(self.commit(root[0]).missing, ())
        every = [one[0] for one in (*maps, *pages, root)]
        self.assertEqual(self.wait(self.store.stored(self.machine.id, every)), set(every))
