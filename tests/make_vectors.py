"""Writes the test vectors, `tests/vectors/*.json`: ``python -m tests.make_vectors``.

All of it is made of fixed bytes (`sealed_samples`), so that every run writes the same files; a test compares them.
A file is a list of vectors: name, check, arguments, outcome and, for a success, the value.
"""

import json
from pathlib import Path
from typing import Any

from mastodon.sealed import cbor
from mastodon.sealed.admin_secret import encrypt_secret
from mastodon.sealed.blob import INNER, STORED, ZSTD, BlobKind
from mastodon.sealed.content import encode_map
from mastodon.sealed.entry import Place
from mastodon.sealed.listing import encode_page
from mastodon.sealed.pair import EnvelopePayload
from mastodon.sealed.url import MachineUrl
from mastodon.wire.hello import sign_hello
from tests import sealed_samples as samples
from tests.sealed_samples import ADMIN, MACHINE, OTHER_MACHINE, SUCCESSOR, blob_inside, padded, sealed_blob, zstd_run
from tests.test_cbor import REFUSED
from tests.test_ledger import BODIES, segment
from tests.test_messages import FROM_CLIENT, FROM_SERVER
from tests.test_pack import resealed
from tests.test_record import SIGNED, resigned
from tests.test_restore_messages import FROM_CLIENT as REQUESTED
from tests.test_restore_messages import FROM_SERVER as ANSWERED
from tests.vector_checks import RECORDS, outcome

FOLDER = Path(__file__).parent / "vectors"
Vectors = list[dict[str, Any]]


def vector(name: str, check: str, **arguments: Any) -> dict[str, Any]:
    """One vector, with what this implementation makes of it."""
    given = {key: value.hex() if isinstance(value, bytes) else value for key, value in arguments.items()}
    return {"name": name, "check": check, "arguments": given} | outcome(check, given)


def changed(data: bytes, offset: int, value: int) -> bytes:
    """``data`` with one byte exchanged."""
    offset %= len(data)
    return data[:offset] + bytes([value]) + data[offset + 1 :]


def keys() -> Vectors:
    """§2, §5, §11: purposes, secrets, the admin secret's file, URLs."""
    file = encrypt_secret(bytes(range(32)), b"passphrase", b"s" * 16, 15)
    url = str(MachineUrl("web 01", bytes(range(32)), (("h", 7410), ("::1", 1)), (samples.SERVER,), (bytes(32),)))
    return [
        vector("all purposes", "purposes"),
        vector("machine", "machine secret", secret=bytes(range(32))),
        vector("machine, short", "machine secret", secret=bytes(31)),
        vector("admin", "admin secret", secret=bytes(range(2, 34))),
        vector("file", "admin secret file", content=file, passphrase=b"passphrase"),
        vector("file, wrong passphrase", "admin secret file", content=file, passphrase=b"Passphrase"),
        vector("file, cut", "admin secret file", content=file[:-6], passphrase=b"passphrase"),
        vector("url", "url", line=url),
        vector("url, unknown part", "url", line=url + "&x=1"),
        vector("url, padded key", "url", line=url + "="),
        vector("url, no secret", "url", line="mastodon://web01@h:7410/"),
    ]


def encodings() -> Vectors:
    """§3: what is the one encoding, and what is not."""
    good = {"array": [0, 23, 24, -1, (1 << 64) - 1], "map": {0: b"x", 1: "ä", 23: [None, True, False]}}
    return [vector(name, "cbor", data=cbor.encode(value)) for name, value in good.items()] + [
        vector(name, "cbor", data=bytes.fromhex(data)) for name, data in REFUSED.items()
    ]


def records() -> Vectors:
    """§4, §6, §7, §10 to §13: every signed record, and what is wrong with others."""
    result = []
    for kind, data, public_key in SIGNED:
        name = kind.__name__
        if name not in RECORDS:
            continue
        result += [
            vector(name, "record", type=name, data=data, public_key=public_key),
            vector(
                f"{name}, signature altered",
                "record",
                type=name,
                data=changed(data, -1, data[-1] ^ 1),
                public_key=public_key,
            ),
            vector(f"{name}, cut", "record", type=name, data=data[:-1], public_key=public_key),
            vector(f"{name}, later version", "record", type=name, data=changed(data, 5, 2), public_key=public_key),
            vector(f"{name}, critical flag", "record", type=name, data=changed(data, 8, 1), public_key=public_key),
        ]
    return result + _odd_snapshots()


def _odd_snapshots() -> Vectors:
    body = samples.snapshot_record().to_body()
    fixed: dict[str, Any] = {"type": "SnapshotRecord", "public_key": MACHINE.public_key}
    kind = samples.SnapshotRecord.TYPE
    cases: dict[str, tuple[tuple[int, ...], dict[int, Any]]] = {
        "ignorable flag": ((kind, 1, 1, 0, 0, 1), body),
        "ignorable extension": ((kind, 1, 1, 0, 0, 0), body | {23: [[2, b"x"]]}),
        "critical extension": ((kind, 1, 1, 0, 0, 0), body | {23: [[3, b"x"]]}),
        "unknown field": ((kind, 1, 1, 0, 0, 0), body | {22: 1}),
        "unknown status": ((kind, 1, 1, 0, 0, 0), body | {3: 9}),
        "sequence 2 without predecessor": ((kind, 1, 1, 0, 0, 0), body | {8: b""}),
    }
    return [
        vector(f"snapshot, {name}", "record", data=resigned(head, cbor.encode(map_)), **fixed)
        for name, (head, map_) in cases.items()
    ]


def seals() -> Vectors:
    """§6, §7, §11, §12: what is sealed, and opens or does not."""
    pair = samples.PAIR_ID
    run: dict[str, Any] = {"data": samples.run(), "public_key": MACHINE.public_key}
    seed, order_seed = samples.ENCAPSULATION.seed, samples.ORDER_ENCAPSULATION.seed
    order: dict[str, Any] = {"data": samples.sealed_order(), "machine": MACHINE.machine_id, "seed": order_seed}
    book: dict[str, Any] = {"data": samples.book(), "tenant": ADMIN.tenant, "public_key": ADMIN.order_public}
    payload = EnvelopePayload(MACHINE.machine_id, pair, seed).encode()
    mac: dict[str, Any] = {"key": MACHINE.pair_mac_key, "pair": pair, "passphrase": b"p"}
    return [
        vector("pair mac, passphrase", "pair mac", **mac, mode=1, recipients=[]),
        vector("pair mac, both", "pair mac", **mac, mode=3, recipients=[b"two".hex(), b"one".hex()]),
        vector("payload", "envelope payload", data=payload),
        vector("payload, later version", "envelope payload", data=changed(payload, 4, 2)),
        vector("run", "run", **run, seed=seed),
        vector("run, another pair's key", "run", **run, seed=order_seed),
        vector("run, commitment altered", "run", **(run | {"data": _run_with_bad_commitment()}), seed=seed),
        vector("order", "order", **order, admin_key=ADMIN.order_public),
        vector("order, another admin pinned", "order", **order, admin_key=SUCCESSOR.order_public),
        vector("order, sent to another machine", "order", **(order | {"machine": OTHER_MACHINE.machine_id}),
               admin_key=ADMIN.order_public),
        vector("book", "book", **book, book_key=ADMIN.book_key),
        vector("book, another key", "book", **book, book_key=bytes(32)),
        vector("book, another tenant", "book", **(book | {"tenant": bytes(32)}), book_key=ADMIN.book_key),
    ]  # fmt: skip


def _run_with_bad_commitment() -> bytes:
    record = samples.run_record()
    other = samples.RunRecord(record.machine, record.pair, record.nonce, record.time_ns, record.sealed, bytes(32))
    return other.sign(MACHINE.signing_key)


def blobs() -> Vectors:
    """§8: blobs, opened with the run's key."""
    keys = {"machine": MACHINE.machine_id, "id_key": MACHINE.id_key, "run_key": samples.RUN_KEY}
    page_id, page = sealed_blob(BlobKind.PAGE, b"a page", [b"1" * 32, b"2" * 32])
    inside = {
        "stored": (padded(STORED, 4, b"good"), b"good"),
        "empty": (padded(STORED, 0, b""), b""),
        "zstd": (padded(ZSTD, 3000, zstd_run(65, 3000)), b"A" * 3000),
        "zstd, more than stated": (padded(ZSTD, 100, zstd_run(65, 3000)), b"A" * 100),
        "zstd, longer than its content": (padded(ZSTD, 9, zstd_run(65, 9)), b"A" * 9),
        "unknown method": (padded(2, 4, b"good"), b"good"),
        "another content": (padded(STORED, 4, b"evil"), b"good"),
        "padding not zero": (padded(STORED, 91, b"x" * 91)[:-1] + b"\1", b"x" * 91),
        "no padding": (INNER.pack(STORED, 91, 91) + b"x" * 91, b"x" * 91),
        "body length beyond the end": (INNER.pack(STORED, 4, 0xFFFFFFFF) + b"good", b"good"),
    }
    result = [vector("padme", "padme", lengths=[0, 1, 8, 9, 17, 100, 1000, 1025, (1 << 20) + 1])]
    for name, (inner, plaintext) in inside.items():
        id, data = blob_inside(inner, plaintext)
        result.append(vector(name, "blob", data=data, **keys, expected=id))
    for name, data in {
        "page": page,
        "page, reference altered": changed(page, 130, 0x32),
        "page, the same reference twice": page[:130] + b"2" * 32 + page[162:],
        "page, later version": changed(page, 2, 2),
        "page, unknown kind": changed(page, 4, 9),
        "page, critical flag": changed(page, 6, 1),
        "page, ignorable flag altered": changed(page, 7, 1),
        "page, cut": page[:-1],
    }.items():
        result.append(vector(name, "blob", data=data, **keys, expected=page_id))
    result.append(vector("asked for another id", "blob", data=page, **keys, expected=bytes(32)))
    for number in (2, 3):
        id, data = blob_inside(padded(STORED, 4, b"good"), b"good", extensions=cbor.encode([[number, b"x"]]))
        result.append(vector(f"extension {number}", "blob", data=data, **keys, expected=id))
    return result


def packs() -> Vectors:
    """§8: whole packs, as a server sees them."""
    good, machine = samples.small_pack(), MACHINE.machine_id
    return [
        vector("pack", "pack", data=good, machine=machine),
        vector("another machine's", "pack", data=good, machine=OTHER_MACHINE.machine_id),
        vector("checksum altered", "pack", data=changed(good, -1, good[-1] ^ 1), machine=machine),
        vector("cut", "pack", data=good[:-1], machine=machine),
        vector("later version", "pack", data=resealed(changed(good, 4, 2)), machine=machine),
        vector("unknown origin", "pack", data=resealed(changed(good, 7, 9)), machine=machine),
        vector("ignorable flag", "pack", data=resealed(changed(good, 11, 1)), machine=machine),
        vector("critical flag", "pack", data=resealed(changed(good, 9, 1)), machine=machine),
        vector("index lies", "pack", data=resealed(changed(good, -45, good[-45] ^ 1)), machine=machine),
        vector("no blobs", "pack", data=samples.pack_of(), machine=machine),
    ]


def listings() -> Vectors:
    """§9: pages, roots, maps, file hashes."""
    page, root = encode_page(samples.sections()), samples.root().encode()
    places = encode_map([Place(0, 0, 100), Place(-1, 0, 50), Place(1, 0, 70), Place(0, 0, 100)])
    key = MACHINE.id_key
    return [
        vector("page", "page", data=page, references=3),
        vector("page, a reference too many", "page", data=page, references=4),
        vector("page, a reference too few", "page", data=page, references=2),
        vector("page, cut", "page", data=page[:-1], references=3),
        vector("page, a name that leads elsewhere", "page", data=page.replace(b"\x44lost", b"\x44l/st"), references=3),
        vector("root", "root", data=root, references=2),
        vector("root, a page too many", "root", data=root, references=3),
        vector("map", "map", data=places, references=2),
        vector("map, a reference not used", "map", data=places, references=3),
        vector("file hash", "file hash", key=key, parts=[b"content".hex()], size=7),
        vector("file hash, sparse", "file hash", key=key, parts=[b"a".hex(), [1, 99], b"b".hex()], size=101),
        vector("file hash, empty", "file hash", key=key, parts=[], size=0),
    ]


def ledgers() -> Vectors:
    """§13: a segment with an entry of each type, and what may have become of it."""
    data, ends, _ = segment(BODIES)
    short, _, _ = segment(BODIES[:2])
    return [
        vector("segment", "segment", data=data),
        vector("torn", "segment", data=short[:-1]),
        vector("zeros at the end", "segment", data=short + bytes(100)),
        vector("zeros where the hash should be", "segment", data=short[:-32] + bytes(32)),
        vector("damaged", "segment", data=changed(short, -40, short[-40] ^ 1)),
        vector("damaged length", "segment", data=changed(short, 68, 1)),
        vector("entry left out", "segment", data=data[: ends[0]] + data[ends[1] :]),
        vector("later version", "segment", data=changed(short, 4, 2)),
        vector("head cut", "segment", data=short[:60]),
    ]


def wire() -> Vectors:
    """§14 to §17: frames, every message, HELLO."""
    ends = (("append", "client", FROM_CLIENT), ("append", "server", FROM_SERVER), ("restore", "client", REQUESTED),
            ("restore", "server", ANSWERED))  # fmt: skip
    result = []
    for port, sender, messages in ends:
        for message in messages:
            frame = message.encode()
            name = f"{port}, {sender}: {type(message).__name__}"
            result.append(vector(name, "message", port=port, sender=sender, frame=frame))
    one, two = FROM_CLIENT[1].encode(), FROM_CLIENT[2].encode()
    nonce, signature = b"g" * 32, sign_hello(MACHINE.signing_key, b"g" * 32, samples.SERVER, MACHINE.machine_id, 1)
    hello = {"signature": signature, "public_key": MACHINE.public_key, "nonce": nonce, "machine": MACHINE.machine_id}
    return [
        *result,
        vector("unknown verb", "message", port="append", sender="client", frame=b"\0\0\0\2\3\1"),
        vector("unknown part", "message", port="append", sender="client", frame=b"\0\0\0\2\2\6"),
        vector("field missing", "message", port="append", sender="client", frame=b"\0\0\0\3\1\2\xa0"),
        vector("unknown request", "message", port="restore", sender="client", frame=b"\0\0\0\2\x1f\xa0"),
        vector("two frames and a bit", "frames", data=one + two + b"\0\0", limit=1 << 20),
        vector("zero length", "frames", data=bytes(4), limit=1 << 20),
        vector("too long", "frames", data=b"\0\x10\0\1", limit=1 << 20),
        vector("'negative' length", "frames", data=b"\xff\xff\xff\xff", limit=1 << 20),
        vector("hello", "hello", **hello, server=samples.SERVER, version=1),
        vector("hello, relayed", "hello", **hello, server=bytes(32), version=1),
        vector("hello, another version", "hello", **hello, server=samples.SERVER, version=2),
    ]


FILES = {
    "keys": keys, "cbor": encodings, "records": records, "seals": seals, "blobs": blobs, "packs": packs,
    "listings": listings, "ledger": ledgers, "wire": wire,
}  # fmt: skip


def content(name: str) -> str:
    """What the file of this name should hold."""
    return json.dumps(FILES[name](), indent=1, ensure_ascii=True) + "\n"


def main() -> None:
    """Write all files."""
    for name in FILES:
        (FOLDER / f"{name}.json").write_text(content(name), encoding="ascii")


if __name__ == "__main__":
    main()
