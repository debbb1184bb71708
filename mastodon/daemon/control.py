"""The control socket: how the operator's commands reach a running daemon.

A Unix socket of mode 0600 in the state directory, which is 0700: whoever may connect is the daemon's user or root.
One line of JSON, {"command": NAME, "arguments": {…}}, is answered by one: {"result": …} or {"error": TEXT}.
"""

import contextlib
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred, maybeDeferred, succeed
from twisted.internet.interfaces import IAddress
from twisted.internet.protocol import ServerFactory
from twisted.logger import Logger
from twisted.protocols.basic import LineReceiver
from twisted.python.failure import Failure

from mastodon.daemon.commands import run_command
from mastodon.daemon.errors import NotAllowed, Refused
from mastodon.daemon.store import Store

SOCKET = "control"
LINE_LIMIT = 256 * 1024
BACKLOG = 8
ANSWER_S = 60.0
"""How long a command waits for the daemon."""


class ControlConnection(LineReceiver):
    """One operator's command at a time."""

    log = Logger()
    delimiter = b"\n"
    MAX_LENGTH = LINE_LIMIT

    def __init__(self, store: Store) -> None:
        self._store = store

    def lineReceived(self, line: bytes) -> None:
        """Do the command in a line; the connection closes behind the answer."""
        self.setRawMode()
        work = maybeDeferred(self._run, line)
        work.addCallbacks(lambda result: {"result": result}, self._refused).addCallback(self._answer)

    def rawDataReceived(self, data: bytes) -> None:
        """More than one command: nothing of it is looked at."""

    def lineLengthExceeded(self, line: bytes) -> None:
        """No command is that long."""
        self._answer({"error": f"a command has at most {LINE_LIMIT} bytes"})

    def _run(self, line: bytes) -> Deferred[Any]:
        try:
            asked = json.loads(line)
            name, arguments = asked["command"], asked["arguments"]
        except (ValueError, KeyError, TypeError, RecursionError):
            raise NotAllowed("not a command") from None
        if not isinstance(name, str) or not isinstance(arguments, dict):
            raise NotAllowed("not a command")
        self.log.info("operator: {name}", name=name)
        return Deferred.fromCoroutine(run_command(self._store, name, arguments))

    def _refused(self, failure: Failure) -> dict[str, str]:
        if failure.check(Refused) is not None:
            return {"error": str(failure.value)}
        self.log.failure("a command failed", failure)
        return {"error": "the daemon failed: its log says why"}

    def _answer(self, answer: dict[str, Any]) -> None:
        if self.transport is not None:
            self.transport.write(json.dumps(answer).encode("ascii") + b"\n")
            self.transport.loseConnection()


class ControlPort(ServerFactory):
    """Listens in the state directory."""

    noisy = False

    def __init__(self, store: Store, state: Path) -> None:
        self._store = store
        self._state = state
        self._port: Any = None
        self._open = contextlib.ExitStack()

    def buildProtocol(self, addr: IAddress | None) -> ControlConnection:
        """A connection."""
        return ControlConnection(self._store)

    def listen(self, reactor: Any) -> "Deferred[None]":
        """Begin to listen. The store's lock says that no other daemon does; a socket that is there is a leftover."""
        (self._state / SOCKET).unlink(missing_ok=True)
        # Held until the end: Twisted removes the socket by the path that it was bound to.
        path = self._open.enter_context(short_path(self._state))
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(path)
            listener.listen(BACKLOG)
            listener.setblocking(False)
            self._port = reactor.adoptStreamPort(listener.fileno(), socket.AF_UNIX, self)
            os.chmod(path, 0o600)  # the port made it 0666
        return succeed(None)

    def stop(self) -> "Deferred[None]":
        """Listen no more."""
        if self._port is None:
            return succeed(None)
        port, self._port = self._port, None
        return maybeDeferred(port.stopListening).addCallback(lambda _: self._open.close())


def ask_daemon(state: Path, command: str, arguments: dict[str, Any]) -> Any:
    """The answer of the daemon that has this state directory open, blocking.

    Raises FileNotFoundError or ConnectionRefusedError when there is none, NotAllowed with the text of a refusal.
    """
    with socket.socket(socket.AF_UNIX) as client, short_path(state) as path:
        client.settimeout(ANSWER_S)
        client.connect(path)
        data = _exchange(client, json.dumps({"command": command, "arguments": arguments}).encode("ascii") + b"\n")
    answer = json.loads(data)
    if "error" in answer:
        raise NotAllowed(str(answer["error"]))
    return answer["result"]


def _exchange(client: socket.socket, line: bytes) -> bytes:
    data = bytearray()
    try:
        return _send_and_read(client, line, data)
    except TimeoutError:
        raise NotAllowed(f"the daemon did not answer within {ANSWER_S:.0f} s: its log may say why") from None


def _send_and_read(client: socket.socket, line: bytes, data: bytearray) -> bytes:
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it may have answered before it closed
        client.sendall(line)
    with contextlib.suppress(ConnectionResetError):
        while part := client.recv(1 << 16):
            data += part
    if not data.endswith(b"\n"):
        raise NotAllowed("the daemon closed the connection without an answer: its log says why")
    return bytes(data)


@contextlib.contextmanager
def short_path(state: Path) -> Iterator[str]:
    """The socket's path through a descriptor: the name of a Unix socket has at most 107 bytes."""
    descriptor = os.open(state, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{descriptor}/{SOCKET}"
    finally:
        os.close(descriptor)
