"""The recovery kit that lies in each spool: made of what is installed, and enough to restore with."""

import base64
import csv
import errno
import hashlib
import importlib.metadata
import io
import os
import re
import shlex
import shutil
import subprocess
import sys
import zipfile
from importlib.metadata import Distribution
from pathlib import Path

from click.testing import CliRunner
from twisted.trial.unittest import SkipTest, SynchronousTestCase

from mastodon.operator import recovery
from mastodon.operator.main import main
from mastodon.recover import build, needed
from mastodon.recover.build import TOOL, Kit, build_kit
from mastodon.recover.installed_wheels import NoWheel, remake, with_dependencies
from tests.commands import QuickInstallation
from tests.restore_case import FILES
from tests.test_recover import RecoverCase

TOP = Path(__file__).resolve().parent.parent


def mastodon(*words: object, code: int = 0) -> str:
    """What the operator's command says."""
    done = CliRunner().invoke(main, [str(word) for word in words])
    assert done.exit_code == code, done.output
    return done.output


def alone() -> dict[str, str]:
    """An environment in which a Python finds neither the checkout nor what is installed beside it."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a directory."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


MADE: list[tuple[Path, Kit]] = []


def made_kit(test: SynchronousTestCase) -> tuple[Path, Kit]:
    """A kit that is made once for all tests, which only read it."""
    if not MADE:
        out = Path(test.mktemp()).resolve()
        MADE.append((out, build_kit(out)))
    return MADE[0]


class KitTests(SynchronousTestCase):
    """Of what is installed here."""

    def setUp(self) -> None:
        self.out, self.kit = made_kit(self)

    def test_is_whole(self) -> None:
        """Tool, specification, and a wheel of every library with all that it needs."""
        names = {re.split(r"-\d", name)[0] for name in self.kit.wheels}
        self.assertEqual(self.kit.lacking, ())
        self.assertLessEqual({"blake3", "cbor2", "click", "cryptography", "python_gnupg", "zstandard"}, names)
        self.assertLessEqual({"pyxdelta", "cffi", "pycparser"}, names)
        self.assertNotIn("twisted", names)
        self.assertEqual((self.out / "protocol-spec.md").read_bytes(), (TOP / "protocol-spec.md").read_bytes())
        self.assertTrue(os.access(self.out / TOOL, os.X_OK))

    def test_is_the_same_again(self) -> None:
        """The same installation makes the same kit, byte for byte."""
        again = Path(self.mktemp())
        build_kit(again)
        self.assertEqual(contents(again), contents(self.out))

    def test_records_verify(self) -> None:
        """A wheel's RECORD names each of its files with its hash and size; the file's name bears the wheel's tags."""
        for path in sorted((self.out / "wheels").iterdir()):
            with zipfile.ZipFile(path) as wheel:
                (record,) = (name for name in wheel.namelist() if name.endswith(".dist-info/RECORD"))
                rows = {row[0]: row[1:] for row in csv.reader(io.StringIO(wheel.read(record).decode()))}
                self.assertEqual(list(rows), wheel.namelist())
                self.assertEqual(rows.pop(record), ["", ""])
                for name, (digest, size) in rows.items():
                    data = wheel.read(name)
                    found = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).decode().rstrip("=")
                    self.assertEqual((digest, size), (f"sha256={found}", str(len(data))), name)
                tags = re.findall(r"^Tag: (\S+)$", wheel.read(record.replace("RECORD", "WHEEL")).decode(), re.M)
            python, abi, platform = path.stem.split("-")[-3:]
            spelled = {f"{a}-{b}-{c}" for a in python.split(".") for b in abi.split(".") for c in platform.split(".")}
            self.assertEqual(spelled, set(tags))

    def test_modules_are_those_installed(self) -> None:
        """What the wheel holds is what runs here."""
        name, data = remake(importlib.metadata.distribution("click"))
        installed = importlib.metadata.distribution("click").locate_file("click/core.py")
        with zipfile.ZipFile(io.BytesIO(data)) as wheel:
            self.assertEqual(wheel.read("click/core.py"), Path(str(installed)).read_bytes())
            self.assertEqual([one for one in wheel.namelist() if "__pycache__" in one or "INSTALLER" in one], [])
        self.assertEqual((self.out / "wheels" / name).read_bytes(), data)

    def test_what_is_not_installed_is_told(self) -> None:
        """A library that is not there, and a specification that is not, are named; the rest is made."""
        self.patch(build, "LIBRARIES", {"click": "click", "nowhere": "No_Where"})
        self.patch(build, "find_specification", lambda: None)
        out = Path(self.mktemp())
        kit = build_kit(out)
        self.assertEqual(
            kit.lacking,
            ("protocol-spec.md: it was not installed with Mastodon", "the wheel of no-where: it is not installed here"),
        )
        self.assertEqual([name.partition("-")[0] for name in kit.wheels], ["click", "pyxdelta"])
        self.assertFalse((out / "protocol-spec.md").exists())


class OddDistributionTests(SynchronousTestCase):
    """What pip did not install as usual."""

    def setUp(self) -> None:
        self.site = Path(self.mktemp()).resolve() / "lib/site-packages"
        self.info = self.site / "odd_one-1.0.dist-info"
        self.info.mkdir(parents=True)
        self.write("odd_one-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: odd.one\nVersion: 1.0\n")
        self.write("odd_one-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        self.write("odd.py", "")

    def write(self, name: str, text: str) -> None:
        path = self.site / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def distribution(self, *files: str) -> Distribution:
        """With a RECORD of these files."""
        self.write("odd_one-1.0.dist-info/RECORD", "".join(f"{name},,\n" for name in files))
        (found,) = importlib.metadata.distributions(path=[str(self.site)])
        return found

    def refused(self, distribution: Distribution) -> str:
        return str(self.assertRaises(NoWheel, remake, distribution))

    def test_no_record(self) -> None:
        """As Debian's packages are: what belongs to it cannot be known."""
        distribution = self.distribution()
        (self.info / "RECORD").unlink()
        self.assertIn("without a RECORD", self.refused(distribution))

    def test_no_tags(self) -> None:
        """Where it is not told what the wheel fits, there is none."""
        distribution = self.distribution("odd.py", "odd_one-1.0.dist-info/WHEEL")
        self.write("odd_one-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\n")
        self.assertIn("no tags", self.refused(distribution))
        (self.info / "WHEEL").unlink()
        self.assertIn("not installed from a wheel", self.refused(distribution))

    def test_installed_in_place(self) -> None:
        """An editable install points to a source tree: its wheel would be empty."""
        self.assertIn("in place", self.refused(self.distribution("__editable__.odd.pth", "odd.py")))

    def test_files_elsewhere_stay_there(self) -> None:
        """Scripts, absolute paths and files that were removed are left out; names and modes are kept."""
        self.write("odd.sh", "")
        (self.site / "odd.sh").chmod(0o755)
        self.write("../../bin/odd", "")
        name, data = remake(
            self.distribution(
                "../../bin/odd", "/etc/passwd", "odd.py", "odd.sh", "gone.py", "odd_one-1.0.dist-info/WHEEL",
                "odd_one-1.0.dist-info/METADATA", "odd_one-1.0.dist-info/RECORD",
            )
        )  # fmt: skip
        self.assertEqual(name, "odd_one-1.0-py3-none-any.whl")
        with zipfile.ZipFile(io.BytesIO(data)) as wheel:
            modes = {entry.filename.rpartition("/")[2]: entry.external_attr >> 16 & 0o777 for entry in wheel.infolist()}
        self.assertEqual(modes, {"odd.py": 0o644, "odd.sh": 0o755, "METADATA": 0o644, "WHEEL": 0o644, "RECORD": 0o644})

    def test_dependencies(self) -> None:
        """All that a library needs is found, extras are not; who asks for what is absent is told."""
        found, absent = with_dependencies(["Cryptography", "no_such.library"])
        self.assertLessEqual({"cryptography", "cffi", "pycparser"}, set(found))
        self.assertNotIn("bcrypt", found)
        self.assertEqual(absent, ["no-such-library"])


class OperatorTests(SynchronousTestCase):
    """How the kit gets into spools, and stays new."""

    def setUp(self) -> None:
        self.server = Path(self.mktemp()).resolve()
        self.config = self.server / "mastodon.toml"
        self.spool = self.server / "spool"

    def test_init_and_spool_add(self) -> None:
        """Both put it there, and say so in a line; what spool add prints can still be pasted into the configuration."""
        said = mastodon("init", self.server, "--name", "localhost")
        self.assertIn(f"{self.spool / 'recovery'}: ", said)
        first = contents(self.spool / "recovery")
        self.assertIn(TOOL, first)
        block = mastodon("--config", self.config, "spool", "add", self.server / "second")
        self.assertEqual(contents(self.server / "second/recovery"), first)
        with self.config.open("a") as file:
            file.write("\n" + block)
        said = mastodon("--config", self.config, "spool", "recovery")
        self.assertEqual(len(re.findall(r"recovery: \d+ files", said)), 2)

    def test_none_when_not_wanted(self) -> None:
        """--no-recovery leaves it out."""
        said = mastodon("init", self.server, "--name", "localhost", "--no-recovery")
        mastodon("--config", self.config, "spool", "add", self.server / "second", "--no-recovery")
        self.assertNotIn("Recovery", said)
        self.assertEqual(list(self.server.glob("*/recovery")), [])

    def test_renewed(self) -> None:
        """An older wheel for the same Python gives way; wheels for another Python and the operator's notes stay."""
        mastodon("init", self.server, "--name", "localhost", "--no-recovery")
        old, kit = self.spool / "recovery/wheels", Path(self.mktemp())
        for folder, names in (
            (old, ("a-1-cp311-cp311-linux.whl", "a-1-cp312-cp312-linux.whl", "b-1-py3-none-any.whl", "notes")),
            (kit / "wheels", ("a-2-cp311-cp311-linux.whl",)),
        ):
            folder.mkdir(parents=True)
            for name in names:
                (folder / name).touch()
        mastodon("--config", self.config, "spool", "recovery", "--recovery", kit)
        self.assertEqual(
            sorted(path.name for path in old.iterdir()),
            ["a-1-cp312-cp312-linux.whl", "a-2-cp311-cp311-linux.whl", "b-1-py3-none-any.whl", "notes"],
        )

    def test_no_spool(self) -> None:
        """A directory without marker, as below a disk that is not mounted, is not written to; the others have it."""
        mastodon("init", self.server, "--name", "localhost", "--no-recovery")
        other = Path(self.mktemp()).resolve()
        other.mkdir()
        said = mastodon("--config", self.config, "spool", "recovery", other, self.spool, code=1)
        self.assertIn(f"not in {other}", said)
        self.assertEqual(list(other.iterdir()), [])
        self.assertTrue((self.spool / "recovery" / TOOL).exists())

    def test_failure_costs_the_kit_alone(self) -> None:
        """When no kit can be made the server is there nevertheless, and it is said how to get the kit."""

        def full(out: Path) -> None:
            raise OSError(errno.ENOSPC, "No space left on device", str(out))

        self.patch(recovery, "build_kit", full)
        said = mastodon("init", self.server, "--name", "localhost")
        self.assertRegex(said, "not made: .*No space left on device; then repeat: mastodon spool recovery")
        self.assertTrue(self.config.exists())
        mastodon("--config", self.config, "spool", "recovery", code=1)


class KitRestoresTests(RecoverCase):
    """With nothing but the spool, Python and gpg: no checkout, no installed library is in reach."""

    def setUp(self) -> None:
        super().setUp()
        self.backup.write_spool(self.spool)
        shutil.copytree(made_kit(self)[0], self.spool / "recovery")
        self.tool = self.spool / "recovery" / TOOL

    def python(self, *words: object, code: int = 0, libraries: str = "") -> str:
        """A Python that is on its own; stdout and stderr together."""
        done = subprocess.run(
            list(map(str, words)), env={**alone(), "PYTHONPATH": libraries}, cwd=self.top, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, text=True, check=False,
        )  # fmt: skip
        self.assertEqual(done.returncode, code, done.stdout)
        self.assertNotIn("Traceback", done.stdout)
        return done.stdout

    def restores(self, *python: object, libraries: str = "") -> None:
        """The tool brings everything back, and what it runs on knows no other Mastodon."""
        probe = "import importlib.util as u; print([n for n in ('mastodon', 'twisted', 'tests') if u.find_spec(n)])"
        self.assertEqual(self.python(*python, "-c", probe, libraries=libraries).strip(), "[]")
        self.python(
            *python, self.tool, "restore", self.spool, *self.keys(), "--to", self.top / "out", libraries=libraries
        )
        self.assertEqual(self.files(), FILES | {"etc/new": b"new"})

    def test_promise_p10_kit_restores_in_a_fresh_environment(self) -> None:
        """The tool says how to install its libraries from the wheels; done as it says, it restores."""
        said = self.python(sys.executable, "-I", "-S", self.tool, "list", self.spool, code=2)
        make, install = (shlex.split(line) for line in said.splitlines() if line.startswith("    "))
        environment = self.top / "environment"
        self.assertEqual(make, [sys.executable, "-m", "venv", "/tmp/recover"])
        made = subprocess.run([*make[:-1], environment], env=alone(), capture_output=True, text=True, check=False)
        if made.returncode:
            raise SkipTest(f"no environment can be made here: {made.stdout}{made.stderr}")
        self.assertEqual(install[0], "/tmp/recover/bin/pip")
        self.assertIn("--no-index", install)
        self.python(environment / "bin/python", "-m", "pip", *install[1:])
        self.python(environment / "bin/python", "-m", "pip", "check")
        self.restores(environment / "bin/python", "-I")

    def test_promise_p10_kit_restores_unpacked(self) -> None:
        """Without pip, the wheels unpacked and put on the path are enough; what undoes deltas is among them."""
        libraries = self.top / "libraries"
        for wheel in (self.spool / "recovery/wheels").iterdir():
            self.python(sys.executable, "-I", "-S", "-m", "zipfile", "-e", wheel, libraries)
        self.restores(sys.executable, "-S", libraries=str(libraries))
        where = "import pyxdelta; print(pyxdelta.__file__)"
        self.assertIn(str(libraries), self.python(sys.executable, "-S", "-c", where, libraries=str(libraries)))

    def test_promise_p10_nothing_left_but_a_spool(self) -> None:
        """What the agent backed up comes back, edits in a large file too, after all else of the server is gone."""
        tree = self.top / "tree"
        tree.mkdir()
        (tree / "small").write_bytes(b"small")
        (tree / "large").write_bytes(os.urandom(3 << 20))
        here = QuickInstallation(self.top / "whole")
        here.work.mkdir()
        self.addCleanup(here.stop_daemon)
        here.set_up()
        here.call("back up", *here.agent_words(), tree)
        with (tree / "large").open("r+b") as file:
            file.seek(1 << 20)
            file.write(b"edited")
        here.call("back up what changed", *here.agent_words(), tree)
        here.stop_daemon()
        self.spool = here.server / "spool"
        shutil.rmtree(here.server / "state")
        shutil.rmtree(here.server / "keys")
        libraries = self.top / "libraries"
        for wheel in (self.spool / "recovery/wheels").iterdir():
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(libraries)
        self.python(
            sys.executable, "-S", self.spool / "recovery" / TOOL, "restore", self.spool, "--url-file", here.url,
            "--passkey-file", here.passkey, "--to", self.top / "out", libraries=str(libraries),
        )  # fmt: skip
        self.assertEqual(contents(self.top / "out" / tree.relative_to("/")), contents(tree))

    def test_missing_libraries_are_named(self) -> None:
        """Without its libraries the tool says which, and how to get them; no traceback."""
        said = self.python(sys.executable, "-I", "-S", self.tool, "list", self.spool, code=2)
        self.assertIn("missing Python libraries: blake3, cbor2, click, cryptography, python-gnupg, zstandard", said)
        self.assertIn(f"--no-index --find-links {self.spool / 'recovery/wheels'} blake3", said)
        shutil.rmtree(self.spool / "recovery/wheels")
        said = self.python(sys.executable, "-I", "-S", self.tool, "list", self.spool, code=2)
        self.assertIn("pip install blake3", said)

    def test_one_missing_library_is_named_alone(self) -> None:
        """Of several libraries only the one that is missing is called missing."""
        libraries = self.top / "libraries"
        for wheel in (self.spool / "recovery/wheels").iterdir():
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(libraries)
        (libraries / "gnupg.py").unlink()
        said = self.python(sys.executable, "-S", self.tool, "list", self.spool, code=2, libraries=str(libraries))
        self.assertIn("missing Python libraries: python-gnupg\n", said)

    def test_wheels_for_another_python(self) -> None:
        """Wheels that do not fit this Python are told apart, with the version that they fit."""
        self.patch(needed, "LIBRARIES", {"nowhere_to_be_found": "nowhere"})
        folder = self.top / "kit"
        (folder / "wheels").mkdir(parents=True)
        (folder / "wheels/cbor2-6.3.0-cp399-cp399-linux_x86_64.whl").touch()
        said = "\n".join(needed.missing(folder))
        self.assertIn("the wheels beside this fit python3.99, and this is Python", said)
        self.assertIn("python3.99 -m venv", said)
