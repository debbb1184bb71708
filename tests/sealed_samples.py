"""One of each sealed format, made of fixed bytes, so that every run gives the same: what tests and vectors are made of.

Nothing in it compresses: what zstd gives may change with its version.
"""

import hashlib
from collections.abc import Sequence
from functools import cache

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from mastodon.sealed.admin_secret import AdminSecret, successor_hash
from mastodon.sealed.blob import HEAD, INNER, TAG_LENGTH, BlobKind, BlobSealer, blob_id, padded_length
from mastodon.sealed.book import BookContent, Card, Generation, make_book
from mastodon.sealed.enrolment import AdminRequest, Enrolment, Succession
from mastodon.sealed.entry import Delta, Entry, EntryFlag, EntryType, Place
from mastodon.sealed.hpke import SealingKey
from mastodon.sealed.ledger_head import LedgerHeadRecord
from mastodon.sealed.listing import Root, Section
from mastodon.sealed.machine_secret import MachineSecret, id_key_commitment
from mastodon.sealed.order import Order, OrderType, order_key_hash
from mastodon.sealed.pack import PackWriter
from mastodon.sealed.pair import EnvelopeMode, PairRecord, ReenvelopeRecord, envelope_hash, pair_mac
from mastodon.sealed.purposes import Purpose, hkdf_expand, mac
from mastodon.sealed.record import VERSION, record_hash
from mastodon.sealed.run import RunRecord, run_id
from mastodon.sealed.snapshot import Reason, SnapshotRecord, SnapshotStatus
from mastodon.sealed.statement import PinContent, Statement, StatementVerb, encode_content
from tests.hpke_reference import published, seal_known

TIME_NS = 1_800_000_000 * 10**9
SERVER = b"v" * 32
HANDLE = b"h" * 16

MACHINE = MachineSecret(bytes(range(32)))
OTHER_MACHINE = MachineSecret(bytes(range(1, 33)))
ADMIN = AdminSecret(bytes(range(2, 34)))
SUCCESSOR = AdminSecret(bytes(range(3, 35)))

ENCAPSULATION, ORDER_ENCAPSULATION, _ = published()
PRIVATE = SealingKey(ENCAPSULATION.seed)
ORDER_PRIVATE = SealingKey(ORDER_ENCAPSULATION.seed)
PAIR_ID = b"p" * 16
ENVELOPE = b"an OpenPGP message, as far as the formats care"
PASSPHRASE = b"correct horse battery staple"
RUN_NONCE = b"n" * 16
RUN_KEY = bytes(range(100, 132))
PLAINTEXT = hashlib.shake_256(b"content").digest(300)
SALTS = tuple(bytes([number]) * 16 for number in range(16))


@cache
def pair_record() -> PairRecord:
    """The machine's first pair."""
    return PairRecord(
        machine=MACHINE.machine_id,
        pair=PAIR_ID,
        time_ns=TIME_NS,
        number=1,
        previous=b"",
        public_key=PRIVATE.public_key,
        mode=EnvelopeMode.PASSPHRASE,
        recipients=(),
        mac=pair_mac(MACHINE.pair_mac_key, PAIR_ID, EnvelopeMode.PASSPHRASE, (), PASSPHRASE),
        envelope_hash=envelope_hash(ENVELOPE),
    )


@cache
def pair() -> bytes:
    """Its bytes."""
    return pair_record().sign(MACHINE.signing_key)


def reenvelope() -> bytes:
    """The admin's word that the pair has another envelope, to a public key."""
    return ReenvelopeRecord(
        MACHINE.machine_id, PAIR_ID, TIME_NS, envelope_hash(ENVELOPE), ADMIN.order_public,
        EnvelopeMode.RECIPIENTS, (b"an OpenPGP public key",),
    ).sign(ADMIN.order_key)  # fmt: skip


def run_record(
    machine: MachineSecret = MACHINE, run_key: bytes = RUN_KEY, id_key: bytes | None = None, nonce: bytes = RUN_NONCE
) -> RunRecord:
    """A run of ``machine``, its encapsulation a published one."""
    payload = run_key + (machine.id_key if id_key is None else id_key)
    info = Purpose.RUN_SEAL.prefix + bytes([VERSION]) + machine.machine_id + PAIR_ID + nonce
    commitment = mac(Purpose.RUN_COMMITMENT, run_key, payload[32:])
    sealed = seal_known(ENCAPSULATION, payload, info)
    return RunRecord(machine.machine_id, PAIR_ID, nonce, TIME_NS, sealed, commitment)


@cache
def run() -> bytes:
    """The machine's run, as bytes."""
    return run_record().sign(MACHINE.signing_key)


def sealed_blob(
    kind: BlobKind = BlobKind.BUNDLE, plaintext: bytes = PLAINTEXT, references: Sequence[bytes] = (), salt: int = 1
) -> tuple[bytes, bytes]:
    """Id and bytes of a blob of the machine's run."""
    id = blob_id(MACHINE.id_key, kind, references, plaintext)
    sealer = BlobSealer(MACHINE.machine_id, run_id(run()), RUN_KEY)
    return id, sealer.seal(kind, id, references, plaintext, SALTS[salt])


def blob_inside(inner: bytes, plaintext: bytes, salt: int = 1, extensions: bytes = b"") -> tuple[bytes, bytes]:
    """Id and bytes of a bundle that has the id of ``plaintext`` and seals ``inner``, whatever that is."""
    id, salted = blob_id(MACHINE.id_key, BlobKind.BUNDLE, (), plaintext), SALTS[salt]
    header = HEAD.pack(
        b"MB", 1, 1, BlobKind.BUNDLE, 1, 0, 0, MACHINE.machine_id, run_id(run()), id, salted,
        len(inner) + TAG_LENGTH, 0, len(extensions),
    ) + extensions  # fmt: skip
    key = hkdf_expand(RUN_KEY, Purpose.BLOB_KEY, b"\x01" + id + salted)
    return id, header + AESGCM(key).encrypt(bytes(12), inner, header)


def padded(method: int, length: int, body: bytes) -> bytes:
    """The inside of a blob, padded as it should be."""
    inner = INNER.pack(method, length, len(body)) + body
    return inner + bytes(padded_length(len(inner)) - len(inner))


def zstd_run(byte: int, length: int, stated: int | None = None) -> bytes:
    """A zstd frame by hand (RFC 8878): one RLE block, so that its bytes are the same whatever zstd's version."""
    head = bytes.fromhex("28b52ffd") + b"\xa0" + (length if stated is None else stated).to_bytes(4, "little")
    blocks = []
    while length > 0:
        size = min(length, 1 << 17)
        length -= size
        blocks.append(((size << 3) | (1 << 1) | (length == 0)).to_bytes(3, "little") + bytes([byte]))
    return head + b"".join(blocks)


def pack_of(*blobs: tuple[BlobKind, bytes, bytes]) -> bytes:
    """A pack of (kind, id, bytes) of the machine's run."""
    writer = PackWriter(MACHINE.machine_id, [run()])
    parts = [writer.add(id, kind, data) for kind, id, data in blobs]
    return b"".join([*parts, writer.finish()[0]])


@cache
def small_pack() -> bytes:
    """A page that refers to a bundle, and the bundle."""
    bundle_id, bundle = sealed_blob()
    page_id, page = sealed_blob(BlobKind.PAGE, b"a page, as far as packs care", [bundle_id], 2)
    return pack_of((BlobKind.BUNDLE, bundle_id, bundle), (BlobKind.PAGE, page_id, page))


def file_entry(name: bytes, place: Place, **more: object) -> Entry:
    """A file whose content is one place."""
    return Entry(
        name, EntryType.FILE, 0o644, 1000, 1000, TIME_NS + 1, place.length, "alice", "staff",
        hash=b"w" * 32, places=(place,), **more,  # type: ignore[arg-type]
    )  # fmt: skip


def sections() -> list[Section]:
    """Entries of every type, with every field."""
    return [
        Section(
            (b"etc",),
            [
                Entry(b"a-fifo", EntryType.FIFO, 0o600, mtime_ns=-1),
                Entry(b"a-link", EntryType.SYMLINK, 0o777, target=b"\xff\n/nowhere"),
                Entry(b"b-device", EntryType.BLOCK_DEVICE, 0o660, 0, 6, rdev=(8, 1), group="disk"),
                Entry(b"c-device", EntryType.CHARACTER_DEVICE, 0o666, rdev=(1, 3)),
                Entry(b"d", EntryType.DIRECTORY, 0o1777, birth_ns=TIME_NS, inode_flags=0x20),
                Entry(b"empty", EntryType.FILE, 0o644, 1000, 1000, TIME_NS, 0, "alice", "staff"),
                Entry(b"lost", EntryType.FILE, 0o600, size=7, error=13),
                file_entry(b"plain", Place(0, 0, 300)),
                Entry(b"socket", EntryType.SOCKET, 0o755),
            ],
        ),
        Section(
            (b"etc", b"d"),
            [
                file_entry(b"fuzzy", Place(0, 300, 200), flags=EntryFlag.FUZZY | EntryFlag.CARRIED, link_group=99),
                file_entry(
                    b"patched", Place(1, 0, 50),
                    delta=Delta(1, b"b" * 32, 800, (Place(0, 0, 800),)),
                    xattrs=((b"user.a", b"1"), (b"user.b", b"")),
                    acl_names=(("g", 7, "team"), ("u", 1001, "bob")),
                ),
                Entry(
                    b"sparse", EntryType.FILE, 0o644, 1000, 1000, TIME_NS, 1 << 40, "somebody else", "staff",
                    hash=b"x" * 32, places=(Place(-1, 0, (1 << 40) - 9), Place(2, 0, 9)), birth_ns=-(10**10),
                ),
            ],
        ),
    ]  # fmt: skip


SECTION_REFERENCES = 3


def root() -> Root:
    """A listing of two pages."""
    return Root(
        first_keys=(((b"etc",), b"a-fifo"), ((b"etc", b"d"), b"fuzzy")),
        roots=((b"etc",),),
        excludes=(b"*.tmp",),
        entries=12,
        files=6,
        content_bytes=1 << 40,
        facts=(("os-release", b"ID=debian\n"),),
        agent_version="1.0",
        time_zone="Europe/Berlin",
        hostname="web01",
    )


def snapshot_record(**changes: object) -> SnapshotRecord:
    """The machine's second snapshot."""
    fields: dict[str, object] = {
        "machine": MACHINE.machine_id,
        "sequence": 2,
        "pair": PAIR_ID,
        "status": SnapshotStatus.PARTIAL,
        "counts": ((Reason.GONE, 3), (Reason.UNREADABLE, 1)),
        "time_ns": TIME_NS,
        "root": b"r" * 32,
        "run_nonce": RUN_NONCE,
        "predecessor": b"q" * 32,
        "remembered": b"",
        "job_serial": 4,
        "job_hash": b"j" * 32,
        "order_results": ((b"o" * 16, 0),),
        "book_version": 9,
        "notices": 1,
    }
    return SnapshotRecord(**(fields | changes))  # type: ignore[arg-type]


def snapshot() -> bytes:
    """Its bytes."""
    return snapshot_record().sign(MACHINE.signing_key)


def book_content() -> BookContent:
    """One card."""
    generation = Generation(
        MACHINE.machine_id, MACHINE.public_key, ORDER_PRIVATE.public_key, id_key_commitment(MACHINE.id_key), TIME_NS,
        ((PAIR_ID, record_hash(pair())),), PASSPHRASE,
    )  # fmt: skip
    return BookContent((Card("web01", HANDLE, (generation,)),), ((MACHINE.machine_id, 2, b"s" * 32),))


def book() -> bytes:
    """The admin's first book."""
    return make_book(book_content(), ADMIN.tenant, 1, b"", ADMIN.book_key, ADMIN.order_key, SALTS[3])


def statement_record(**changes: object) -> Statement:
    """Remove a certificate."""
    fields: dict[str, object] = {
        "tenant": ADMIN.tenant,
        "server": SERVER,
        "counter": 7,
        "expires_ns": TIME_NS + 10**9,
        "verb": StatementVerb.REMOVE_CERTIFICATE,
        "content": encode_content(PinContent(b"k" * 32)),
    }
    return Statement(**(fields | changes))  # type: ignore[arg-type]


def statement() -> bytes:
    """Its bytes."""
    return statement_record().sign(ADMIN.order_key)


def enrolment() -> bytes:
    """The machine belongs to the admin."""
    return Enrolment(
        MACHINE.machine_id, MACHINE.public_key, ADMIN.tenant, (SERVER,), HANDLE, 1, TIME_NS
    ).sign(MACHINE.signing_key)  # fmt: skip


def admin_request() -> bytes:
    """The admin asks to be added."""
    return AdminRequest(
        ADMIN.order_public, b"c" * 32, successor_hash(SUCCESSOR.order_public), "alice", TIME_NS
    ).sign(ADMIN.order_key)  # fmt: skip


def succession() -> bytes:
    """The successor takes over."""
    return Succession(
        ADMIN.tenant, SUCCESSOR.order_public, SUCCESSOR.order_public, b"z" * 32, TIME_NS
    ).sign(SUCCESSOR.order_key)  # fmt: skip


def order_record(**changes: object) -> Order:
    """A job order."""
    fields: dict[str, object] = {
        "machine": MACHINE.machine_id,
        "order_key_hash": order_key_hash(ORDER_PRIVATE.public_key),
        "admin_key": ADMIN.order_public,
        "order": b"o" * 16,
        "type": OrderType.JOB,
        "serial": 4,
        "issued_ns": TIME_NS,
        "expires_ns": 0,
        "book_version": 9,
        "anchor": b"",
        "content": b"",
    }
    return Order(**(fields | changes))  # type: ignore[arg-type]


def sealed_order() -> bytes:
    """It, signed and sealed to the machine."""
    info = Purpose.ORDER_SEAL.prefix + bytes([VERSION]) + MACHINE.machine_id
    return seal_known(ORDER_ENCAPSULATION, order_record().sign(ADMIN.order_key), info)


def ledger_head() -> bytes:
    """Two chains' heads; the ledger key is made up of the successor's."""
    key = SUCCESSOR.order_key
    return LedgerHeadRecord(
        ((b"1" * 16, 5, b"a" * 32), (b"2" * 16, 9, b"b" * 32)), TIME_NS, SUCCESSOR.order_public
    ).sign(key)  # fmt: skip
