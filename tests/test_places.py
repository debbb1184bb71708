"""Heavy work takes turns: many packs of one machine do not keep another's waiting (P12)."""

from functools import partial

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from mastodon.daemon.places import Places


class PlacesTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.places = Places(2)
        self.begun: list[str] = []
        self.under_way: dict[str, Deferred[str]] = {}

    def work(self, name: str) -> "Deferred[str]":
        self.begun.append(name)
        self.under_way[name] = Deferred()
        return self.under_way[name]

    def test_promise_p12_units_take_turns(self) -> None:
        """Two at a time; who waits is let in by turns, and gets its own result."""
        outcomes = {
            name: self.places.run(name[0], partial(self.work, name))
            for name in ("a1", "a2", "a3", "a4", "b1", "c1", "b2")
        }
        self.assertEqual(self.begun, ["a1", "a2"])
        for name in ("a1", "a2", "a3", "b1", "c1", "a4", "b2"):
            self.under_way[name].callback(f"result of {name}")
            self.assertEqual(self.successResultOf(outcomes[name]), f"result of {name}")
        self.assertEqual(self.begun, ["a1", "a2", "a3", "b1", "c1", "a4", "b2"])

    def test_failures(self) -> None:
        """What fails, also at once, fails for its own caller and gives its place back."""

        def at_once() -> "Deferred[str]":
            raise ZeroDivisionError

        self.failureResultOf(self.places.run("a", at_once), ZeroDivisionError)
        failing = [self.places.run("a", lambda: self.work("x")) for _ in range(3)]
        self.under_way["x"].errback(ValueError())
        self.failureResultOf(failing[1], ValueError)
        self.places.run("b", lambda: self.work("b"))
        self.assertEqual(self.begun, ["x", "x", "x"])
