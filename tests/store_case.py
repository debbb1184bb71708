"""A store on directories of its own, with a clock that the test turns; and a machine that makes whatever it is told.

No reactor: the test's thread waits for what it asked.
"""

import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from mastodon.catalogue.interface import Account
from mastodon.catalogue.lane import OwnMainland
from mastodon.daemon.commits import CommitResult
from mastodon.daemon.config import SpoolConfig
from mastodon.daemon.spool import make_spool
from mastodon.daemon.store import Store
from mastodon.host.durable import SYSTEM_DISK, Disk, SystemDisk
from mastodon.host.ledger_reader import ChainReader
from mastodon.host.spool_layout import chains, segments
from mastodon.sealed.admin_secret import AdminSecret, successor_hash
from mastodon.sealed.blob import BlobKind, BlobSealer, blob_id
from mastodon.sealed.enrolment import AdminRequest, Enrolment
from mastodon.sealed.hpke import SealingKey
from mastodon.sealed.ledger_entries import Event
from mastodon.sealed.machine_secret import MachineSecret
from mastodon.sealed.pack import PackWriter
from mastodon.sealed.pair import EnvelopeMode, PairRecord, envelope_hash
from mastodon.sealed.record import record_hash
from mastodon.sealed.run import make_run, run_id
from mastodon.sealed.snapshot import SnapshotRecord, SnapshotStatus
from mastodon.sealed.statement import LIFE_NS, Statement, StatementVerb

T = TypeVar("T")
E = TypeVar("E", bound=Exception)
START_NS = 1_800_000_000 * 10**9
SECOND = 10**9
SERVER = b"v" * 32
Blob = tuple[bytes, BlobKind, bytes]


class Clock:
    """Time that passes a millisecond a look, and otherwise when the test says so."""

    def __init__(self, now_ns: int = START_NS) -> None:
        self.now = now_ns

    def __call__(self) -> int:
        self.now += 10**6
        return self.now


class Admin:
    """An admin and the statements that it signs."""

    def __init__(self, name: str, number: int) -> None:
        self.name = name
        self.secret = AdminSecret(bytes([number]) * 32)
        self.pin = bytes([number]) * 32
        self.counter = 0

    @property
    def tenant(self) -> bytes:
        return self.secret.tenant

    def request(self, **changes: Any) -> bytes:
        values = {
            "order_key": self.secret.order_public, "client": self.pin, "successor": successor_hash(b"s" * 32),
            "label": self.name, "time_ns": 1,
        }  # fmt: skip
        return AdminRequest(**{**values, **changes}).sign(self.secret.order_key)

    def statement(self, verb: StatementVerb, content: bytes, now_ns: int, **changes: Any) -> bytes:
        self.counter += 1
        values = {
            "tenant": self.tenant, "server": SERVER, "counter": self.counter, "expires_ns": now_ns + LIFE_NS,
            "verb": verb, "content": content,
        }  # fmt: skip
        return Statement(**{**values, **changes}).sign(self.secret.order_key)


class Machine:
    """A machine's keys, one pair and one run; seals and signs what the test asks for."""

    def __init__(self, number: int = 1) -> None:
        self.secret = MachineSecret(bytes([number]) * 32)
        self.id = self.secret.machine_id
        self.number = 0
        self.newest = b""
        self.sequence, self.head = 0, b""
        self._salt = 0
        self.new_pair()

    def new_pair(self, **changes: Any) -> None:
        """Another pair, following the one before, and a run under it."""
        self.number += 1
        private = SealingKey(bytes([self.number]) * 32)
        self.envelope = b"an OpenPGP message %d, opaque to the server" % self.number
        values = {
            "machine": self.id, "pair": bytes([self.number]) * 16, "time_ns": 1, "number": self.number,
            "previous": record_hash(self.newest) if self.newest else b"", "public_key": private.public_key,
            "mode": EnvelopeMode.PASSPHRASE, "recipients": (), "mac": bytes(32),
            "envelope_hash": envelope_hash(self.envelope),
        }  # fmt: skip
        self.pair = PairRecord(**{**values, **changes})
        self.newest = self.pair_record = self.pair.sign(self.secret.signing_key)
        self.new_run()

    def new_run(self, nonce: bytes = b"r" * 16, key: bytes = b"k" * 32) -> None:
        self.run = make_run(self.secret.signing_key, self.pair, nonce, 1, key, self.secret.id_key)
        self.sealer = BlobSealer(self.id, run_id(self.run), key)

    def enrolment(self, admin: Admin, servers: tuple[bytes, ...] = (SERVER,)) -> bytes:
        record = Enrolment(self.id, self.secret.public_key, admin.tenant, servers, b"h" * 16, 0, 1)
        return record.sign(self.secret.signing_key)

    def blob(self, kind: BlobKind, references: Sequence[bytes], plaintext: bytes, id: bytes = b"") -> Blob:
        """A sealed blob; ``id`` to lie about it."""
        id = id or blob_id(self.secret.id_key, kind, references, plaintext)
        self._salt += 1
        return id, kind, self.sealer.seal(kind, id, references, plaintext, self._salt.to_bytes(16, "big"))

    def tree(self, *contents: bytes) -> list[Blob]:
        """Bundles, a page that refers to them, and a root."""
        bundles = [self.blob(BlobKind.BUNDLE, [], one) for one in contents]
        page = self.blob(BlobKind.PAGE, [one[0] for one in bundles], b"page of " + b",".join(contents))
        root = self.blob(BlobKind.ROOT, [page[0]], b"root of " + b",".join(contents))
        return [*bundles, page, root]

    def pack(self, blobs: Iterable[Blob], runs: Sequence[bytes] = ()) -> tuple[bytes, bytes]:
        """Id and bytes."""
        writer = PackWriter(self.id, runs or [self.run])
        parts = [writer.add(*blob) for blob in blobs]
        last, id = writer.finish()
        return id, b"".join([*parts, last])

    def snapshot(self, root: bytes, **changes: Any) -> bytes:
        """The record that follows the newest head."""
        values = {
            "machine": self.id, "sequence": self.sequence + 1, "pair": self.pair.pair,
            "status": SnapshotStatus.COMPLETE, "counts": (), "time_ns": 1, "root": root, "run_nonce": b"r" * 16,
            "predecessor": self.head, "remembered": self.head,
        }  # fmt: skip
        return SnapshotRecord(**{**values, **changes}).sign(self.secret.signing_key)


class FaultyDisk(SystemDisk):
    """Counts calls, and does what the test says before one of them."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, str]] = []
        self.before: Callable[[str, str], None] = lambda call, path: None
        self._paths: dict[int, str] = {}

    def _note(self, call: str, path: str) -> None:
        self.calls.append((call, path))
        self.before(call, path)

    def count(self, call: str, part: str = "") -> int:
        return sum(one == call and part in path for one, path in self.calls)

    def open(self, path: str, flags: int, mode: int) -> int:
        self._note("open", path)
        descriptor = super().open(path, flags, mode)
        self._paths[descriptor] = path
        return descriptor

    def write(self, fd: int, data: Any) -> int:
        self._note("write", self._paths.get(fd, ""))
        return super().write(fd, data)

    def fsync(self, fd: int) -> None:
        self._note("fsync", self._paths.get(fd, ""))
        super().fsync(fd)

    def rename(self, source: str, target: str) -> None:
        self._note("rename", target)
        super().rename(source, target)

    def unlink(self, path: str) -> None:
        self._note("unlink", path)
        super().unlink(path)


class Setting:
    """Directories, keys, an admin and a machine: all that a store and its test need, and that outlives the store."""

    def __init__(self, directory: Path, spools: int = 2) -> None:
        self.directory = directory
        self.state = directory / "state"
        self.spools = [directory / f"spool{number}" for number in range(spools)]
        self.ledger_key = Ed25519PrivateKey.from_private_bytes(b"l" * 32)
        self.clock = Clock()
        self.mainland = OwnMainland()
        self.admin = Admin("alice", 1)
        self.machine = Machine(1)
        for number, path in enumerate(self.spools, 1):
            make_spool(path, bytes([number]) * 16)

    def store(self, disk: Disk = SYSTEM_DISK, reserve: int = 0) -> Store:
        """A store on the directories, not started."""
        configs = [SpoolConfig(path, 1, reserve) for path in self.spools]
        return Store(
            self.state, configs, (SERVER,), self.ledger_key, self.mainland, self.clock, os.urandom, disk
        )

    def wait(self, outcome: "Deferred[T]") -> T:
        return self.mainland.wait(outcome)


class StoreCase(SynchronousTestCase):
    """Starts a store on two spools, with one admin and one machine that has a pair."""

    SPOOLS = 2
    DISK = FaultyDisk

    def setUp(self) -> None:
        self.setting = Setting(Path(self.mktemp()).resolve(), self.SPOOLS)
        self.setting.directory.mkdir(exist_ok=True)
        self.machine = self.setting.machine
        self.admin = self.setting.admin
        self.clock = self.setting.clock
        self.disk = self.DISK()
        self.store = self.setting.store(self.disk)
        self.wait(self.store.start())
        self.addCleanup(self.stop)
        self.wait(self.store.add_admin(self.admin.name, self.admin.request()))
        self.enrol(self.machine)
        self.epoch = self.store.machine_session(self.machine.id)
        self.wait(self.store.add_pair(self.machine.id, self.machine.pair_record, self.machine.envelope, self.epoch))

    def wait(self, outcome: "Deferred[T]") -> T:
        return self.setting.wait(outcome)

    def stop(self) -> None:
        self.wait(self.store.stop())

    def restart(self) -> None:
        """Stop, and start another store on the same directories."""
        self.stop()
        self.start_again()

    def start_again(self) -> None:
        self.store = self.setting.store(self.disk)
        self.wait(self.store.start())
        self.epoch = self.store.machine_session(self.machine.id)

    def enrol(self, machine: Machine, admin: Admin | None = None) -> None:
        admin = admin or self.admin
        self.execute(StatementVerb.ENROL, machine.enrolment(admin), admin=admin)

    def execute(
        self, verb: StatementVerb, content: bytes, attachment: bytes = b"", admin: Admin | None = None, **changes: Any
    ) -> None:
        admin = admin or self.admin
        statement = admin.statement(verb, content, self.clock.now, **changes)
        self.wait(self.store.execute(admin.tenant, admin.pin, statement, attachment))

    def send(self, blobs: Iterable[Blob], machine: Machine | None = None, epoch: int | None = None) -> bytes:
        """Send a pack of these; its id."""
        machine = machine or self.machine
        pack, data = machine.pack(blobs)
        self.send_bytes(pack, data, machine, epoch)
        return pack

    def send_bytes(
        self, pack: bytes, data: bytes, machine: Machine | None = None, epoch: int | None = None
    ) -> None:
        machine = machine or self.machine
        receiver = self.store.begin_pack(machine.id, self.epoch if epoch is None else epoch)
        for at in range(0, len(data), 100_000):
            receiver.write(data[at : at + 100_000]).addErrback(lambda _: None)
        self.wait(receiver.finish(pack))

    def commit(self, root: bytes, machine: Machine | None = None, **changes: Any) -> CommitResult:
        """Commit a snapshot; the machine remembers it as its head when it was."""
        machine = machine or self.machine
        record = machine.snapshot(root, **changes)
        result = self.wait(self.store.commit(machine.id, record, self.epoch))
        if not result.missing:
            machine.sequence, machine.head = machine.sequence + 1, result.hash
        return result

    def snapshots(self, machine: Machine | None = None) -> list[bytes]:
        """The records that can be listed."""
        machine = machine or self.machine
        return [record for record, _ in self.wait(self.store.snapshots(self.admin.tenant, machine.id, 0, 1000))]

    def fetch(self, ids: Sequence[bytes], machine: Machine | None = None) -> bytes:
        """The bytes that a restore gets for these ids, all sealings."""
        machine = machine or self.machine
        located = self.wait(self.store.locate(self.admin.tenant, machine.id, ids))
        self.assertEqual(located.missing, [])
        parts = []
        for path, offset, length in located.ranges:
            with open(path, "rb") as file:
                file.seek(offset)
                parts.append(file.read(length))
        return b"".join(parts)

    def packs(self) -> list[Path]:
        """Every pack's file."""
        return sorted(path for spool in self.setting.spools for path in spool.glob("packs/**/*.pack"))

    def account(self, machine: Machine | None = None) -> Account:
        """The machine's account, which is there."""
        found = self.wait(self.store.account((machine or self.machine).id))
        assert found is not None
        return found

    def refused(self, kind: type[E], work: Callable[..., Any], *arguments: Any, **named: Any) -> E:
        """What was raised, at once or by the Deferred that came back."""

        def run() -> None:
            result = work(*arguments, **named)
            if isinstance(result, Deferred):
                self.wait(result)

        error: E = self.assertRaises(kind, run)
        return error

    def events(self) -> list[int]:
        """Codes of the events in the ledger, in order; the store is started anew for it, on a disk without faults."""
        self.disk.before = lambda call, path: None
        self.restart()
        online = next(one for one in self.store.list_spools() if not one.offline)
        (chain,) = chains(online.path)
        reader = ChainReader(chain, segments(online.path, chain))
        return [entry.body.code for entry, _ in reader.entries() if isinstance(entry.body, Event)]
