"""What a test vector asks: one function per format, from hexadecimal text to what a reader makes of it, as JSON.

A vector names the function (``check``), its arguments, and the outcome: ``success`` with the value that comes out, or
the exact class of the error. `tests/vectors/README.md` tells how another implementation reads them.
"""

from collections.abc import Callable
from dataclasses import fields, is_dataclass
from enum import IntEnum, IntFlag
from typing import Any

from mastodon.sealed import cbor
from mastodon.sealed.admin_secret import AdminSecret, decrypt_secret, successor_hash
from mastodon.sealed.blob import BlobOpener, blob_id, padded_length, parse_header
from mastodon.sealed.book import Book, open_book
from mastodon.sealed.content import FileHasher, decode_map, file_hash_key
from mastodon.sealed.enrolment import AdminRequest, Enrolment, Succession
from mastodon.sealed.hpke import SealingKey
from mastodon.sealed.ledger import SegmentReader
from mastodon.sealed.ledger_head import LedgerHeadRecord
from mastodon.sealed.listing import Root, decode_page
from mastodon.sealed.machine_secret import MachineSecret, id_key_commitment
from mastodon.sealed.order import open_order, order_key_hash
from mastodon.sealed.pack import parse_pack
from mastodon.sealed.pair import EnvelopeMode, EnvelopePayload, PairRecord, ReenvelopeRecord, pair_mac
from mastodon.sealed.purposes import Purpose
from mastodon.sealed.record import Record, record_hash
from mastodon.sealed.run import RunRecord, run_id
from mastodon.sealed.snapshot import SnapshotRecord
from mastodon.sealed.statement import Statement
from mastodon.sealed.url import parse_url
from mastodon.wire.frame import FrameReader
from mastodon.wire.hello import hello_fits
from mastodon.wire.messages import decode_client, decode_server
from mastodon.wire.restore_messages import decode_reply, decode_request

RECORDS: dict[str, type[Record]] = {
    kind.__name__: kind
    for kind in (
        PairRecord, ReenvelopeRecord, RunRecord, SnapshotRecord, Book, Statement, Enrolment, AdminRequest, Succession,
        LedgerHeadRecord,
    )
}  # fmt: skip


def plain(value: Any) -> Any:
    """``value`` as JSON has it: bytes in hexadecimal, enums as numbers, dataclasses and named tuples as objects."""
    if isinstance(value, bytes | memoryview):
        return bytes(value).hex()
    if isinstance(value, IntEnum | IntFlag):
        return int(value)
    if is_dataclass(value):
        return {one.name: plain(getattr(value, one.name)) for one in fields(value)}
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return plain(value._asdict())
    if isinstance(value, tuple | list):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    return value


def outcome(check: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """What this implementation makes of a vector: its outcome, and the value where there is one."""
    try:
        value = CHECKS[check](**arguments)
    except Exception as error:
        return {"outcome": type(error).__name__}
    return {"outcome": "success", "value": plain(value)}


def _bytes(text: str) -> bytes:
    return bytes.fromhex(text)


def _cbor(data: str) -> Any:
    return {"encoded again": cbor.encode(cbor.decode(_bytes(data), 1 << 20))}


def _purposes() -> Any:
    return {purpose.name: purpose.prefix for purpose in Purpose}


def _machine(secret: str) -> Any:
    machine = MachineSecret(_bytes(secret))
    return {
        "signing key": machine.signing_key.private_bytes_raw(),
        "public key": machine.public_key,
        "machine id": machine.machine_id,
        "id key": machine.id_key,
        "id key commitment": id_key_commitment(machine.id_key),
        "chunker seed": machine.chunker_seed,
        "order public key": machine.order_key.public_key,
        "order key hash": order_key_hash(machine.order_key.public_key),
        "pair mac key": machine.pair_mac_key,
        "file hash key": file_hash_key(machine.id_key),
    }


def _admin(secret: str) -> Any:
    admin = AdminSecret(_bytes(secret))
    return {
        "order key": admin.order_key.private_bytes_raw(),
        "order public key": admin.order_public,
        "book key": admin.book_key,
        "tenant": admin.tenant,
        "hash as successor": successor_hash(admin.order_public),
    }


def _admin_file(content: str, passphrase: str) -> Any:
    return decrypt_secret(content, _bytes(passphrase))


def _url(line: str) -> Any:
    return parse_url(line)


def _pair_mac(key: str, pair: str, mode: int, recipients: list[str], passphrase: str) -> Any:
    return pair_mac(
        _bytes(key), _bytes(pair), EnvelopeMode(mode), [_bytes(one) for one in recipients], _bytes(passphrase)
    )


def _payload(data: str) -> Any:
    payload = EnvelopePayload.decode(_bytes(data))
    return {"payload": payload, "public key": SealingKey(payload.seed).public_key}


def _record(type: str, data: str, public_key: str) -> Any:
    record = RECORDS[type].verify(_bytes(data), _bytes(public_key))
    return {"record": record, "record hash": record_hash(_bytes(data))}


def _run(data: str, public_key: str, seed: str) -> Any:
    record = RunRecord.verify(_bytes(data), _bytes(public_key))
    run_key, id_key = record.open(SealingKey(_bytes(seed)))
    return {"run id": run_id(_bytes(data)), "run key": run_key, "id key": id_key}


def _order(data: str, machine: str, seed: str, admin_key: str) -> Any:
    return open_order(_bytes(data), _bytes(machine), SealingKey(_bytes(seed)), _bytes(admin_key))


def _book(data: str, tenant: str, public_key: str, book_key: str) -> Any:
    return open_book(_bytes(data), _bytes(tenant), _bytes(public_key), _bytes(book_key))[1]


def _blob(data: str, machine: str, id_key: str, run_key: str, expected: str) -> Any:
    header = parse_header(_bytes(data))
    opener = BlobOpener(_bytes(machine), _bytes(id_key))
    plaintext = opener.open(_bytes(data), header, _bytes(run_key), _bytes(expected))
    return {
        "header": header,
        "id": blob_id(_bytes(id_key), header.kind, header.references, plaintext),
        "plaintext": plaintext,
    }


def _padme(lengths: list[int]) -> Any:
    return [padded_length(length) for length in lengths]


def _pack(data: str, machine: str) -> Any:
    return parse_pack(_bytes(data), _bytes(machine))


def _page(data: str, references: int) -> Any:
    return decode_page(_bytes(data), references)


def _root(data: str, references: int) -> Any:
    return Root.decode(_bytes(data), references)


def _map(data: str, references: int) -> Any:
    return decode_map(_bytes(data), references)


def _file_hash(key: str, parts: list[Any], size: int) -> Any:
    hasher = FileHasher(_bytes(key))
    for part in parts:
        if isinstance(part, str):
            hasher.data(_bytes(part))
        else:
            hasher.hole(*part)
    return hasher.digest(size)


def _segment(data: str) -> Any:
    reader = SegmentReader(_bytes(data))
    entries = list(reader.entries())
    return {"entries": entries, "head": reader.head, "torn": reader.torn, "valid length": reader.valid_length}


def _frames(data: str, limit: int) -> Any:
    reader = FrameReader(limit)
    reader.receive(_bytes(data))
    frames = []
    while (frame := reader.next_frame()) is not None:
        frames.append(frame)
    return {"frames": frames, "left": reader.buffered}


def _message(port: str, sender: str, frame: str) -> Any:
    decode = {
        ("append", "client"): decode_client,
        ("append", "server"): decode_server,
        ("restore", "client"): decode_request,
        ("restore", "server"): decode_reply,
    }[port, sender]
    data = _bytes(frame)
    message = decode(data[4], data[5:])
    return {"message": type(message).__name__, "fields": message}


def _hello(signature: str, public_key: str, nonce: str, server: str, machine: str, version: int) -> Any:
    return hello_fits(
        _bytes(signature), _bytes(public_key), _bytes(nonce), _bytes(server), _bytes(machine), version
    )  # fmt: skip


CHECKS: dict[str, Callable[..., Any]] = {
    "cbor": _cbor, "purposes": _purposes, "machine secret": _machine, "admin secret": _admin,
    "admin secret file": _admin_file, "url": _url, "pair mac": _pair_mac, "envelope payload": _payload,
    "record": _record, "run": _run, "order": _order, "book": _book, "blob": _blob, "padme": _padme, "pack": _pack,
    "page": _page, "root": _root, "map": _map, "file hash": _file_hash, "segment": _segment, "frames": _frames,
    "message": _message, "hello": _hello,
}  # fmt: skip
