"""The agent's own code on a real store (catalogue, ledger, spools), without a wire; and restores from those spools."""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mastodon.catalogue.interface import EventRow
from mastodon.daemon import errors
from mastodon.daemon.events import EventCode
from mastodon.daemon.store import Store
from mastodon.host.spool_reader import LedgerRecords
from mastodon.restore import actions
from mastodon.restore.memory import Memory
from mastodon.restore.select import Selection
from mastodon.restore.session import Session as RestoreSession
from mastodon.restore.spool_source import SpoolSource
from mastodon.restore.tree import RestoreOptions
from mastodon.restore.trust import KnownMachine
from mastodon.sealed.enrolment import Enrolment
from mastodon.sealed.snapshot import SnapshotRecord
from mastodon.sealed.statement import StatementVerb
from mastodon.wire.messages import Answer, Committed, Missing
from mastodon_agent.packing import SealedPack
from mastodon_agent.refusals import NoConnection
from mastodon_agent.session import Durable, Offended, SessionEvent, SnapshotRefused, Wants
from tests.agent_runs import AgentCase
from tests.store_case import SERVER, Setting

LIMIT = 1000


class StoreSession:
    """An agent's session (mastodon_agent/session.py) straight into a store. ``loses_answer``: a commit is taken, and
    the agent never hears of it."""

    def __init__(self, setting: Setting, store: Store, machine: bytes, *, loses_answer: bool = False) -> None:
        self._wait = setting.wait
        self._store = store
        self._machine = machine
        self._loses_answer = loses_answer
        self._events: list[SessionEvent] = []
        self.answer = self.refresh()

    def refresh(self) -> Answer:
        self._epoch = self._store.machine_session(self._machine)
        account = self._wait(self._store.account(self._machine))
        assert account is not None
        self.answer = Answer(
            1, self._epoch, 0, account.head_sequence, account.head_hash, account.pair, account.stored_blobs, (),
            self._store.signed_head(),
        )  # fmt: skip
        return self.answer

    def add_pair(self, record: bytes, envelope: bytes) -> None:
        self._wait(self._store.add_pair(self._machine, record, envelope, self._epoch))

    def offer(self, number: int, ids: Sequence[bytes]) -> None:
        stored = self._wait(self._store.stored(self._machine, ids))
        self._events.append(Wants(number, tuple(one not in stored for one in ids)))

    def send_pack(self, pack: SealedPack) -> None:
        receiver = self._store.begin_pack(self._machine, self._epoch)
        receiver.write(b"".join(pack.parts))
        try:
            self._wait(receiver.finish(pack.id))
        except errors.PackRefused as refused:
            self._events.append(Offended(pack.id, refused.context))
        else:
            self._events.append(Durable(pack.id))

    def events(self, wait: bool) -> list[SessionEvent]:
        events, self._events = self._events, []
        return events

    def commit(self, record: bytes) -> Committed | Missing:
        try:
            result = self._wait(self._store.commit(self._machine, record, self._epoch))
        except errors.SnapshotRefused as refused:
            raise SnapshotRefused(str(refused)) from None
        if result.missing:
            return Missing(b"".join(result.missing), result.more)
        if self._loses_answer:
            raise NoConnection("the answer was lost")
        return Committed(result.hash, result.time_ns, result.status)

    def progress(self, files: int, content_bytes: int) -> None:
        pass


class StoreAgentCase(AgentCase):
    """A machine whose agent backs a small tree up into a store of its own; disks can be copied and put back."""

    def setUp(self) -> None:
        super().setUp()
        self.setting = Setting(self.work / "server", 1)
        self.store = self.setting.store()
        self.setting.wait(self.store.start())
        self.addCleanup(lambda: self.setting.wait(self.store.stop()))
        admin = self.setting.admin
        self.setting.wait(self.store.add_admin(admin.name, admin.request()))
        secret = self.secret
        enrolment = Enrolment(secret.machine_id, secret.public_key, admin.tenant, (SERVER,), b"h" * 16, 0, 1)
        said = admin.statement(StatementVerb.ENROL, enrolment.sign(secret.signing_key), self.setting.clock.now)
        self.setting.wait(self.store.execute(admin.tenant, admin.pin, said, b""))

    def restart(self) -> None:
        """Stop the server, and start it again on what lies on its disks now."""
        self.setting.wait(self.store.stop())
        self.start_again()

    def start_again(self) -> None:
        self.store = self.setting.store()
        self.setting.wait(self.store.start())

    def run_agent(self, content: str, *, loses_answer: bool = False, **options: Any) -> int:
        """The machine has this content in its file when it is backed up; the snapshot's number."""
        self.write("file", content)
        session = StoreSession(self.setting, self.store, self.secret.machine_id, loses_answer=loses_answer)
        return self.back_up(session=session, **options).sequence

    def copy_machine(self, name: str) -> None:
        """Copy the machine's disk, state and files, under a name."""
        for part in (self.state, self.tree):
            shutil.copytree(part, self.work / name / part.name, dirs_exist_ok=True)

    def put_back(self, name: str) -> None:
        """The machine's disk becomes that copy."""
        for part in (self.state, self.tree):
            shutil.rmtree(part)
            shutil.copytree(self.work / name / part.name, part)

    def told(self) -> list[EventCode]:
        """Codes of the events about this machine, in order."""
        return [EventCode(row.code) for row in self.rows()]

    def rows(self) -> list[EventRow]:
        """The events about this machine."""
        rows = self.setting.wait(self.store._ready().catalogue.events(0, LIMIT))
        return [row for row in rows if row.machine == self.secret.machine_id]

    def records(self) -> list[SnapshotRecord]:
        """All snapshot records."""
        shown = self.setting.wait(self.store.snapshots(self.setting.admin.tenant, self.secret.machine_id, 0, LIMIT))
        return [SnapshotRecord.verify(record, self.secret.public_key) for record, _ in shown]

    def look(self, memory: Memory | None = None, **options: Any) -> RestoreSession:
        """What a client sees that reads the spools; ``self.warned`` is what it says."""
        self.warned: list[str] = []
        known = KnownMachine("web01", self.secret.machine_id, self.secret.public_key)
        roots = self.setting.spools
        source = SpoolSource(roots, LedgerRecords(roots), self.warned.append)
        opener = lambda envelope: envelope  # noqa: E731 - envelopes are not sealed here
        return RestoreSession(source, known, opener, memory or Memory(None), self.warned.append, **options)

    def restored(self, number: int, session: RestoreSession | None = None) -> str:
        """The file's content in a snapshot, restored."""
        session = session or self.look()
        target = self.work / f"out{number}"
        out = actions.Output(lambda line: None, lambda line: None, quiet=True)
        path = os.fsdecode(self.tree / "file")
        listing = session.listing(session.snapshot(str(number)))
        options = RestoreOptions(workers=1)
        report = actions.restore_listing(session, listing, Selection([path]), target, options, out)
        self.assertTrue(report.complete, report.losses)
        content = Path(f"{target}{path}").read_text()
        shutil.rmtree(target)
        return content
