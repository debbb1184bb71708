"""What was asked of the server and has not been answered: kept until it is, and said again on each connection."""

from collections.abc import Callable, Collection
from dataclasses import dataclass

from mastodon.wire.messages import NewPair, NewSnapshot, Offer
from mastodon_agent.packing import SealedPack

Subject = NewPair | Offer | SealedPack | NewSnapshot


@dataclass(slots=True, eq=False)
class Request:
    """Something asked of the server; ``key`` is what its answer names."""

    key: bytes | int
    subject: Subject
    is_sent: bool = False


class Outstanding:
    """Requests in the order in which they were made; to be used with the connection's lock held.

    ``good_at`` is when the server last owed nothing or gave an answer.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._requests: list[Request] = []
        self.good_at = clock()

    def __bool__(self) -> bool:
        return bool(self._requests)

    def __contains__(self, request: Request) -> bool:
        return request in self._requests

    def ask(self, key: bytes | int, subject: Subject) -> Request:
        """One more."""
        if not self._requests:
            self.all_is_well()  # until now there was nothing to answer
        self._requests.append(Request(key, subject))
        return self._requests[-1]

    def all_is_well(self) -> None:
        """Nothing is owed to us that could have come by now."""
        self.good_at = self._clock()

    def next_unsent(self) -> Request | None:
        """What to say next."""
        return next((one for one in self._requests if not one.is_sent), None)

    def say_all_again(self) -> None:
        """A new connection: nothing was said on it yet."""
        for request in self._requests:
            request.is_sent = False

    def answered(self, key: bytes | int) -> Subject | None:
        """What this is the answer to; None where nobody asked."""
        return self._take(lambda request: request.key == key)

    def settle_snapshot(self) -> bool:
        """The word about the snapshot has come: whether one was asked for."""
        return self._take(lambda request: isinstance(request.subject, NewSnapshot)) is not None

    def refused(self, ids: Collection[bytes]) -> SealedPack | None:
        """The pack that holds one of these blobs, which will not be sent again."""

        def holds(request: Request) -> bool:
            pack = request.subject
            return isinstance(pack, SealedPack) and not offending.isdisjoint(blob[0] for blob in pack.blobs)

        offending = frozenset(ids)
        pack = self._take(holds)
        return pack if isinstance(pack, SealedPack) else None

    def _take(self, fits: Callable[[Request], bool]) -> Subject | None:
        for request in self._requests:
            if fits(request):
                self._requests.remove(request)
                self.all_is_well()
                return request.subject
        return None
