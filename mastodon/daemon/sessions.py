"""One session per machine: who holds it, and when a newer one takes over.

A new authenticated session displaces one with the same run nonce at once (the agent came back after a cut), and any
other after 45 s of silence. The store's epoch makes sure that a displaced session writes nothing more.
"""

from typing import Protocol

DISPLACE_AFTER_S = 45.0


class Holder(Protocol):
    """A connection that holds a machine's session."""

    run_nonce: bytes
    last_heard: float

    def displaced(self) -> None:
        """A newer session took over: say so and close."""


class MachineSessions:
    """Which connection holds which machine's session."""

    def __init__(self) -> None:
        self._holders: dict[bytes, Holder] = {}

    def claim(self, machine: bytes, newcomer: Holder, now: float) -> bool:
        """Whether ``newcomer`` holds the session now; it does not while another one is alive."""
        holder = self._holders.get(machine)
        if holder is not None and holder is not newcomer:
            silent = now - holder.last_heard >= DISPLACE_AFTER_S
            if holder.run_nonce != newcomer.run_nonce and not silent:
                return False
            holder.displaced()
        self._holders[machine] = newcomer
        return True

    def is_open(self, machine: bytes) -> bool:
        """Whether somebody holds the machine's session."""
        return machine in self._holders

    def release(self, machine: bytes, holder: Holder) -> None:
        """The holder is gone; no effect when another one holds the session."""
        if self._holders.get(machine) is holder:
            del self._holders[machine]
