"""Open files: enough for all the connections that the configured limits allow, as far as the system lets us."""

import resource

from mastodon.daemon.config import LimitsConfig

OTHERS = 512
"""Catalogue, ledgers, packs that are being read, listening sockets and the log."""


def descriptors_needed(limits: LimitsConfig) -> int:
    """Both ports full of known peers, strangers and handshakes, and each agent in the middle of a pack."""
    ports = 2 * (limits.connections + 2 * limits.handshakes)
    return ports + limits.connections + OTHERS


def raise_limit(needed: int) -> int | None:
    """Raise the soft limit towards ``needed`` as far as the hard one allows; the limit now, None where it suffices."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if _suffices(soft, needed):
        return None
    wanted = needed if _suffices(hard, needed) else hard
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    except (OSError, ValueError):
        return soft
    return None if _suffices(wanted, needed) else wanted


def _suffices(limit: int, needed: int) -> bool:
    return limit == resource.RLIM_INFINITY or limit >= needed
