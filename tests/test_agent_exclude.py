"""Exclusion: patterns as gitignore documents them, tags, mounts, and --explain."""

import os

from twisted.trial.unittest import SynchronousTestCase

from mastodon_agent.exclude import BadPattern, Rules, parse_file, parse_pattern
from mastodon_agent.explain import explain
from mastodon_agent.roots import fold, make_tree, resolve
from mastodon_agent.scan import CACHE_SIGNATURE, pseudo_devices
from tests.agent_runs import AgentCase

# pattern, path, is a directory, left out
DOCUMENTED = [
    ("foo", "foo", False, True),
    ("foo", "a/b/foo", False, True),
    ("foo", "foobar", False, False),
    ("foo/", "a/foo", True, True),
    ("foo/", "a/foo", False, False),
    ("/foo", "foo", False, True),
    ("/foo", "a/foo", False, False),
    ("doc/frotz", "doc/frotz", False, True),
    ("doc/frotz/", "doc/frotz", True, True),
    ("doc/frotz/", "a/doc/frotz", True, False),
    ("frotz/", "a/frotz", True, True),
    ("foo/*", "foo/test.json", False, True),
    ("foo/*", "foo/bar/hello.c", False, False),
    ("*.o", "a/b/x.o", False, True),
    ("*.o", "a/b/x.oo", False, False),
    ("a?c", "abc", False, True),
    ("a?c", "a/c", False, False),
    ("a?c", "ac", False, False),
    ("*", "anything/at", False, True),
    ("a*c", "a/b/c", False, False),
    ("**/foo", "foo", False, True),
    ("**/foo", "a/b/foo", False, True),
    ("**/foo/bar", "x/y/foo/bar", False, True),
    ("**/foo/bar", "foo/bar", False, True),
    ("**/foo/bar", "foo/x/bar", False, False),
    ("abc/**", "abc/x", False, True),
    ("abc/**", "abc/x/y", False, True),
    ("abc/**", "abc", True, False),
    ("a/**/b", "a/b", False, True),
    ("a/**/b", "a/x/b", False, True),
    ("a/**/b", "a/x/y/b", False, True),
    ("a/**/b", "ab", False, False),
    ("a**b", "axxb", False, True),
    ("a**b", "ax/xb", False, False),
    ("[a-c]x", "bx", False, True),
    ("[a-c]x", "dx", False, False),
    ("[!a-c]x", "dx", False, True),
    ("[^a-c]x", "bx", False, False),
    ("[]]x", "]x", False, True),
    ("[a-]x", "-x", False, True),
    ("[[:digit:]]x", "7x", False, True),
    ("[[:digit:]]x", "ax", False, False),
    ("a[/]b", "a/b", False, False),
    ("a[!x]b", "a/b", False, False),
    (r"\*x", "*x", False, True),
    (r"\*x", "ax", False, False),
    (r"\!x", "!x", False, True),
    (r"\#x", "#x", False, True),
    ("a.c", "abc", False, False),
    ("new\nline", "d/new\nline", False, True),
    ("a+(b)", "a+(b)", False, True),
]


def rules(*patterns: str) -> Rules:
    return Rules([parse_pattern(os.fsencode(text), "test") for text in patterns])


class PatternTests(SynchronousTestCase):
    """One pattern, one path."""

    def test_documented_semantics(self):
        """Each example of gitignore's manual, and its edges."""
        for pattern, path, is_directory, out in DOCUMENTED:
            with self.subTest(pattern=pattern, path=path):
                self.assertEqual(rules(pattern).excludes(path.encode(), is_directory), out, (pattern, path))

    def test_last_match_decides(self):
        """An exclamation mark takes back in, what follows may leave out again."""
        some = rules("*.log", "!keep.log", "/tmp/keep.log")
        self.assertTrue(some.excludes(b"a.log", False))
        self.assertFalse(some.excludes(b"keep.log", False))
        self.assertTrue(some.excludes(b"tmp/keep.log", False))

    def test_bytes_that_are_no_utf8(self):
        """Patterns are bytes, as names are."""
        some = Rules([parse_pattern(b"\xff?", "test")])
        self.assertTrue(some.excludes(b"a/\xff\xfe", False))

    def test_file(self):
        """Comments, empty lines, blanks at the end, CRLF."""
        data = b"# comment\n\n*.o  \n\\#name\nblank\\ \nx\r\n!y\n"
        self.assertEqual(
            [one.text for one in parse_file(data, "f")], [b"*.o", b"\\#name", b"blank\\ ", b"x", b"!y"]
        )  # fmt: skip
        self.assertTrue(Rules(parse_file(data, "f")).excludes(b"blank ", False))
        self.assertIn("line 3", parse_file(data, "f")[0].origin)

    def test_bad_patterns(self):
        """What can match nothing is refused, with the place where it stands."""
        for line in (b"[abc", b"a\\", b"!", b"/", b"[b-a]", b"[[:nothing:]]", b"x" * 5000):
            error = self.assertRaises(BadPattern, parse_pattern, line, "somewhere")
            self.assertIn("somewhere", str(error))


class ExcludedTreesTests(AgentCase):
    """In runs."""

    def setUp(self) -> None:
        super().setUp()
        for name in ("a.txt", "a.log", "cache/x", "cache/sub/y", "d/cache/z", "d/keep.log"):
            self.write(name, name)

    def test_excluded_directories_are_not_entered(self):
        """They and all below them are left out, everywhere."""
        self.back_up(excludes=("cache/",))
        self.assertEqual(set(self.entries()), {"a.txt", "a.log", "d", "d/keep.log"})
        self.assertEqual(self.vault.root()[0].excludes, (b"cache/",))

    def test_nothing_below_an_excluded_directory_comes_back(self):
        """As gitignore has it."""
        self.back_up(excludes=("cache/", "!y", "*.log", "!keep.log"))
        self.assertEqual(set(self.entries()), {"a.txt", "d", "d/keep.log"})

    def test_roots_are_not_excluded(self):
        """A path on the command line wins over a pattern that matches it or what leads to it."""
        self.back_up(self.tree / "cache", excludes=("cache", "tree", "y"))
        self.assertEqual(set(self.entries()), {"cache", "cache/x", "cache/sub"})

    def test_newly_excluded_files_go(self):
        """What was in the listing and is excluded now is no longer there; what comes back is."""
        self.back_up()
        self.back_up(excludes=("*.log",))
        self.assertNotIn("a.log", self.entries())
        self.back_up()
        self.assertEqual(self.content("a.log"), b"a.log")

    def test_exclude_if_present(self):
        """A directory with the tag keeps nothing but the tag."""
        self.write("cache/.nobackup", b"")
        self.back_up(rules=Rules(tags=[b".nobackup"]))
        self.assertEqual({name for name in self.entries() if name.startswith("cache")}, {"cache", "cache/.nobackup"})
        self.assertIn("d/cache/z", self.entries())

    def test_exclude_caches(self):
        """A genuine CACHEDIR.TAG counts, a file that merely bears the name does not."""
        self.write("cache/CACHEDIR.TAG", CACHE_SIGNATURE + b"\n# made by a test\n")
        self.write("d/cache/CACHEDIR.TAG", b"not the signature")
        self.back_up(rules=Rules(caches=True))
        entries = self.entries()
        self.assertEqual({name for name in entries if name.startswith("cache")}, {"cache", "cache/CACHEDIR.TAG"})
        self.assertIn("d/cache/z", entries)

    def test_own_state_is_recorded_as_a_directory(self):
        """The directory of a given inode is not entered: the agent's state changes while it is read."""
        st = os.stat(self.tree / "d")
        self.back_up(scan={"skip_inode": (st.st_dev, st.st_ino)})
        self.assertIn("d", self.entries())
        self.assertNotIn("d/keep.log", self.entries())

    def test_pseudo_file_systems(self):
        """Their devices are found in mountinfo."""
        line = b"24 30 0:22 / /proc rw,nosuid - proc proc rw\n25 30 8:1 / / rw shared:1 - ext4 /dev/sda1 rw\n"
        self.assertEqual(pseudo_devices(line), {os.makedev(0, 22)})

    def test_proc_is_not_entered(self):
        """/proc is a directory in the listing, with nothing in it."""
        if not os.path.ismount("/proc"):
            self.skipTest("/proc is not mounted")
        self.back_up(self.tree, self.tree / "a.txt", scan={"one_file_system": True})
        from mastodon_agent.old_listing import OldListing
        from mastodon_agent.scan import Scan, ScanRules

        seen = []

        class Names:
            def changed(self, directory, dir_fd, name, st, replaces):
                seen.append((directory, name))

            def note(self, *_):
                pass

            unchanged = gone = carried = note

        with open("/proc/self/mountinfo", "rb") as file:
            pseudo = pseudo_devices(file.read())
        everything_else = [b"/" + name for name in map(os.fsencode, os.listdir("/")) if name != b"proc"]
        patterns = [parse_pattern(name, "test") for name in everything_else]
        Scan(make_tree([()]), ScanRules(Rules(patterns)), OldListing(iter(())), Names(), pseudo).run()
        self.assertEqual(seen, [((), b"proc")])


class ExplainTests(AgentCase):
    """--explain names the rule that decides."""

    def explain(self, path: str, *patterns: str, **options) -> str:
        top = make_tree(fold([resolve(os.fsencode(self.tree / "in"))]))
        given = Rules([parse_pattern(text.encode(), f"--exclude {text}") for text in patterns], **options)
        return explain(os.fsencode(self.tree / path), top, given, False)

    def test_reasons(self):
        """In, out by a pattern, out with its directory, taken back in, outside of all paths, on the way to one."""
        self.write("in/sub/file")
        self.assertIn("no rule", self.explain("in/sub/file"))
        self.assertIn("left out by the pattern *le", self.explain("in/sub/file", "*le"))
        self.assertIn("with", self.explain("in/sub/file", "sub/"))
        self.assertIn("taken back in by the pattern !file", self.explain("in/sub/file", "f*", "!file"))
        self.assertIn("none of the paths", self.explain("out"))
        self.assertIn("leads to", self.explain("."))

    def test_tags(self):
        """A directory left out for its tag is named."""
        self.write("in/sub/file")
        self.write("in/sub/.no")
        self.assertIn(".no", self.explain("in/sub/file", tags=[b".no"]))
        self.assertIn("no rule", self.explain("in/sub/.no", tags=[b".no"]))

    def test_explains_what_a_run_does(self):
        """For each path of a tree, explanation and run agree."""
        for name in ("a", "b.o", "sub/c", "sub/d.o", "sub/keep.o", "out/e"):
            self.write("in/" + name)
        patterns = ("*.o", "!keep.o", "out/")
        self.back_up(self.tree / "in", excludes=patterns)
        recorded = self.entries()
        for where, _, names in os.walk(self.tree / "in"):
            for name in names:
                path = os.path.relpath(os.path.join(where, name), self.tree)
                said = self.explain(path, *patterns)
                self.assertEqual("backed up" in said, path in recorded, said)
