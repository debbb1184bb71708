"""P9: the store's process dies at any call to the disk; what it had acknowledged is there afterwards."""

import json
import os
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from mastodon.daemon.store import Store
from mastodon.sealed.statement import StatementVerb
from tests.store_case import Blob, FaultyDisk, Setting

LAST = 400


def scenario(setting: Setting, disk: FaultyDisk, said: Callable[[str], None]) -> None:
    """A whole first run of a machine, saying each acknowledgement."""
    store = setting.store(disk)
    setting.wait(store.start())
    admin, machine = setting.admin, setting.machine
    setting.wait(store.add_admin(admin.name, admin.request()))
    said("admin")
    statement = admin.statement(StatementVerb.ENROL, machine.enrolment(admin), setting.clock.now)
    setting.wait(store.execute(admin.tenant, admin.pin, statement, b""))
    said("machine")
    epoch = store.machine_session(machine.id)
    setting.wait(store.add_pair(machine.id, machine.pair_record, machine.envelope, epoch))
    said("pair")
    for number, blobs in enumerate(trees(setting)):
        for part in (blobs[:-1], blobs[-1:]):
            pack, data = machine.pack(part)
            receiver = store.begin_pack(machine.id, epoch)
            receiver.write(data)
            setting.wait(receiver.finish(pack))
            said(pack.hex())
        record = machine.snapshot(blobs[-1][0])
        result = setting.wait(store.commit(machine.id, record, epoch))
        machine.sequence, machine.head = machine.sequence + 1, result.hash
        said(f"snapshot {number + 1}")
    setting.wait(store.stop())
    said("stopped")


def trees(setting: Setting) -> list[list[Blob]]:
    """What two runs bring."""
    return [setting.machine.tree(b"one", b"two"), setting.machine.tree(b"three")]


def run_until_killed(directory: Path, setting: Setting, number: int) -> list[str]:
    """Run the scenario in a process that kills itself before the disk's call of that number; what it acknowledged."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(reading)
            disk = FaultyDisk()
            disk.before = lambda call, path: os.kill(os.getpid(), 9) if len(disk.calls) == number else None
            scenario(setting, disk, partial(tell, writing))
            os._exit(0)
        except BaseException as error:
            os.write(writing, f"FAILED {error!r}\n".encode())
            os._exit(1)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        said = pipe.read().split("\n")[:-1]
    os.waitpid(child, 0)
    return said


def tell(pipe: int, text: str) -> None:
    """A line to the test, at once."""
    os.write(pipe, text.encode() + b"\n")


def void(_: object) -> None:
    """Nothing."""


class CrashTests(SynchronousTestCase):
    """Every call of the scenario is the last one once."""

    def start(self, setting: Setting) -> Store:
        store = setting.store()
        setting.wait(store.start())
        return store

    def check(self, setting: Setting, said: list[str], number: int) -> None:
        """All that was acknowledged is there, and the machine can go on from where the server says it is."""
        store = self.start(setting)
        try:
            self.assertEqual(store.locked, "", number)
            admins = setting.wait(store.list_admins())
            self.assertTrue(admins or "admin" not in said, number)
            account = setting.wait(store.account(setting.machine.id))
            self.assertTrue(account or "machine" not in said, number)
            if account is not None:
                self.assertTrue(account.pair or "pair" not in said, number)
                committed = sum(one.startswith("snapshot") for one in said)
                self.assertGreaterEqual(account.head_sequence, committed, number)
                names = {path.stem for spool in setting.spools for path in spool.glob("packs/**/*.pack")}
                acked = {one for one in said if len(one) == 64}
                self.assertLessEqual(acked, names, number)
                totals = setting.wait(store.totals())
                self.assertEqual(totals.packs, len(names), number)
                self.go_on(setting, store)
            self.assertEqual([list(spool.glob("incoming/*")) for spool in setting.spools], [[], []], number)
        finally:
            setting.wait(store.stop())

    def go_on(self, setting: Setting, store: Store) -> None:
        """The machine's next run: what the server has is not sent again, and the snapshot is committed."""
        machine = setting.machine
        account = setting.wait(store.account(machine.id))
        assert account is not None
        epoch = store.machine_session(machine.id)
        if not account.pair:
            setting.wait(store.add_pair(machine.id, machine.pair_record, machine.envelope, epoch))
        machine.sequence, machine.head = account.head_sequence, account.head_hash
        blobs = trees(setting)[1]
        stored = setting.wait(store.stored(machine.id, [one[0] for one in blobs]))
        wanted = [one for one in blobs if one[0] not in stored]
        if wanted:
            pack, data = machine.pack(wanted)
            receiver = store.begin_pack(machine.id, epoch)
            receiver.write(data)
            setting.wait(receiver.finish(pack))
        result = setting.wait(store.commit(machine.id, machine.snapshot(blobs[-1][0]), epoch))
        self.assertEqual(result.missing, ())

    def test_promise_p9_killed_at_every_call(self) -> None:
        """Killed before any open, write, fsync, rename or unlink: what was acknowledged is there, nothing half is."""
        ended = False
        number = 0
        while not ended:
            number += 1 if number < 12 else 3
            self.assertLess(number, LAST)
            setting = Setting(Path(self.mktemp()).resolve())
            said = run_until_killed(setting.directory, setting, number)
            self.assertFalse([one for one in said if one.startswith("FAILED")], said)
            ended = "stopped" in said
            self.check(setting, said, number)
        self.assertGreater(number, 60)

    def test_promise_p9_torn_ledger_tail(self) -> None:
        """An entry that was cut short anywhere is left out, on whichever spool, and the chain goes on behind it."""
        setting = Setting(Path(self.mktemp()).resolve())
        scenario(setting, FaultyDisk(), void)
        (segment,) = setting.spools[0].glob("ledger/*/*.ledger")
        whole = segment.read_bytes()
        self.forget(setting)
        for torn in (b"\0\0\1", bytes(40), bytes(5000), whole[200:300], b"\xff" * 500):
            segment.write_bytes(whole + torn)
            store = self.start(setting)
            self.assertEqual([one.offline for one in store.list_spools()], ["", ""])
            self.assertEqual(segment.read_bytes(), whole)
            setting.wait(store.stop())
            self.forget(setting)

    def test_lost_tail_is_taken_from_the_other_spool(self) -> None:
        """A spool that lacks the newest entries gets them from the one that has them."""
        setting = Setting(Path(self.mktemp()).resolve())
        scenario(setting, FaultyDisk(), void)
        one, other = (next(spool.glob("ledger/*/*.ledger")) for spool in setting.spools)
        whole = one.read_bytes()
        self.forget(setting)
        one.write_bytes(whole[: len(whole) - 1000])
        store = self.start(setting)
        account = setting.wait(store.account(setting.machine.id))
        self.assertEqual(account.head_sequence if account else 0, 2)
        setting.wait(store.stop())
        self.assertEqual(one.read_bytes(), whole)
        self.assertEqual(other.read_bytes(), whole)

    def forget(self, setting: Setting) -> None:
        """What the state directory remembers is older: as it is when the daemon was killed."""
        path = setting.state / "spools.json"
        found = json.loads(path.read_bytes())
        for one in found.values():
            one["sequence"] = 0
        path.write_text(json.dumps(found))

    def test_promise_p9_killed_from_outside(self) -> None:
        """SIGKILL at no particular place: the same."""
        for delay_ms in (3, 11, 19, 30, 55):
            setting = Setting(Path(self.mktemp()).resolve())
            reading, writing = os.pipe()
            child = os.fork()
            if child == 0:
                os.close(reading)
                signal.setitimer(signal.ITIMER_REAL, delay_ms / 1000)
                signal.signal(signal.SIGALRM, lambda *_: os.kill(os.getpid(), signal.SIGKILL))
                scenario(setting, FaultyDisk(), partial(tell, writing))
                os._exit(0)
            os.close(writing)
            with os.fdopen(reading) as pipe:
                said = pipe.read().split("\n")[:-1]
            os.waitpid(child, 0)
            self.check(setting, said, delay_ms)
