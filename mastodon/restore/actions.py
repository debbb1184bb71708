"""What both command lines do with a session: list, find, restore, download. Text in and out, no options parsing."""

import os
import secrets
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from mastodon.host.durable import DiskError, PendingFile
from mastodon.host.existing import Overwrite
from mastodon.host.owners import OwnerMap, OwnerMapError
from mastodon.host.parts import Parts
from mastodon.host.sizes import show_size
from mastodon.restore.content import ContentLost, Stretch, hashed, stretches
from mastodon.restore.delta import PIECE, delta_result
from mastodon.restore.errors import NotThere, RestoreError
from mastodon.restore.history import called
from mastodon.restore.keys import read_file
from mastodon.restore.plan import Listing, LostPage, Page, show_path
from mastodon.restore.present import (
    entry_fields,
    entry_line,
    report_fields,
    report_lines,
    snapshot_fields,
    snapshot_line,
    to_json,
)
from mastodon.restore.progress import progress
from mastodon.restore.report import Report
from mastodon.restore.select import Selection, matches_whole, split_path
from mastodon.restore.session import Session, entries_in, find_entry
from mastodon.restore.tree import RestoreOptions, TreeRestore
from mastodon.sealed.entry import Entry, EntryType
from mastodon.sealed.listing import Directory

COMPLETE, INCOMPLETE = 0, 1
ZEROS = bytes(1024 * 1024)


@dataclass(frozen=True, slots=True)
class Output:
    """Where results go (``say``, stdout) and what is only told (``tell``, stderr), and whether as JSON."""

    say: Callable[[str], None]
    tell: Callable[[str], None]
    json: bool = False
    quiet: bool = False
    now_ns: Callable[[], int] = time.time_ns


def list_snapshots(session: Session, out: Output) -> int:
    """All snapshots, oldest first."""
    history = session.history
    if out.json:
        for one in history.snapshots:
            out.say(to_json(snapshot_fields(one)))
        return COMPLETE
    for one in history.snapshots:
        out.say(snapshot_line(one))
    if session.given_up:
        out.tell(session.given_up)
    if not history.snapshots:
        out.tell("there is no snapshot of this machine yet")
    elif not out.quiet:
        out.tell(f"{session.known.name}: the newest shown is {called(history.snapshots[-1], out.now_ns())}")
    return COMPLETE


def list_directory(session: Session, wanted: str, path: str, recursive: bool, out: Output) -> int:
    """The entries of a directory, or one entry; all below it if ``recursive``."""
    listing = _open_listing(session, wanted, out)
    names = split_path(path)
    if recursive:
        return _list_below(listing, names, out)
    lost = False
    count = 0
    for item in entries_in(listing, names):
        if isinstance(item, LostPage):
            out.tell(str(item))
            lost = True
            continue
        count += 1
        _say_entry(names, item[1], out, whole_path=False)
    if not count and names and not lost:
        entry = _entry_at(listing, names)[1]
        if entry.type is not EntryType.DIRECTORY:
            _say_entry(names[:-1], entry, out, whole_path=True)
    return INCOMPLETE if lost else COMPLETE


def find(session: Session, wanted: str, pattern: str, out: Output) -> int:
    """Entries whose path matches; a pattern without a slash is looked for in all directories."""
    listing = _open_listing(session, wanted, out)
    names = split_path(pattern)
    if "/" not in pattern:
        names = (b"**", *names)
    lost = False
    for directory, entry in _all_entries(listing, None, out):
        if entry is None:
            lost = True
        elif matches_whole((*directory, entry.name), names):
            _say_entry(directory, entry, out, whole_path=True)
    return INCOMPLETE if lost else COMPLETE


def restore(
    session: Session, wanted: str, paths: Sequence[str], to: Path, options: RestoreOptions, dry_run: bool, out: Output
) -> int:
    """Restore what ``paths`` name below the directory ``to``."""
    listing = _open_listing(session, wanted, out)
    selection = Selection(paths)
    if dry_run:
        return _dry_run(listing, selection, out)
    report = restore_listing(session, listing, selection, to, options, out)
    for path in selection.unmatched():
        report.lost_text(f"{show_path(tuple(path[1:].split(b'/')))}: there is nothing of that name in the snapshot")
    if out.json:
        out.say(to_json(report_fields(report)))
    else:
        for line in report_lines(report):
            out.tell(line)
    return COMPLETE if report.complete else INCOMPLETE


def restore_listing(
    session: Session, listing: Listing, selection: Selection, to: Path, options: RestoreOptions, out: Output
) -> Report:
    """Restore and report, without printing the result."""
    target = _open_target(to)
    totals = (listing.root.content_bytes, listing.root.files) if selection.everything else (0, 0)
    try:
        with progress(*totals, quiet=out.quiet or out.json or not selection.everything) as on_tick:
            return TreeRestore(session.reader, listing, selection, target, options, on_tick).run()
    finally:
        os.close(target)


def download(session: Session, wanted: str, path: str, output: str | None, out: Output) -> int:
    """One file's content, to a file (which appears only when it is whole) or to stdout (None)."""
    listing = _open_listing(session, wanted, out)
    page, entry = _entry_at(listing, split_path(path))
    if entry.type is not EntryType.FILE:
        raise NotThere(f"{path}: a {entry.type.name.lower().replace('_', ' ')}, not a file: use restore")
    if entry.size and not entry.places:
        raise NotThere(f"{path}: its content could not be read when it was backed up")
    try:
        if output is None:
            sys.stdout.flush()
            for piece in _content(session, page, entry, "."):
                sys.stdout.buffer.write(piece)
            sys.stdout.buffer.flush()
            return COMPLETE
        with PendingFile(output) as pending:
            for piece in _content(session, page, entry, os.path.dirname(output) or "."):
                pending.write(piece)
            pending.publish()
    except ContentLost as error:
        raise RestoreError(f"{path}: {error}" + ("" if output is None else "; nothing was written")) from None
    except DiskError as error:
        raise RestoreError(str(error)) from None
    return COMPLETE


def owner_map(by: str) -> OwnerMap:
    """The map that --owner-by names. Raises RestoreError."""
    if by == "number":
        return OwnerMap.by_number()
    if by == "name":
        return OwnerMap.by_name()
    try:
        return OwnerMap.from_text(read_file(Path(by)).decode("utf-8"))
    except (OwnerMapError, UnicodeDecodeError) as error:
        raise RestoreError(f"--owner-by {by}: {error}") from None


def options_from(overwrite: str, owner_by: str, verify: bool) -> RestoreOptions:
    """The options of a restore as they were typed."""
    return RestoreOptions(Overwrite(overwrite), owner_map(owner_by), verify)


def _open_listing(session: Session, wanted: str, out: Output) -> Listing:
    snapshot = session.snapshot(wanted)
    record = snapshot.record
    if not out.quiet and not out.json:
        proven = "" if session.known.proven else "  ORIGIN UNPROVEN: neither URL, machine id nor admin secret was given"
        out.tell(f"{session.known.name}: {called(snapshot, out.now_ns())}, {record.status.name.lower()}{proven}")
    return session.listing(snapshot)


def _open_target(to: Path) -> int:
    try:
        to.mkdir(parents=True, exist_ok=True)
        return os.open(to, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise RestoreError(f"--to {to}: {error.strerror}") from None


def _content(session: Session, page: Page, entry: Entry, directory: str) -> Iterator[bytes | memoryview]:
    if entry.delta is None:
        parts = stretches(session.reader, page.references, entry.places)
        for part in hashed(entry, parts, session.trust.id_key):
            yield from _bytes_of(part)
        return
    directory_fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        scratch = Parts(secrets.token_hex(8), 0, replace=False)
        with delta_result(session.reader, directory_fd, scratch, entry, page.references) as fd:
            offset = 0
            while data := os.pread(fd, PIECE, offset):
                yield data
                offset += len(data)
    finally:
        os.close(directory_fd)


def _bytes_of(part: Stretch) -> Iterator[bytes | memoryview]:
    if part.data is not None:
        yield part.data
        return
    left = part.length
    while left:
        yield memoryview(ZEROS)[: min(left, len(ZEROS))]
        left -= min(left, len(ZEROS))


def _entry_at(listing: Listing, names: Directory) -> tuple[Page, Entry]:
    if not names:
        raise NotThere("/: this is the top, not a file")
    try:
        return find_entry(listing, names)
    except NotThere as error:
        raise NotThere(f"{show_path(names)}: {error}") from None


def _all_entries(
    listing: Listing, indices: Sequence[int] | None, out: Output
) -> Iterator[tuple[Directory, Entry | None]]:
    """Every entry of some pages; None for a page that is lost, which is told."""
    for page in listing.pages(indices):
        if isinstance(page, LostPage):
            out.tell(str(page))
            yield (), None
            continue
        for section in page.sections:
            for entry in section.entries:
                yield section.directory, entry


def _list_below(listing: Listing, names: Directory, out: Output) -> int:
    selection = Selection([b"/" + b"/".join(names)])
    lost = False
    for directory, entry in _all_entries(listing, selection.page_indices(listing.root), out):
        if entry is None:
            lost = True
        elif selection.takes(directory, entry.name):
            _say_entry(directory, entry, out, whole_path=True)
    if selection.unmatched() and not lost:
        raise NotThere(f"{show_path(names)}: there is nothing of that name in the snapshot")
    return INCOMPLETE if lost else COMPLETE


def _dry_run(listing: Listing, selection: Selection, out: Output) -> int:
    lost, count, size = False, 0, 0
    for directory, entry in _all_entries(listing, selection.page_indices(listing.root), out):
        if entry is None:
            lost = True
        elif selection.takes(directory, entry.name):
            count, size = count + 1, size + entry.size
            _say_entry(directory, entry, out, whole_path=True)
    missing = selection.unmatched()
    for path in missing:
        out.tell(f"{show_path(tuple(path[1:].split(b'/')))}: there is nothing of that name in the snapshot")
    out.tell(f"would restore {count} entries, {show_size(size)}; nothing was written")
    return INCOMPLETE if lost or missing else COMPLETE


def _say_entry(directory: Directory, entry: Entry, out: Output, *, whole_path: bool) -> None:
    out.say(
        to_json(entry_fields(directory, entry)) if out.json else entry_line(directory, entry, whole_path=whole_path)
    )
