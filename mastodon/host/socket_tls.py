"""The client's TLS, for agent and restore client: standard ``ssl``, blocking sockets, no Twisted.

Promises:

* TLS 1.3 and the ALPN asked for, or no connection; never resumed;
* with pins, the server's key is compared before the first byte of ours is sent and nothing else of its
  certificate matters; without, the system's authorities and the host name decide;
* hosts are tried in the order given; when all fail, the gravest reason is raised, with all of them in its text;
* one thread may read while another writes.

The last is why this wraps an SSLObject over memory BIOs and not an SSLSocket: OpenSSL forbids two threads in
one connection at a time, and Python versions differ in whether a blocked reader then keeps the writer out or
races with it. Here a lock is held while bytes are turned over in memory, never while a socket waits.
"""

import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from types import TracebackType
from typing import Self

from mastodon.host.certificates import CertificateError, pin_of_der, pin_text

Address = tuple[str, int]
Data = bytes | bytearray | memoryview

IGNORE_UNEXPECTED_EOF = 0x80
"""SSL_OP_IGNORE_UNEXPECTED_EOF, which Python 3.11 does not name."""
# Below 128 KiB, where glibc starts to map and unmap memory for each allocation: half the CPU of 256 KiB.
WRITE_PIECE = 64 * 1024
SOCKET_READ = 256 * 1024
"""Into memory that a connection keeps, so what is said above does not hold here."""
RECORD = 16 * 1024
RECEIVE = 1024 * 1024


class ConnectError(Exception):
    """No connection to the server; the text says which host and why."""

    gravity = 0


class Unreachable(ConnectError):
    """No TCP connection: host name, address, port or network are wrong, or the server is down."""

    gravity = 1


class NotMastodon(ConnectError):
    """Something answers there, but not with TLS 1.3 and the protocol that was asked for."""

    gravity = 2


class BadCertificate(ConnectError):
    """Without a pin, the server's certificate has to be signed by a known authority for this host name."""

    gravity = 3


class PinMismatch(ConnectError):
    """The server has another key than the URL names: a wrong host, a changed key, or an impostor."""

    gravity = 4


class ConnectionLost(Exception):
    """The connection broke, or the server closed it with an alert."""


class TimedOut(ConnectionLost):
    """The server neither sent nor took anything for as long as was allowed."""


def connect(
    hosts: Sequence[Address],
    pins: Collection[bytes],
    alpn: str,
    client_cert: tuple[str, str] | None = None,
    timeout: float = 30.0,
    clock: Callable[[], float] = time.monotonic,
) -> "TLSStream":
    """A connection to the first host that answers as it should.

    ``client_cert`` names the PEM files of certificate and key; ``timeout`` bounds each host's whole
    handshake, and then each wait for the socket.
    """
    failures: list[ConnectError] = []
    for address in hosts:
        try:
            return _connect(address, pins, alpn, client_cert, timeout, clock, tuple(failures))
        except ConnectError as error:
            failures.append(error)
    if not failures:
        raise Unreachable("no host was named")
    gravest = max(failures, key=lambda error: error.gravity)
    raise type(gravest)("; ".join(str(error) for error in failures)) from gravest


class TLSStream:
    """An open connection: one thread may call ``receive`` while another calls ``send``."""

    def __init__(
        self, connection: socket.socket, tls: ssl.SSLObject, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO
    ) -> None:
        self.server_pin = b""
        self.address: Address = ("", 0)
        self.failures: tuple[ConnectError, ...] = ()
        self._socket = connection
        self._tls = tls
        self._incoming = incoming
        self._outgoing = outgoing
        self._sealed = memoryview(bytearray(SOCKET_READ))
        self._tls_lock = threading.Lock()
        self._send_lock = threading.Lock()
        self._end: Exception | None = None
        self._ended = False
        self._closed = False

    def send(self, data: Data) -> None:
        """Send all of it, waiting while the server takes nothing."""
        view = memoryview(data).cast("B")
        with self._send_lock:
            while view:
                with self._tls_lock:
                    try:
                        taken = self._tls.write(view[:WRITE_PIECE])
                    except ssl.SSLError as error:
                        raise ConnectionLost(_reason(error)) from error
                    sealed = self._outgoing.read()
                self._send_sealed(sealed)
                view = view[taken:]

    def receive(self, limit: int = RECEIVE) -> bytes:
        """The next bytes, at most ``limit``; empty when the server has closed in good order."""
        return b"".join(self.receive_pieces(limit))

    def receive_pieces(self, limit: int = RECEIVE) -> list[bytes]:
        """The same in pieces, as TLS cut them, which spares a copy of everything."""
        while True:
            with self._tls_lock:
                pieces = self._drain(limit)
            if pieces:
                return pieces
            if self._end is not None:
                raise self._end
            if self._ended:
                return []
            with _converted():
                length = self._socket.recv_into(self._sealed)
            with self._tls_lock:
                if length:
                    self._incoming.write(self._sealed[:length])
                else:
                    self._incoming.write_eof()

    def settimeout(self, seconds: float | None) -> None:
        """How long a single wait for the socket may last."""
        self._socket.settimeout(seconds)

    def abort(self) -> None:
        """Cut the connection: wakes a thread that waits in ``send`` or ``receive``."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Tell the server that nothing more comes, if no ``send`` is under way, and let go."""
        if self._closed:
            return
        self._closed = True
        if self._send_lock.acquire(blocking=False):
            try:
                self._say_goodbye()
            finally:
                self._send_lock.release()
        self.abort()
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def handshake(self, deadline: float, clock: Callable[[], float]) -> None:
        """The TLS handshake; errors are the standard library's."""
        done = False
        while not done:
            try:
                self._tls.do_handshake()
                done = True
            except ssl.SSLWantReadError:
                pass
            finally:
                sealed = self._outgoing.read()  # in the worst case the alert that says why
                if sealed:
                    self._socket.sendall(sealed)
            if not done:
                left = deadline - clock()
                if left <= 0:
                    raise TimeoutError("the handshake took too long")
                self._socket.settimeout(left)
                answer = self._socket.recv(RECORD)
                if answer:
                    self._incoming.write(answer)
                else:
                    self._incoming.write_eof()

    def _drain(self, limit: int) -> list[bytes]:
        pieces: list[bytes] = []
        left = limit
        while left > 0 and not self._ended:
            try:
                piece = self._tls.read(min(left, RECORD))
            except ssl.SSLWantReadError:
                break
            except ssl.SSLZeroReturnError:
                piece = b""
            except ssl.SSLError as error:
                self._end = ConnectionLost(_reason(error))
                self._ended = True
                break
            if not piece:
                self._ended = True
                break
            left -= len(piece)
            pieces.append(piece)
        return pieces

    def _send_sealed(self, sealed: bytes) -> None:
        view = memoryview(sealed)
        with _converted():
            while view:
                view = view[self._socket.send(view) :]

    def _say_goodbye(self) -> None:
        with contextlib.suppress(ssl.SSLError, OSError):
            with self._tls_lock:
                with contextlib.suppress(ssl.SSLWantReadError):
                    self._tls.unwrap()
                sealed = self._outgoing.read()
            self._socket.settimeout(1.0)
            self._socket.sendall(sealed)


def _connect(
    address: Address,
    pins: Collection[bytes],
    alpn: str,
    client_cert: tuple[str, str] | None,
    timeout: float,
    clock: Callable[[], float],
    failures: tuple[ConnectError, ...],
) -> TLSStream:
    where = f"{address[0]}:{address[1]}"
    deadline = clock() + timeout
    context = _context(bool(pins), alpn, client_cert)
    try:
        connection = socket.create_connection(address, timeout)
    except (OSError, UnicodeError) as error:
        raise Unreachable(f"{where}: {getattr(error, 'strerror', None) or error}") from error
    try:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = context.wrap_bio(incoming, outgoing, server_hostname=address[0])
        stream = TLSStream(connection, tls, incoming, outgoing)
        _shake_hands(stream, where, deadline, clock)
        stream.server_pin = _check_server(tls, pins, alpn, where, client_cert is not None)
    except BaseException:
        connection.close()
        raise
    stream.address = address
    stream.failures = failures
    stream.settimeout(timeout)
    return stream


def _context(pinned: bool, alpn: str, client_cert: tuple[str, str] | None) -> ssl.SSLContext:
    if pinned:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE  # the pin is compared after the handshake, before our first byte
    else:
        context = ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.options |= ssl.OP_NO_TICKET
    context.options &= ~IGNORE_UNEXPECTED_EOF  # Debian's Python sets it: a cut connection would look like a clean end
    context.set_alpn_protocols([alpn])
    if client_cert is not None:
        try:
            context.load_cert_chain(*client_cert)
        except (OSError, ssl.SSLError) as error:
            raise ConnectError(f"client certificate {client_cert[0]}, key {client_cert[1]}: {error}") from error
    return context


def _shake_hands(stream: TLSStream, where: str, deadline: float, clock: Callable[[], float]) -> None:
    try:
        stream.handshake(deadline, clock)
    except ssl.SSLCertVerificationError as error:
        text = f"{where}: {error.verify_message}; name the server's key in the URL (server=PIN) or mend its certificate"
        raise BadCertificate(text) from error
    except ssl.SSLError as error:
        if _was_cut(error):
            raise Unreachable(f"{where}: the connection was closed in the TLS handshake") from error
        reason = _reason(error)
        if "no application protocol" in reason:
            reason = "no application protocol in common: is it the right port?"
        raise NotMastodon(f"{where}: no TLS 1.3 connection: {reason}") from error
    except TimeoutError as error:
        raise Unreachable(f"{where}: no answer to the TLS handshake in time") from error
    except OSError as error:
        raise Unreachable(f"{where}: the connection was cut in the TLS handshake: {error.strerror}") from error


def _check_server(tls: ssl.SSLObject, pins: Collection[bytes], alpn: str, where: str, introduced: bool) -> bytes:
    try:
        pin = pin_of_der(tls.getpeercert(True) or b"")
    except CertificateError as error:
        raise BadCertificate(f"{where}: the server's certificate is of no use: {error}") from error
    if pins and pin not in pins:
        expected = " or ".join(pin_text(known) for known in sorted(pins))
        # In TLS 1.3 the client's certificate belongs to the handshake, so it has been seen by now.
        sent = "nothing was sent but this client's certificate" if introduced else "nothing was sent"
        raise PinMismatch(f"{where}: the server's key is {pin_text(pin)}, expected {expected}; {sent}")
    if tls.selected_alpn_protocol() != alpn:
        raise NotMastodon(f"{where}: the server does not speak {alpn}")
    return pin


@contextlib.contextmanager
def _converted() -> Iterator[None]:
    try:
        yield
    except TimeoutError as error:
        raise TimedOut("the server neither sent nor took anything in time") from error
    except OSError as error:
        raise ConnectionLost(error.strerror or str(error)) from error


def _was_cut(error: ssl.SSLError) -> bool:
    """Whether the connection ended where TLS does not: Python 3.11 has a type only for an end between two records."""
    return isinstance(error, ssl.SSLEOFError) or error.reason == "UNEXPECTED_EOF_WHILE_READING"


def _reason(error: ssl.SSLError) -> str:
    """OpenSSL's reason in words: ``TLSV1_ALERT_UNKNOWN_CA`` is nobody's language."""
    if _was_cut(error):
        return "the connection was cut"
    reason = error.reason or str(error)
    for prefix in ("TLSV1_ALERT_", "TLSV13_ALERT_", "SSLV3_ALERT_"):
        if reason.startswith(prefix):
            return "the server refused: " + reason.removeprefix(prefix).replace("_", " ").lower()
    return reason.replace("_", " ").lower()
