"""A time as the admin types it: a moment, or how far from now."""

import time

import click

from mastodon.restore.errors import NotThere
from mastodon.restore.history import parse_time
from mastodon.sealed.duration import DAY_NS, SECOND_NS, parse_duration

DATE_LENGTH = 10


class When(click.ParamType[int]):
    """Nanoseconds since 1970. A length of time counts from now, backwards or forwards."""

    name = "when"

    def __init__(self, direction: int) -> None:
        self._direction = direction

    def convert(self, value: object, parameter: click.Parameter | None, context: click.Context | None) -> int:
        """What was typed."""
        text = str(value)
        try:
            return time.time_ns() + self._direction * parse_duration(text) * SECOND_NS
        except ValueError:
            pass
        try:
            moment = parse_time(text)
        except (NotThere, ValueError):
            self.fail("give a time such as '2026-11-24 07:00', or a length such as 6h or 2d", parameter, context)
        # A date is its end there: for what is past it is its beginning here.
        return moment - DAY_NS if self._direction < 0 and len(text) <= DATE_LENGTH else moment


WHEN_PAST, WHEN_AHEAD = When(-1), When(1)
