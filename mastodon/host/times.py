"""Times as people read them."""

import datetime

SECOND = 10**9


def show_time(time_ns: int) -> str:
    """A time as people read it, local, with its zone."""
    try:
        moment = datetime.datetime.fromtimestamp(time_ns // SECOND).astimezone()
    except (OverflowError, ValueError, OSError):
        return f"{time_ns} ns"
    return moment.strftime("%Y-%m-%d %H:%M:%S %z")
