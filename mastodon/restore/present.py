"""How snapshots and entries are shown: lines for people, JSON for programs.

In JSON a name's bytes that are no UTF-8 stand as lone surrogates, as Python's ``os.fsdecode`` makes them, so that
``os.fsencode`` gives back every byte. Lines for people escape whatever could move a cursor.
"""

import json
import os
import stat
from typing import Any

from mastodon.host.sizes import show_size
from mastodon.restore.history import Snapshot, show_time
from mastodon.restore.plan import printable_bytes, show_path
from mastodon.restore.report import Report
from mastodon.sealed.entry import Entry, EntryFlag, EntryType
from mastodon.sealed.jump import JumpKind
from mastodon.sealed.listing import Directory
from mastodon.sealed.snapshot import Notice

CLOCKS_AGREE_NS = 5 * 60 * 10**9
"""A server's time of a snapshot that is further from the machine's is shown to people too."""
_JUMPS = {
    JumpKind.UNKNOWN: "remembered one that is not shown",
    JumpKind.WENT_BACK: "had gone back to {}",
    JumpKind.ALTERNATES: "came back with {}: a clone",
}
"""What the notices do not say already."""
_TYPES = {
    EntryType.FILE: stat.S_IFREG,
    EntryType.DIRECTORY: stat.S_IFDIR,
    EntryType.SYMLINK: stat.S_IFLNK,
    EntryType.FIFO: stat.S_IFIFO,
    EntryType.SOCKET: stat.S_IFSOCK,
    EntryType.CHARACTER_DEVICE: stat.S_IFCHR,
    EntryType.BLOCK_DEVICE: stat.S_IFBLK,
}


def to_json(value: Any) -> str:
    """One line of JSON."""
    return json.dumps(value, ensure_ascii=True, sort_keys=True)


def snapshot_fields(one: Snapshot) -> dict[str, Any]:
    """A snapshot for programs; times in nanoseconds since 1970."""
    record = one.record
    return {
        "sequence": record.sequence,
        "hash": one.hash.hex(),
        "status": record.status.name.lower(),
        "time_ns": record.time_ns,
        "time": show_time(record.time_ns),
        "server_time_ns": one.server_time_ns,
        "server_time": show_time(one.server_time_ns) if one.server_time_ns else "",
        "counts": {reason.name.lower(): count for reason, count in record.counts},
        "root": record.root.hex(),
        "pair": record.pair.hex(),
        "predecessor": record.predecessor.hex(),
        "remembered": record.remembered.hex(),
        "jump": one.jump.kind.name.lower() if one.jump else "",
        "notices": notices(record.notices),
    }


def snapshot_line(one: Snapshot) -> str:
    """A snapshot for people."""
    record = one.record
    counts = ", ".join(f"{count} {reason.name.lower().replace('_', ' ')}" for reason, count in record.counts if count)
    status = record.status.name.lower()
    noted = [counts] if counts else []
    if one.server_time_ns and abs(one.server_time_ns - record.time_ns) > CLOCKS_AGREE_NS:
        noted.append(f"{show_time(one.server_time_ns)} by the server's clock")
    if one.jump is not None and one.jump.kind in _JUMPS:
        noted.append(_JUMPS[one.jump.kind].format(one.jump.reached))
    noticed = "; ".join([*noted, *notices(record.notices)])
    return f"{record.sequence:6}  {show_time(record.time_ns)}  {status:10}  {one.hash.hex()[:16]}  {noticed}".rstrip()


def notices(bits: int) -> list[str]:
    """What the agent noticed, in words; a bit that is not known as its number."""
    known = [notice.name.lower().replace("_", " ") for notice in Notice if notice & bits and notice.name]
    unknown = bits & ~sum(Notice)
    return known + ([f"notice {unknown:#x}"] if unknown else [])


def entry_fields(directory: Directory, entry: Entry) -> dict[str, Any]:
    """An entry for programs."""
    names = [*directory, entry.name]
    if not names[0]:
        names[0] = b".source"
    fields: dict[str, Any] = {
        "path": os.fsdecode(b"/" + b"/".join(names)),
        "type": entry.type.name.lower(),
        "mode": f"{entry.mode:04o}",
        "uid": entry.uid,
        "gid": entry.gid,
        "user": entry.user,
        "group": entry.group,
        "mtime_ns": entry.mtime_ns,
        "size": entry.size,
    }
    if entry.type is EntryType.SYMLINK:
        fields["target"] = os.fsdecode(entry.target)
    if entry.rdev is not None:
        fields["device"] = list(entry.rdev)
    if entry.link_group:
        fields["link_group"] = entry.link_group
    if entry.flags:
        fields["flags"] = [flag.name.lower() for flag in EntryFlag if flag in entry.flags and flag.name]
    if entry.error:
        fields["error"] = os.strerror(entry.error)
    return fields


def entry_line(directory: Directory, entry: Entry, *, whole_path: bool) -> str:
    """An entry for people, like ls -l."""
    mode = stat.filemode(_TYPES[entry.type] | entry.mode)
    owner = f"{entry.user or entry.uid}:{entry.group or entry.gid}"
    size = ",".join(map(str, entry.rdev)) if entry.rdev is not None else str(entry.size)
    name = show_path(directory, entry.name) if whole_path else printable_bytes(entry.name)
    if entry.type is EntryType.SYMLINK:
        name += " -> " + printable_bytes(entry.target)
    notes = [flag.name.lower() for flag in EntryFlag if flag in entry.flags and flag.name]
    if entry.error:
        notes.append(os.strerror(entry.error))
    note = f"  [{', '.join(notes)}]" if notes else ""
    return f"{mode} {owner:>17} {size:>13} {show_time(entry.mtime_ns)[:19]}  {name}{note}"


def report_fields(report: Report) -> dict[str, Any]:
    """What a restore has done, for programs."""
    return {
        "complete": report.complete,
        "entries": report.entries,
        "files": report.files,
        "bytes": report.content_bytes,
        "kept_files": report.kept_files,
        "kept_bytes": report.kept_bytes,
        "hard_links": report.links,
        "directories": report.directories,
        "carried_over": report.carried,
        "fuzzy": report.fuzzy,
        "lost": report.losses,
        "lost_count": report.lost_count,
        "problems": [str(problem) for problem in report.problems.examples],
        "problem_count": sum(report.problems.counts.values()),
    }


def report_lines(report: Report, most: int = 20) -> list[str]:
    """What a restore has done, for people: the sum, then what is missing."""
    lines = [
        f"{report.files} files written ({show_size(report.content_bytes)}), {report.kept_files} were there already, "
        f"{report.links} hard links, {report.directories} directories"
    ]
    if report.carried:
        lines.append(f"{report.carried} entries are older copies, carried over because they could not be read")
    if report.fuzzy:
        lines.append(f"{report.fuzzy} files changed while they were backed up")
    lines += _some("could not be restored", report.losses, report.lost_count, most)
    problems = [str(problem) for problem in report.problems.examples]
    lines += _some("could not be made as recorded", problems, sum(report.problems.counts.values()), most)
    return lines


def _some(what: str, texts: list[str], count: int, most: int) -> list[str]:
    if not count:
        return []
    lines = [f"{count} {what}:"] + [f"  {text}" for text in texts[:most]]
    if count > most:
        lines.append(f"  ... and {count - min(most, len(texts))} more (--json shows up to 10,000)")
    return lines
