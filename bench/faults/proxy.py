"""A loopback proxy that cuts connections after so many bytes: one loop, no threads."""

import contextlib
import os
import selectors
import socket
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass

PIECE = 65536
RESET = struct.pack("ii", 1, 0)


@dataclass(frozen=True, slots=True)
class Cut:
    """How long a connection lives: so many bytes to the server or from it (None: as many as come); ``reset``: it ends
    with an RST, which throws away what was on its way."""

    up: int | None = None
    down: int | None = None
    reset: bool = False


class _Direction:
    """Bytes from one socket to another; at most one piece is held."""

    def __init__(self, source: socket.socket, sink: socket.socket, limit: int | None) -> None:
        self.source = source
        self.sink = sink
        self.left = limit
        self.held = b""


class _Pair:
    """Both directions of one connection."""

    def __init__(self, near: socket.socket, far: socket.socket, cut: Cut) -> None:
        self.ends = (near, far)
        self.directions = (_Direction(near, far, cut.up), _Direction(far, near, cut.down))
        self.cut = cut


class CuttingProxy:
    """Passes bytes between clients and a port of loopback; the next connections are cut as ``cuts`` say, in order.

    ``cut`` counts how many were.
    """

    def __init__(self, target: int, cuts: Sequence[Cut] = ()) -> None:
        self._target = target
        self.cuts = list(cuts)
        self.cut = 0
        self.on_cut: Callable[[], object] = lambda: None
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=50)
        self.port: int = self._listener.getsockname()[1]
        self._selector = selectors.SelectSelector()  # nothing of it is shared by a fork
        self._closed = False

    @property
    def descriptor(self) -> int:
        """The listening socket's, for the program that is to serve."""
        return self._listener.fileno()

    def release(self) -> None:
        """Let go of the listening socket, which another process serves."""
        self._listener.close()

    def close(self) -> None:
        """Take no more connections; ``serve`` returns."""
        self._closed = True
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)

    def serve(self) -> None:
        """Pass bytes until closed."""
        self._selector.register(self._listener, selectors.EVENT_READ)
        while not self._closed:
            for key, _ in self._selector.select(1.0):
                if key.fileobj is self._listener:
                    self._accept()
                elif key.fd >= 0 and key.data.ends[0].fileno() >= 0:
                    self._move(key.data)
        self._listener.close()

    def _accept(self) -> None:
        try:
            near, _ = self._listener.accept()
        except OSError:
            return
        try:
            far = socket.create_connection(("127.0.0.1", self._target))
        except OSError:
            near.close()
            return
        pair = _Pair(near, far, self.cuts.pop(0) if self.cuts else Cut())
        for end in pair.ends:
            end.setblocking(False)
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._selector.register(end, selectors.EVENT_READ, pair)

    def _move(self, pair: _Pair) -> None:
        """Whatever can be moved now."""
        try:
            for one in pair.directions:
                if not one.held and one.left != 0:
                    self._read(one)
                if one.held:
                    self._send(one)
                if one.left == 0 and not one.held:
                    self.cut += 1
                    self.on_cut()
                    self._end(pair, pair.cut.reset)
                    return
        except OSError:
            self._end(pair, False)
            return
        for index, end in enumerate(pair.ends):
            outgoing, incoming = pair.directions[index], pair.directions[1 - index]
            events = (0 if outgoing.held else selectors.EVENT_READ) | (selectors.EVENT_WRITE if incoming.held else 0)
            self._selector.modify(end, events or selectors.EVENT_WRITE, pair)

    def _read(self, one: _Direction) -> None:
        try:
            data = one.source.recv(PIECE if one.left is None else min(PIECE, one.left))
        except BlockingIOError:
            return
        if not data:
            raise ConnectionError
        one.held = data
        one.left = None if one.left is None else one.left - len(data)

    def _send(self, one: _Direction) -> None:
        with contextlib.suppress(BlockingIOError):
            one.held = one.held[one.sink.send(one.held) :]

    def _end(self, pair: _Pair, reset: bool) -> None:
        for end in pair.ends:
            self._selector.unregister(end)
            with contextlib.suppress(OSError):
                if reset:
                    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                else:
                    end.shutdown(socket.SHUT_RDWR)
            end.close()


def proxy_program(proxy: CuttingProxy, told: int) -> Callable[[], int]:
    """The proxy as a program; a byte goes to the descriptor ``told`` for each cut."""

    def main() -> int:
        proxy.on_cut = lambda: os.write(told, b"c")
        proxy.serve()
        return 0

    return main
