"""The fault rig (bench/faults): a share of its points, that it would notice a loss, and its own parts.

The points run in a process of their own: the rig forks daemons, which want a reactor that nobody has touched.
"""

import contextlib
import json
import os
import random
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from bench.faults.check import Checks
from bench.faults.kinds import FAULTS, KILLS, OTHERS, chosen
from bench.faults.power import lose, tear_file
from bench.faults.proxy import Cut, CuttingProxy
from bench.faults.report import as_markdown
from bench.faults.rig import Result, Totals, Wanted, _era, deal
from bench.faults.site import Broken, Site
from bench.faults.steps import Counter, Fault, Plan, What, read_journal, watch
from bench.faults.tree import change_tree, differences, make_tree, take_manifest
from tests.long import WANTED, Extent

SEED = 20261124
QUICK_POINTS, SHARE_POINTS = 10, 50


class PointTests(SynchronousTestCase):
    """Whole points, by the command that anyone can type."""

    def run_rig(self, *words: str) -> tuple[int, str, dict[str, object]]:
        """Its exit code, what it said, and its JSON."""
        work = Path(self.mktemp()).resolve()
        work.mkdir(parents=True)
        result = work / "result.json"
        done = subprocess.run(
            [sys.executable, "-m", "bench.faults", "--json", result, "--seed", str(SEED), *words],
            capture_output=True, text=True, errors="replace", check=False, timeout=7200,
        )  # fmt: skip
        text = done.stdout + done.stderr
        return done.returncode, text, json.loads(result.read_text("utf-8")) if result.exists() else {}

    def test_promise_p9_p10_faults(self) -> None:
        """After faults of all kinds every acknowledged snapshot comes back by both roads, and the spools are sound."""
        amounts = {
            Extent.QUICK: ("--points", str(QUICK_POINTS)),
            Extent.SHARE: ("--points", str(SHARE_POINTS), "--jobs", "2"),
            Extent.WHOLE: ("--whole", "--jobs", "2"),
        }
        code, text, result = self.run_rig(*amounts[WANTED])
        self.assertEqual((code, result.get("failures")), (0, 0), text)
        for count in ("snapshots", "restores", "recoveries", "checks"):
            self.assertGreater(int(str(result[count])), 0, count)

    def test_destruction_is_noticed(self) -> None:
        """Where a pack, its bytes or the ledger's end is really destroyed, the check fails: it can fail."""
        code, text, result = self.run_rig("--kinds", "sabotage", "--points", "4")
        self.assertEqual((code, result.get("failures")), (0, 0), text)

    def test_unknown_kind(self) -> None:
        """A kind that does not exist is told, with those that do."""
        code, text, _ = self.run_rig("--kinds", "earthquake")
        self.assertEqual(code, 2)
        self.assertIn("kill-daemon", text)
        self.assertNotIn("Traceback", text)


class InstallationTests(SynchronousTestCase):
    """The installation that points share."""

    def test_none_to_be_had(self) -> None:
        """Where one cannot be set up its points count as failures, told; those after them go on."""
        work = Path(self.mktemp()).resolve()
        work.mkdir(parents=True)
        removed: list[str] = []
        self.patch(Site, "set_up", lambda _site: (_ for _ in ()).throw(Broken("no daemon")))
        self.patch(Site, "remove", lambda site: removed.append(site.work.name))
        totals, said = Totals(), list[str]()
        _era(Wanted(1, ["torn-pack"] * 2, work, float("inf")), [0, 1], totals, Checks(), {}, said.append)
        self.assertEqual([one.failure for one in totals.results], ["no installation: no daemon"] * 2)
        self.assertEqual((len(said), removed), (2, ["site-0", "site-1"]))


class DealTests(SynchronousTestCase):
    """Which points there are."""

    def test_repeatable(self) -> None:
        """The same seed deals the same points, in an order of its own; another seed another one."""
        amounts = {"kill-agent": 30, "torn-pack": 20}
        first = deal(1, amounts)
        self.assertEqual(first, deal(1, dict(reversed(amounts.items()))))
        self.assertNotEqual(first, deal(2, amounts))
        self.assertEqual((first.count("kill-agent"), len(first)), (30, 50))

    def test_names(self) -> None:
        """Kinds are named one by one, by group, or all at once; sabotage only by its name."""
        self.assertEqual(chosen("kills,kill-agent"), list(KILLS))
        self.assertEqual(chosen("all"), [*KILLS, *OTHERS])
        self.assertIn("fsync-ledger", chosen("ledger"))
        self.assertNotIn("sabotage-pack", FAULTS)
        self.assertRaises(ValueError, chosen, "kills,earthquake")

    def test_report_counts(self) -> None:
        """What was never hit is no point; a failure is counted and shown."""
        totals = Totals(
            [Result(0, "torn-pack"), Result(1, "torn-pack", missed=True), Result(2, "cut-append", failure="x")]
        )
        lines = as_markdown(totals, 7, 1.0)
        self.assertIn("| torn-pack | 1 | 1 | 0 | 0.0 s |", lines)
        self.assertTrue(lines[-1].startswith("2 points (0 of them kills), seed 7: 1 failures."), lines[-1])


class ProxyTests(SynchronousTestCase):
    """The proxy that cuts connections."""

    def setUp(self) -> None:
        self.server = socket.create_server(("127.0.0.1", 0))
        self.addCleanup(self.server.close)
        self.proxy = CuttingProxy(self.server.getsockname()[1])
        threading.Thread(target=self.proxy.serve, daemon=True).start()
        self.addCleanup(self.proxy.close)

    def connect(self, cut: Cut) -> tuple[socket.socket, socket.socket]:
        """The client's end and the server's."""
        self.proxy.cuts.append(cut)
        near = socket.create_connection(("127.0.0.1", self.proxy.port), 10)
        far, _ = self.server.accept()
        far.settimeout(10)
        self.addCleanup(near.close)
        self.addCleanup(far.close)
        return near, far

    def received(self, end: socket.socket) -> tuple[bytes, bool]:
        """All that comes, and whether it ended with a reset."""
        data = b""
        try:
            while piece := end.recv(65536):
                data += piece
        except ConnectionResetError:
            return data, True
        return data, False

    def test_cuts(self) -> None:
        """Exactly so many bytes pass, either way, and the connection ends as it was told to."""
        for cut in (Cut(up=1000), Cut(down=70_000), Cut(up=0)):
            near, far = self.connect(cut)
            source, sink, limit = (near, far, cut.up) if cut.up is not None else (far, near, cut.down)
            with contextlib.suppress(ConnectionError):
                source.sendall(bytes(100_000))
            self.assertEqual(len(self.received(sink)[0]), limit)
        near, far = self.connect(Cut(up=5, reset=True))
        near.sendall(b"12345")
        self.assertEqual(self.received(near), (b"", True))

    def test_passes(self) -> None:
        """Without a cut all bytes pass both ways."""
        near, far = self.connect(Cut())
        data = random.Random(SEED).randbytes(300_000)
        sender = threading.Thread(target=far.sendall, args=(data,), daemon=True)
        sender.start()
        there = b""
        while len(there) < len(data) and (piece := near.recv(65536)):
            there += piece
        sender.join()
        near.sendall(b"thanks")
        near.shutdown(socket.SHUT_WR)
        self.assertEqual((there, self.received(far)), (data, (b"thanks", False)))


class TreeTests(SynchronousTestCase):
    """The rig's own record."""

    def test_every_difference_shows(self) -> None:
        """Content, mode, time, attribute, link, name: whatever differs is told, and nothing else."""
        top = Path(self.mktemp())
        make_tree(top, random.Random(SEED))
        before = take_manifest(top)
        self.assertEqual(differences(before, take_manifest(top)), [])
        changes: list[Callable[[], object]] = [
            lambda: (top / "text").chmod(0o600),
            lambda: os.setxattr(top / "text", "user.note", b"another"),
            lambda: os.utime(top / "large0", ns=(0, 1)),
            lambda: (top / "d1/f1").unlink(),
            lambda: (top / "empty/new").symlink_to("x"),
        ]
        for change in changes:
            before = take_manifest(top)
            change()
            self.assertNotEqual(differences(before, take_manifest(top)), [])

    def test_day_of_changes(self) -> None:
        """Each day differs from the one before, by its seed alone."""
        trees = []
        for _ in range(2):
            top = Path(self.mktemp())
            rng = random.Random(SEED)
            make_tree(top, rng)
            for _ in range(30):
                before = take_manifest(top)
                change_tree(top, rng)
                self.assertNotEqual(differences(before, take_manifest(top)), [])
            trees.append({path: entry[:4] + entry[5:] for path, entry in take_manifest(top).items()})
        self.assertEqual(*trees)


class WatchedCase(SynchronousTestCase):
    """Runs programs under watch, each in a process of its own."""

    def setUp(self) -> None:
        self.top = Path(self.mktemp()).resolve()
        self.top.mkdir(parents=True)

    def run_watched(self, program: Callable[[], None], fault: Fault, journal: bool = False) -> tuple[int, Plan]:
        """Its wait status, 0 for a good end; and the plan."""
        plan = Plan((self.top,), fault, self.top.parent / f"{self.top.name}.journal" if journal else None, Counter())
        pid = os.fork()
        if not pid:
            status = 1
            try:
                os.setpgid(0, 0)
                watch(plan)
                program()
                status = 0
            except OSError as error:
                status = error.errno or 1
            finally:
                os._exit(status)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), plan

    def program(self) -> None:
        """Writes a file as the durable writer does."""
        fd = os.open(self.top / "new", os.O_WRONLY | os.O_CREAT, 0o600)
        for _ in range(3):
            os.write(fd, b"x" * 999)
        os.fsync(fd)
        os.close(fd)
        os.rename(self.top / "new", self.top / "file")
        fd = os.open(self.top, os.O_RDONLY)
        os.fsync(fd)
        os.close(fd)


class StepTests(WatchedCase):
    """What happens at a step."""

    def test_each_step_is_the_last_once(self) -> None:
        """Killed before or after each step: what was done is what those before it did."""
        status, plan = self.run_watched(self.program, Fault())
        self.assertEqual((status, plan.counter.steps, plan.counter.hit), (0, 7, False))
        for step in range(1, 8):
            for what, done in ((What.KILL_BEFORE, step - 1), (What.KILL_AFTER, step)):
                (self.top / "file").unlink(missing_ok=True)
                (self.top / "new").unlink(missing_ok=True)
                status, plan = self.run_watched(self.program, Fault(step, what))
                self.assertEqual((status, plan.counter.hit), (-9, True))
                self.assertEqual((self.top / "file").exists(), done >= 6, (step, what))
                sizes = [path.stat().st_size for path in self.top.iterdir()]
                self.assertEqual(sizes, [999 * min(3, done - 1)] if done else [], (step, what))

    def test_errors(self) -> None:
        """The call that is named fails with its number, once or from then on; others go on."""
        fault = Fault(2, What.ERROR, 28, frozenset({"write"}))
        self.assertEqual(self.run_watched(self.program, fault)[0], 28)
        self.assertEqual((self.top / "new").stat().st_size, 999)
        self.assertEqual(self.run_watched(self.program, Fault(1, What.ERROR, 28, frozenset({"write"}), "other"))[0], 0)

    def test_short_writes(self) -> None:
        """A write takes a part, and says so."""
        self.assertEqual(self.run_watched(self.program, Fault(1, What.SHORT, calls=frozenset({"write"})))[0], 0)
        self.assertEqual((self.top / "file").stat().st_size, 333 + 2 * 999)

    def test_forks_are_watched(self) -> None:
        """Steps of forked processes count, and the whole program dies with one of them."""

        def program() -> None:
            if not os.fork():
                self.program()
                os._exit(0)
            os.wait()

        status, plan = self.run_watched(program, Fault(4))
        self.assertEqual((status, plan.counter.steps), (-9, 4))


class PowerTests(WatchedCase):
    """What a loss of power may leave."""

    def after_loss(self, program: Callable[[], None], fault: Fault, seed: int) -> dict[str, bytes]:
        """What lies in the directory afterwards."""
        journal = self.top.parent / f"{self.top.name}.journal"
        for leftover in (*self.top.iterdir(), journal):
            leftover.unlink(missing_ok=True)
        for kept in self.top.parent.glob(f"{self.top.name}.journal.attic/*"):
            kept.unlink()
        attic = Path(f"{journal}.attic")
        if attic.exists():
            attic.rmdir()
        (self.top / "file").write_bytes(b"before")
        _, plan = self.run_watched(program, fault, journal=True)
        assert plan.journal is not None
        lose(plan.journal, [self.top], random.Random(seed))
        return {path.name: path.read_bytes() for path in self.top.iterdir()}

    def test_synced_stays(self) -> None:
        """What was fsynced, name and bytes, is there however often the power fails behind it."""
        for seed in range(30):
            self.assertEqual(self.after_loss(self.program, Fault(), seed), {"file": b"x" * 2997})

    def test_unsynced_is_lost_in_some_cases(self) -> None:
        """Before the directory's fsync the old file may be back; before the file's, bytes are missing or others."""
        seen = [self.after_loss(self.program, Fault(7), seed)["file"] for seed in range(30)]
        self.assertEqual(set(seen), {b"before", b"x" * 2997})
        torn = [self.after_loss(self.program, Fault(5), seed) for seed in range(30)]
        self.assertEqual({one["file"] for one in torn}, {b"before"})
        self.assertTrue({one.get("new") for one in torn} > {None})

    def test_a_writer_that_does_not_sync_is_caught(self) -> None:
        """The mistake that all this is about: a rename without fsync leaves a name without its bytes."""
        seen = [self.after_loss(self.careless, Fault(), seed).get("file", b"") for seed in range(30)]
        self.assertTrue(any(one not in (b"before", b"x" * 999) for one in seen))

    def careless(self) -> None:
        """Writes without any fsync."""
        fd = os.open(self.top / "new", os.O_WRONLY | os.O_CREAT, 0o600)
        os.write(fd, b"x" * 999)
        os.close(fd)
        os.rename(self.top / "new", self.top / "file")

    def test_journal_is_whole(self) -> None:
        """Every step that changes something stands in the journal, in order."""
        _, plan = self.run_watched(self.program, Fault(), journal=True)
        assert plan.journal is not None
        kinds = [entry[0] for entry in read_journal(plan.journal)]
        self.assertEqual(kinds, ["make", "write", "write", "write", "sync", "rename", "syncdir"])

    def test_tearing_keeps_what_was_synced(self) -> None:
        """The first bytes stay, the others are cut, zeroed or garbled."""
        path = self.top / "torn"
        seen = set()
        for seed in range(40):
            path.write_bytes(b"s" * 700 + b"u" * 700)
            tear_file(path, 700, random.Random(seed))
            data = path.read_bytes()
            self.assertEqual(data[:700], b"s" * 700)
            seen.add(data)
        self.assertGreater(len(seen), 10)
