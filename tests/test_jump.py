"""What a snapshot's memory means: time travel, clones, and what is neither (P7). One rule for server and clients."""

from dataclasses import dataclass, field, replace

from twisted.trial.unittest import SynchronousTestCase

from mastodon.restore.past import ShownPast, jump_text, look_at_chain
from mastodon.sealed.jump import QUIET, JumpKind, is_news, judge
from mastodon.sealed.record import record_hash
from mastodon.sealed.snapshot import Notice, SnapshotRecord
from tests.sealed_samples import MACHINE, snapshot_record

L, N, U, W, A = JumpKind


@dataclass
class Disk:
    """A machine's memory of its newest snapshot; to copy it is to clone the machine."""

    head: bytes = b""


@dataclass
class Server:
    """Takes snapshots from whatever disk, keeps them, and tells what is news."""

    taken: list[tuple[SnapshotRecord, bytes]] = field(default_factory=list)
    told: list[str] = field(default_factory=list)
    jumps: list[tuple[int, JumpKind]] = field(default_factory=list)
    past: ShownPast = field(default_factory=ShownPast)

    def run(self, disk: Disk, *, claimed: bytes | None = None, kept: bool = True) -> bytes:
        """A backup of the machine that has this disk; ``claimed``: what it lies to remember."""
        before = self.taken[-1][1] if self.taken else b""
        record = snapshot_record(
            sequence=self.taken[-1][0].sequence + 1 if self.taken else 1, predecessor=before,
            remembered=disk.head if claimed is None else claimed, notices=0 if kept else int(Notice.MEMORY_NOT_KEPT),
        )  # fmt: skip
        hash = record_hash(record.sign(MACHINE.signing_key))
        jump = judge(record, self.past)
        if jump is not None:
            self.jumps.append((jump.sequence, jump.kind))
            if is_news(jump, self.past):
                self.told.append(jump_text(jump))
        self.past.add(record, hash, jump)
        self.taken.append((record, hash))
        if kept:
            disk.head = hash
        return hash

    def runs(self, disk: Disk, count: int) -> None:
        for _ in range(count):
            self.run(disk)

    def put_back(self, count: int) -> None:
        """The server falls back to its first snapshots."""
        del self.taken[count:]
        self.past = ShownPast()
        for record, hash in self.taken:
            self.past.add(record, hash, None)


class JumpTests(SynchronousTestCase):
    """Histories of disks that fall back and of clones, as they come to a server."""

    def setUp(self) -> None:
        self.server = Server()
        self.disk = Disk()

    def test_ordinary(self):
        """A machine that remembers its newest snapshot makes no jump, from the first run on."""
        self.server.runs(self.disk, 5)
        self.assertEqual(self.server.jumps, [])

    def test_lost_state(self):
        """A machine without state, new or wiped, is one; nobody is alarmed."""
        self.server.runs(self.disk, 3)
        self.server.runs(Disk(), 2)
        self.assertEqual(self.server.jumps, [(4, L)])
        self.assertEqual(self.server.told, [])

    def test_promise_p7_disk_that_went_back(self):
        """A disk put back is told once, with the snapshot that it fell back to; then all is as it was."""
        self.server.runs(self.disk, 2)
        old = replace(self.disk)
        self.server.runs(self.disk, 5)
        self.server.runs(old, 3)
        self.assertEqual(self.server.jumps, [(8, W)])
        (told,) = self.server.told
        self.assertIn("fallen back to snapshot 2", told)

    def test_one_step_back(self):
        """Going back by a single snapshot is noticed."""
        self.server.run(self.disk)
        old = replace(self.disk)
        self.server.run(self.disk)
        self.server.run(old)
        self.assertEqual(self.server.jumps, [(3, W)])

    def test_promise_p7_clones(self):
        """Two copies that back up in turns: the first of the copy looks like time travel, from then on they are two.
        It is told once, however long it goes on."""
        self.server.runs(self.disk, 2)
        clone = replace(self.disk)
        for _ in range(20):
            self.server.run(self.disk)
            self.server.run(clone)
        kinds = [kind for _, kind in self.server.jumps]
        self.assertEqual(kinds, [W, *[A] * 38])
        self.assertEqual(len(self.server.told), 2)
        self.assertIn("cloned", self.server.told[1])

    def test_clone_without_state(self):
        """A copy that was started without its state is found out when the other one comes back."""
        self.server.runs(self.disk, 2)
        self.server.run(Disk())
        self.server.run(self.disk)
        self.assertEqual(self.server.jumps, [(3, L), (4, A)])

    def test_promise_p7_clone_that_lies(self):
        """A copy that claims to remember what the honest machine made last hides nothing: that one falls back again and
        again, to a newer snapshot each time, which a single disk does not do."""
        self.server.run(self.disk)
        for _ in range(4):
            self.server.run(Disk(), claimed=self.server.taken[-1][1])
            self.server.run(self.disk)
        self.assertEqual([kind for _, kind in self.server.jumps], [W, W, A, A])

    def test_disk_that_is_reset_each_time(self):
        """A machine whose disk is put back to the same state before each run is told once, and is no clone."""
        self.server.run(self.disk)
        frozen = replace(self.disk)
        for _ in range(30):
            self.server.run(replace(frozen))
        self.assertEqual({kind for _, kind in self.server.jumps}, {W})
        self.assertEqual(len(self.server.told), 1)

    def test_memory_that_cannot_be_written(self):
        """A machine with a full disk says so, and is not taken for one that travels."""
        self.server.runs(self.disk, 2)
        for _ in range(4):
            self.server.run(self.disk, kept=False)
        self.server.run(self.disk)
        self.server.run(self.disk)
        self.assertEqual(self.server.jumps, [(number, N) for number in (4, 5, 6, 7)])
        self.assertEqual(self.server.told, [])

    def test_server_put_back(self):
        """A machine that remembers a snapshot which is not there is told once; then it goes on."""
        self.server.runs(self.disk, 6)
        self.server.put_back(3)
        self.server.runs(self.disk, 3)
        self.assertEqual(self.server.jumps, [(4, U)])
        self.assertIn("not shown", self.server.told[0])

    def test_told_again_after_a_quiet_time(self):
        """What comes back after many ordinary runs is news again."""
        for _ in range(2):
            self.server.run(self.disk)
            old = replace(self.disk)
            self.server.run(self.disk)
            self.disk = old
            self.server.runs(self.disk, QUIET + 2)
        self.assertEqual(len(self.server.told), 2)

    def test_promise_p7_lies_are_noise_about_itself(self):
        """A machine that makes its memory up, each time another one, is told a few times and no more."""
        self.server.runs(self.disk, 3)
        for number in range(200):
            self.server.run(Disk(), claimed=self.server.taken[number % len(self.server.taken)][1])
        self.server.runs(Disk(), 1)
        for number in range(50):
            self.server.run(Disk(), claimed=number.to_bytes(32, "big"))
        self.assertLess(len(self.server.told), 8)

    def test_clients_see_the_same(self):
        """A client that is shown the records finds the same jumps, and tells of those among the newest snapshots."""
        self.server.run(self.disk)
        old = replace(self.disk)
        self.server.run(self.disk)
        self.server.runs(old, 3)
        chain = look_at_chain("web01", self.server.taken)
        self.assertEqual([(one.sequence, one.kind) for one in chain.jumps.values()], self.server.jumps)
        self.assertEqual([f"web01: snapshot 3 {text}" for text in self.server.told], chain.warnings)
        self.server.runs(old, QUIET)
        self.assertEqual(look_at_chain("web01", self.server.taken).warnings, [])
