"""P8 over a simulated year: every alert that was due was raised once and told once, and none that was not.

Some forty machines, hourly: dead, partial, failing, lying, seeding for long, never installed, travelling in time,
disabled; some daily ones by local time over daylight saving. The server crashes twice, loses its catalogue, has full
spools and a wall clock that jumps; the mail server is down for a day. By default a few days of a few machines, under
MASTODON_LONG=1 the whole.
"""

from collections import Counter
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from mastodon.catalogue.interface import EventRow
from mastodon.daemon.telling.letter import LetterKind, is_closing, kind_of
from mastodon.daemon.watch import OF_THE_WATCH
from mastodon.sealed.events import Audience, EventCode, Severity
from mastodon.sealed.settings import HOUR
from tests.long import extent
from tests.year import ALICE, OPERATOR, Year, codes
from tests.year_machine import YearMachine


class YearTests(SynchronousTestCase):
    timeout = 3600

    def setUp(self) -> None:
        directory = Path(self.mktemp()).resolve()
        directory.mkdir()
        self.year = Year(directory, extent(share=9, whole=365), extent(share=6, whole=40))

    def test_promise_p8_a_year(self) -> None:
        """See above."""
        events = self.year.live()
        kinds = Counter[EventCode]()
        for one in self.year.machines:
            told = codes(events, one.machine.id)
            kinds.update(told)
            self.check_machine(one, told)
        self.check_server(codes(events, b""))
        self.check_mail(events)
        self.assertGreaterEqual(set(kinds), OF_THE_WATCH | {EventCode.RECOVERED, EventCode.WATCH_WEAKENED}, kinds)

    def check_machine(self, one: YearMachine, told: list[EventCode]) -> None:
        """What was due, in each stretch up to a complete snapshot, and nothing else."""
        self.assertEqual(told.count(EventCode.TIME_TRAVEL), one.travels, one.name)
        weakened = bool(one.switched) + (one.interval > HOUR)
        self.assertEqual(told.count(EventCode.WATCH_WEAKENED), weakened, one.name)
        left = [code for code in told if code not in (EventCode.TIME_TRAVEL, EventCode.WATCH_WEAKENED)]
        due = one.due(self.year.served, self.year.end)
        for number, (must, may, is_over) in enumerate(due):
            found: list[EventCode] = []
            while left and left[0] in must | may:
                found.append(left.pop(0))
            where = f"{one.name}, stretch {number}: {found} of {must} and perhaps {may}, then {left[:3]}"
            self.assertEqual(len(found), len(set(found)), where)
            self.assertLessEqual(must, set(found), where)
            if found and is_over and number < len(due) - 1:
                self.assertEqual(left[:1], [EventCode.RECOVERED], where)
                left.pop(0)
        self.assertEqual(left, [], one.name)

    def check_server(self, told: list[EventCode]) -> None:
        """The clock's jumps and the mail server's silence."""
        expected = {EventCode.CLOCK_JUMPED: len(self.year.calendar.jumps), EventCode.TELLING_FAILED: 1}
        self.assertEqual(Counter(told), expected)

    def check_mail(self, events: list[EventRow]) -> None:
        """Each address got what is for it, each event once, in letters of which none came twice."""
        for address, audience in ((ALICE, Audience.ADMIN), (OPERATOR, Audience.OPERATOR)):
            letters = [letter for to, letter in self.year.letters if to == address]
            self.assertEqual(len({letter.id for letter in letters}), len(letters))
            alerts = [letter for letter in letters if letter.kind is LetterKind.ALERT]
            told = sum(sum(line.count for line in letter.lines) + letter.more for letter in alerts)
            due = [
                one for one in events
                if kind_of(one.code).audience in (audience, Audience.BOTH)
                and (one.tenant or audience is Audience.OPERATOR)
                and (kind_of(one.code).severity is not Severity.INFO or is_closing(one.code))
            ]  # fmt: skip
            self.assertEqual(told, len(due), (address, Counter(kind_of(one.code).title for one in due)))
