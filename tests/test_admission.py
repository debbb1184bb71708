"""Who may stay connected to a port, and who makes room (P12)."""

from twisted.trial.unittest import SynchronousTestCase

from mastodon.daemon.admission import Admission


class FakeGuest:
    def __init__(self) -> None:
        self.ended = False

    def cut(self) -> None:
        self.ended = True


class AdmissionTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.admission: Admission[FakeGuest] = Admission(known=3, each_owner=2, strangers=4)

    def arrive(self, count: int) -> list[FakeGuest]:
        guests = [FakeGuest() for _ in range(count)]
        for guest in guests:
            self.admission.arrive(guest)
        return guests

    def test_promise_p12_the_oldest_stranger_makes_room(self) -> None:
        """However many strangers come, the newest are there, and who has proven himself stays."""
        (known,) = self.arrive(1)
        self.assertTrue(self.admission.prove(known, "a"))
        guests = self.arrive(50)
        self.assertEqual([guest.ended for guest in guests], [True] * 46 + [False] * 4)
        self.assertFalse(known.ended)

    def test_promise_p12_an_owner_has_a_bound(self) -> None:
        """An owner cannot take the places of others; what it leaves, it may have again."""
        first, second, third, other = self.arrive(4)
        self.assertTrue(self.admission.prove(first, "a"))
        self.assertTrue(self.admission.prove(second, "a"))
        self.assertFalse(self.admission.prove(third, "a"))
        self.assertTrue(self.admission.prove(other, "b"))
        self.admission.leave(first)
        self.assertTrue(self.admission.prove(third, "a"))

    def test_the_known_are_bounded(self) -> None:
        """There are only so many places."""
        guests = self.arrive(4)
        self.assertEqual(
            [self.admission.prove(guest, number) for number, guest in enumerate(guests)], [True] * 3 + [False]
        )

    def test_promise_p12_the_dismissed_linger_as_strangers(self) -> None:
        """Who was told to go and does not keeps no place: it is cut when room is needed."""
        lingering = []
        for _ in range(20):
            (guest,) = self.arrive(1)
            self.assertTrue(self.admission.prove(guest, "a"))
            self.admission.dismiss(guest)
            lingering.append(guest)
        self.assertEqual(sum(not guest.ended for guest in lingering), 4)

    def test_who_was_cut_cannot_enter(self) -> None:
        """Proof that comes too late is none."""
        first, *_ = self.arrive(5)
        self.assertTrue(first.ended)
        self.assertFalse(self.admission.prove(first, "a"))

    def test_nothing_is_kept_of_the_gone(self) -> None:
        """A guest leaves no trace, in whatever state it was."""
        stranger, known, dismissed = self.arrive(3)
        self.admission.prove(known, "a")
        self.admission.prove(dismissed, "b")
        self.admission.dismiss(dismissed)
        for guest in (stranger, known, dismissed):
            self.admission.leave(guest)
        self.assertEqual(self.admission.all, set())
        self.assertFalse(any(guest.ended for guest in self.arrive(4)))
