"""The table of events in docs/server.md is the list that the daemon goes by."""

from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from mastodon.sealed.events import CLOSES, EVENTS, EventCode

SERVER = Path(__file__).resolve().parent.parent / "docs" / "server.md"
HEAD = "| event | for | means | do |"


def row(code: EventCode) -> str:
    """An event's row. Where another one says that it is over, that is said."""
    kind = EVENTS[code]
    over = " or ".join(closer.name for closer, closed in CLOSES.items() if code in closed)
    means = f"{kind.title}; over with {over}" if over else kind.title
    return f"| {code.name} ({kind.severity}) | {kind.audience} | {means} | {kind.advice} |"


class EventTableTests(SynchronousTestCase):
    """What an operator reads."""

    def test_table(self) -> None:
        """Each event with severity, audience, meaning and what to do, by code; another row is none."""
        lines = SERVER.read_text("utf-8").splitlines()
        first = lines.index(HEAD) + 2
        found = lines[first : lines.index("", first)]
        self.assertEqual(
            found, [row(code) for code in EVENTS], "write the table anew: python -m tests.test_event_table"
        )


if __name__ == "__main__":
    print("\n".join([HEAD, "| --- | --- | --- | --- |", *map(row, EVENTS)]))
