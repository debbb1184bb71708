"""What a restore has done, and what it could not do."""

from collections.abc import Callable
from dataclasses import dataclass, field

from mastodon.host.attributes import EXAMPLES, ProblemLog
from mastodon.restore.plan import show_path
from mastodon.sealed.listing import Directory


@dataclass(slots=True)
class Report:
    """Counts for people and programs. ``losses`` name what is not there, each with the reason; ``problems`` what
    of an entry could not be set or made here."""

    entries: int = 0
    files: int = 0
    content_bytes: int = 0
    kept_files: int = 0
    kept_bytes: int = 0
    links: int = 0
    directories: int = 0
    carried: int = 0
    fuzzy: int = 0
    losses: list[str] = field(default_factory=list)
    lost_count: int = 0
    problems: ProblemLog = field(default_factory=ProblemLog)
    on_tick: Callable[["Report"], None] | None = None

    @property
    def complete(self) -> bool:
        """Whether everything that was selected is there as it was."""
        return not self.lost_count and not self.problems.counts

    def lost(self, directory: Directory, name: bytes, reason: str) -> None:
        """A file could not be restored."""
        self.lost_text(f"{show_path(directory, name)}: {reason}")

    def lost_text(self, text: str) -> None:
        """The same, for what is no single file."""
        self.lost_count += 1
        if len(self.losses) < EXAMPLES:
            self.losses.append(text)

    def tick(self) -> None:
        """Something went on: for progress bars."""
        if self.on_tick is not None:
            self.on_tick(self)

    def problem_lines(self) -> list[str]:
        """Problems for people: each example, then how many there are of what."""
        return [str(problem) for problem in self.problems.examples]
