"""PATHs, patterns, times and memory: the small rules of the restore client."""

import os
import tempfile
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mastodon.admin.invitation import parse_invitation
from mastodon.restore.errors import NotThere, RestoreError
from mastodon.restore.history import parse_time
from mastodon.restore.memory import Memory
from mastodon.restore.plan import show_path
from mastodon.restore.pool import Ring
from mastodon.restore.select import Selection, matches_whole, split_path


class PatternTests(SynchronousTestCase):
    """Patterns, name by name."""

    def test_patterns(self):
        """Stars stay within a name, ** spans directories, everything below a match is meant too."""
        for path, pattern, whole, below in (
            ("etc/passwd", "/etc/*", True, True),
            ("etc/ssh/config", "/etc/*", False, True),
            ("etc/ssh/config", "/etc/**/config", True, True),
            ("etc/config", "/etc/**/config", True, True),
            ("etc/ssh/config", "**", True, True),
            ("etc/ssh/config", "*/config", False, False),
            ("etc/a[1]", "/etc/a[[]1]", True, True),
            ("etc/\xe9t\xe9".encode().decode("latin-1"), "/etc/*", True, True),
            ("srv/x", "/etc/**", False, False),
        ):
            with self.subTest(path=path, pattern=pattern):
                names = split_path(path)
                self.assertEqual(matches_whole(names, split_path(pattern)), whole)
                self.assertEqual(Selection([pattern]).takes(names[:-1], names[-1]), below)

    def test_name_with_wild_characters_is_found_literally(self):
        """A PATH with a star in it also names the entry of just that name."""
        selection = Selection(["/etc/a*b"])
        self.assertTrue(selection.takes((b"etc",), b"a*b"))
        self.assertEqual(selection.unmatched(), [])

    def test_sources(self):
        """Sources are named as they are shown."""
        self.assertEqual(split_path("/.source/mysql/dump"), (b"", b"mysql", b"dump"))
        self.assertEqual(show_path((b"", b"mysql"), b"dump"), "/.source/mysql/dump")

    def test_odd_names_are_shown_harmlessly(self):
        """Nothing in a name moves the cursor or breaks a line."""
        self.assertEqual(show_path((), b"a\nb\x1b[2J\xff"), "/a\\nb\\x1b[2J\\xff")

    @given(st.lists(st.binary(min_size=1, max_size=4).filter(lambda b: b not in (b".", b"..")), min_size=1, max_size=4))
    def test_a_path_takes_itself_and_what_is_below(self, names):
        """Whatever its bytes, a PATH means the entry and all below it, and its parents are ancestors."""
        names = tuple(name.replace(b"/", b"_").replace(b"\0", b"_") for name in names)
        selection = Selection([b"/" + b"/".join((b"top", *names))])
        self.assertTrue(selection.takes((b"top", *names[:-1]), names[-1]))
        self.assertTrue(selection.takes((b"top", *names), b"child"))
        self.assertFalse(selection.takes((b"other", *names[:-1]), names[-1]))


class TimeTests(SynchronousTestCase):
    """Times that name snapshots."""

    def test_times(self):
        """A date means its end; a zone is heeded; anything else is refused with an example."""
        second = 10**9
        self.assertEqual(parse_time("2026-11-24T07:00:00+00:00"), 1795503600 * second)
        self.assertEqual(parse_time("2026-11-24T08:00:00+01:00"), 1795503600 * second)
        self.assertEqual(parse_time("2026-11-25") - parse_time("2026-11-24"), 24 * 3600 * second)
        error = self.assertRaises(NotThere, parse_time, "tomorrow")
        self.assertIn("2026-11-24 07:00", str(error))


class RingTests(SynchronousTestCase):
    """Places in an arena."""

    @given(st.lists(st.tuples(st.integers(1, 60), st.integers(0, 3)), max_size=60))
    def test_places_never_overlap(self, steps):
        """Whatever is taken and freed, places that are taken lie apart and inside the arena."""
        ring = Ring(100, 40)
        taken: list[tuple[int, int]] = []
        for length, frees in steps:
            start = ring.take(length)
            if start is not None:
                self.assertLessEqual(start + length, 100)
                for other, other_length in taken:
                    self.assertTrue(start + length <= other or other + other_length <= start)
                taken.append((start, length))
            for _ in range(min(frees, len(taken))):
                ring.free()
                taken.pop(0)
        while taken:
            ring.free()
            taken.pop(0)
        self.assertEqual(ring.take(100), 0)


class MemoryTests(SynchronousTestCase):
    """heads.json."""

    def setUp(self) -> None:
        self.path = Path(tempfile.mkdtemp()) / "heads.json"

    def test_book_versions(self):
        """An older book, another one of the same version, or one that does not follow, is refused; it survives."""
        memory = Memory(self.path)
        memory.check_book(3, b"a" * 32, b"z" * 32)
        memory.remember_book(3, b"a" * 32)
        memory = Memory(self.path)
        memory.check_book(3, b"a" * 32, b"z" * 32)
        memory.check_book(4, b"b" * 32, b"a" * 32)
        memory.check_book(7, b"b" * 32, b"y" * 32)
        for version, digest, previous in ((2, b"x", b""), (3, b"x", b""), (4, b"b" * 32, b"x" * 32), (0, b"", b"")):
            self.assertRaises(RestoreError, memory.check_book, version, digest, previous)

    def test_damaged_memory_is_told(self):
        """A memory that cannot be read stops the command and says what losing it costs."""
        for content in (b"{", b"[]", b'{"machines": {"zz": {}}}', os.urandom(100)):
            self.path.write_bytes(content)
            error = self.assertRaises(RestoreError, Memory, self.path)
            self.assertIn("remove it", str(error))


class InvitationTests(SynchronousTestCase):
    """The operator's answer."""

    def test_invitation(self):
        """Name, host, port and all pins are read; IPv6 as well."""
        pin = "A" * 43
        server = parse_invitation(f"mastodon+admin://de%20mo@[::1]:7411/?server={pin}&server={pin[:-1]}E\n")
        self.assertEqual((server.name, server.hosts), ("de mo", (("::1", 7411),)))
        self.assertEqual(len(server.pins), 2)

    def test_refused(self):
        """Unknown parts, no pins, no port, a bad pin."""
        pin = "A" * 43
        for line in (
            f"mastodon+admin://d@h/?server={pin}", f"mastodon+admin://d@h:99999/?server={pin}",
            f"mastodon+admin://d@h:1/?server={pin}&admin={pin}", "mastodon+admin://d@h:1/?server=", "mastodon+admin://d@h:1/?",
        ):  # fmt: skip
            self.assertRaises(RestoreError, parse_invitation, line)
