"""Opens blobs of one machine in this process: root, pages, maps, and single files.

Every sealing of an id is tried; nothing comes out before its whole id was recomputed. What is missing or does not
verify is a reason in words, never bytes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from mastodon.restore.errors import Locked, Untrusted
from mastodon.restore.source import Answered, BlobCame, Intake
from mastodon.restore.trust import Trust
from mastodon.sealed.blob import BlobHeader, BlobKind, BlobOpener
from mastodon.sealed.errors import FormatError

CLOSED = (FormatError, Locked, Untrusted)
"""What one blob can suffer from; anything else ends the restore."""


NOT_HAD = "it is missing where the backup is kept, or cannot be read there"
"""What a source that sends nothing of a blob is taken to mean: which of the two it does not say."""


@dataclass(frozen=True, slots=True)
class OpenBlob:
    """A verified blob."""

    kind: BlobKind
    references: tuple[bytes, ...]
    plaintext: bytes


@dataclass(frozen=True, slots=True)
class LostBlob:
    """Why a blob could not be had; ``locked``: only for want of the right key."""

    reason: str
    locked: bool = False


class BlobReader:
    """Asks for blobs and opens them here."""

    def __init__(self, intake: Intake, trust: Trust) -> None:
        self.intake = intake
        self.trust = trust
        self._opener: BlobOpener | None = None

    def run_key(self, header: BlobHeader) -> bytes:
        """The key of a blob's run, its record fetched if need be. Raises CLOSED."""
        run_key = self.trust.run_key(header.run)
        if run_key is None:
            for record in self.intake.source.runs(self.intake.machine, [header.run]):
                self.trust.learn_run(record)
            run_key = self.trust.run_key(header.run)
        if run_key is None:
            raise FormatError(f"the record of run {header.run.hex()[:16]} is missing")
        return run_key

    def open(self, header: BlobHeader, data: bytes | memoryview, wanted: bytes) -> OpenBlob:
        """A sealing opened. Raises CLOSED."""
        run_key = self.run_key(header)
        if self._opener is None:
            self._opener = BlobOpener(self.trust.known.machine, self.trust.id_key)
        return OpenBlob(header.kind, header.references, self._opener.open(data, header, run_key, wanted))

    def ask(self, ids: Sequence[bytes]) -> int:
        """Ask now, ``read`` later: so that one answer travels while another is worked on."""
        return self.intake.ask_apart(ids)

    def read(self, question: int, ids: Sequence[bytes]) -> dict[bytes, OpenBlob | LostBlob]:
        """What became of each id of a question."""
        found: dict[bytes, OpenBlob | LostBlob] = {}
        for event in self.intake.collect(question):
            if isinstance(event, BlobCame):
                self._try(event, found)
        for wanted in ids:
            if wanted in found and isinstance(found[wanted], LostBlob):
                found[wanted] = self._second_try(wanted)
            found.setdefault(wanted, LostBlob(NOT_HAD))
        return found

    def _second_try(self, wanted: bytes) -> OpenBlob | LostBlob:
        other = self.sealing_that_opens(wanted)
        return other if isinstance(other, LostBlob) else self.open(*other, wanted)

    def read_now(self, ids: Sequence[bytes]) -> dict[bytes, OpenBlob | LostBlob]:
        """Ask and read."""
        return self.read(self.ask(ids), ids)

    def sealing_that_opens(self, wanted: bytes) -> tuple[BlobHeader, bytes] | LostBlob:
        """A sealing of an id that verifies, still sealed, when the first one that came did not."""
        result: tuple[BlobHeader, bytes] | LostBlob = LostBlob(NOT_HAD)
        for event in self.intake.collect(self.ask([wanted])):
            if isinstance(event, Answered) or isinstance(result, tuple):
                continue
            try:
                self.open(event.header, event.data, wanted)
                result = event.header, bytes(event.data)
            except CLOSED as error:
                result = LostBlob(str(error), isinstance(error, Locked))
        return result

    def _try(self, event: BlobCame, found: dict[bytes, OpenBlob | LostBlob]) -> None:
        wanted = event.header.id
        if isinstance(found.get(wanted), OpenBlob):
            return
        try:
            found[wanted] = self.open(event.header, event.data, wanted)
        except CLOSED as error:
            found[wanted] = LostBlob(str(error), isinstance(error, Locked))
