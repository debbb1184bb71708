"""What the agent takes of line, processor and disk, and when it begins: --limit-rate, --nice, --splay."""

import itertools
import os
import secrets
import signal
import subprocess
import time
from collections.abc import Callable
from unittest import mock

from twisted.trial.unittest import SynchronousTestCase

from mastodon.wire.append_client import AppendClient
from mastodon.wire.messages import Message, Offer, Piece, Progress
from mastodon_agent import niceness, packing, splay
from mastodon_agent.connection import Connection, Patience
from mastodon_agent.niceness import BEST_EFFORT, IDLE, BadNiceness, Niceness, parse_niceness
from mastodon_agent.pace import SHORTEST_SLICE, Throttle
from mastodon_agent.packing import SealedPack
from mastodon_agent.rate_limit import BadLimit, parse_rate_limit
from mastodon_agent.splay import BadSpan, parse_span
from tests.test_agent_command import CommandCase

MEGABYTE = 1 << 20


class RateLimitTests(SynchronousTestCase):
    """What --limit-rate understands."""

    def at(self, text: str, clock: str) -> int:
        hours, minutes = clock.split(":")
        return parse_rate_limit(text).at(int(hours) * 60 + int(minutes))

    def test_rates(self):
        """Units are those of restic, rclone and curl; `off` is no limit."""
        for text, rate in (
            ("2048", 2048), ("1K", 1024), ("1.5k", 1536), ("1M", MEGABYTE), ("2g", 1 << 31), ("off", 0), ("OFF", 0),
        ):  # fmt: skip
            self.assertEqual(self.at(text, "12:00"), rate, text)

    def test_office_hours(self):
        """From the first minute to before the last; what is not named has no limit."""
        for text in ("08-18=1M,off", "8-18=1M", "off, 08:00-18:00=1M"):
            for clock, rate in (("7:59", 0), ("8:00", MEGABYTE), ("17:59", MEGABYTE), ("18:00", 0), ("0:00", 0)):
                self.assertEqual(self.at(text, clock), rate, (text, clock))

    def test_several_ranges(self):
        """Minutes, over midnight, a rate for the rest; the first range that fits counts."""
        text = "22:30-06=20M,08:30-18=512K,12-13=9M,5M"
        for clock, rate in (
            ("22:29", 5), ("22:30", 20), ("0:00", 20), ("5:59", 20), ("6:00", 5), ("8:30", 0.5), ("12:30", 0.5),
        ):  # fmt: skip
            self.assertEqual(self.at(text, clock), rate * MEGABYTE, clock)
        self.assertEqual([self.at("20-24=1K", clock) for clock in ("23:59", "0:00", "19:59")], [1024, 0, 0])
        self.assertEqual([self.at("0-24=1K", clock) for clock in ("23:59", "0:00")], [1024, 1024])

    def test_nonsense(self):
        """Anything else is refused with an example."""
        for text in (
            "", "fast", "1T", "-1", "1 M", "1e6", "0", "100", "0.5K", "٣M", "1M,2M", "08=1M", "08-18", "08-18=",
            "8-25=1M", "08:60-18=1M", "24:01-3=1M", "18-18=1M", "24-0=1M",
            "08-18=1M,", "=1M", "-=1M", "mon-fri=1M", "a" * 10_000,
        ):  # fmt: skip
            error = self.assertRaises(BadLimit, parse_rate_limit, text)
            self.assertTrue("e.g." in str(error) or "off" in str(error) or "alone" in str(error), str(error))

    def test_slowest(self):
        """The least that is ever allowed, by which packs are measured."""
        self.assertEqual(parse_rate_limit("08-18=1M,20-22=2K,off").slowest, 2048)
        self.assertEqual(parse_rate_limit("08-18=off").slowest, 0)

    def test_local_time(self):
        """The hours are those of the clock that is asked, each time anew."""
        now = time.struct_time((2026, 1, 1, 7, 59, 59, 0, 1, 0))
        limit = parse_rate_limit("08-18=1M,off").by(lambda: now)
        self.assertEqual(limit(), 0)
        now = time.struct_time((2026, 1, 1, 8, 0, 0, 0, 1, 0))
        self.assertEqual(limit(), MEGABYTE)

    def test_packs_of_a_slow_line(self):
        """A pack is sent in about a minute, so that a lost connection costs little; never below what a blob needs."""
        self.assertEqual(packing.target_size(32 * MEGABYTE, 0), packing.TARGET)
        self.assertEqual(packing.target_size(32 * MEGABYTE, 100_000), 6_000_000)
        self.assertEqual(packing.target_size(32 * MEGABYTE, 1024), MEGABYTE)
        self.assertEqual(packing.target_size(4 * MEGABYTE, 10 * MEGABYTE), 2 * MEGABYTE)


class ThrottleTests(SynchronousTestCase):
    """The arithmetic, by a clock of its own."""

    def setUp(self) -> None:
        self.now = 100.0
        self.limit = 0
        self.throttle = Throttle(lambda: self.now, lambda: self.limit)

    def test_rate(self):
        """So many bytes a second, with a burst of a second."""
        now = 100.0
        throttle = Throttle(lambda: now)
        self.assertEqual(throttle.spend(10**9), 0.0)
        throttle.set_rate(1000)
        self.assertAlmostEqual(throttle.spend(500), 0.5)
        now = 110.0
        self.assertLessEqual(throttle.spend(1000), 0.0)
        self.assertAlmostEqual(throttle.spend(2000), 2.0)
        now = 112.0
        self.assertAlmostEqual(throttle.spend(0), 0.0)

    def test_the_stricter_one_wins(self):
        """Of the server's pace and this machine's limit."""
        for server, limit, rest in ((0, 1000, 1.0), (500, 1000, 2.0), (1000, 500, 2.0), (1000, 0, 1.0), (0, 0, 0.0)):
            self.limit = limit
            throttle = Throttle(lambda: self.now, lambda: self.limit)
            throttle.set_rate(server)
            self.assertAlmostEqual(throttle.spend(1000), rest)

    def test_change_amid_a_rest(self):
        """At the boundary what is still owed is owed at the new rate, or not at all."""
        self.limit = 1000
        self.assertAlmostEqual(self.throttle.spend(10_000), 10.0)
        self.now += 5.0
        self.limit = 5000
        self.assertAlmostEqual(self.throttle.spend(0), 1.0)
        self.limit = 0
        self.assertEqual(self.throttle.spend(0), 0.0)
        self.limit = 1000
        self.assertAlmostEqual(self.throttle.spend(1000), 1.0)

    def test_pace_said_over_and_over(self):
        """A server that names a pace again and again does not get this machine past its own limit."""
        self.limit = 1000
        rest = 0.0
        for pace in (5000, 0, 9000, 0, 2000) * 20:
            self.throttle.set_rate(pace)
            rest = self.throttle.spend(1000)
        self.assertAlmostEqual(rest, 100.0)

    def test_slices(self):
        """A slow line is busy evenly; a fast one, and one without a limit, gets the longest pieces."""
        for limit, length in ((0, 262144), (10 * MEGABYTE, 262144), (400_000, 100_000), (2000, SHORTEST_SLICE)):
            self.limit = limit
            self.assertEqual(self.throttle.slice(262144), length)


class Clock:
    """Seconds, which pass only when somebody rests."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def wait_for(self, _condition: Callable[[], bool], seconds: float) -> bool:
        self.now += seconds
        return False


class Line:
    """A stream that notes what is sent, and when."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.sent: list[tuple[float, Message]] = []

    def send(self, message: Message) -> None:
        self.sent.append((self.clock.now, message))

    def bytes_between(self, begin: float, end: float) -> int:
        return sum(len(one.data) for at, one in self.sent if isinstance(one, Piece) and begin <= at < end)


class PacedPackTests(SynchronousTestCase):
    """A pack that goes out slowly, on a clock of its own."""

    def send(self, length: int, limit: Callable[[], int], clock: Clock, server: int = 0) -> Line:
        line = Line(clock)
        client = mock.Mock(spec=AppendClient)
        client.say.side_effect = Said
        connection = Connection(mock.Mock(), mock.Mock(), Patience(1800.0, 1800.0), clock, print, limit)
        connection._lost = False
        connection._throttle.set_rate(server)
        pack = SealedPack(b"p" * 32, [bytes(length)], [], length)
        with mock.patch.object(connection._changed, "wait_for", clock.wait_for):
            connection._send_request(line, client, pack)  # type: ignore[arg-type]
        line.sent = [(at, said.message) for at, said in line.sent]  # type: ignore[attr-defined]
        self.assertEqual(line.bytes_between(0, 1e9), length)
        return line

    def test_hours_that_begin_and_end_amid_a_pack(self):
        """Free, then 100 kB a second for ten seconds, then free again: each from its boundary on."""
        clock = Clock()

        def limit() -> int:
            return 100_000 if clock.now < 10 else 0

        line = self.send(5_000_000, limit, clock)
        self.assertLessEqual(line.bytes_between(0, 9.9), 1_000_000)
        self.assertGreaterEqual(line.bytes_between(0, 9.9), 900_000)
        self.assertLess(clock.now, 11)

    def test_signs_of_life_go_on(self):
        """However slow the line, the server hears at least every 15 seconds."""
        for limit, server in ((1024, 0), (0, 1024)):
            clock = Clock()
            line = self.send(
                MEGABYTE, parse_rate_limit(str(limit) if limit else "off").by(time.localtime), clock, server
            )
            times = [at for at, _ in line.sent]
            self.assertLessEqual(max(later - at for at, later in itertools.pairwise(times)), 16.1)
            self.assertEqual(any(isinstance(one, Progress) for _, one in line.sent), server > 0)
            self.assertGreater(clock.now, 900)

    def test_offers_count(self):
        """Everything that is sent counts, not packs alone."""
        clock = Clock()
        connection = Connection(mock.Mock(), mock.Mock(), Patience(), clock, print, lambda: 1000)
        connection._lost = False
        client = mock.Mock(spec=AppendClient)
        client.say.return_value = bytes(8000)
        with mock.patch.object(connection._changed, "wait_for", clock.wait_for):
            connection._send_request(mock.Mock(), client, Offer(1, bytes(7990)))
        self.assertGreaterEqual(clock.now, 7.9)


class Said:
    """A message on its way."""

    def __init__(self, message: Message) -> None:
        self.message = message

    def __len__(self) -> int:
        return 0


class NicenessTests(SynchronousTestCase):
    """What --nice does to the process."""

    def test_levels(self):
        """Words, and numbers as nice has them, with the I/O level that the kernel derives from those."""
        self.assertEqual(parse_niceness("idle"), Niceness(19, (IDLE, 0), idle=True))
        self.assertEqual(parse_niceness("low"), Niceness(10, (BEST_EFFORT, 7)))
        self.assertIsNone(parse_niceness("normal"))
        self.assertEqual(parse_niceness("0"), Niceness(0, (BEST_EFFORT, 4)))
        self.assertEqual(parse_niceness("-20"), Niceness(-20, (BEST_EFFORT, 0)))
        for text in ("", "20", "-21", "1.5", "lowest", "IDLE"):
            self.assertIn("idle, low, normal", str(self.assertRaises(BadNiceness, parse_niceness, text)))

    def test_forked_processes_have_it(self):
        """What is forked afterwards runs at the same level; the I/O class was taken by the kernel."""
        said: list[str] = []
        read, write = os.pipe()
        child = os.fork()
        if not child:
            niceness.apply(Niceness(19, (IDLE, 0), idle=True), said.append)
            if not os.fork():
                os.write(write, b"%d %d %d" % (os.nice(0), os.sched_getscheduler(0), len(said)))
            else:
                os.wait()
            os._exit(0)
        os.waitpid(child, 0)
        os.close(write)
        with os.fdopen(read, "rb") as file:
            self.assertEqual(file.read(), b"19 %d 0" % os.SCHED_IDLE)

    def test_what_the_kernel_forbids(self):
        """It is told in a line each, and the rest is done all the same."""
        said: list[str] = []
        refusal = PermissionError(13, "Permission denied")
        with (
            mock.patch("os.setpriority", side_effect=refusal), mock.patch("os.sched_setscheduler") as scheduler,
            mock.patch("mastodon_agent.niceness.set_io_class", side_effect=OSError(1, "Operation not permitted")),
        ):  # fmt: skip
            niceness.apply(Niceness(19, (IDLE, 0), idle=True), said.append)
        self.assertEqual(scheduler.call_count, 1)
        self.assertEqual(
            said,
            [
                "--nice: the CPU priority stays as it was: Permission denied",
                "--nice: the I/O priority stays as it was: Operation not permitted",
            ],
        )

    def test_a_system_whose_call_is_not_known(self):
        """No number is guessed."""
        said: list[str] = []
        with mock.patch("platform.machine", return_value="vax"), mock.patch("os.setpriority"):
            niceness.apply(Niceness(0, (BEST_EFFORT, 4)), said.append)
        self.assertEqual(said, ["--nice: the I/O priority stays as it was: not known how to on vax"])


class SplayTests(SynchronousTestCase):
    """When a machine's turn is."""

    def test_spans(self):
        """Seconds, minutes, hours, up to a day."""
        for text, seconds in (("90", 90), ("90s", 90), ("30m", 1800), ("1h", 3600), ("24h", 86400)):
            self.assertEqual(parse_span(text), seconds)
        for text in ("", "0", "-5m", "25h", "1d", "30 m", "half an hour", "1.5h", "9" * 50):
            self.assertIn("e.g. 30m", str(self.assertRaises(BadSpan, parse_span, text)))

    def test_each_machine_has_its_minute(self):
        """The same one every time, within the span, and a fleet's lie spread over all of it."""
        fleet = [secrets.token_bytes(32) for _ in range(2000)]
        delays = [splay.delay(machine, 1800) for machine in fleet]
        self.assertEqual(delays, [splay.delay(machine, 1800) for machine in fleet])
        self.assertTrue(all(0 <= one < 1800 for one in delays))
        for tenth in range(10):
            self.assertGreater(sum(180 * tenth <= one < 180 * (tenth + 1) for one in delays), 100)


class CommandTests(CommandCase):
    """The options as users meet them."""

    def test_mistakes(self):
        """Exit 3, and a line with an example."""
        for words, said in (
            (("--limit-rate", "fast"), "08-18=1M,off"),
            (("--nice", "lowest"), "idle, low, normal"),
            (("--splay", "1 week"), "e.g. 30m"),
        ):
            done = self.agent(*self.given, self.tree, *words)
            self.assertEqual(done.returncode, 3, done.stderr)
            self.assertIn(said, done.stderr)

    def test_all_of_them(self):
        """A run at its turn, at low priority, on a limited line."""
        done = self.agent(*self.given, self.tree, "-v", "--limit-rate", "0-24=10M", "--nice", "low", "--splay", "1")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("waiting for 0:00, this machine's place within --splay", done.stderr)
        self.assertEqual(len(self.vault.snapshots), 1)

    def test_ended_while_it_waits(self):
        """SIGTERM and Ctrl-C end the wait in a line; nothing is locked or connected meanwhile."""
        for number in (signal.SIGTERM, signal.SIGINT):
            words = self.words(*self.given, self.tree, "-v", "--splay", "24h")
            with subprocess.Popen(
                words, env=self.environment(), stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True
            ) as process:
                assert process.stderr is not None
                self.assertIn("waiting for", process.stderr.readline())
                self.assertFalse((self.work / "state" / "lock").exists())
                process.send_signal(number)
                said = process.stderr.read()
            self.assertEqual(process.returncode, 2)
            self.assertEqual(
                said, "mastodon-agent: interrupted while it waited for its turn (--splay); nothing was done\n"
            )
        self.assertEqual(self.server.connections, 0)
