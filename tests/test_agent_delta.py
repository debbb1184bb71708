"""Large files as deltas: what they save, and that nothing on machine or server, nor the program, breaks a backup."""

import os
import random
import shutil
import time
from pathlib import Path
from typing import Any
from unittest import mock, skipUnless

from twisted.trial.unittest import SynchronousTestCase

from bench.installation import Installation
from mastodon.sealed.content import whole_hash
from mastodon.sealed.machine_secret import MachineSecret
from mastodon.sealed.snapshot import SnapshotStatus
from mastodon_agent import large_reader
from mastodon_agent.backup import Outcome
from mastodon_agent.base_cache import BaseCache, CachedBase
from mastodon_agent.options import UsageError, parse_options
from mastodon_agent.pairing import Credentials
from tests.agent_runs import AgentCase
from tests.compare_trees import compare_trees
from tests.long import long_test

SIZE = 1_200_000
has_program = skipUnless(shutil.which("xdelta3"), "needs xdelta3: install the package xdelta3")


def roomy() -> Any:
    """A file system with room for bases, whatever the one is like that the tests run on."""
    return mock.patch(
        "mastodon_agent.base_cache.os.statvfs", return_value=mock.Mock(f_bavail=900, f_blocks=1000, f_frsize=1_000_000)
    )


class DeltaCase(AgentCase):
    """A file ``base.db`` that is worth a base; ``edit`` changes it in places."""

    def setUp(self) -> None:
        super().setUp()
        for patcher in (mock.patch("mastodon_agent.delta.SMALLEST", 600_000), roomy()):
            patcher.start()
            self.addCleanup(patcher.stop)
        self.random = random.Random(9)
        self.data = bytearray(self.random.randbytes(SIZE))

    def edit(self, places: int = 20, length: int = 50) -> None:
        """Change the file in so many places, and write it."""
        for _ in range(places):
            at = self.random.randrange(SIZE - length)
            self.data[at : at + length] = self.random.randbytes(length)
        self.write("base.db", bytes(self.data))

    def run_agent(self, **options) -> Outcome:
        """A run with deltas; everything in the snapshot is as it lies on the disk."""
        outcome = self.back_up(**{"delta_cache": 100_000_000, **options})
        self.assertEqual(outcome.status, SnapshotStatus.COMPLETE)
        self.assertEqual(self.vault.missing(self.vault.record().root), [])
        for name, entry in self.entries().items():
            if entry.size:
                self.assertEqual(self.content(name), (self.tree / name).read_bytes(), name)
        return outcome

    def is_delta(self, name: str = "base.db", number: int = -1) -> bool:
        """Whether a file is kept as a delta."""
        return self.entries(number)[name].delta is not None

    def bases(self) -> list[Path]:
        """The files in the cache."""
        return sorted((self.state / "bases").iterdir())


@has_program
class DaysTests(DeltaCase):
    """What a machine sees in the course of time."""

    def test_edits_are_sent_as_a_delta(self):
        """A file that changed in a few places costs little; unchanged, it carries its delta forward."""
        self.edit()
        self.run_agent()
        self.assertFalse(self.is_delta())
        self.edit()
        self.assertLess(self.run_agent().sent_bytes, 20_000)
        self.assertTrue(self.is_delta())
        self.write("beside", b"another file in the same page")
        outcome = self.run_agent()
        self.assertEqual((outcome.tally.read_files, self.is_delta()), (1, True))
        self.assertLess(outcome.sent_bytes, 10_000)

    def test_many_days(self):
        """Deltas are to a full base, and in time to a newer one; every day can be restored; the state may fall back in
        time on the way."""
        days, sent, bases = [], 0, set()
        self.edit()
        self.run_agent()
        for day in range(14):
            self.edit(8, 6000)
            days.append(bytes(self.data))
            sent += self.run_agent().sent_bytes
            entry = self.entries()["base.db"]
            if entry.delta is not None:
                bases.add(entry.delta.base_hash)
            if day == 5:
                shutil.copytree(self.state, self.work / "old")
            if day == 8:
                shutil.rmtree(self.state)
                os.rename(self.work / "old", self.state)
        self.assertGreater(len(bases), 1)
        self.assertLess(sent, 14 * SIZE // 2)
        for number, data in enumerate(days, 1):
            self.assertEqual(self.content("base.db", number), data)
        full = {entry.hash for entry in map(self._entry, range(15)) if entry.delta is None}
        self.assertLessEqual(bases, full)
        self.assertEqual(len(self.bases()), len({path.name.partition(".")[0] for path in self.bases()}))

    def _entry(self, number: int):
        return self.entries(number)["base.db"]

    def test_small_edits_stay_with_their_base(self):
        """Where deltas cost little beside pieces, the base stays, however many places have changed."""
        self.edit()
        self.run_agent()
        (base,) = self.bases()
        for _ in range(8):
            self.edit(30)
            self.assertLess(self.run_agent().sent_bytes, 30_000)
        self.assertEqual([path.stem for path in self.bases()], [base.stem])

    def test_content_that_came_back(self):
        """A file that is its base again is the base."""
        self.edit()
        self.run_agent()
        first = bytes(self.data)
        self.edit()
        self.run_agent()
        self.write("base.db", first)
        self.assertLess(self.run_agent().sent_bytes, 5_000)
        self.assertFalse(self.is_delta())

    def test_little_is_left_of_the_base(self):
        """A file that is all new goes in pieces, and is the base of the next."""
        self.edit()
        self.run_agent()
        self.data[:] = self.random.randbytes(SIZE)
        self.edit()
        self.assertGreater(self.run_agent().sent_bytes, SIZE)
        self.assertFalse(self.is_delta())
        for _ in range(2):
            self.edit()
            self.run_agent()
        self.assertTrue(self.is_delta())

    def test_growth_goes_in_pieces(self):
        """What a file grew by costs the same in pieces, which need no base."""
        self.edit()
        self.run_agent()
        for _ in range(3):
            self.data += self.random.randbytes(100_000)
            self.write("base.db", bytes(self.data))
            self.assertLess(self.run_agent().sent_bytes, 200_000)
            self.assertFalse(self.is_delta())

    def test_hard_links(self):
        """All names of a file have its delta."""
        self.edit()
        os.link(self.tree / "base.db", self.tree / "link.db")
        self.run_agent()
        self.edit()
        self.run_agent()
        self.assertTrue(self.is_delta() and self.is_delta("link.db"))

    def test_holes(self):
        """A file with holes goes in pieces, with a base and without."""
        self.edit()
        self.run_agent()
        with open(self.tree / "base.db", "r+b") as file:
            file.truncate(SIZE + 10_000_000)
            file.seek(SIZE + 9_000_000)
            file.write(b"island" * 1000)
        for _ in range(2):
            self.run_agent()
            self.assertFalse(self.is_delta())
            os.utime(self.tree / "base.db", (time.time(), 1))

    def test_without_the_option_again(self):
        """A file that is kept as a delta is carried forward without --delta, and read in full when it changes."""
        self.edit()
        self.run_agent()
        self.edit()
        self.run_agent()
        self.write("beside", b"another")
        self.run_agent(delta_cache=0)
        self.assertTrue(self.is_delta())
        self.edit()
        self.run_agent(delta_cache=0)
        self.assertFalse(self.is_delta())


@has_program
class DamageTests(DeltaCase):
    """Whatever happens to bases, program and server, the backup is right."""

    def setUp(self) -> None:
        super().setUp()
        self.edit()
        self.write("other.db", self.random.randbytes(SIZE))
        self.run_agent()
        self.edit()

    def goes_in_pieces(self) -> None:
        """A run that makes no delta, and is right; the next one is right too."""
        self.run_agent()
        self.assertFalse(self.is_delta())
        self.edit()
        self.run_agent()

    def test_promise_p7_damaged_bases(self):
        """Bases that are cut, changed in a byte, swapped, or not files at all are as good as none."""

        def cut(bases: list[Path]) -> None:
            for path in bases:
                os.truncate(path, 500_000)

        def change(bases: list[Path]) -> None:
            for path in bases:
                with open(path, "r+b") as file:
                    file.seek(900_000)
                    file.write(b"!")

        def swap(bases: list[Path]) -> None:
            one, two = bases
            os.rename(one, self.work / "aside")
            os.rename(two, one)
            os.rename(self.work / "aside", two)

        def link(bases: list[Path]) -> None:
            for path in bases:
                path.unlink()
                path.symlink_to("/dev/zero")

        def vanish(bases: list[Path]) -> None:
            shutil.rmtree(bases[0].parent)

        for damage in (cut, change, swap, link, vanish):
            with self.subTest(damage=damage.__name__):
                damage([path for path in self.bases() if not path.is_symlink()][:2])
                self.run_agent()
                self.assertFalse(self.is_delta())
                self.write("base.db", self.random.randbytes(SIZE))
                self.write("other.db", self.random.randbytes(SIZE))
                self.data = bytearray((self.tree / "base.db").read_bytes())
                shutil.rmtree(self.state / "bases")
                self.run_agent()
                self.edit()

    def test_promise_p7_bases_of_another_machine(self):
        """What another machine left in the cache is not used: its hashes are keyed."""
        self.secret = self.vault.secret = MachineSecret(os.urandom(32))
        for kept in (self.vault.blobs, self.vault.packs, self.vault.pairs, self.vault.snapshots):
            kept.clear()
        self.run_agent()
        self.assertFalse(self.is_delta())

    def test_bases_of_another_pair(self):
        """Under a new sealing pair everything goes in full: bases that lie under the old one do not count."""
        self.run_agent(credentials=Credentials(b"another", ()))
        self.assertFalse(self.is_delta())
        self.edit()
        self.run_agent(credentials=Credentials(b"another", ()))
        self.assertTrue(self.is_delta())

    def test_promise_p9_base_lost_on_the_server(self):
        """When the server loses a part of a base, the commit says so, and the file goes in full."""
        self.run_agent()
        self.assertTrue(self.is_delta())
        for id in [id for id, blob in self.vault.blobs.items() if blob.header.kind.name == "CHUNK"][:3]:
            del self.vault.blobs[id]
        self.edit()
        self.run_agent()
        self.assertFalse(self.is_delta())
        self.edit()
        self.run_agent()

    def test_promise_p9_delta_lost_on_the_server(self):
        """So it does when a delta is lost, though the file did not change."""
        self.run_agent()
        for id in [id for id, blob in self.vault.blobs.items() if blob.header.kind.name == "DELTA"]:
            del self.vault.blobs[id]
        self.write("beside", b"x")
        self.run_agent()
        self.assertFalse(self.is_delta())

    def test_base_lost_while_its_file_rests(self):
        """An unchanged file whose base is lost is read again."""
        self.run_agent()
        for id in [id for id, blob in self.vault.blobs.items() if blob.header.kind.name == "CHUNK"]:
            del self.vault.blobs[id]
        self.write("beside", b"x")
        self.run_agent()

    def test_programs_that_fail(self):
        """xdelta3 that prints rubbish, fails, dies or hangs: the file goes in pieces, and a line says why."""
        scripts = {
            "cat >/dev/null; echo rubbish": "does not give the file back",
            "cat >/dev/null; exit 3": "exit code 3",
            "read -r line; kill -9 $$": "xdelta3",
            "exec 0<&-; exit 0": "xdelta3",
            "exec sleep 100": "takes nothing",
            'case "$1" in -e) exec /usr/bin/xdelta3 "$@";; *) exec sleep 100;; esac': "gives nothing",
        }
        program = self.work / "xdelta3"
        for script, reason in scripts.items():
            program.write_text(f"#!/bin/sh\nPATH=/usr/bin:/bin\n{script}\n")
            program.chmod(0o755)
            with (
                self.subTest(script=script),
                mock.patch("mastodon_agent.xdelta.PROGRAM", str(program)),
                mock.patch("mastodon_agent.xdelta.STALL_S", 0.3),
            ):
                self.run_agent()
                self.assertFalse(self.is_delta())
                self.assertEqual([text for text in self.heard.said if reason in text], self.heard.said)
                self.assertEqual(len(self.heard.said), 1)
            self.edit()
            self.run_agent()
            self.edit()

    def test_program_is_missing(self):
        """Without xdelta3 a line says what to install, and the file goes in pieces."""
        with mock.patch("mastodon_agent.xdelta.PROGRAM", "/nowhere/xdelta3"):
            self.goes_in_pieces()
        self.assertIn("install the package xdelta3", self.heard.said[0])

    def test_full_disk(self):
        """A disk that takes neither bases nor what waits for a decision: the file goes in pieces."""
        full = OSError(28, "No space left on device")

        def refusing(original):
            def write(fd, *arguments):
                if "/bases/" in os.readlink(f"/proc/self/fd/{fd}"):
                    raise full
                return original(fd, *arguments)

            return write

        pwrite = mock.patch("mastodon_agent.held_pieces.os.pwrite", refusing(os.pwrite))
        with mock.patch("mastodon_agent.held_pieces.PENDING", 1000), pwrite:
            self.run_agent()
        self.assertFalse(self.is_delta())
        self.edit()
        with mock.patch("mastodon_agent.base_cache.os.write", refusing(os.write)):
            self.run_agent()
        self.assertNotIn("new", [path.name for path in self.bases()])
        self.edit()
        with mock.patch.object(BaseCache, "temporary", side_effect=full):
            self.goes_in_pieces()

    def test_disk_with_little_room(self):
        """A tenth of the file system stays free of bases."""
        shutil.rmtree(self.state / "bases")
        tight = mock.Mock(f_bavail=110, f_blocks=1000, f_frsize=100_000)
        with mock.patch("mastodon_agent.base_cache.os.statvfs", return_value=tight):
            self.goes_in_pieces()
        self.assertEqual(self.bases(), [])

    def test_file_changes_while_it_is_read(self):
        """A file that changes under the program starts over, and comes out as it is at the end."""
        original, calls = large_reader.read_into, []
        path, changed = self.tree / "base.db", bytes(reversed(self.data[:1000]))

        def change(fd, view, offset):
            got = original(fd, view, offset)
            if os.readlink(f"/proc/self/fd/{fd}").endswith("base.db"):
                calls.append(offset)
                if len(calls) == 2:
                    with open(path, "r+b") as file:
                        file.write(changed)
            return got

        with mock.patch.object(large_reader, "read_into", change):
            self.run_agent()
        self.assertTrue(self.content("base.db").startswith(changed))

    def test_what_an_interrupted_run_left(self):
        """Unfinished bases are swept away."""
        (self.state / "bases" / "new").write_bytes(b"x" * 1000)
        self.run_agent()
        self.assertNotIn("new", [path.name for path in self.bases()])
        self.assertTrue(self.is_delta())


class CacheTests(SynchronousTestCase):
    """The cache alone."""

    def setUp(self) -> None:
        room = roomy()
        room.start()
        self.addCleanup(room.stop)
        self.key = bytes(32)
        self.folder = self.mktemp()
        os.mkdir(self.folder)

    def cache(self, limit: int = 1000) -> BaseCache:
        return BaseCache(self.folder, limit, self.key)

    def put(self, cache: BaseCache, data: bytes, evicts: bool = False) -> bool:
        new = cache.begin(len(data), evicts)
        if new is None:
            return False
        new.write(data)
        new.keep(whole_hash(self.key, data))
        return True

    def has(self, cache: BaseCache, data: bytes) -> CachedBase | None:
        found = cache.find(whole_hash(self.key, data), len(data))
        if found is not None:
            found.close()
        return found

    def test_files_are_private(self):
        """Contents of files that only root may read stay so."""
        self.put(self.cache(), b"secret")
        folder = os.path.join(self.folder, "bases")
        self.assertEqual(os.stat(folder).st_mode & 0o777, 0o700)
        self.assertEqual([os.stat(entry).st_mode & 0o777 for entry in os.scandir(folder)], [0o600])

    def test_least_recently_used_go_first(self):
        """New files take what room there is; those that change take that of what was of no use for longest."""
        cache = self.cache()
        one, two, three = b"1" * 400, b"2" * 400, b"3" * 400
        self.assertTrue(self.put(cache, one) and self.put(cache, two))
        self.assertFalse(self.put(cache, three))
        found = self.has(cache, one)
        assert found is not None
        cache.used(found, 77)
        self.assertTrue(self.put(cache, three, evicts=True))
        self.assertIsNone(self.has(cache, two))
        self.assertTrue(self.has(cache, three))
        again = self.has(self.cache(), one)
        self.assertEqual(again and again.sent, 77)

    def test_smaller_limit(self):
        """A limit that was made smaller holds from the next run on; what is larger is never kept."""
        cache = self.cache()
        self.put(cache, b"1" * 400)
        self.put(cache, b"2" * 400)
        cache = self.cache(500)
        self.assertEqual(len(os.listdir(os.path.join(self.folder, "bases"))), 1)
        self.assertFalse(self.put(cache, b"3" * 501, evicts=True))


class OptionTests(SynchronousTestCase):
    """--delta and --delta-cache."""

    def cache(self, *words: str) -> int:
        return parse_options(["--dry-run", *words, "/tmp"], {}).delta_cache

    def test_sizes(self):
        """Off unless asked for; 2 GiB unless said otherwise."""
        self.assertEqual(self.cache(), 0)
        self.assertEqual(self.cache("--delta-cache", "1G"), 0)
        self.assertEqual(self.cache("--delta"), 2 << 30)
        self.assertEqual(self.cache("--delta", "--delta-cache", "1.5g"), 3 << 29)
        self.assertRaises(UsageError, self.cache, "--delta", "--delta-cache", "much")


class RoadTests(SynchronousTestCase):
    """With everything that is real."""

    @has_program
    @long_test(share=False)
    def test_restore_by_both_roads(self):
        """Snapshots of some days with deltas are restored from the server and from the spools, and are the same."""
        work = Path(self.mktemp()).absolute()
        work.mkdir()
        here, tree, rng = Installation(work), work / "tree", random.Random(4)
        tree.mkdir()
        here.set_up()
        self.addCleanup(here.stop_daemon)
        data = bytearray(rng.randbytes(12_000_000))
        for day in range(4):
            for _ in range(30):
                at = rng.randrange(len(data) - 100)
                data[at : at + 20] = rng.randbytes(20)
            (tree / "table.db").write_bytes(data)
            (tree / f"day{day}").write_text("x")
            time.sleep(2.1)  # a file just written is read again, whatever its times
            here.call("agent", *here.agent_words(), "--delta", tree)
            shutil.copytree(tree, work / f"kept{day}")
        self.assertTrue(list((work / "agent-state" / "bases").iterdir()))
        for day in range(4):
            for road, words in (("server", here.restore_words), ("spools", here.recover_words)):
                to = work / f"{road}{day}"
                here.call(road, *words(to, str(day + 1)))
                self.assertEqual(compare_trees(str(work / f"kept{day}"), str(to.joinpath(*tree.parts[1:]))), [])
