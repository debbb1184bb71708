"""One session per machine."""

from dataclasses import dataclass, field

from twisted.trial.unittest import SynchronousTestCase

from mastodon.daemon.sessions import DISPLACE_AFTER_S, MachineSessions


@dataclass(eq=False)
class FakeHolder:
    run_nonce: bytes
    last_heard: float = 0.0
    said: list[str] = field(default_factory=list)

    def displaced(self) -> None:
        self.said.append("displaced")


class MachineSessionsTests(SynchronousTestCase):
    """Who holds a machine's session, and who takes it over."""

    def setUp(self) -> None:
        self.sessions = MachineSessions()
        self.first = FakeHolder(b"one")
        self.assertTrue(self.sessions.claim(b"m", self.first, 0.0))

    def test_same_run_displaces_at_once(self) -> None:
        """An agent that comes back after a cut takes over its own session."""
        self.assertTrue(self.sessions.claim(b"m", FakeHolder(b"one"), 1.0))
        self.assertEqual(self.first.said, ["displaced"])

    def test_other_run_waits_for_silence(self) -> None:
        """Another run is turned away while the holder lives, and takes over when it has fallen silent."""
        self.assertFalse(self.sessions.claim(b"m", FakeHolder(b"two"), DISPLACE_AFTER_S - 1))
        self.assertEqual(self.first.said, [])
        self.assertTrue(self.sessions.claim(b"m", FakeHolder(b"two"), DISPLACE_AFTER_S))
        self.assertEqual(self.first.said, ["displaced"])

    def test_release(self) -> None:
        """A session that was let go is free; one that was taken over cannot be let go by its former holder."""
        newer = FakeHolder(b"one")
        self.sessions.claim(b"m", newer, 1.0)
        self.sessions.release(b"m", self.first)
        self.assertFalse(self.sessions.claim(b"m", FakeHolder(b"two"), 2.0))
        self.sessions.release(b"m", newer)
        self.assertTrue(self.sessions.claim(b"m", FakeHolder(b"two"), 3.0))

    def test_machines_are_apart(self) -> None:
        """Another machine's session is another."""
        self.assertTrue(self.sessions.claim(b"other", FakeHolder(b"two"), 0.0))
        self.assertEqual(self.first.said, [])
