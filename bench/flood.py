"""One client that pushes as hard as it can until SIGTERM, in a process of its own.

    python -m bench.flood KIND PORT URLFILE

    packs        packs of noise without end, each new, that cost the client next to nothing; it takes the acks
    frames       signs of life, thousands at a time
    references   offers of random ids, pages that refer to what is not there, commits of what was never sent
    handshakes   hundreds of connections that stop in the middle of their ClientHello, and new ones when they are cut
    silent       offers without end whose answers it never reads; when it is held up, it comes again

All but `handshakes` say HELLO first, with the machine's own key.
"""

import contextlib
import os
import socket
import ssl
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from bench.blocking_peers import AppendPeer, TinyMachine
from mastodon.sealed.blob import ID_LENGTH, SALT_LENGTH, BlobKind
from mastodon.sealed.machine_secret import MachineSecret
from mastodon.sealed.url import parse_url
from mastodon.wire.messages import (
    Ack,
    Answer,
    Committed,
    Error,
    Missing,
    NewSnapshot,
    Offer,
    PackEnd,
    Piece,
    Progress,
    Wanted,
)

BLOB = 1 << 20
BLOBS = 15
"""An agent's pack has about 16 MiB."""
IN_FLIGHT = 3
PIECE = 256 * 1024
ID_AT = 72
"""Where a blob's header has its id, and the salt behind it."""
HALF_OPEN = 300
STALLED_S = 1.0
GONE = (ConnectionError, ssl.SSLError, TimeoutError)


def noise_packs(machine: TinyMachine) -> Iterator[tuple[bytes, bytes]]:
    """Ids and bytes of packs that nobody has seen before: one sealed blob under ever new ids. The server, which cannot
    open it, takes that for news; making it costs a hash."""
    _, kind, sealed = machine.blob(BlobKind.CHUNK, (), os.urandom(BLOB))
    before, behind = sealed[:ID_AT], sealed[ID_AT + ID_LENGTH + SALT_LENGTH :]
    while True:
        ids = [os.urandom(ID_LENGTH) for _ in range(BLOBS)]
        yield machine.pack([(id, kind, b"".join((before, id, os.urandom(SALT_LENGTH), behind))) for id in ids])


def fresh(secret: MachineSecret, port: int) -> tuple[AppendPeer, TinyMachine]:
    """A session of a machine that has a pair."""
    machine = TinyMachine(secret)
    peer = AppendPeer(port)
    peer.send(peer.hello_for(secret, os.urandom(16)))
    if not isinstance(peer.message(), Answer):
        raise ConnectionError("another session of this machine is not over yet")
    machine.send_pair(peer)
    return peer, machine


def packs(secret: MachineSecret, port: int) -> None:
    peer, machine = fresh(secret, port)
    for number, (id, data) in enumerate(noise_packs(machine)):
        peer.send(*(Piece(data[at : at + PIECE]) for at in range(0, len(data), PIECE)), PackEnd(id))
        if number >= IN_FLIGHT:
            peer.expect(Ack)


def frames(secret: MachineSecret, port: int) -> None:
    peer, _ = fresh(secret, port)
    data = Progress(1, 1).encode() * 2000
    while True:
        peer.send_raw(data)


def references(secret: MachineSecret, port: int) -> None:
    peer, machine = fresh(secret, port)
    sequence = 0
    while True:
        for number in range(4):
            peer.send(Offer(number, os.urandom(32 * 4096)))
        for _ in range(4):
            peer.expect(Wanted)
        page = machine.blob(BlobKind.PAGE, [os.urandom(32) for _ in range(4000)], b"not a page at all")
        machine.send_pack(peer, machine.pack([page]))
        sequence += 1
        peer.send(NewSnapshot(machine.snapshot(os.urandom(32), sequence)))
        if not isinstance(peer.message(), Committed | Missing | Error):
            raise AssertionError("a commit was not answered")


def handshakes(secret: MachineSecret, port: int) -> None:
    waiting: list[socket.socket] = []
    while True:
        connection = socket.create_connection(("127.0.0.1", port), 20)
        with contextlib.suppress(*GONE):
            connection.sendall(b"\x16\x03\x01\x02\x00\x01"[: len(waiting) % 6 + 1])
        waiting.append(connection)
        if len(waiting) > HALF_OPEN:
            waiting.pop(0).close()


def silent(secret: MachineSecret, port: int) -> None:
    nonce = os.urandom(16)
    offers = b"".join(Offer(number, os.urandom(32 * 64)).encode() for number in range(200))
    while True:
        peer = AppendPeer(port)
        peer.enter(secret, nonce)
        peer.socket.settimeout(STALLED_S)
        with contextlib.suppress(*GONE):
            while True:
                peer.send_raw(offers)
        peer.socket.close()


KINDS = {
    "packs": packs, "frames": frames, "references": references, "handshakes": handshakes, "silent": silent,
}  # fmt: skip


def main(kind: str, port: str, url: str) -> None:
    """The process. A server that cuts it off is gone to again."""
    secret = MachineSecret(parse_url(Path(url).read_text("ascii")).secret)
    while True:
        try:
            KINDS[kind](secret, int(port))
        except GONE:
            time.sleep(0.1)


if __name__ == "__main__":
    if len(sys.argv) != 4 or sys.argv[1] not in KINDS:
        sys.exit(__doc__)
    main(*sys.argv[1:])
