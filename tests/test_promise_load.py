"""Machines and strangers that push as hard as they can, beside an honest one (P12): real TLS, a real daemon.

What is bounded is looked at inside the daemon; fairness is told by who was served how much and in which order, never by
the clock.
"""

import contextlib
import os
import socket
import ssl
import threading
from collections import Counter
from typing import Any

from twisted.internet.defer import Deferred
from twisted.logger import globalLogPublisher

from bench.blocking_peers import TIMEOUT_S, AppendPeer, Peer, TinyMachine, client_context
from mastodon.daemon import rates
from mastodon.daemon.append_connection import BYTES_OUTSTANDING, JOBS_OUTSTANDING
from mastodon.daemon.connection import READ_AHEAD
from mastodon.daemon.scheduling import TURN_BUDGET, UNAUTHENTICATED
from mastodon.daemon.tls import HANDSHAKE_COST, SOCKET_BUFFER, FastTLSProtocol
from mastodon.sealed.blob import BlobKind
from mastodon.sealed.pack import PACK_LIMIT
from mastodon.wire.errors import ErrorCode
from mastodon.wire.fair import QUANTUM, Kind, Served
from mastodon.wire.frame import APPEND_FRAME_LIMIT
from mastodon.wire.messages import Error, Offer, PackEnd, Piece, Progress
from tests.load_case import STRANGERS, LoadTestCase, unsent_bytes
from tests.long import extent

GONE = (ConnectionError, ssl.SSLError, TimeoutError)


def was_cut(connection: socket.socket) -> bool:
    """Whether the other end has closed it."""
    try:
        while connection.recv(4096):
            pass
    except GONE:
        pass
    return True


class StrangerTests(LoadTestCase):
    """Those who never say who they are."""

    def test_promise_p12_slow_handshakes(self) -> Deferred[None]:
        """Half-open connections, silent or a byte at a time, keep no agent out: the oldest make room."""

        def attack() -> None:
            machine = self.server.new_machine(self.tenant)
            with contextlib.ExitStack() as stack:
                lazy = []
                for number in range(3 * STRANGERS):
                    connection = socket.create_connection(("127.0.0.1", self.server.append_port), TIMEOUT_S)
                    lazy.append(stack.enter_context(connection))
                    if number % 2:
                        with contextlib.suppress(*GONE):
                            connection.sendall(b"\x16\x03\x01\x02\x00\x01"[: number % 6 + 1])
                    if number % STRANGERS == STRANGERS - 1:
                        self.back_up(machine)
                handshakes = self.server.running._listening[0].factory.handshakes  # type: ignore[attr-defined]
                self.assertLessEqual(self.inside(lambda: len(handshakes)), STRANGERS)
                for connection in lazy[: 2 * STRANGERS - 3]:
                    self.assertTrue(was_cut(connection))
            self.back_up(machine)
            self.until(lambda: len(handshakes) == 0)

        return self.thread(attack)

    def test_promise_p12_bytewise_client_hello(self) -> Deferred[None]:
        """Clients that send their ClientHello byte by byte are served when they are through, others meanwhile."""

        def attack() -> None:
            machine = self.server.new_machine(self.tenant)
            slow = [BytewiseClient(self.server.append_port) for _ in range(STRANGERS // 2)]
            while not min([client.one_byte() for client in slow]):
                pass
            self.back_up(machine)
            for client in slow:
                self.assertTrue(client.finish())

        return self.thread(attack)

    def test_promise_p12_handshakes_take_turns(self) -> Deferred[None]:
        """Handshakes are work of the one unit of all strangers, and a turn holds few of their steps."""

        def attack() -> None:
            turns = self.inside(lambda: record_turns(self))
            context = client_context(["mastodon/1"])
            threads = [threading.Thread(target=shake_hands, args=(self.server.append_port, context)) for _ in range(8)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            steps = [[piece for piece in turn if isinstance(piece.source, FastTLSProtocol)] for turn in turns]
            self.assertGreaterEqual(sum(map(len, steps)), 8 * 10)
            self.assertLessEqual(max(map(len, steps)), TURN_BUDGET // HANDSHAKE_COST)
            self.assertEqual({piece.unit for turn in steps for piece in turn}, {UNAUTHENTICATED})
            self.until(self.nothing_left)

        return self.thread(attack)

    def test_promise_p12_silent_after_the_handshake(self) -> Deferred[None]:
        """Whoever finishes TLS and never says HELLO makes room for those who do; an agent that is in stays in."""

        def attack() -> None:
            machine, other = self.server.new_machine(self.tenant), self.server.new_machine(self.tenant)
            context = client_context(["mastodon/1"])
            with contextlib.ExitStack() as stack:
                inside = stack.enter_context(self.server.append_peer())
                inside.enter(machine.secret)
                silent = []
                for number in range(3 * STRANGERS):
                    silent.append(stack.enter_context(Peer(self.server.append_port, context)))
                    if number % STRANGERS == STRANGERS - 1:
                        self.back_up(other)
                self.assertLessEqual(self.inside(lambda: len(self.port.connections)), STRANGERS + 2)
                for peer in silent[: 2 * STRANGERS - 3]:
                    self.assertTrue(was_cut(peer.socket))
                machine.send_pack(inside, machine.pack([machine.blob(BlobKind.CHUNK, (), b"still here")]))
            self.until(self.nothing_left)

        return self.thread(attack)

    def test_promise_p12_garbage(self) -> Deferred[None]:
        """Random bytes end their connection, one after the other, and nothing of them is left."""

        def attack() -> None:
            machine = self.server.new_machine(self.tenant)
            context = client_context(["mastodon/1"])
            for number in range(3 * STRANGERS):
                with Peer(self.server.append_port, context) as peer, contextlib.suppress(*GONE):
                    peer.send_raw(os.urandom(8 << number % 15))
                    if number % 3:
                        peer.closed()
            self.back_up(machine)
            self.until(self.nothing_left)

        return self.thread(attack)


def shake_hands(port: int, context: ssl.SSLContext) -> None:
    """Ten times, and leave."""
    for _ in range(10):
        with Peer(port, context):
            pass


class BytewiseClient:
    """Sends its ClientHello a byte at a time, then behaves."""

    def __init__(self, port: int) -> None:
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = client_context(["mastodon/1"]).wrap_bio(self._incoming, self._outgoing)
        self._socket = socket.create_connection(("127.0.0.1", port), TIMEOUT_S)
        with contextlib.suppress(ssl.SSLWantReadError):
            self._tls.do_handshake()

    def one_byte(self) -> bool:
        """Whether all was sent."""
        self._socket.sendall(self._outgoing.read(1))
        return not self._outgoing.pending

    def finish(self) -> bool:
        """Whether the handshake ends well."""
        with self._socket:
            while True:
                with contextlib.suppress(ssl.SSLWantReadError):
                    self._tls.do_handshake()
                    return True
                self._incoming.write(self._socket.recv(65536))


class MachineTests(LoadTestCase):
    """Machines that are known, and hostile."""

    def test_promise_p12_answers_that_nobody_takes(self) -> Deferred[None]:
        """For a machine that offers and offers and takes no answer, a bounded amount is done and kept, also where its
        messages would not be held up before that."""
        self.patch(rates, "MESSAGES_A_SECOND", 1_000_000)

        def attack() -> None:
            machine, honest = (self.server.new_machine(self.tenant) for _ in range(2))
            with self.server.append_peer() as peer:
                peer.enter(machine.secret)
                connection = self.connection_of(machine)
                self.inside(lambda: small_send_buffer(connection))
                peer.socket.settimeout(3.0)
                offers = b"".join(Offer(number, os.urandom(32)).encode() for number in range(2000))
                with self.assertRaises(TimeoutError):
                    for _ in range(10_000):
                        peer.send_raw(offers)
                # Held up, the server may still be at work on what it has; the answers to that are what gets stuck.
                self.until(lambda: not connection.peer_reads)
                # One frame that was under way, and the answers to what was under way, come on top.
                self.assertLess(connection._reader.buffered, READ_AHEAD + APPEND_FRAME_LIMIT + SOCKET_BUFFER)
                self.assertLess(unsent_bytes(connection), 2 * SOCKET_BUFFER)
                self.assertLessEqual(len(connection._jobs), JOBS_OUTSTANDING)
                self.back_up(honest)
            self.until(self.nothing_left)

        return self.thread(attack)

    def test_promise_p12_a_pack_without_end(self) -> Deferred[None]:
        """Of pieces without end, one pack's bytes reach the disk and few are in memory; then the pack is refused."""

        def attack() -> None:
            machine, honest = (self.server.new_machine(self.tenant) for _ in range(2))
            with self.server.append_peer() as peer:
                peer.enter(machine.secret)
                connection = self.connection_of(machine)
                piece = Piece(bytes(256 * 1024)).encode()
                for _ in range(2 * PACK_LIMIT // len(piece)):
                    peer.send_raw(piece)
                    self.assertLess(connection._bytes, BYTES_OUTSTANDING + APPEND_FRAME_LIMIT)
                self.back_up(honest)
                for spool in self.server.spools:
                    for file in (spool / "incoming").iterdir():
                        self.assertLessEqual(file.stat().st_size, PACK_LIMIT)
                peer.send(PackEnd(b"p" * 32))
                self.assertEqual(peer.expect(Error).code, ErrorCode.TOO_LARGE)
                machine.send_pack(peer, machine.pack([machine.blob(BlobKind.CHUNK, (), b"better now")]))
            self.until(self.nothing_left)

        return self.thread(attack)

    def test_promise_p12_tiny_frames(self) -> Deferred[None]:
        """A flood of tiny frames is worked off in small turns, at its pace, and fills no log."""

        def attack() -> None:
            machine, honest = (self.server.new_machine(self.tenant) for _ in range(2))
            lines: list[Any] = []
            observer: Any = lines.append
            globalLogPublisher.addObserver(observer)
            self.addCleanup(globalLogPublisher.removeObserver, observer)
            turns = self.inside(lambda: record_turns(self))
            with self.server.append_peer() as peer:
                peer.enter(machine.secret)
                count = extent(share=3_000, whole=30_000)
                flood = Progress(1, 1).encode() * 1000

                def send_all(peer: AppendPeer = peer) -> None:
                    for _ in range(count // 1000):
                        peer.send_raw(flood)

                sender = threading.Thread(target=send_all)
                sender.start()
                self.back_up(honest)
                sender.join()
                machine.send_pack(peer, machine.pack([machine.blob(BlobKind.CHUNK, (), b"in the end")]))
            self.assertLess(len(lines), 100)
            self.assertLess(max(map(len, turns)), 500)
            self.assertGreater(sum(map(len, turns)), count)

        return self.thread(attack)

    def test_promise_p12_reconnect_storm(self) -> Deferred[None]:
        """A machine that comes again and again holds one session; what it left behind lingers in bounded number."""

        def attack() -> None:
            machine, honest = (self.server.new_machine(self.tenant) for _ in range(2))
            with contextlib.ExitStack() as stack:
                for number in range(3 * STRANGERS):
                    peer = stack.enter_context(self.server.append_peer())
                    peer.enter(machine.secret)
                    if number % STRANGERS == 0:
                        self.back_up(honest)
                self.assertLessEqual(self.inside(lambda: len(self.port.connections)), STRANGERS + 2)
                with self.server.append_peer() as another:
                    another.send(another.hello_for(machine.secret, b"another run's id"))
                    self.assertEqual(another.expect(Error).code, ErrorCode.BUSY)
                machine.send_pack(peer, machine.pack([machine.blob(BlobKind.CHUNK, (), b"the last one")]))
            self.until(self.nothing_left)

        return self.thread(attack)

    def test_promise_p12_hello_and_away(self) -> Deferred[None]:
        """Agents that leave while they are looked up leave nothing, and no session is held for them."""

        def attack() -> None:
            machine = self.server.new_machine(self.tenant)
            for _ in range(STRANGERS):
                with self.server.append_peer() as peer:
                    peer.send(peer.hello_for(machine.secret))
                    peer.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
            self.until(self.nothing_left)
            self.back_up(machine)

        return self.thread(attack)


class FairnessTests(LoadTestCase):
    """Who is served how much, and when."""

    def test_promise_p12_one_honest_beside_four_floods(self) -> Deferred[None]:
        """While the honest machine has work, it gets its equal share, and nobody is served twice before it."""

        def attack() -> None:
            honest, *hostile = (self.server.new_machine(self.tenant) for _ in range(5))
            stop = threading.Event()
            floods = [threading.Thread(target=self.flood, args=(machine, stop)) for machine in hostile]
            for thread in floods:
                thread.start()
            try:
                with self.server.append_peer() as peer:
                    peer.enter(honest.secret)
                    watch = self.inside(lambda: FairnessWatch(self, honest.secret.machine_id))
                    for _ in range(4):
                        blobs = [honest.blob(BlobKind.CHUNK, (), os.urandom(1 << 19)) for _ in range(8)]
                        honest.send_pack(peer, honest.pack(blobs))
                    self.inside(watch.end)
            finally:
                stop.set()
                for thread in floods:
                    thread.join()
            self.assertEqual(len(watch.served), 5)
            self.assertLessEqual(watch.longest_wait, 2 * (QUANTUM + APPEND_FRAME_LIMIT))
            share = watch.served[honest.secret.machine_id] / (sum(watch.served.values()) / 5)
            self.assertGreaterEqual(share, 0.8)

        return self.thread(attack)

    def flood(self, machine: TinyMachine, stop: threading.Event) -> None:
        """Pieces without end, as fast as they are taken."""
        pieces = Piece(bytes(256 * 1024)).encode() * 4
        with self.server.append_peer() as peer:
            peer.enter(machine.secret)
            while not stop.is_set():
                peer.send_raw(pieces)


class FairnessWatch:
    """Counts what each unit is served in turns at whose beginning one unit had work waiting."""

    def __init__(self, case: LoadTestCase, unit: bytes) -> None:
        self.served: Counter[Any] = Counter()
        self.longest_wait = 0
        self._unit = unit
        self._since: Counter[Any] = Counter()
        self._queue = case.scheduler._queue
        self._step = self._queue.step
        self._connection = next(one for one in case.port.connections if one._machine == unit)
        self._queue.step = self.step  # type: ignore[method-assign]

    def end(self) -> None:
        self._queue.step = self._step  # type: ignore[method-assign]

    def step(self, budget: int) -> list[Served]:
        """In place of the scheduler's own."""
        waiting = self._connection.next_cost() is not None
        if not waiting:
            self._since.clear()
        served = self._step(budget)
        for piece in served if waiting else ():
            if piece.kind is not Kind.APPEND:
                continue
            self.served[piece.unit] += piece.cost
            if piece.unit == self._unit:
                self._since.clear()
            else:
                self._since[piece.unit] += piece.cost
                self.longest_wait = max(self.longest_wait, self._since[piece.unit])
        return served


def record_turns(case: LoadTestCase) -> list[list[Served]]:
    """What is run from now on, turn by turn."""
    queue = case.scheduler._queue
    step = queue.step
    turns: list[list[Served]] = []

    def noting(budget: int) -> list[Served]:
        turns.append(step(budget))
        return turns[-1]

    queue.step = noting  # type: ignore[method-assign]
    return turns


def small_send_buffer(connection: Any) -> None:
    """So that few answers fill it."""
    connection.transport.transport.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
