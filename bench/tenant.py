"""An admin without a book or a home: makes machines known to a running server in milliseconds each."""

import datetime
import os
import secrets
import time
from pathlib import Path
from typing import Any

from bench.blocking_peers import RestorePeer
from mastodon.host.certificates import make_identity
from mastodon.sealed.admin_secret import AdminSecret, successor_hash
from mastodon.sealed.enrolment import AdminRequest, Enrolment
from mastodon.sealed.machine_secret import MachineSecret
from mastodon.sealed.statement import LIFE_NS, Statement, StatementVerb
from mastodon.sealed.url import MachineUrl
from mastodon.wire.restore_messages import Done, StateRequest


class Tenant:
    """An admin known to the server, with one registered client certificate."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.secret = AdminSecret(secrets.token_bytes(32))
        self.identity = make_identity(name, datetime.datetime.now(datetime.UTC))
        self._counter = 0

    def request(self) -> bytes:
        """What the operator is handed."""
        record = AdminRequest(
            self.secret.order_public, self.identity.pin, successor_hash(b"s" * 32), self.name, time.time_ns()
        )
        return record.sign(self.secret.order_key)

    def statement(self, server: bytes, verb: StatementVerb, content: bytes, **changes: Any) -> bytes:
        """A signed statement, newer than the one before."""
        self._counter += 1
        values = {
            "tenant": self.secret.tenant, "server": server, "counter": self._counter,
            "expires_ns": time.time_ns() + LIFE_NS, "verb": verb, "content": content,
        }  # fmt: skip
        return Statement(**{**values, **changes}).sign(self.secret.order_key)

    def enrolment(self, server: bytes, secret: MachineSecret) -> bytes:
        """What makes a machine the tenant's, signed by the machine."""
        record = Enrolment(
            secret.machine_id, secret.public_key, self.secret.tenant, (server,), os.urandom(16), 0, time.time_ns()
        )
        return record.sign(secret.signing_key)

    def enrol(self, restore_port: int, append_port: int, names: list[str], folder: Path) -> list[Path]:
        """New machines; the files with their URLs, 0600."""
        files = []
        with RestorePeer(restore_port, self.identity) as peer:
            for name in names:
                raw = os.urandom(32)
                statement = self.statement(peer.pin, StatementVerb.ENROL, self.enrolment(peer.pin, MachineSecret(raw)))
                answer = peer.ask(StateRequest, statement, b"")
                if not isinstance(answer[-1], Done):
                    raise AssertionError(f"a statement was answered by {answer}")
                url = MachineUrl(name, raw, (("127.0.0.1", append_port),), (peer.pin,), (self.secret.order_public,))
                file = folder / f"{name}.url"
                file.touch(mode=0o600)
                file.write_text(f"{url}\n", "ascii")
                files.append(file)
        return files
