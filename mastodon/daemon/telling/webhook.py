"""A letter as a webhook's POST: JSON, signed so that the receiver knows who it is from and when it was made.

protocol-spec.md §21. The signature is HMAC-SHA256 over purpose, time and body, under a key that the server derives for
each admin from its ledger key, which never stands in a spool. The time is that of the attempt, so that a receiver can
refuse old ones; the letter's id is the same at each attempt.
"""

import hashlib
import hmac
import json
from typing import Any

from mastodon.daemon.telling.letter import Letter, Line
from mastodon.sealed.purposes import Purpose

SIGNATURE = "Mastodon-Signature"
ID = "Mastodon-Id"


def webhook_key(ledger_secret: bytes, tenant: bytes) -> bytes:
    """The key of an admin's webhooks, or (b"") of the operator's."""
    return hmac.new(ledger_secret, Purpose.WEBHOOK_KEY.prefix + tenant, hashlib.sha256).digest()


def webhook_body(letter: Letter, server: str, tenant: bytes, admin: str) -> bytes:
    """The JSON of a letter."""
    return json.dumps(
        {
            "version": 1,
            "id": letter.id,
            "kind": letter.kind.value,
            "server": server,
            "tenant": tenant.hex(),
            "admin": admin,
            "time_ns": letter.time_ns,
            "events": [_plain(one) for one in letter.lines],
            "open": [_plain(one) for one in letter.open],
            "more": letter.more,
        }
    ).encode("ascii")


def webhook_headers(letter: Letter, body: bytes, key: bytes, now_s: int) -> list[tuple[str, str]]:
    """What goes with the body."""
    mac = hmac.new(key, Purpose.WEBHOOK.prefix + f"{now_s}.".encode("ascii") + body, hashlib.sha256)
    return [
        ("Content-Type", "application/json"),
        (ID, letter.id),
        (SIGNATURE, f"t={now_s},v1={mac.hexdigest()}"),
    ]


def _plain(line: Line) -> dict[str, Any]:
    kind = line.kind
    return {
        "sequence": line.sequence,
        "code": line.code,
        "name": line.name,
        "severity": kind.severity.value,
        "title": kind.title,
        "advice": kind.advice,
        "tenant": line.tenant.hex(),
        "machine": line.machine.hex(),
        "count": line.count,
        "first_ns": line.first_ns,
        "last_ns": line.last_ns,
        "detail": line.detail,
    }
