"""Runs the agent on a small tree of its own, into a vault, without a wire: what the agent's tests share."""

import os
import secrets
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

from twisted.trial.unittest import SynchronousTestCase

from mastodon.sealed.content import file_hash_key
from mastodon.sealed.entry import Entry
from mastodon.sealed.machine_secret import MachineSecret
from mastodon_agent import state
from mastodon_agent.backup import Backup, Clocks, Job
from mastodon_agent.exclude import Rules, parse_pattern
from mastodon_agent.listing_parts import listing_pair
from mastodon_agent.outcome import Note, Outcome, Watcher
from mastodon_agent.pairing import Credentials
from mastodon_agent.reader import no_watch
from mastodon_agent.reader_process import ReaderProcesses, ReaderSetting, ScanJob
from mastodon_agent.roots import fold, make_tree, resolve
from mastodon_agent.scan import ScanRules
from mastodon_agent.session import Session
from mastodon_agent.trust_memory import TrustMemory
from tests.fake_append_server import FolderSession, Vault

LATER_NS = 10 * 10**9
"""The agent's clock runs ahead, so that files just made have stood still for a while."""
PASSPHRASE = b"open sesame"


class Heard(Watcher):
    """Keeps what a run says."""

    def __init__(self) -> None:
        self.notes: list[Note] = []
        self.said: list[str] = []

    def note(self, note: Note) -> None:
        self.notes.append(note)

    def say(self, text: str) -> None:
        self.said.append(text)


class AgentCase(SynchronousTestCase):
    """A tree, a state directory, and a vault. Left out for speed: gpg (envelopes are not sealed), the stretching
    of passphrases, and what the system says of its disks."""

    readers = 1
    raw_secret = b""
    """The machine's secret, where bundles have to be cut at the same places each time; else any."""
    ahead = False
    """Whether the readers begin before the server has answered, as the command's do."""

    def setUp(self) -> None:
        self.work = Path(os.path.abspath(self.mktemp()))
        self.tree = self.work / "tree"
        self.state = self.work / "state"
        self.tree.mkdir(parents=True)
        self.state.mkdir()
        self.secret = MachineSecret(self.raw_secret or secrets.token_bytes(32))
        self.vault = Vault(self.secret, PASSPHRASE)
        self.vault.opens_envelopes = False
        self.heard = Heard()
        self.sessions: list[Session] = []
        for patcher in (
            mock.patch("mastodon.host.openpgp.seal", lambda payload, **_: payload),
            mock.patch("mastodon.sealed.pair.SCRYPT_N", 2),
            mock.patch("mastodon_agent.facts.PATH", ""),
        ):
            patcher.start()
            self.addCleanup(patcher.stop)

    def write(self, name: str, content: bytes | str = b"content") -> Path:
        """A file in the tree."""
        path = self.tree / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    def back_up(
        self,
        *paths: Path,
        excludes: tuple[str, ...] = (),
        rules: Rules | None = None,
        scan: dict[str, Any] | None = None,
        watch: Callable[[str, bytes], None] = no_watch,
        session: Session | None = None,
        credentials: Credentials | None = None,
        clock: Callable[[], int] = lambda: time.time_ns() + LATER_NS,
        steady: Callable[[], float] = time.monotonic,
        **job: Any,
    ) -> Outcome:
        """One run."""
        roots = fold([resolve(os.fsencode(path)) for path in paths or (self.tree,)])
        patterns = [parse_pattern(text.encode(), "test") for text in excludes]
        setting = ReaderSetting(
            make_tree(roots), ScanRules(rules or Rules(patterns), **(scan or {})), file_hash_key(self.secret.id_key),
            self.secret.machine_id, clock, watch,
        )  # fmt: skip
        reader = ReaderProcesses(setting, self.readers)
        try:
            if self.ahead:
                listing = str(self.state / state.NAME)
                pair = listing_pair(listing, self.secret.machine_id)
                reader.begin_ahead(ScanJob(listing, pair, (), job.get("reread", False)))
            self.sessions.append(session or FolderSession(self.vault))
            self.heard = Heard()
            backup = Backup(
                Job(
                    self.secret, credentials or Credentials(PASSPHRASE, ()), str(self.state), roots,
                    tuple(one.text for one in patterns), **job,
                ),
                secrets.token_bytes(16), self.sessions[-1], reader,
                TrustMemory(str(self.state), self.secret.machine_id), Clocks(clock, steady, secrets.token_bytes),
                self.heard,
            )  # fmt: skip
            return backup.run()
        finally:
            reader.close()

    def entries(self, number: int = -1) -> dict[str, Entry]:
        """The entries below the tree by their path in it, of one snapshot."""
        top = os.fsencode(self.tree) + b"/"
        return {
            os.fsdecode(path[len(top) :]): entry
            for path, entry in self.vault.tree(number).items()
            if path.startswith(top)
        }

    def content(self, name: str, number: int = -1) -> bytes:
        """A file's content in a snapshot, verified."""
        return self.vault.content(os.fsencode(self.tree / name), number)
