"""What is shipped: metadata, packages, console scripts, the plugin, the units, and how .ci/run counts."""

import configparser
import importlib.metadata
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

from twisted.application.service import IServiceMaker
from twisted.plugin import getPlugins
from twisted.trial.unittest import SkipTest, SynchronousTestCase

import mastodon
from tests.summary import Tally, tally

TOP = Path(__file__).resolve().parent.parent
SCRIPTS = {"check_mastodon", "mastodon", "mastodon-admin", "mastodon-agent", "mastodon-recover"}


def words(text: str) -> set[str]:
    return set(text.split())


class MetadataTests(SynchronousTestCase):
    """setup.cfg as written."""

    def setUp(self) -> None:
        self.setup = configparser.ConfigParser()
        self.setup.read(TOP / "setup.cfg")

    def test_every_package_is_named(self) -> None:
        """A folder of modules that setup.cfg forgets would be missing from every install."""
        found = {"twisted.plugins"}
        for folder, name in (("mastodon", "mastodon"), ("agent", "mastodon_agent")):
            for module in (TOP / folder).rglob("*.py"):
                found.add(".".join([name, *module.parent.relative_to(TOP / folder).parts]))
        self.assertEqual(words(self.setup["options"]["packages"]), found)

    def test_twisted_stays_a_namespace(self) -> None:
        """An __init__.py in twisted/ or twisted/plugins/ would hide Twisted itself."""
        self.assertEqual(sorted(TOP.glob("twisted/**/__init__.py")), [])

    def test_pyproject_holds_the_build_backend_alone(self) -> None:
        """All metadata stands in setup.cfg."""
        pyproject = tomllib.loads((TOP / "pyproject.toml").read_text())
        self.assertEqual(set(pyproject), {"build-system"})
        self.assertEqual(set(pyproject["build-system"]), {"requires", "build-backend"})

    def test_agent_needs_no_twisted(self) -> None:
        """The base install is what agent and admin's client need; Twisted comes with [server]."""
        base = self.setup["options"]["install_requires"].lower()
        for name in ("twisted", "pyopenssl", "service-identity"):
            self.assertNotIn(name, base)
            self.assertIn(name, self.setup["options.extras_require"]["server"])

    def test_console_scripts_exist(self) -> None:
        """Each console script names a function that is there."""
        points = self.setup["options.entry_points"]["console_scripts"].strip().splitlines()
        named = dict(line.replace(" ", "").split("=") for line in points)
        self.assertEqual(set(named), SCRIPTS)
        for target in named.values():
            self.assertTrue(callable(importlib.metadata.EntryPoint("script", target, "console_scripts").load()), target)


class InstalledTests(SynchronousTestCase):
    """What pip made of it; skipped where the working tree is used without installing."""

    def setUp(self) -> None:
        try:
            self.distribution = importlib.metadata.distribution("mastodon-backup")
        except importlib.metadata.PackageNotFoundError:
            raise SkipTest("mastodon-backup is not installed: run tests/run") from None

    def test_version(self) -> None:
        """The distribution bears the version that the package says."""
        self.assertEqual(self.distribution.version, mastodon.__version__)

    def test_every_module_is_installed(self) -> None:
        """Sources, schema files and the plugin arrive; tests and bench do not."""
        installed = {str(file) for file in self.distribution.files or () if not str(file).endswith(".pyc")}
        shipped = {str(file.relative_to(TOP)) for file in (TOP / "mastodon").rglob("*.py")}
        shipped |= {str(file.relative_to(TOP)) for file in (TOP / "mastodon").rglob("*.sql")}
        shipped |= {f"mastodon_agent/{file.relative_to(TOP / 'agent')}" for file in (TOP / "agent").rglob("*.py")}
        shipped |= {"twisted/plugins/mastodon_plugin.py"}
        self.assertEqual(shipped - installed, set())
        self.assertEqual({name for name in installed if name.startswith(("tests/", "bench/", "agent/"))}, set())

    def test_scripts_are_installed_and_run(self) -> None:
        """Every command answers --help."""
        for name in sorted(SCRIPTS):
            script = Path(sys.executable).parent / name
            done = subprocess.run([script, "--help"], capture_output=True, text=True, check=False)
            self.assertEqual(done.returncode, 0, f"{name}: {done.stderr}")
            self.assertIn("sage", done.stdout, name)

    def test_twistd_lists_mastodon(self) -> None:
        """`twistd --help` names the daemon, and `twistd mastodon --help` its option."""
        twistd = Path(sys.executable).parent / "twistd"
        listed = subprocess.run([twistd, "--help"], capture_output=True, text=True, check=False).stdout
        self.assertIn("The Mastodon backup daemon", " ".join(listed.split()))
        options = subprocess.run([twistd, "mastodon", "--help"], capture_output=True, text=True, check=False)
        self.assertIn("--config", options.stdout, options.stderr)


class PluginTests(SynchronousTestCase):
    def test_plugin_names_the_daemon(self) -> None:
        """The plugin is strings, which point to a module that twistd loads only when asked to start it."""
        makers = [maker for maker in getPlugins(IServiceMaker) if maker.tapname == "mastodon"]
        self.assertEqual([getattr(maker, "module", None) for maker in makers], ["mastodon.daemon.service"])


class UnitTests(SynchronousTestCase):
    """systemd/."""

    def test_units_verify(self) -> None:
        """systemd itself has nothing to say against the units."""
        if shutil.which("systemd-analyze") is None:
            raise SkipTest("systemd-analyze is not installed")
        units = [str(path) for path in sorted((TOP / "systemd").iterdir()) if path.suffix in (".service", ".timer")]
        self.assertEqual(len(units), 3)
        done = subprocess.run(["systemd-analyze", "verify", *units], capture_output=True, text=True, check=False)
        complaints = [line for line in done.stderr.splitlines() if "mastodon" in line]
        self.assertEqual((done.returncode, complaints), (0, []), done.stderr)

    def test_agent_sees_what_it_backs_up(self) -> None:
        """No sandboxing in the agent's unit hides or replaces files that belong into the backup."""
        unit = (TOP / "systemd/mastodon-agent.service").read_text().splitlines()
        hiding = ("PrivateTmp", "PrivateDevices", "ProtectHome", "ProtectKernelModules", "Inaccessible", "DynamicUser")
        self.assertEqual([line for line in unit if line.startswith(hiding)], [])


class SummaryTests(SynchronousTestCase):
    """The last line of .ci/run."""

    def summary(self, last: str, ran: int = 12) -> Tally:
        noise = "Ran 1 test in 0.1s\n\nFAILED (errors=1)\n"
        return tally(f"{noise}\nRan {ran} tests in 0.123s\n\n{last}\n")

    def test_counts(self) -> None:
        """Every count of trial's last summary ends in one of the three."""
        for last, line in (
            ("PASSED (successes=12)", "12 passed, 0 failed"),
            ("PASSED (skips=1, successes=11)", "11 passed, 0 failed, 1 skipped"),
            ("PASSED (skips=1, expectedFailures=2, successes=9)", "9 passed, 0 failed, 3 skipped"),
            ("FAILED (failures=1, errors=2, successes=9)", "9 passed, 3 failed"),
            ("FAILED (skips=1, failures=1, unexpectedSuccesses=1, successes=9)", "9 passed, 2 failed, 1 skipped"),
            ("FAILED (errors=12)", "0 passed, 12 failed"),
        ):
            self.assertEqual(str(self.summary(last)), line)

    def test_good_needs_a_pass_and_no_failure(self) -> None:
        """Green is what passed, not what was skipped."""
        self.assertTrue(self.summary("PASSED (skips=1, successes=11)").good)
        self.assertFalse(self.summary("PASSED (skips=12)").good)
        self.assertFalse(self.summary("FAILED (errors=1, successes=11)").good)
        self.assertFalse(self.summary("PASSED (unexpectedSuccesses=1, successes=11)").good)

    def test_no_tests_is_a_failure(self) -> None:
        """No summary, a cut one, and one of zero tests are failures, whatever an inner run printed."""
        self.assertFalse(self.summary("PASSED", ran=0).good)
        self.assertFalse(self.summary("Killed").good)
        self.assertFalse(tally("").good)
        self.assertFalse(tally("PASSED (successes=3)").good)

    def test_agrees_with_trial(self) -> None:
        """A real run of trial, one test of each outcome, is counted right."""
        folder = Path(self.mktemp())
        folder.mkdir()
        (folder / "test_made_up.py").write_text(MADE_UP)
        trial = [sys.executable, "-m", "twisted.trial", "--reporter=verbose", "test_made_up"]
        done = subprocess.run(trial, capture_output=True, text=True, cwd=folder, check=False)
        self.assertEqual(str(tally(done.stdout)), "1 passed, 3 failed, 2 skipped", done.stdout + done.stderr)
        self.assertNotEqual(done.returncode, 0)


MADE_UP = """
from twisted.trial.unittest import SynchronousTestCase


class MadeUp(SynchronousTestCase):
    def test_passes(self):
        pass

    def test_fails(self):
        self.fail("on purpose")

    def test_errs(self):
        raise ValueError("on purpose")

    def test_skips(self):
        pass
    test_skips.skip = "on purpose"

    def test_todo(self):
        self.fail("not yet")
    test_todo.todo = "on purpose"

    def test_surprise(self):
        pass
    test_surprise.todo = "on purpose"
"""
