"""Caps on what agents send (P12): they hold those that pay no heed, at once, and after a restart."""

import json

from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from mastodon.daemon.append_port import AppendPort
from mastodon.daemon.connection import READ_AHEAD
from mastodon.daemon.errors import NotFound
from mastodon.daemon.rates import (
    BURST_S,
    MESSAGES_A_SECOND,
    MESSAGES_BURST_S,
    SLOWEST,
    TINY_PIECE_COUNTS,
    Bucket,
)
from mastodon.sealed.machine_secret import MachineSecret
from mastodon.wire.fair import QUANTUM
from mastodon.wire.messages import (
    Answer,
    Message,
    Offer,
    Pace,
    PackEnd,
    Piece,
    Progress,
)
from tests.append_port_case import AgentsEnd, AppendPortCase, PortStore
from tests.store_case import StoreCase
from tests.test_operator import CommandCase

RATE = 100_000
PIECE = 20_000


class BucketTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.rate = 1000
        self.bucket = Bucket(lambda: self.rate, self.clock.seconds)

    def taken(self, seconds: float) -> int:
        """What somebody gets who always wants ten bytes more."""
        total, end = 0, self.clock.seconds() + seconds
        while self.clock.seconds() < end:
            while not self.bucket.wait():
                self.bucket.take(10)
                total += 10
            self.clock.advance(self.bucket.wait())
        return total

    def test_rate(self) -> None:
        """In the long run the rate, whatever is wanted; after a rest little more."""
        self.assertApproximates(self.taken(100), 100_000, 1000 * BURST_S + 10)
        self.clock.advance(1000)
        self.assertApproximates(self.taken(10), 10_000, 1000 * BURST_S + 10)

    def test_a_frame_larger_than_the_rate(self) -> None:
        """It may be taken, and is paid for before the next one."""
        self.bucket.take(50_000)
        for _ in range(49):
            self.assertEqual(self.bucket.wait(), 1.0)
            self.clock.advance(1.0)
        self.clock.advance(self.bucket.wait())
        self.assertEqual(self.bucket.wait(), 0.0)

    def test_changes(self) -> None:
        """No cap, no debt; a cap that comes holds from then on."""
        self.rate = 0
        self.bucket.take(1_000_000)
        self.assertEqual(self.bucket.wait(), 0.0)
        self.rate = 500
        self.assertApproximates(self.taken(100), 50_000, 500 * BURST_S + 10)


class Receiver:
    """Takes pieces at once."""

    def __init__(self, store: "EagerStore", machine: bytes) -> None:
        self._store = store
        self._machine = machine

    def write(self, data: bytes | memoryview) -> Deferred[None]:
        self._store.taken[self._machine] = self._store.taken.get(self._machine, 0) + len(data)
        return succeed(None)

    def abandon(self) -> None:
        pass


class EagerStore(PortStore):
    """Takes all that the port gives it, and counts."""

    def __init__(self) -> None:
        super().__init__()
        self.taken: dict[bytes, int] = {}

    def begin_pack(self, machine: bytes, epoch: int) -> Receiver:
        return Receiver(self, machine)


class Flood(AgentsEnd):
    """A connection whose agent has pieces without end, and sends as long as it is read."""

    def __init__(self, port: AppendPort, secret: MachineSecret) -> None:
        super().__init__(port, secret)
        self.send(self.hello())

    def push(self) -> None:
        while self.connection._reading:
            self.send(Piece(bytes(PIECE)))


class CapTests(AppendPortCase):
    """Agents that ignore what they are told."""

    def make_store(self) -> EagerStore:
        self.store = EagerStore()
        return self.store

    def flood(self, number: int) -> Flood:
        secret = MachineSecret(bytes([number]) * 32)
        self.store.keys[secret.machine_id] = secret.public_key
        flood = Flood(self.port, secret)
        self.clock.advance(0)
        return flood

    def taken(self, floods: list[Flood], seconds: int) -> list[int]:
        """Bytes that the store took of each while all push."""
        before = dict(self.store.taken)
        for _ in range(20 * seconds):
            for flood in floods:
                flood.push()
            self.clock.advance(0.05)
        return [self.store.taken.get(one.machine, 0) - before.get(one.machine, 0) for one in floods]

    def test_promise_p12_a_cap_holds_who_ignores_it(self) -> None:
        """Beyond its cap nothing of a machine is taken, and little is read; another machine is not slowed down."""
        self.store.rates.follow([(MachineSecret(b"\1" * 32).machine_id, str(RATE))])
        capped, free = self.flood(1), self.flood(2)
        slow, fast = self.taken([capped, free], 20)
        self.assertApproximates(slow, 20 * RATE, RATE)
        self.assertGreater(fast, 20 * 10 * RATE)
        self.assertLess(capped.connection._reader.buffered, READ_AHEAD + 2 * PIECE)

    def test_promise_p12_no_way_around_a_cap(self) -> None:
        """A machine that comes again and again gets no more than one that stays."""
        self.store.rates.usual_machine = RATE
        total = 0
        for _ in range(10):
            total += sum(self.taken([self.flood(1)], 1))
        self.assertLess(total, 11 * RATE + PIECE)

    def test_promise_p12_the_total_is_shared_equally(self) -> None:
        """Under a cap in total each of many gets its equal share of it, whatever it pushes."""
        self.store.rates.usual_total = 20 * RATE
        floods = [self.flood(number) for number in range(1, 9)]
        shares = self.taken(floods, 40)
        self.assertApproximates(sum(shares), 40 * 20 * RATE, 20 * RATE)
        self.assertLess(max(shares) - min(shares), 2 * QUANTUM)

    def test_takes_effect_in_a_session(self) -> None:
        """A cap that is set while data flows is told to the agent and holds at once; so does its end."""
        flood = self.flood(1)
        self.assertEqual([one.pace for one in flood.heard() if isinstance(one, Answer)], [0])
        self.store.rates.follow([(b"", str(10 * RATE)), (flood.machine, str(RATE))])
        self.assertEqual(flood.heard(), [Pace(RATE)])
        self.assertLess(sum(self.taken([flood], 10)), 11 * RATE)
        self.store.rates.follow([(flood.machine, "")])
        self.assertEqual(flood.heard()[-1], Pace(10 * RATE))
        self.assertApproximates(sum(self.taken([flood], 10)), 100 * RATE, 10 * RATE)
        self.store.rates.follow([(b"", "0")])
        self.assertEqual(flood.heard(), [Pace(0)])
        self.assertGreater(sum(self.taken([flood], 1)), 15 * RATE)

    def test_the_answer_tells_the_pace(self) -> None:
        """Who checks in under a cap learns the stricter one."""
        self.store.rates.usual_total, self.store.rates.usual_machine = RATE, 2 * RATE
        self.assertEqual([one.pace for one in self.flood(1).heard() if isinstance(one, Answer)], [RATE])

    def test_promise_p12_a_flood_of_messages_waits(self) -> None:
        """Of a flood of signs of life, of offers, or of pieces of a byte, so many a second are taken, and data flows
        beside it for others; a machine that only sends its pack is not held up."""
        for message, most in (
            (Progress(1, 1), MESSAGES_A_SECOND),
            (Offer(1, bytes(32 * 4096)), MESSAGES_A_SECOND / 16),
            (Piece(b"x"), MESSAGES_A_SECOND / TINY_PIECE_COUNTS),
        ):
            flood, taken = self.flood(1), list[Message]()
            self.patch(flood.connection, "_perform", taken.append)
            data = message.encode()
            for _ in range(5 * 20):
                if flood.connection._reading:
                    flood.connection.dataReceived(data * max(4, 20_000 // len(data)))
                self.clock.advance(0.05)
            self.assertLess(len(taken), most * (5 + MESSAGES_BURST_S) + 1)
            self.assertGreater(len(taken), most * 4)
        self.assertGreater(sum(self.taken([self.flood(2)], 1)), 20 * 20 * PIECE)

    def test_messages_of_an_honest_run(self) -> None:
        """A whole first run's offers at once, in pieces and messages as agents send them, wait for nothing."""
        flood, taken = self.flood(1), list[Message]()
        self.patch(flood.connection, "_perform", taken.append)
        sent: list[Message] = [Offer(number, bytes(32 * 4096)) for number in range(100)]
        sent += [Piece(bytes(PIECE)), PackEnd(bytes(32))] * 100
        for message in sent:
            flood.connection.dataReceived(message.encode())
            self.clock.advance(0)
        self.assertEqual(len(taken), len(sent))


class PolicyTests(StoreCase):
    """What the operator sets stands in the ledger."""

    def test_promise_p10_caps_survive(self) -> None:
        """After a restart, and after the catalogue was made anew from the spools, the newest values hold."""
        self.wait(self.store.set_rate(b"", 5_000_000))
        self.wait(self.store.set_rate(b"", 6_000_000))
        self.wait(self.store.set_rate(self.machine.id, 0))
        for _ in range(2):
            self.stop()
            (self.setting.state / "catalogue.sqlite").unlink()
            self.start_again()
            self.store.rates.usual_machine = 7_000_000
            self.assertEqual((self.store.rates.total, self.store.rates.of(self.machine.id)), (6_000_000, 0))
            self.assertEqual(self.store.rates.of(b"o" * 32), 7_000_000)
            self.restart()
        self.wait(self.store.set_rate(b"", None))
        self.restart()
        self.assertEqual(self.store.rates.chosen, {self.machine.id: 0})

    def test_bad_caps(self) -> None:
        """A machine that is not enrolled, and a rate that would be a standstill, are refused."""
        self.refused(NotFound, lambda: self.wait(self.store.set_rate(b"x" * 32, 1_000_000)))
        self.assertRaises(ValueError, self.store.set_rate, b"", SLOWEST - 1)


class CommandTests(CommandCase):
    """``mastodon limit``, as it is typed."""

    def test_limit(self) -> None:
        """Caps are set, shown and taken back; the configuration's show through."""
        self.assertIn("no cap", self.call("limit", "show"))
        self.call("limit", "total", "50M")
        self.assertIn("50 MiB/s", self.call("limit", "show"))
        text = self.config.read_text()
        self.config.write_text(f'{text}\n[limits]\nappend_rate = "1 GiB"\nmachine_rate = 1536\n')
        found = json.loads(self.call("limit", "show", "--json"))
        self.assertEqual(found, {"total": 50 << 20, "machine": 1536, "machines": {}})
        self.call("limit", "total", "off")
        self.assertEqual(json.loads(self.call("limit", "show", "--json"))["total"], 0)
        self.call("limit", "total", "default")
        self.assertIn("1 GiB/s", self.call("limit", "show"))
        self.assertIn("1536 bytes/s", self.call("limit", "show"))

    def test_mistakes(self) -> None:
        """Rates and ids that are none are refused in one line that says what to give."""
        self.assertIn("50M", self.call("limit", "total", "fast", code=2))
        self.assertIn("at least", self.call("limit", "total", "12", code=1))
        self.assertIn("64 hexadecimal digits", self.call("limit", "machine", "web01", "1M", code=2))
        self.assertIn("no machine", self.call("limit", "machine", "ab" * 32, "1M", code=1))
