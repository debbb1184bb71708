"""One run over the network: the connection, the backup, and the last word to the server.

What this module needs is a long list of imports. It is itself imported when the reader processes are at work.
"""

import contextlib
import os
import time

from mastodon import __version__
from mastodon.host.socket_tls import connect
from mastodon.sealed.machine_secret import MachineSecret
from mastodon.sealed.schema import clean_text
from mastodon.sealed.snapshot import SnapshotStatus
from mastodon.sealed.url import MachineUrl
from mastodon.wire.append_client import Introduction
from mastodon.wire.messages import Finish
from mastodon_agent import state
from mastodon_agent.backup import Backup, Clocks, Job
from mastodon_agent.connection import Connection, Patience
from mastodon_agent.console import Console
from mastodon_agent.listing_parts import listing_pair
from mastodon_agent.options import Options
from mastodon_agent.outcome import Outcome
from mastodon_agent.pairing import Credentials, load_recipients, stretch_ahead
from mastodon_agent.reader_process import ReaderProcesses
from mastodon_agent.refusals import NothingCommitted, ServerRefused
from mastodon_agent.trust_memory import TrustMemory

COMPLETE, PARTIAL, NOTHING = range(3)
"""As the exit codes of the command."""
ALPN = "mastodon/1"
NONCE_LENGTH = 16


def back_up(
    options: Options, url: MachineUrl, secret: MachineSecret, readers: ReaderProcesses, console: Console
) -> Outcome:
    """Raises what ends a run (refusals.py), OSError, DiskError, FormatError."""
    credentials = Credentials(options.passphrase, load_recipients(options.state, options.recipients))
    memory = TrustMemory(options.state, secret.machine_id)
    nonce = os.urandom(NONCE_LENGTH)
    introduction = Introduction(
        secret.machine_id, secret.signing_key, nonce, memory.remembered.sequence, memory.remembered.hash,
        __version__, time.time_ns,
    )  # fmt: skip
    connection = Connection(
        lambda: connect(url.hosts, url.servers, ALPN),
        introduction,
        Patience(start_s=min(120.0, options.retry_s), later_s=options.retry_s),
        time.monotonic,
        console.detail,
        options.limit.by(time.localtime),
    )
    finish: list[Finish] = []
    with contextlib.ExitStack() as stack:
        stack.callback(lambda: connection.close(finish[0] if finish else None))
        connection.start()
        pair = listing_pair(os.path.join(options.state, state.NAME), secret.machine_id)
        if pair:
            stretch_ahead(pair, secret, credentials)
        answer = connection.open()
        if answer.mail:
            console.detail(f"{len(answer.mail)} orders wait on the server; this release does not obey any")
        job = Job(
            secret, credentials, options.state, options.roots(), tuple(one.text for one in options.patterns),
            options.reread, options.checkpoint_s, options.limit.slowest, options.delta_cache,
        )  # fmt: skip
        clocks = Clocks(time.time_ns, time.monotonic, os.urandom)
        try:
            outcome = Backup(job, nonce, connection, readers, memory, clocks, console).run()
        except Exception as error:
            finish.append(Finish(NOTHING, _told_to_server(error)))
            raise
        code = PARTIAL if outcome.status is SnapshotStatus.PARTIAL else COMPLETE
        finish.append(Finish(code, outcome.status.name.lower()))
    return outcome


def _told_to_server(error: Exception) -> str:
    """Why a run ended, without what only this machine may know: an error of the system's names a file."""
    ours = isinstance(error, NothingCommitted | ServerRefused)
    return clean_text(str(error), 1024) if ours else type(error).__name__
