"""The suite's runner: whatever a module does, it is counted, the others run, and a crash or a hang is red."""

import contextlib
import os
import subprocess
import sys
import time
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tests.parallel import LONGEST, modules_of, summary_of, total
from tests.summary import Tally, tally

HEAD = """
import os, subprocess, sys, time
from twisted.trial.unittest import SynchronousTestCase, SkipTest

class Tests(SynchronousTestCase):
"""
MODULES = {
    "test_good": """
    def test_one(self): pass
    def test_two(self): raise SkipTest("not today")
""",
    "test_bad": """
    def test_one(self): self.fail("what went wrong")
    def test_two(self): pass
""",
    "test_crash": """
    def test_one(self): os.abort()
""",
    "test_leaves_early": """
    def test_one(self): os._exit(0)
""",
    "test_broken": """
    import no_such_module
""",
    "test_empty": """
    pass
""",
    "test_hang": """
    def test_hanging(self):
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"])
        with open(os.environ["NOTE"], "w") as file:
            file.write(str(child.pid))
        time.sleep(1000)
""",
}


class ParallelTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.folder = Path(self.mktemp()).resolve()
        (self.folder / "odd").mkdir(parents=True)
        (self.folder / "odd" / "__init__.py").touch()

    def start(self, *names: str, limit_s: float = 60.0) -> "subprocess.Popen[str]":
        """The runner on some modules."""
        for name in names:
            (self.folder / "odd" / f"{name}.py").write_text(HEAD + MODULES[name])
        modules = [f"odd.{name}" for name in names]
        call = f"run({modules}, Path('work'), 2, {limit_s})"
        code = f"from pathlib import Path; from tests.parallel import run; exit({call})"
        path = os.pathsep.join([str(self.folder), *filter(None, sys.path)])
        environment = os.environ | {"PYTHONPATH": path, "NOTE": str(self.folder / "note")}
        return subprocess.Popen(
            [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=self.folder,
            env=environment,
        )  # fmt: skip

    def run_modules(self, *names: str, limit_s: float = 60.0) -> tuple[int, str]:
        """Exit status and output."""
        with self.start(*names, limit_s=limit_s) as runner:
            said, _ = runner.communicate()
        return runner.returncode, said

    def wait_until_gone(self) -> None:
        """Until what the hanging module started is there no more: it was killed, and ends when it has its turn."""
        stat = Path("/proc", (self.folder / "note").read_text(), "stat")
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            while stat.read_text().rpartition(")")[2].split()[0] not in ("Z", "X"):
                time.sleep(0.01)

    def test_green(self) -> None:
        """A module that is content is one line, and the count is read as that of trial; what was skipped is told."""
        status, said = self.run_modules("test_good")
        self.assertEqual((status, str(tally(said))), (0, "1 passed, 0 failed, 1 skipped"), said)
        self.assertNotIn("test_two", said)
        self.assertIn("skipped in odd.test_good: not today\n", said)

    def test_failures_are_shown(self) -> None:
        """Of a module with a failure all is shown, and all modules count."""
        status, said = self.run_modules("test_good", "test_bad")
        self.assertEqual((status, str(tally(said))), (1, "2 passed, 1 failed, 1 skipped"), said)
        self.assertIn("what went wrong", said)

    def test_a_module_that_does_not_end_well_is_red(self) -> None:
        """One that crashes, leaves early, cannot be imported or has no test is a failure; the rest counts."""
        status, said = self.run_modules("test_crash", "test_leaves_early", "test_broken", "test_empty", "test_good")
        self.assertEqual((status, str(tally(said))), (1, "1 passed, 4 failed, 1 skipped"), said)
        self.assertIn("no_such_module", said)
        self.assertIn("ended with status -6", said)

    def test_a_hang_is_red(self) -> None:
        """One that does not end is ended, with what it started; where it hung is shown."""
        status, said = self.run_modules("test_hang", "test_good", limit_s=3.0)
        self.assertEqual((status, str(tally(said))), (1, "1 passed, 1 failed, 1 skipped"), said)
        self.assertIn("in test_hanging", said)
        self.wait_until_gone()

    def test_interrupted(self) -> None:
        """SIGTERM, as Ctrl-C, ends the runner and all that it started."""
        note = self.folder / "note"
        with self.start("test_hang") as runner:
            while not (note.exists() and note.read_text()):
                self.assertIs(runner.poll(), None)
                time.sleep(0.01)
            runner.terminate()
            runner.communicate()
        self.assertNotEqual(runner.returncode, 0)
        self.wait_until_gone()

    def test_all_modules(self) -> None:
        """Every test module is run, once, the longest first; each of those is there."""
        folder = Path(__file__).parent
        names = modules_of(folder)
        self.assertEqual(names[: len(LONGEST)], [f"tests.{name}" for name in LONGEST])
        self.assertEqual(sorted(names), sorted(f"tests.{path.stem}" for path in folder.glob("test_*.py")))

    def test_nothing_is_not_green(self) -> None:
        """No module, and only skipped ones, are failures."""
        self.assertFalse(total([]).good)
        for counted in (total([]), Tally(0, 0, 3)):
            self.assertFalse(tally(summary_of(counted, 1.0)).good)
