"""A client process with thousands of connections to the append port: ``python -m tests.many_connections PORT SECRETS``.

SECRETS holds 32 bytes for each machine. Every connection completes TLS and the greeting; as many as there are secrets
(half of them all) say HELLO, and all are silent from then on. It prints ``open N entered N``, then ``closed N`` when
the server has ended every one, having said why or not.
"""

import contextlib
import selectors
import socket
import ssl
import sys
from collections.abc import Iterator
from pathlib import Path

from cryptography import x509

from bench.blocking_peers import client_context
from mastodon.host.certificates import spki_pin
from mastodon.sealed.machine_secret import MachineSecret
from mastodon.wire.frame import RESTORE_FRAME_LIMIT, FrameReader
from mastodon.wire.hello import VERSION, sign_hello
from mastodon.wire.messages import Answer, Greeting, Hello, decode_server

AT_ONCE = 50
"""Handshakes under way at a time."""
PATIENCE_S = 180.0


class Connection:
    """One connection, never waiting for anything."""

    def __init__(self, port: int, context: ssl.SSLContext, secret: MachineSecret | None) -> None:
        raw = socket.create_connection(("127.0.0.1", port), 60)
        raw.setblocking(False)
        self.socket = context.wrap_socket(raw, do_handshake_on_connect=False)
        self.wants_to_write = False
        self.greeted = False
        self.entered = False
        self.closed = False
        self._secret = secret
        self._shaken = False
        self._reader = FrameReader(RESTORE_FRAME_LIMIT)

    @property
    def settled(self) -> bool:
        """Whether nothing more is to come but the end."""
        return self.closed or (self.entered if self._secret else self.greeted)

    def go_on(self) -> None:
        """The socket is ready for something."""
        self.wants_to_write = False
        try:
            if not self._shaken:
                self.socket.do_handshake()
                self._shaken = True
            while data := self.socket.recv(1 << 16):
                self._reader.receive(data)
                self._frames()
            self.closed = True
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLWantWriteError:
            self.wants_to_write = True
        except (ConnectionError, ssl.SSLError):
            self.closed = True

    def _frames(self) -> None:
        while (frame := self._reader.next_frame()) is not None:
            match decode_server(*frame):
                case Greeting(nonce):
                    self.greeted = True
                    if self._secret is not None:
                        self._say_hello(self._secret, nonce)
                case Answer():
                    self.entered = True

    def _say_hello(self, secret: MachineSecret, nonce: bytes) -> None:
        pin = spki_pin(x509.load_der_x509_certificate(self.socket.getpeercert(True) or b""))
        signature = sign_hello(secret.signing_key, nonce, pin, secret.machine_id, VERSION)
        self.socket.send(Hello(VERSION, secret.machine_id, signature, b"r" * 16, 0, b"", 1, "test").encode())


def keep_open(port: int, secrets: list[MachineSecret | None]) -> None:
    """Open one connection for each, report, and wait for their ends."""
    context = client_context(["mastodon/1"])
    selector = selectors.DefaultSelector()
    everyone: list[Connection] = []
    left = iter(secrets)
    under_way = add(selector, port, context, left, everyone, AT_ONCE)
    reported = False
    while events := selector.select(PATIENCE_S):
        for key, _ in events:
            connection: Connection = key.data
            before = connection.settled
            connection.go_on()
            if connection.settled and not before:
                under_way += add(selector, port, context, left, everyone, 1) - 1
            if connection.closed:
                selector.unregister(connection.socket)
                connection.socket.close()
            else:
                write = selectors.EVENT_WRITE if connection.wants_to_write else 0
                selector.modify(connection.socket, selectors.EVENT_READ | write, connection)
        if not under_way and not reported:
            reported = True
            still_open = sum(not one.closed for one in everyone)
            print(f"open {still_open} entered {sum(one.entered for one in everyone)}", flush=True)
        if not selector.get_map():
            break
    print(f"closed {sum(one.closed for one in everyone)}", flush=True)


def add(
    selector: selectors.BaseSelector, port: int, context: ssl.SSLContext, left: Iterator[MachineSecret | None],
    everyone: list[Connection], most: int,
) -> int:  # fmt: skip
    """Begin up to ``most`` more; how many."""
    begun = 0
    for _ in range(most):
        with contextlib.suppress(StopIteration):
            connection = Connection(port, context, next(left))
            everyone.append(connection)
            selector.register(connection.socket, selectors.EVENT_READ | selectors.EVENT_WRITE, connection)
            begun += 1
    return begun


def main(port: str, file: str) -> None:
    """The process."""
    data = Path(file).read_bytes()
    secrets = [MachineSecret(data[at : at + 32]) for at in range(0, len(data), 32)]
    # Strangers come last: they are allowed to stay for a few seconds only.
    keep_open(int(port), [*secrets, *[None] * len(secrets)])


if __name__ == "__main__":
    main(*sys.argv[1:])
