"""ACL xattrs: whom they name, and renumbering that never gives rights to the wrong one."""

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mastodon.host.acl import UnknownAcl, qualifiers, remapped
from tests.odd_trees import NAMED_ACL, acl


class Acls(SynchronousTestCase):
    def test_qualifiers(self) -> None:
        """Named users and groups are found, owners, mask and others are not."""
        self.assertEqual(qualifiers(NAMED_ACL), [("u", 1), ("u", 2), ("g", 1)])

    def test_remapped(self) -> None:
        """Ids are replaced and brought into order; nothing else changes."""
        value, lost = remapped(NAMED_ACL, lambda kind, number: {"u": {1: 500, 2: 40}, "g": {1: 7}}[kind][number])
        expected = acl((1, 6, None), (2, 6, 40), (2, 4, 500), (4, 4, None), (8, 2, 7), (0x10, 6, None), (0x20, 0, None))
        self.assertEqual((value, lost), (expected, []))

    def test_lost(self) -> None:
        """Whoever has no number here is left out and told."""
        value, lost = remapped(NAMED_ACL, lambda kind, number: number if (kind, number) == ("u", 2) else None)
        self.assertEqual(value, acl((1, 6, None), (2, 6, 2), (4, 4, None), (0x10, 6, None), (0x20, 0, None)))
        self.assertEqual(lost, [("u", 1), ("g", 1)])

    def test_same(self) -> None:
        """Renumbering to the same numbers gives the same bytes."""
        self.assertEqual(remapped(NAMED_ACL, lambda _kind, number: number), (NAMED_ACL, []))

    def test_not_an_acl(self) -> None:
        """Cut, extended or of another version, it names nobody and is not renumbered."""
        for value in (b"", b"\2", NAMED_ACL[:-1], NAMED_ACL + b"\0", b"\3" + NAMED_ACL[1:]):
            self.assertEqual(qualifiers(value), [])
            self.assertRaises(UnknownAcl, remapped, value, lambda _kind, number: number)

    @given(st.binary(max_size=60))
    def test_any_bytes(self, value: bytes) -> None:
        """Any bytes give names or none, never another error."""
        for kind, number in qualifiers(value):
            self.assertTrue(kind in ("u", "g") and 0 <= number < 1 << 32)
