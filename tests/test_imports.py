"""Which way imports point: each package names what it may lean on, and an arrow the other way fails.

agent, daemon, restore → host → sealed + wire → nothing. Formats and wire are pure: no Twisted, no I/O, no clock, no
randomness but what is handed in. The agent stays free of the daemon, of Twisted and of the admin's client.
"""

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

TOP = Path(__file__).resolve().parent.parent

# Computation only: what a format or a state machine may take from the standard library.
PURE_STDLIB = frozenset(
    {
        "__future__", "abc", "base64", "binascii", "bisect", "collections", "collections.abc", "contextlib",
        "dataclasses", "datetime", "enum", "fnmatch", "functools", "hashlib", "heapq", "hmac", "ipaddress",
        "itertools", "math", "operator", "re", "string", "struct", "types", "typing", "unicodedata", "urllib.parse",
    }
)  # fmt: skip
SEALING = frozenset({"blake3", "cbor2", "cryptography", "zstandard"})
TWISTED = frozenset({"OpenSSL", "service_identity", "twisted", "zope"})


@dataclass(frozen=True, slots=True)
class Rule:
    """What a package may import: sibling packages (itself always), third parties, and any of the standard library?"""

    packages: frozenset[str]
    third: frozenset[str]
    pure: bool = False


def rule(packages: str, third: frozenset[str], pure: bool = False) -> Rule:
    return Rule(frozenset(packages.split()), third, pure)


RULES = {
    "mastodon.sealed": rule("", SEALING, pure=True),
    "mastodon.wire": rule("mastodon.sealed", SEALING, pure=True),
    "mastodon.host": rule("mastodon.sealed mastodon.wire", SEALING | {"gnupg", "pyxdelta"}),
    "mastodon_agent": rule(
        "mastodon.sealed mastodon.wire mastodon.host", SEALING | {"gnupg", "pyfastcdc", "pyxdelta", "rich"}
    ),
    "mastodon.restore": rule("mastodon.sealed mastodon.wire mastodon.host", SEALING | {"gnupg", "pyxdelta", "rich"}),
    "mastodon.recover": rule(
        "mastodon.sealed mastodon.wire mastodon.host mastodon.restore", SEALING | {"click", "gnupg", "pyxdelta", "rich"}
    ),
    "mastodon.admin": rule(
        "mastodon.sealed mastodon.wire mastodon.host mastodon.restore", SEALING | {"click", "gnupg", "pyxdelta", "rich"}
    ),
    "mastodon.monitor": rule("mastodon.sealed mastodon.wire mastodon.host mastodon.restore mastodon.admin", SEALING),
    "mastodon.catalogue": rule("mastodon.sealed mastodon.wire mastodon.host", SEALING | TWISTED),
    "mastodon.daemon": rule(
        "mastodon.sealed mastodon.wire mastodon.host mastodon.catalogue", SEALING | TWISTED | {"prometheus_client"}
    ),
    "mastodon.operator": rule(
        "mastodon.sealed mastodon.wire mastodon.host mastodon.catalogue mastodon.daemon mastodon.recover",
        SEALING | TWISTED | {"click", "rich"},
    ),
    # Listed by every twistd, of whatever project: it has to be light.
    "twisted.plugins": rule("", frozenset({"twisted"})),
    "mastodon": rule("", frozenset(), pure=True),
}


def package_of(module: str) -> str:
    """The package in RULES that ``module`` belongs to: the longest name that fits."""
    return max((name for name in RULES if module == name or module.startswith(name + ".")), key=len, default="")


def imported(module: str, tree: ast.Module, is_package: bool) -> Iterator[str]:
    """Every name that ``module`` imports, wherever in it, also inside functions and for type checking alone."""
    parents = module.split(".") if is_package else module.split(".")[:-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = parents[: len(parents) - node.level + 1] if node.level else []
            origin = ".".join([*above, *filter(None, [node.module])])
            yield from (f"{origin}.{alias.name}" for alias in node.names)


def is_allowed(name: str, home: str) -> bool:
    """Whether a module of package ``home`` may import ``name`` (a module, or a name in one)."""
    allowed = RULES[home]
    first, parent = name.partition(".")[0], name.rpartition(".")[0]
    if first in ("mastodon", "mastodon_agent"):
        origin = package_of(name)
        return origin in (home, "mastodon") or origin in allowed.packages
    if first in sys.stdlib_module_names:
        return not allowed.pure or name in PURE_STDLIB or parent in PURE_STDLIB
    return first in allowed.third


def impure_calls(tree: ast.Module) -> Iterator[str]:
    """Calls of builtins that reach outside."""
    for node in ast.walk(tree):
        called = node.func if isinstance(node, ast.Call) else None
        if isinstance(called, ast.Name) and called.id in ("open", "print", "input", "exec", "eval", "__import__"):
            yield called.id


def wrong_arrows(module: str, source: str, is_package: bool = False) -> list[str]:
    """What in ``source`` the rules forbid to ``module``, one line each."""
    home = package_of(module)
    if not home:
        return [f"{module} belongs to no package that has a rule"]
    tree = ast.parse(source)
    wrong = [f"{module} imports {name}" for name in imported(module, tree, is_package) if not is_allowed(name, home)]
    if RULES[home].pure:
        wrong += [f"{module} calls {name}()" for name in impure_calls(tree)]
    return wrong


def modules() -> Iterator[tuple[str, Path]]:
    """Every module that is shipped, under the name that it is installed as."""
    for folder, name in (("mastodon", "mastodon"), ("agent", "mastodon_agent"), ("twisted", "twisted")):
        for path in sorted((TOP / folder).rglob("*.py")):
            inner = path.relative_to(TOP / folder).with_suffix("").parts
            yield ".".join([name, *(part for part in inner if part != "__init__")]), path


class ArrowsTests(SynchronousTestCase):
    """The sources as they are."""

    def test_arrows_point_one_way(self) -> None:
        """No module imports what its package may not lean on."""
        wrong = [
            line
            for module, path in modules()
            for line in wrong_arrows(module, path.read_text(), path.name == "__init__.py")
        ]
        self.assertEqual(wrong, [], "\n" + "\n".join(wrong))

    def test_all_packages_are_walked(self) -> None:
        """Each package that has a rule has modules, so that no rule watches over nothing."""
        self.assertEqual({package_of(module) for module, _ in modules()}, set(RULES))


class RulesTests(SynchronousTestCase):
    """The walk itself, on sources made up for it."""

    def test_wrong_arrows_are_caught(self) -> None:
        """Each way of writing an import the wrong way is found, also inside a function."""
        for module, source in (
            ("mastodon.sealed.pack", "import os"),
            ("mastodon.sealed.pack", "from os import urandom"),
            ("mastodon.sealed.pack", "from time import time"),
            ("mastodon.sealed.pack", "import secrets as s"),
            ("mastodon.sealed.pack", "import urllib.request"),
            ("mastodon.sealed.pack", "import importlib"),
            ("mastodon.sealed.pack", "import click"),
            ("mastodon.sealed.pack", "from mastodon.wire import frame"),
            ("mastodon.sealed.pack", "from mastodon import host"),
            ("mastodon.sealed.pack", "from ..host import paths"),
            ("mastodon.sealed.pack", "from .. import wire"),
            ("mastodon.sealed.pack", "def late():\n    import socket\n"),
            ("mastodon.sealed.pack", "data = open('/etc/passwd').read()"),
            ("mastodon.wire.frame", "from twisted.internet import defer"),
            ("mastodon.wire.frame", "if TYPE_CHECKING:\n    from mastodon.daemon import service\n"),
            ("mastodon.host.durable", "from mastodon.restore import plan"),
            ("mastodon.host.durable", "import twisted"),
            ("mastodon.restore.fetch", "from mastodon.daemon import spool"),
            ("mastodon.recover.main", "import OpenSSL"),
            ("mastodon.catalogue.sqlite", "from mastodon.daemon import service"),
            ("mastodon.daemon.spool", "import mastodon_agent.scan"),
            ("mastodon.daemon.spool", "from mastodon.operator import init"),
            ("mastodon_agent.scan", "from mastodon.daemon import spool"),
            ("mastodon_agent.scan", "from mastodon.restore import trust"),
            ("mastodon_agent.scan", "import zope.interface"),
            ("mastodon_agent.main", "import click"),
            ("twisted.plugins.mastodon_plugin", "import mastodon.daemon.service"),
            ("mastodon.nowhere", "import os"),
            ("elsewhere", ""),
        ):
            with self.subTest(module=module, source=source):
                self.assertEqual(len(wrong_arrows(module, source)), 1, (module, source))

    def test_right_arrows_pass(self) -> None:
        """What a package may lean on is not reported, relative or absolute."""
        for module, source in (
            ("mastodon.sealed.pack", "from mastodon import __version__\nfrom enum import Enum\nimport cbor2"),
            ("mastodon.sealed.pack", "from .errors import Malformed\nfrom . import cbor\nimport urllib.parse"),
            ("mastodon.wire.frame", "from ..sealed import cbor\nfrom collections.abc import Iterator"),
            ("mastodon.host.durable", "import os, socket\nfrom mastodon.sealed.pack import Pack\nopen('x')"),
            ("mastodon_agent.scan", "import ssl\nfrom mastodon.host import paths\nfrom mastodon_agent import ring"),
            ("mastodon.operator.init", "import click\nfrom mastodon.daemon.config import Config"),
            ("mastodon.daemon.tls", "from OpenSSL import SSL\nfrom mastodon.catalogue import interface"),
        ):
            self.assertEqual(wrong_arrows(module, source), [])

    def test_relative_imports_count_from_the_package(self) -> None:
        """In an __init__.py one dot is the package itself, in a module its parent."""
        self.assertEqual(wrong_arrows("mastodon.wire", "from . import frame", is_package=True), [])
        self.assertEqual(len(wrong_arrows("mastodon.wire", "from ..host import durable", is_package=True)), 1)


class LoadedTests(SynchronousTestCase):
    """What a started program has really loaded, imports of third parties included."""

    def loaded(self, module: str) -> set[str]:
        script = f"import sys, {module}; print(*{{name.partition('.')[0] for name in sys.modules}})"
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
        self.assertEqual(done.returncode, 0, done.stderr)
        return set(done.stdout.split())

    def test_agent_loads_neither_twisted_nor_click_nor_rich(self) -> None:
        """The hourly run pays for nothing that it does not use."""
        loaded = self.loaded("mastodon_agent.main, mastodon_agent.online")
        self.assertEqual(loaded & (TWISTED | {"click", "rich"}), set())
        self.assertIn("mastodon_agent", loaded)

    def test_plugin_loads_nothing_heavy(self) -> None:
        """What runs every minute for each machine pays for no command line, terminal or gpg."""
        loaded = self.loaded("mastodon.monitor.main, mastodon.monitor.check")
        self.assertEqual(loaded & (TWISTED | {"click", "gnupg", "prometheus_client", "rich"}), set())

    def test_clients_load_no_twisted(self) -> None:
        """Admin's client and recovery run on the base install."""
        for module in ("mastodon.admin.main", "mastodon.recover.main"):
            self.assertEqual(self.loaded(module) & TWISTED, set(), module)
