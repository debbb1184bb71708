"""The measuring tools: trees that repeat, a compare that misses nothing, figures of the right process, and each command
once at a small size."""

import argparse
import contextlib
import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

from twisted.trial.unittest import SkipTest, SynchronousTestCase

from bench import ahead, big, checkins, curves, days, fairness, run
from bench.chart import bars, lines, page
from bench.checkins import percentile
from bench.compare import Comparison
from bench.corpus import Lamp, Source, make_many
from bench.fairness import Finding, jain
from bench.measure import Command, CommandFailed, Cost, measure
from bench.report import peaks, ratios, table
from bench.run import STEPS, chosen_steps
from tests.long import long_test

MIB = 1 << 20


def differences(one: Path, two: Path) -> list[str]:
    return list(Comparison(bytes(one), bytes(two)).differences())


def rewrite_in_place(path: Path) -> None:
    found = path.stat()
    path.write_bytes(b"other")
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))


class CorpusTests(SynchronousTestCase):
    def test_same_seed_same_tree(self) -> None:
        """One seed gives the same names and bytes twice, another seed other bytes."""
        trees = []
        for seed in (7, 7, 8):
            top = Path(self.mktemp())
            make_many(top, Source(seed), 300)
            trees.append({path.relative_to(top): path.read_bytes() for path in top.rglob("*") if path.is_file()})
        self.assertEqual(len(trees[0]), 300)
        self.assertEqual(trees[0], trees[1])
        self.assertNotEqual(trees[0], trees[2])


class CompareTests(SynchronousTestCase):
    def tree(self) -> Path:
        top = Path(self.mktemp())
        (top / "folder").mkdir(parents=True)
        (top / "file").write_bytes(b"bytes")
        (top / "other").write_bytes(b"more")
        os.link(top / "file", top / "folder/hard")
        (top / "link").symlink_to("file")
        with open(top / "sparse", "wb") as file:
            file.truncate(64 * MIB)
        for path in (top / "file", top / "other", top / "sparse", top / "folder"):
            os.utime(path, ns=(10**18, 10**18 + 1))
        return top

    def test_equal_trees_have_no_differences(self) -> None:
        """Two trees made alike compare equal."""
        self.assertEqual(differences(self.tree(), self.tree()), [])

    def test_each_kind_of_difference_is_found(self) -> None:
        """Contents, modes, times, targets, what is missing or new, broken links, filled holes: each alone."""

        def fill(top: Path) -> None:
            found = (top / "sparse").stat()
            (top / "sparse").write_bytes(bytes(64 * MIB))
            os.utime(top / "sparse", ns=(found.st_atime_ns, found.st_mtime_ns))

        def break_link(top: Path) -> None:
            (top / "folder/hard").unlink()
            (top / "folder/hard").write_bytes(b"bytes")
            for path in (top / "folder/hard", top / "folder"):
                os.utime(path, ns=(10**18, 10**18 + 1))

        def retarget(top: Path) -> None:
            (top / "link").unlink()
            (top / "link").symlink_to("other")

        changes: list[Callable[[Path], object]] = [
            fill,
            break_link,
            retarget,
            lambda top: rewrite_in_place(top / "other"),
            lambda top: (top / "other").chmod(0o4711),
            lambda top: os.utime(top / "other", ns=(10**18, 10**18 + 2)),
            lambda top: (top / "other").unlink(),
            lambda top: (top / "new").touch(),
        ]
        for number, change in enumerate(changes):
            top = self.tree()
            change(top)
            self.assertEqual(len(differences(self.tree(), top)), 1, f"change {number}")

    def test_same_bytes_other_file(self) -> None:
        """A file of another content, but the same size and times, is found; and one that became a directory."""
        for number in range(2):
            top = self.tree()
            if number:
                (top / "other").unlink()
                (top / "other").mkdir()
            else:
                (top / "other").write_bytes(b"MORE")
                os.utime(top / "other", ns=(10**18, 10**18 + 1))
            self.assertEqual(len(differences(self.tree(), top)), 1)


class MeasureTests(SynchronousTestCase):
    def test_memory_of_the_command_is_measured(self) -> None:
        """What a child of the command allocates counts."""
        inner = "import time; block = b'x' * (64 << 20); time.sleep(1)"
        outer = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {inner!r}])"
        cost = measure(Command([sys.executable, "-c", outer]), server=None)
        self.assertGreater(cost.peak, 64)
        self.assertGreater(cost.cpu, 0)

    def test_failed_command_is_no_figure(self) -> None:
        """An unknown exit code ends the measurement with the command's own words; a known one does not."""
        argv = [sys.executable, "-c", "import sys; sys.exit('no room')"]
        self.assertIn("no room", str(self.assertRaises(CommandFailed, measure, Command(argv), None)))
        self.assertGreater(measure(Command(argv, good=(0, 1)), None).wall, 0)

    def test_interrupt_ends_what_is_measured(self) -> None:
        """SIGTERM to a measuring command ends the command that it measures too."""
        file = os.path.abspath(self.mktemp())
        inner = f"Command(['sh', '-c', 'echo $$ > {file}.new; mv {file}.new {file}; exec sleep 600'])"
        code = "from bench.installation import command; from bench.measure import Command, measure; "
        bench = subprocess.Popen([sys.executable, "-c", code + f"command(lambda: bool(measure({inner}, None)))"])
        # Two threads: it is at work, and not still on its way out of starting the command.
        while not os.path.exists(file) or len(os.listdir(f"/proc/{bench.pid}/task")) < 2:
            self.assertIs(bench.poll(), None)
            time.sleep(0.02)
        bench.terminate()
        self.assertEqual(bench.wait(), 128 + signal.SIGTERM)
        self.assertRaises(ProcessLookupError, os.kill, int(Path(file).read_text()), 0)

    def test_a_large_parent_is_not_counted(self) -> None:
        """What the measuring process itself holds is not the command's."""
        held = bytearray(os.urandom(1)) * (200 << 20)
        self.assertLess(measure(Command([sys.executable, "-c", "import time; time.sleep(0.3)"]), None).peak, 100)
        del held

    def test_shared_memory_counts_once(self) -> None:
        """What several processes of a tree share is in its peak once."""
        inner = "import mmap, os, time; m = mmap.mmap(-1, 96 << 20); m.write(b'x' * (96 << 20)); os.fork(); os.fork(); "
        touch = "sum(m[at] for at in range(0, 96 << 20, 4096)); time.sleep(1)"
        cost = measure(Command([sys.executable, "-c", inner + touch]), server=None)
        self.assertGreater(cost.peak, 96)
        self.assertLess(cost.peak, 2 * 96 + 96)


class ArgumentTests(SynchronousTestCase):
    def test_steps_need_the_first_and_a_fit_tree(self) -> None:
        """There is no step without a first backup, none of a LAMP tree with another; a typo is refused."""
        parser = argparse.ArgumentParser()
        self.assertEqual(chosen_steps(parser, "restore", lamp=False), ["first", "restore"])
        self.assertEqual(chosen_steps(parser, None, lamp=False), ["first", "nochange", "restore"])
        self.assertEqual(chosen_steps(parser, None, lamp=True), list(STEPS))
        for wrong in ("day", "frist"):
            with self.assertRaises(SystemExit), contextlib.redirect_stderr(io.StringIO()):
                chosen_steps(parser, wrong, lamp=False)

    def test_every_command_says_what_it_does(self) -> None:
        """--help has the module's own text, which tells how long it takes and how much room it needs."""
        for module in (run, big, checkins, curves, days, fairness):
            text = module.__doc__ or ""
            self.assertIn(f"python -m {module.__name__}", text)
            self.assertIn("minutes" if module is not checkins else "take about", text)
            self.assertRegex(text, r"\d+ [GM]B")


class FairnessFigureTests(SynchronousTestCase):
    def test_jain(self) -> None:
        """1 where all have the same, 1/n where one has everything."""
        self.assertAlmostEqual(jain([5, 5, 5, 5]), 1.0)
        self.assertAlmostEqual(jain([8, 0, 0, 0]), 0.25)

    def test_bound_is_kept_or_missed(self) -> None:
        """A finding above what it may be, or below what it must be, is said to be missed."""
        self.assertIn("MISSED", fairness.line(Finding("x", 1.4, 1.3, True, "")))
        self.assertIn("MISSED", fairness.line(Finding("x", 0.9, 0.98, False, "")))
        self.assertNotIn("MISSED", fairness.line(Finding("x", 0.99, 0.98, False, "")))
        self.assertIn("STARVED", fairness.line(Finding("x", 1.0, 1.3, True, "", starved=True)))

    def test_percentile(self) -> None:
        """The 99th percentile of 200 leaves two above it."""
        self.assertEqual(percentile(range(1, 201), 0.99), 198)
        self.assertEqual(percentile([3.0], 0.99), 3.0)


class ClockTests(SynchronousTestCase):
    def test_a_clock_ahead(self) -> None:
        """It is ahead by what was asked for, whatever the clock behind it says."""
        self.assertEqual(ahead.later(lambda: 5, 3600)(), 3605)

    def test_from_anywhere(self) -> None:
        """The daemon in that world starts in whatever directory, without help from the path of modules."""
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        words = [sys.executable, "-P", ahead.__file__, "86400", "--version"]
        done = subprocess.run(words, cwd="/", env=environment, capture_output=True, text=True, check=False)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("twistd", done.stdout)


class CommandTests(SynchronousTestCase):
    """Each command once, small; their figures mean nothing here."""

    def bench(self, module: str, *words: object) -> str:
        """Run it to its end; its standard output. Bounds may be missed (1), nothing else may go wrong."""
        done = subprocess.run(
            [sys.executable, "-m", f"bench.{module}", "--work", os.path.abspath(self.mktemp()), *map(str, words)],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        self.assertIn(done.returncode, (0, 1), done.stderr)
        return done.stdout

    def lamp(self) -> Path:
        top = Path(self.mktemp()).resolve()
        Lamp(top, Source(7), 300, 5, 1).make()
        return top

    @long_test(share=True)
    def test_run(self) -> None:
        """All steps of Mastodon, the restored tree compared, a table and a chart."""
        svg = Path(self.mktemp()).resolve()
        text = self.bench("run", "--data", self.lamp(), "--tools", "mastodon,bare", "--chart", svg)
        rows = [line.split("|") for line in text.splitlines() if line.startswith("| mastodon |")]
        self.assertEqual([row[2].strip() for row in rows], list(STEPS.values()))
        self.assertEqual([row[-2].strip() for row in rows], ["", "", "", "0", "0"])
        self.assertEqual(ElementTree.parse(svg).getroot().tag, "{http://www.w3.org/2000/svg}svg")

    @long_test(share=False)
    def test_days(self) -> None:
        """Two days, and the first and the newest snapshot restored."""
        text = self.bench("days", "--data", self.lamp(), "--tools", "mastodon", "--days", 2, "--runs", 1)
        (row,) = [line.split("|") for line in text.splitlines() if line.startswith("| mastodon |")]
        self.assertEqual(row[-2].strip(), "0")
        self.assertGreater(float(row[4]), 0)

    @long_test(share=False)
    def test_big(self) -> None:
        """A big file through openssl and through Mastodon."""
        text = self.bench("big", "--mb", 20, "--runs", 1)
        self.assertRegex(text, r"mastodon, first \| [0-9.]+ \|")
        self.assertRegex(text, r"mastodon, restore \| [0-9.]+ \|")

    @long_test(share=False)
    def test_fairness(self) -> None:
        """Every part has its figures."""
        if len(os.sched_getaffinity(0)) < 2:
            raise SkipTest("needs two cores")
        text = self.bench("fairness", "--small", "--runs", 1, "--only", ",".join(fairness.PARTS))
        rows = [line for line in text.splitlines() if "≤" in line or "≥" in line]
        self.assertEqual(len(rows), 4 + 2 * len(fairness.HOSTILE))

    @long_test(share=True)
    def test_checkins(self) -> None:
        """Forty machines in two seconds: none is refused."""
        *_, row = self.bench("checkins", "--machines", 40, "--seconds", 2).splitlines()
        self.assertEqual([cell.strip() for cell in row.split("|")[1:4]], ["40", "2", "0"])

    @long_test(share=True)
    def test_status(self) -> None:
        """Each way of asking has its figures."""
        text = self.bench("status", "--machines", 3, "--snapshots", 6, "--times", 2)
        rows = [line.split("|")[1].strip() for line in text.splitlines() if line.startswith("| ")]
        self.assertEqual(len(rows), 6)
        self.assertIn("3 machines, 6 snapshots", text)

    @long_test(share=False)
    def test_curves(self) -> None:
        """A row for each size of each curve, beyond an hour's snapshots too."""
        text = self.bench("curves", "--files", "100,200", "--snapshots", "1,62", "--machines", "1,3")
        rows = [line.split("|")[1].strip() for line in text.splitlines() if line.startswith("| ")]
        self.assertEqual([row for row in rows if row.isdigit()], ["100", "200", "1", "62", "1", "3"])


class TableTests(SynchronousTestCase):
    def test_medians(self) -> None:
        """A row has the median of each figure over the runs, and the worst compare."""
        runs = [{"restore": Cost(wall, 0, 0, 0, differences=wrong)} for wall, wrong in ((1, 0), (9, 2), (3, 0))]
        *_, row = table({"tool": runs})
        cells = [cell.strip() for cell in row.strip("|").split("|")]
        self.assertEqual((cells[:3], cells[-1]), (["tool", "restore", "3.0"], "2"))

    def test_ratios_of_medians_beside_what_is_promised(self) -> None:
        """A ratio is of medians; one that is above its floor is said to be missed; gpg's time is taken off apart."""

        def runs(*walls: float, gpg: float | None = None) -> list[dict[str, Cost]]:
            return [{"first": Cost(wall, 0, 1, 0), "single file": Cost(wall, 0, 1, 0, gpg=gpg)} for wall in walls]

        text = "\n".join(ratios({"mastodon": runs(4, 5, 90, gpg=3.0), "restic": runs(10, 9, 11)}, lamp=True))
        self.assertIn("| first, wall | 0.50 (≤ 0.5) |", text)
        self.assertIn("| single file, wall | 0.50 |", text)
        self.assertIn("| single file, wall without gpg | 0.20 (≤ 0.9) |", text)
        missed = "\n".join(ratios({"mastodon": runs(6), "restic": runs(10)}, lamp=True))
        self.assertIn("| first, wall | 0.60 (≤ 0.5, MISSED) |", missed)
        many = "\n".join(ratios({"mastodon": runs(6), "restic": runs(10)}, lamp=False))
        self.assertIn("| first, wall | 0.60 (≤ 0.6) |", many)

    def test_memory_of_the_step_that_takes_most(self) -> None:
        """The median of the hungriest step counts, and is set beside what is promised."""
        runs = [{"first": Cost(1, 0, peak, 0), "restore": Cost(1, 0, 90, 0)} for peak in (100, 400, 160)]
        (line,) = peaks({"mastodon": runs, "restic": runs})
        self.assertIn("160 MiB (≤ 150, MISSED), in the step 'first'", line)


class ChartTests(SynchronousTestCase):
    def test_bars_are_as_long_as_their_values(self) -> None:
        """The SVG is well-formed, whatever the names; a bar of half the value has half the length."""
        root = ElementTree.fromstring(page([bars("a & b", "s", {"<step>": {"one": 10.0, "two": 5.0}})]))
        lengths = [float(bar.get("width", "")) for bar in root.iter() if bar.get("height") == "12"]
        self.assertEqual(len(lengths), 2)
        self.assertAlmostEqual(lengths[0], 2 * lengths[1], delta=0.1)

    def test_lines_have_a_point_for_each_value(self) -> None:
        """On plain and logarithmic axes each value is a point inside the picture; bigger values lie higher."""
        for log in (False, True):
            root = ElementTree.fromstring(page([lines("t", "x", "y", {"a": [(1, 3), (10, 300), (100, 0)]}, log)]))
            points = [(float(one.get("cx", "")), float(one.get("cy", ""))) for one in root.iter() if one.get("cx")]
            self.assertEqual(len(points), 3)
            self.assertGreater(points[0][1], points[1][1])
            for x, y in points:
                self.assertTrue(0 <= x <= 720 and 0 <= y <= 360)
