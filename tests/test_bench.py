"""The measuring tools: trees that repeat, a compare that misses nothing, figures of the right process."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

from twisted.trial.unittest import SynchronousTestCase

from bench.chart import bars, lines, page
from bench.compare import Comparison
from bench.corpus import Source, make_many
from bench.measure import Command, CommandFailed, Cost, measure
from bench.report import ratios, table

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
