"""The table of what the restore port answers."""

from twisted.trial.unittest import SynchronousTestCase

from mastodon.daemon.restore_requests import LISTS
from mastodon.wire.restore_messages import REQUESTS, FetchRequest


class TableTests(SynchronousTestCase):
    """Requests that clients may send, and what serves them."""

    def test_every_request_is_served(self) -> None:
        """Each request of the wire has its row; FETCH alone is no list."""
        self.assertEqual({*LISTS, FetchRequest}, set(REQUESTS.values()))
