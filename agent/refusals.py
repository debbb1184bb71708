"""What ends a run for good, in words for the user."""

from mastodon.wire.errors import ErrorCode, RemoteError


class ServerRefused(Exception):
    """The server refuses this run; the text says why and what to do."""


class NothingCommitted(Exception):
    """The run ends without a snapshot; the text says why and what to do."""


class ReaderCrashed(Exception):
    """The process that reads files gave up; the text says why."""


class RecipientsRefused(Exception):
    """The recipients' keys cannot be used; the text says why."""


class NoConnection(Exception):
    """The server cannot be reached, is another one than the URL names, or does not know this machine."""


def final(reason: RemoteError) -> Exception:
    """What the user is told when the server refuses for good."""
    if reason.code is ErrorCode.NOT_AUTHENTICATED:
        return NoConnection(
            "the server does not know this machine, or its secret was renewed: "
            "ask your admin (mastodon-admin machine list shows whom the server knows)"
        )
    if reason.code is ErrorCode.DISPLACED:
        return ServerRefused("another run of this machine, or a clone of it, took the session over: run again later")
    if reason.code is ErrorCode.DISABLED:
        return NoConnection(
            "this machine is disabled on the server, which takes nothing from it; what is stored there stays: "
            "ask your admin (mastodon-admin machine enable)"
        )
    if reason.code is ErrorCode.QUOTA:
        return ServerRefused(f"no quota is left, nothing was deleted: {reason.text}")
    return ServerRefused(f"the server refuses: {reason.text}")


def given_up(patience: float, error: str, answered: bool) -> Exception:
    """What it comes to: a server that answers and refuses is not one that cannot be reached."""
    if answered:
        return ServerRefused(f"given up after {patience:.0f} s without progress: {error}")
    return NoConnection(f"no connection for {patience:.0f} s, given up: {error}")
