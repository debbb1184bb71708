"""A scan in shares finds what one scan finds, whatever happened to the tree since, and wherever the shares meet."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mastodon.host import paths
from mastodon.sealed.listing import Key
from mastodon_agent import scan
from mastodon_agent.exclude import Rules, parse_pattern
from mastodon_agent.old_listing import OldListing
from mastodon_agent.records import make_row
from mastodon_agent.roots import Node, fold, make_tree, resolve
from mastodon_agent.scan import Scan, ScanRules
from mastodon_agent.share import Share

Entry = tuple[Key, bytes]
"""What a listing says of one name, and the row."""
NAMES = (b"a", b"a-", b"a.d", b"aa", b"b", b"locked", b"broken", b"mounted", b"x.o", b"CACHEDIR.TAG")
WORK = b"work-"
"""How the directory that has the tree is called."""
REAL_STAT, REAL_OPEN = os.stat, paths.open_directory


class Page:
    """Entries of an old listing, as the state would give them."""

    def __init__(self, entries: list[Entry]) -> None:
        self._entries = entries

    def sections(self) -> list[tuple[tuple[bytes, ...], list[bytes]]]:
        found: list[tuple[tuple[bytes, ...], list[bytes]]] = []
        for (directory, name), _ in self._entries:
            if not found or found[-1][0] != directory:
                found.append((directory, []))
            found[-1][1].append(name)
        return found

    def rows(self) -> bytes:
        return b"".join(row for _, row in self._entries)


class Script:
    """A visitor that writes down what it is told, counts of a kind joined."""

    def __init__(self) -> None:
        self.steps: list[Any] = []
        self.listing: list[Entry] = []

    def count(self, kind: str, count: int) -> None:
        if self.steps and self.steps[-1][0] == kind:
            count += self.steps.pop()[1]
        self.steps.append((kind, count))

    def unchanged(self, count: int) -> None:
        self.count("unchanged", count)

    def gone(self, count: int) -> None:
        self.count("gone", count)

    def carried(self, count: int) -> None:
        self.count("carried", count)

    def changed(self, directory, dir_fd, name, st, replaces) -> None:
        self.steps.append(("changed", directory, name, replaces))
        self.listing.append(((directory, name), make_row(st)))

    def note(self, reason, directory, name, number) -> None:
        self.steps.append(("note", reason, directory, name, number))


def stat_with_faults(name: Any, **where: Any) -> Any:
    """os.stat, but that b"broken" fails, b"mounted" is another file system, and the directories above the tree, which
    anybody may change meanwhile, stay as they were."""
    if name == b"broken" and faults.broken:
        raise OSError(5, "Input/output error")
    found = REAL_STAT(name, **where)
    if "dir_fd" in where and name not in NAMES and not name.startswith(WORK):
        return above.setdefault((name, found.st_dev, found.st_ino), found)
    if name != b"mounted":
        return found
    values = {one: getattr(found, one) for one in dir(found) if one.startswith("st_")}
    return SimpleNamespace(**{**values, "st_dev": found.st_dev + 1})


def open_with_faults(parent_fd: int, name: bytes) -> int:
    """open_directory, but that b"locked" may not be entered."""
    if name == b"locked" and faults.locked:
        raise PermissionError(13, "Permission denied")
    return REAL_OPEN(parent_fd, name)


faults = SimpleNamespace(broken=False, locked=False)
above: dict[tuple[bytes, int, int], os.stat_result] = {}


def paths_of(depth: int) -> st.SearchStrategy[tuple[bytes, ...]]:
    return st.lists(st.sampled_from(NAMES), min_size=1, max_size=depth).map(tuple)


def put(top: bytes, path: tuple[bytes, ...], is_directory: bool) -> None:
    """A file or directory at a path, whatever was in its way before."""
    for depth in range(1, len(path) + 1):
        where = os.path.join(top, *path[:depth])
        if depth < len(path) or is_directory:
            if os.path.lexists(where) and not os.path.isdir(where):
                os.unlink(where)
            os.makedirs(where, exist_ok=True)
        else:
            remove(where)
            Path(os.fsdecode(where)).write_bytes(b"Signature: 8a477f597d28d172789f06886806bc55")


def remove(where: bytes) -> None:
    if os.path.isdir(where):
        shutil.rmtree(where)
    elif os.path.lexists(where):
        os.unlink(where)


class ShareCase(SynchronousTestCase):
    def setUp(self) -> None:
        for target, name, value in (
            (scan.os, "stat", stat_with_faults), (paths, "open_directory", open_with_faults),
        ):  # fmt: skip
            patcher = mock.patch.object(target, name, value)
            patcher.start()
            self.addCleanup(patcher.stop)
        self.addCleanup(faults.__dict__.update, broken=False, locked=False)

    @staticmethod
    def listing(entries: list[Entry]) -> OldListing:
        """A cursor over some entries, in pages of three."""
        pages: Iterator[Any] = (Page(entries[at : at + 3]) for at in range(0, len(entries), 3))
        return OldListing(pages, Page.rows)  # type: ignore[arg-type]

    def in_shares(
        self, top: Node, rules: ScanRules, old: list[Entry], cuts: list[int], script: Script
    ) -> list[tuple[bytes, ...]]:
        """A scan in shares that meet at these entries of the old listing; what each saw at its seams."""
        edges = [0, *cuts, len(old)]
        seams = []
        for start, end in pairwise(edges):
            share = Share(old[start][0] if start else None, old[end][0] if end < len(old) else None)
            seams.append(Scan(top, rules, self.listing(old[start:end]), script, share=share).run())
        return seams


class SameAsOneScanTests(ShareCase):
    @settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(data=st.data())
    def test_any_change_any_cut(self, data: st.DataObject) -> None:
        """The shares' scripts, one behind the other, are the script of one scan, and both sides of each seam agree:
        under additions, removals, files turned directories and back, excludes, caches, mounts, several roots,
        directories that cannot be entered and names that cannot be looked at."""
        work = os.fsencode(tempfile.mkdtemp(prefix=WORK.decode()))
        self.addCleanup(shutil.rmtree, work, ignore_errors=True)
        for path in data.draw(st.lists(paths_of(4), max_size=14)):
            put(work, path, data.draw(st.booleans()))
        roots = data.draw(st.lists(paths_of(2), max_size=2))
        here = resolve(work)
        top = make_tree(fold([here + root for root in roots] or [here]))
        patterns = data.draw(st.lists(st.sampled_from(["*.o", "a/", "/**/b/a*", "!a-"]), max_size=2))
        rules = ScanRules(
            Rules([parse_pattern(text.encode(), "test") for text in patterns], (), data.draw(st.booleans())),
            one_file_system=data.draw(st.booleans()),
        )
        faults.broken = faults.locked = False
        before = Script()
        Scan(top, ScanRules(Rules()), OldListing(iter(())), before).run()
        old = before.listing
        for path in data.draw(st.lists(paths_of(4), max_size=6)):
            if data.draw(st.booleans()):
                put(work, path, data.draw(st.booleans()))
            else:
                remove(os.path.join(work, *path))
        faults.broken, faults.locked = data.draw(st.booleans()), data.draw(st.booleans())
        whole, shares = Script(), Script()
        Scan(top, rules, self.listing(old), whole).run()
        inner = st.integers(1, len(old) - 1) if len(old) > 1 else st.nothing()
        cuts = sorted(set(data.draw(st.lists(inner, max_size=4))))
        seams = self.in_shares(top, rules, old, cuts, shares)
        self.assertEqual(shares.steps, whole.steps)
        ends = [seam for pair in seams for seam in pair][1:-1]
        self.assertEqual(ends[::2], ends[1::2])
        shutil.rmtree(work)


class SeamTests(ShareCase):
    """What changes between the two looks at a seam does not go unseen."""

    def setUp(self) -> None:
        super().setUp()
        self.work = os.fsencode(tempfile.mkdtemp(prefix=WORK.decode()))
        self.addCleanup(shutil.rmtree, self.work, ignore_errors=True)
        for name in (b"d/a", b"d/c", b"d/m/n"):
            put(self.work, tuple(name.split(b"/")), False)
        self.top = make_tree([resolve(self.work)])
        script = Script()
        Scan(self.top, ScanRules(Rules()), OldListing(iter(())), script).run()
        self.old = script.listing
        (self.cut,) = (at for at, ((_, name), _) in enumerate(self.old) if name == b"c")

    def seams(self, between: Any) -> tuple[bytes, bytes]:
        """What the first share saw of the seam within the directory d, and after ``between`` the second one."""
        key = self.old[self.cut][0]
        _, before = Scan(
            self.top, ScanRules(Rules()), self.listing(self.old[: self.cut]), Script(), share=Share(None, key)
        ).run()  # fmt: skip
        between()
        after, _ = Scan(
            self.top, ScanRules(Rules()), self.listing(self.old[self.cut :]), Script(), share=Share(key)
        ).run()  # fmt: skip
        return before, after

    def test_nothing_happened(self) -> None:
        """Both saw the same."""
        before, after = self.seams(lambda: None)
        self.assertEqual(before, after)

    def test_what_changes_on_the_way_is_noticed(self) -> None:
        """A directory whose entry the first share never saw, or saw as a file, or that only the second cannot enter."""
        for change in (
            lambda: put(self.work, (b"d", b"b", b"new"), False),
            lambda: put(self.work, (b"d", b"a", b"new"), False),
            lambda: put(self.work, (b"e", b"new"), False),
            lambda: remove(self.work),
            lambda: faults.__dict__.update(locked=True),
        ):
            self.setUp()
            put(self.work, (b"d", b"locked", b"file"), False)
            before, after = self.seams(change)
            if faults.locked:
                self.assertEqual(before, after)  # each tells of what it cannot enter itself
            else:
                self.assertNotEqual(before, after)
            faults.locked = False
            remove(self.work)

    def test_what_changes_elsewhere_is_no_matter(self) -> None:
        """Files come and go, and what lies off the way."""

        def change() -> None:
            put(self.work, (b"d", b"b"), False)
            put(self.work, (b"d", b"m", b"o"), True)

        before, after = self.seams(change)
        self.assertEqual(before, after)

    def test_what_cannot_be_entered_is_told_once(self) -> None:
        """A directory in which two shares meet, and that neither can enter, is noted by the first; both carry over."""
        faults.locked = False
        put(self.work, (b"locked", b"a"), False)
        put(self.work, (b"locked", b"b"), False)
        script = Script()
        Scan(self.top, ScanRules(Rules()), OldListing(iter(())), script).run()
        (cut,) = (
            at
            for at, ((directory, name), _) in enumerate(script.listing)
            if directory[-1:] == (b"locked",) and name == b"b"
        )
        faults.locked = True
        shares = Script()
        first, second = self.in_shares(self.top, ScanRules(Rules()), script.listing, [cut], shares)
        self.assertEqual(first[1], second[0])
        self.assertEqual([step[0] for step in shares.steps if step[0] in ("note", "carried")], ["note", "carried"])
