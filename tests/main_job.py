"""The main job by the commands that a user types: server, admin, machine, backups over TLS, restores, compared.

Everything lives in a directory of its own (--work, else a temporary one) and listens on loopback. Exit status 0
only if both restored snapshots are the same as what was backed up, byte for byte and attribute for attribute.
"""

import argparse
import os
import shutil
import sys
import tempfile
from pathlib import Path

from bench.installation import Failed, Installation
from tests.compare_trees import UNPRIVILEGED, compare_trees

USUAL = "/usr/share"
CRON = "mastodon-agent --url-file /etc/mastodon-agent/url --passkey-file /etc/mastodon-agent/passkey /"
ROOT = os.geteuid() == 0
PARTIAL_ALLOWED = (0,) if ROOT else (0, 1)
"""An ordinary user may have to leave unreadable files out."""


def say(text: str) -> None:
    """A line of what goes on."""
    print(text, flush=True)


class MainJob:
    """One whole run."""

    def __init__(self, tree: Path, work: Path) -> None:
        self.tree = tree
        self.work = work
        self.here = Installation(work, say)

    def back_up(self, what: str, *paths: Path) -> None:
        """One run of the agent, as cron does it."""
        before = self.here.kept_bytes()
        self.here.call(what, *self.here.agent_words(), *paths, allowed=PARTIAL_ALLOWED)
        say(f"            {self.here.kept_bytes() - before:,} bytes more in the spool")

    def restore(self, snapshot: str, to: Path) -> None:
        """Everything in a snapshot, with the admin's certificate."""
        what = f"mastodon-admin restore, snapshot {snapshot}"
        self.here.call(what, *self.here.restore_words(to, snapshot), allowed=PARTIAL_ALLOWED)

    def compare(self, original: Path, restored_top: Path) -> int:
        """Differences between an original and what was restored of it."""
        restored = restored_top / original.relative_to("/")
        left_out = () if ROOT else (*UNPRIVILEGED, "missing", "unreadable")
        differences = compare_trees(str(original), str(restored), leave_out=left_out)
        for difference in differences[:20]:
            say(f"            {difference}")
        say(f"            {original}: {len(differences)} differences")
        return len(differences)

    def run(self) -> int:
        """All steps; the number of differences."""
        count, size = tree_size(self.tree)
        say(f"Mastodon's main job on {self.tree}: {count:,} entries, {size:,} bytes, in {self.work}")
        self.here.set_up()
        self.back_up("first backup over TLS", self.tree)
        copy = self.work / "copy"
        self.here.call("a copy, in which a few files change", "cp", "-a", self.tree, copy, allowed=PARTIAL_ALLOWED)
        say(f"            {', '.join(change_a_few(copy)) or 'nothing, there are no files'}")
        self.back_up("second backup, of both (identical files are not sent again)", self.tree, copy)
        self.back_up("third backup, nothing changed", self.tree, copy)
        say(self.here.call("mastodon-admin snapshots", "mastodon-admin", "snapshots", "web01").rstrip())
        self.restore("1", self.work / "restored-1")
        wrong = self.compare(self.tree, self.work / "restored-1")
        self.restore("latest", self.work / "restored-latest")
        wrong += self.compare(self.tree, self.work / "restored-latest")
        wrong += self.compare(copy, self.work / "restored-latest")
        if not ROOT:
            say("Not root: owners, devices, setuid bits and what cannot be read were left out of the compare.")
        return wrong

    def how_to_go_on(self) -> None:
        """What a user does next."""
        minute = self.here.url.read_bytes()[-2] % 60
        say(
            f"\nThe crontab line of a real machine:\n{minute} * * * *  {CRON}\n"
            "\nHow to go on: README.md, then `mastodon --help`, `mastodon-admin --help`, `mastodon-agent --help`;\n"
            "docs/recovery.md says how to restore from a spool alone."
        )


def tree_size(tree: Path) -> tuple[int, int]:
    """Entries and bytes of regular files."""
    count = size = 0
    for folder, folders, files in os.walk(tree):
        count += len(folders) + len(files)
        size += sum(os.lstat(os.path.join(folder, name)).st_size for name in files)
    return count, size


def change_a_few(copy: Path) -> list[str]:
    """Edit, grow, remove, rename and add; says what it did."""
    files = sorted(path for path in copy.rglob("*") if path.is_file() and not path.is_symlink())
    said = []
    for path, verb in zip(files[:: max(1, len(files) // 4)], ("edited", "grown", "removed", "renamed"), strict=False):
        said.append(f"{verb} {path.relative_to(copy)}")
        if verb == "edited":
            path.write_bytes(b"changed\n" + path.read_bytes())
        elif verb == "grown":
            with path.open("ab") as file:
                file.write(b"more\n" * 1000)
        elif verb == "removed":
            path.unlink()
        else:
            path.rename(path.with_name(path.name + ".renamed"))
    if files:
        (copy / "added by the demonstration").write_text("new\n", "ascii")
    return said


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", nargs="?", default=USUAL, help=f"what to back up (default: {USUAL})")
    parser.add_argument("--keep", action="store_true", help="leave the daemon running and everything in place")
    parser.add_argument("--work", help="where to work (default: a new temporary directory)")
    options = parser.parse_args()
    tree = Path(options.directory).resolve()
    if not tree.is_dir():
        parser.error(f"{tree} is not a directory")
    work = Path(options.work or tempfile.mkdtemp(prefix="mastodon-")).resolve()
    work.mkdir(parents=True, exist_ok=True)
    if any(work.iterdir()):
        parser.error(f"{work} is not empty: name another directory")
    if work.is_relative_to(tree):
        parser.error(f"{work} lies in {tree}, which is to be backed up: name another directory with --work")
    job = MainJob(tree, work)
    wrong = -1
    try:
        wrong = job.run()
        job.how_to_go_on()
    except Failed as failure:
        print(f"FAILED: {failure}", file=sys.stderr)
    finally:
        if not options.keep:
            job.here.stop_daemon()
    if options.keep:
        say(f"Kept: {work}" + (f", daemon {job.here.daemon.pid}" if job.here.daemon else ""))
    elif wrong == 0 and not options.work:
        shutil.rmtree(work)
    else:
        say(f"Left for you to look at: {work}")
    say("CLEAN: both snapshots came back exactly" if wrong == 0 else "NOT CLEAN")
    return 0 if wrong == 0 else 1


if __name__ == "__main__":
    sys.exit(main())
