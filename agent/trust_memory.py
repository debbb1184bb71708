"""What the agent has to remember for safety, in a file of its own, fsynced before it is acted upon.

In this release: the newest snapshot that was committed, the one whose commit was asked for and not answered, and the
highest ledger head that the server has shown. Other than the rest of the state it is no mere hint: when it is lost or
behind, the admin is told (Notice in snapshot.py).

A commit is noted before it is asked for. So a machine that never heard the answer knows its own snapshot when the
server names it as the newest, and is not taken for one whose disk went back in time.
"""

import os
from contextlib import suppress
from dataclasses import dataclass, replace

from mastodon.host.durable import write_file
from mastodon.sealed import cbor
from mastodon.sealed.errors import FormatError
from mastodon.sealed.ledger_head import went_on
from mastodon.sealed.purposes import Purpose, sha256
from mastodon.sealed.schema import Body, key, octets, octets_or_none, unsigned

NAME = "trust"
LIMIT = 32 * 1024
CHECK = 32


@dataclass(frozen=True, slots=True)
class Remembered(Body):
    """Of one machine: the newest head committed (0 and empty: none), the ledger's signed head (empty: none), and the
    record hash of a snapshot of which the server was asked and has not answered (empty: none)."""

    machine: bytes = key(0, octets(32))
    sequence: int = key(1, unsigned(), default=0)
    hash: bytes = key(2, octets_or_none(32), default=b"")
    ledger_head: bytes = key(3, octets(0, 16384), default=b"")
    asked: bytes = key(4, octets_or_none(32), default=b"")


class TrustMemory:
    """The file. ``was_lost``: there was none that is whole and of this machine."""

    def __init__(self, directory: str, machine: bytes) -> None:
        self._path = os.path.join(directory, NAME)
        self.remembered = Remembered(machine)
        self.was_lost = True
        with suppress(OSError, FormatError):
            with open(self._path, "rb") as file:
                data = file.read(LIMIT)
            body, check = data[:-CHECK], data[-CHECK:]
            remembered = Remembered.from_body(cbor.decode(body, LIMIT))
            if remembered.machine == machine and sha256(Purpose.RECORD_HASH, body) == check:
                self.remembered = remembered
                self.was_lost = False

    def ask(self, hash: bytes) -> None:
        """A snapshot is going to be committed."""
        self._write(replace(self.remembered, asked=hash))

    def learn_head(self, sequence: int, hash: bytes) -> None:
        """The server's newest: if it is the one of which no answer was heard, it is this machine's own after all."""
        if hash and hash == self.remembered.asked:
            self.remembered = replace(self.remembered, sequence=sequence, hash=hash, asked=b"")

    def remember_head(self, sequence: int, hash: bytes) -> None:
        """A snapshot was committed."""
        self._write(replace(self.remembered, sequence=sequence, hash=hash, asked=b""))

    def compare_ledger(self, head: bytes) -> bool:
        """Whether a server's ledger head is as new as the one remembered; then it is remembered instead.

        One that cannot be read, or is signed by another key, is taken for a server that went back.
        """
        before = self.remembered.ledger_head
        if not went_on(before, head):
            return False
        if head != before:
            self._write(replace(self.remembered, ledger_head=head))
        return True

    def _write(self, remembered: Remembered) -> None:
        self.remembered = remembered  # for this run, whatever the disk says
        body = cbor.encode(remembered.to_body())
        write_file(self._path, body + sha256(Purpose.RECORD_HASH, body))
        self.was_lost = False
