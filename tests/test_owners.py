"""Owners: names of numbers, numbers of names, map files, and that nothing unknown becomes a number."""

import grp
import os
import pwd

from twisted.trial.unittest import SynchronousTestCase

from mastodon.host import owners
from mastodon.host.owners import NO_OWNER, OwnerMap, OwnerMapError, OwnerNames


class Names(SynchronousTestCase):
    def test_known_and_unknown(self) -> None:
        """Numbers have the names of this system's accounts, and "" where they have none or cannot have one."""
        names = OwnerNames()
        self.assertEqual(names.user(os.geteuid()), pwd.getpwuid(os.geteuid()).pw_name)
        self.assertEqual(names.group(0), grp.getgrgid(0).gr_name)
        for number in (4_000_000_001, 1 << 70):
            self.assertEqual((names.user(number), names.group(number)), ("", ""))

    def test_looked_up_once(self) -> None:
        """Each number is looked up once, also when it has no name."""
        asked: list[int] = []

        def getpwuid(uid: int) -> pwd.struct_passwd:
            asked.append(uid)
            raise KeyError(uid)

        self.patch(owners.pwd, "getpwuid", getpwuid)
        names = OwnerNames()
        self.assertEqual([names.user(5), names.user(5), names.user(6)], ["", "", ""])
        self.assertEqual(asked, [5, 6])

    def test_name_that_no_listing_holds(self) -> None:
        """A name that is not UTF-8, or endless, counts as none."""
        for name in ("\udcff", "n" * 257):
            entry = pwd.struct_passwd((name, "", 1, 1, "", "", ""))
            self.patch(owners.pwd, "getpwuid", lambda _uid, entry=entry: entry)
            self.assertEqual(OwnerNames().user(1), "")


class Maps(SynchronousTestCase):
    def test_by_number(self) -> None:
        """By number the number stays, except the one that chown takes for none."""
        numbers = OwnerMap.by_number()
        self.assertEqual((numbers.user(77, "root"), numbers.group(78, "")), (77, 78))
        for impossible in (NO_OWNER, NO_OWNER + 1, -1):
            self.assertIsNone(numbers.user(impossible, "root"))

    def test_by_name(self) -> None:
        """By name the number is this system's; an unknown or missing name has none, whatever its number was."""
        names = OwnerMap.by_name()
        self.assertEqual((names.user(77, "root"), names.group(78, grp.getgrgid(0).gr_name)), (0, 0))
        for unknown in ("", "no such user", "a\0b", "\udcff", "0"):
            self.assertIsNone(names.user(0, unknown))
            self.assertIsNone(names.qualifier("g", 0, unknown))

    def test_file(self) -> None:
        """A line's OLD is the recorded name, else the recorded number; NEW a number or a name of here."""
        given = OwnerMap.from_text(
            """
            # web servers
            user www 3300   # by name
            user 1000 root
            group 1000 44
            """
        )
        self.assertEqual((given.user(33, "www"), given.user(1000, "anna"), given.group(1000, "")), (3300, 0, 44))
        self.assertEqual(given.user(5, "root"), 0)
        self.assertIsNone(given.user(5, "no such user"))
        self.assertIsNone(given.group(5, "www"))

    def test_bad_files(self) -> None:
        """A line that cannot be used is refused with its number and what to write."""
        cases = {
            "user a": "line 1: write 'user OLD NEW'",
            "\nowner a 1": "line 2: write",
            "user a no-such-user": "line 1: this system has no user 'no-such-user'",
            "group a 4294967295": "line 1: 4294967295 is not a group number",
            "user a ²": "line 1: this system has no user",
        }
        for text, message in cases.items():
            error = self.assertRaises(OwnerMapError, OwnerMap.from_text, text)
            self.assertIn(message, str(error))
