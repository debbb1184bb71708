"""How far back a command looks, as the operator types it."""

import time

import click

from mastodon.sealed.duration import parse_duration


class Since(click.ParamType[int]):
    """A length of time before now, as nanoseconds since 1970."""

    name = "time"

    def convert(self, value: object, parameter: click.Parameter | None, context: click.Context | None) -> int:
        """What was typed."""
        try:
            return max(0, time.time_ns() - parse_duration(str(value)) * 10**9)
        except ValueError as error:
            self.fail(str(error), parameter, context)


SINCE = Since()
