"""`mastodon-agent`: backs this machine up, once. All errors end here, as a line that says what to do."""

import contextlib
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from types import FrameType

from mastodon.sealed.content import file_hash_key
from mastodon.sealed.errors import FormatError
from mastodon.sealed.machine_secret import MachineSecret
from mastodon.sealed.snapshot import INCOMPLETE, SnapshotStatus
from mastodon.sealed.url import MachineUrl
from mastodon_agent import content_map, niceness, splay, state
from mastodon_agent.console import Console
from mastodon_agent.dry_run import DryRun
from mastodon_agent.estimate import Estimate
from mastodon_agent.explain import explain
from mastodon_agent.listing_parts import listing_pair
from mastodon_agent.lock import RunLock
from mastodon_agent.old_listing import OldListing
from mastodon_agent.options import Options, UsageError, parse_options
from mastodon_agent.progress import ProgressBar, duration_text
from mastodon_agent.reader_process import ReaderProcesses, ReaderSetting, ScanJob, reader_count
from mastodon_agent.refusals import NoConnection, NothingCommitted, ReaderCrashed, RecipientsRefused, ServerRefused
from mastodon_agent.ring import OtherEnded
from mastodon_agent.scan import Scan, ScanRules

COMPLETE, PARTIAL, NOTHING, USAGE, NO_CONNECTION = range(5)


class Interrupted(Exception):
    """Somebody ended the run."""


WHILE_RUNNING = "interrupted; what was sent is kept, the next run goes on from there"


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; its exit code."""
    try:
        options = parse_options(sys.argv[1:] if arguments is None else arguments, os.environ)
    except UsageError as error:
        print(f"mastodon-agent: {error}", file=sys.stderr)
        return USAGE
    for name in ("MASTODON_URL", "MASTODON_URL_FILE", "MASTODON_PASSKEY_FILE"):
        os.environ.pop(name, None)  # not for the programs that are started
    somebody_looks = sys.stderr.isatty() or "JOURNAL_STREAM" in os.environ
    console = Console(options.verbosity, options.json, somebody_looks)
    try:
        return _run(options, console)
    except UsageError as error:
        return _end(console, USAGE, str(error))
    except NoConnection as error:
        return _end(console, NO_CONNECTION, str(error))
    except (KeyboardInterrupt, Interrupted) as error:
        return _end(console, NOTHING, str(error) or WHILE_RUNNING)
    except BrokenPipeError:
        return NOTHING
    except (NothingCommitted, ServerRefused, ReaderCrashed, RecipientsRefused, FormatError) as error:
        return _end(console, NOTHING, str(error))
    except OtherEnded:
        return _end(console, NOTHING, "the process that reads files was killed: is memory short?")
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return _end(console, NOTHING, f"{where}{error.strerror or error}")
    except Exception as error:
        if os.environ.get("MASTODON_DEBUG"):
            raise
        what = f"{type(error).__name__}: {error}" if not _is_told(error) else str(error)
        return _end(console, NOTHING, what)


def _is_told(error: Exception) -> bool:
    """Whether gpg or the disk refused, in words: asked without importing what is imported late, or never."""
    told = (("mastodon.host.openpgp", "OpenPGPError"), ("mastodon.host.durable", "DiskError"))
    return any(name in sys.modules and isinstance(error, getattr(sys.modules[name], kind)) for name, kind in told)


def _end(console: Console, code: int, text: str) -> int:
    console.clear()
    console.error(text)
    return code


def _run(options: Options, console: Console) -> int:
    for text in options.warnings:
        console.say(text)
    if options.explain is not None:
        text = explain(options.explain, options.tree(), options.rules, options.one_file_system)
        console.result("explain", text=text)
        return COMPLETE
    if options.nice is not None:
        niceness.apply(options.nice, console.say)
    if options.dry_run:
        return _dry_run(options, console)
    assert options.url is not None  # parse_options sees to that
    _make_state_directory(options.state)
    signal.signal(signal.SIGTERM, _interrupt)
    if options.splay_s:
        _wait_for_turn(splay.delay(MachineSecret(options.url.secret).machine_id, options.splay_s), console)
    lock = RunLock(options.state)
    if not lock.take():
        console.say("another run is still at work; this one has nothing to do")
        return COMPLETE
    return _back_up(options, options.url, console)


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise Interrupted


def _wait_for_turn(seconds: float, console: Console) -> None:
    """Nothing is held meanwhile: no lock, no connection."""
    try:
        console.detail(f"waiting for {duration_text(seconds)}, this machine's place within --splay")
        time.sleep(seconds)
    except (KeyboardInterrupt, Interrupted):
        raise Interrupted("interrupted while it waited for its turn (--splay); nothing was done") from None


def _make_state_directory(path: str) -> None:
    try:
        os.makedirs(path, mode=0o700, exist_ok=True)
        if not os.access(path, os.R_OK | os.W_OK | os.X_OK):
            raise PermissionError(13, os.strerror(13), path)
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}: name a directory for the state with --state") from None


def _rules(options: Options) -> ScanRules:
    """The scan's rules; the state itself is never backed up, since it changes while it would be read."""
    try:
        st = os.stat(options.state)
        own = (st.st_dev, st.st_ino)
    except OSError:
        own = None
    return ScanRules(options.rules, options.one_file_system, own)


def _back_up(options: Options, url: MachineUrl, console: Console) -> int:
    begun = time.monotonic()
    secret = MachineSecret(url.secret)
    with contextlib.ExitStack() as stack:
        # Both fork, so both come before the connection and its threads.
        _show_progress(options, console, stack)
        setting = ReaderSetting(
            options.tree(), _rules(options), file_hash_key(secret.id_key), secret.machine_id, time.time_ns
        )
        readers = ReaderProcesses(setting, reader_count(os.path.join(options.state, state.NAME)))
        stack.callback(readers.close)
        _begin_ahead(options, secret, readers)
        # Imported late, when the readers are at work.
        from mastodon_agent.online import back_up

        outcome = back_up(options, url, secret, readers, console)
    console.summary(outcome, time.monotonic() - begun)
    return PARTIAL if outcome.status is SnapshotStatus.PARTIAL else COMPLETE


def _begin_ahead(options: Options, secret: MachineSecret, readers: ReaderProcesses) -> None:
    """Scan at once against the state as it is, where the server's answer will most likely lead to just that.

    Should it not, what was begun comes to its end in vain: hence only where nothing speaks against it, and little is
    to be read.
    """
    listing = os.path.join(options.state, state.NAME)
    pair = listing_pair(listing, secret.machine_id)
    interrupted = os.path.exists(os.path.join(options.state, state.PART))
    if not interrupted and not options.reread and (pair or not os.path.exists(listing)):
        readers.begin_ahead(ScanJob(listing, pair))
        content_map.fetch_early(options.state)


def _show_progress(options: Options, console: Console, stack: contextlib.ExitStack) -> None:
    """A bar, where somebody looks at a terminal."""
    if options.json or options.verbosity < 0 or not sys.stderr.isatty():
        return
    estimate = Estimate(options.tree(), _rules(options))
    stack.callback(estimate.close)
    console.show_bar(ProgressBar(sys.stderr, estimate.total, not os.environ.get("NO_COLOR")))


def _dry_run(options: Options, console: Console) -> int:
    pages: Iterator[state.StatePage] = iter(())
    if options.url is not None:
        machine = MachineSecret(options.url.secret).machine_id
        pages = state.read_pages(os.path.join(options.state, state.NAME), machine, None)

    def would_read(path: bytes, size: int) -> None:
        console.result(
            "would_read", text=f"{size:>14,} {console.printable(path)}", path=console.printable(path), size=size
        )

    visitor = DryRun(would_read, console.note)
    Scan(options.tree(), _rules(options), OldListing(pages), visitor).run()
    console.result(
        "dry_run",
        text=f"{visitor.files:,} files with {visitor.content_bytes:,} bytes would be read, "
        f"{visitor.unchanged_entries:,} entries are unchanged",
        files=visitor.files, bytes=visitor.content_bytes, unchanged=visitor.unchanged_entries,
    )  # fmt: skip
    return PARTIAL if INCOMPLETE.intersection(visitor.reasons) else COMPLETE


if __name__ == "__main__":
    sys.exit(main())
