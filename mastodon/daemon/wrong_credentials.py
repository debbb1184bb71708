"""Wrong credentials in bulk, on one port: refused machines or unregistered client keys, far more than mistakes make.

Promises: memory is bounded whoever comes from wherever; nothing that the peers say themselves is in what is told, only
their number and where most of them come from; an attack is told once, and over only after a day without one. Pure.
"""

from dataclasses import dataclass, field

from mastodon.sealed.duration import DAY_NS, HOUR_NS

BULK = 100
"""So many within an hour are no mistakes any more."""
HOSTS = 64
"""So many addresses are told apart."""


@dataclass(slots=True)
class WrongCredentials:
    """One port's."""

    bulk_ns: int = 0
    """When there were too many last."""
    _begun_ns: int = 0
    _count: int = 0
    _hosts: dict[str, int] = field(default_factory=dict)

    def refused(self, host: str, now_ns: int) -> str:
        """One more, from this address: what is to be told, when this makes them too many in this hour."""
        if not 0 <= now_ns - self._begun_ns < HOUR_NS:
            self._begun_ns, self._count = now_ns, 0
            self._hosts.clear()
        self._count += 1
        self._count_host(host)
        if self._count < BULK:
            return ""
        self.bulk_ns = now_ns
        return self._text(now_ns) if self._count == BULK else ""

    def is_over(self, told_ns: int, now_ns: int) -> bool:
        """Whether what was told at ``told_ns`` has stopped."""
        return not 0 <= now_ns - max(told_ns, self.bulk_ns) < DAY_NS

    def _count_host(self, host: str) -> None:
        """Whoever sends most of all is found, however many others come (Misra and Gries); counts are lower bounds."""
        if host in self._hosts or len(self._hosts) < HOSTS:
            self._hosts[host] = self._hosts.get(host, 0) + 1
        else:
            self._hosts = {one: count - 1 for one, count in self._hosts.items() if count > 1}

    def _text(self, now_ns: int) -> str:
        minutes = max(1, (now_ns - self._begun_ns) // (60 * 10**9))
        text = f"{self._count} refused within {minutes} min"
        host, count = max(self._hosts.items(), key=lambda one: one[1], default=("", 0))
        return f"{text}, at least {count} of them from {host}" if count > 1 else f"{text}, from many addresses"
