"""Deterministic trees to back up: the same seed gives the same bytes.

    python -m bench.corpus lamp DIR [--seed N] [--files N]     a web server: sites, databases, logs, odd names
    python -m bench.corpus many DIR [--seed N] [--files N]     very many very small files
    python -m bench.corpus big DIR [--seed N] [--mb N]         one random and one database-like file
    python -m bench.corpus noise DIR [--seed N] [--mb N]       one random file
    python -m bench.corpus mutate DIR [--seed N]               a day of changes to a lamp tree

A lamp tree of the usual size has 62,023 files and 1.34 GB and is made in about a minute; `many --files 1000000` takes
about two minutes and 5 GB of disk. A small lamp tree: `--files 500 --pictures 10 --mb 1`.
"""

import argparse
import os
import random
from collections.abc import Iterator
from pathlib import Path

PAGE = 16384
DATABASES = ("orders", "users", "sessions")
DATABASE_MB = 128
PICTURES = 2000
SITES = 30
EPOCH_NS = 1_600_000_000 * 10**9


class Source:
    """Everything random about a tree, from one seed."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self._words: list[str] = []

    def words(self) -> list[str]:
        """The vocabulary, made when first needed."""
        if not self._words:
            letters, rng = "abcdefghijklmnopqrstuvwxyz_", self.random
            self._words = ["".join(rng.choices(letters, k=rng.randint(2, 11))) for _ in range(4000)]
        return self._words

    def code(self, size: int) -> bytes:
        """Text like source code, of ``size`` bytes: compresses 3-4x, as PHP does."""
        rng, words = self.random, self.words()
        lines, have = [], 0
        while have < size:
            indent = " " * rng.choice((0, 4, 4, 8, 8, 12))
            names = [words[min(int(rng.expovariate(1 / 300)), 3999)] for _ in range(4)]
            line = f"{indent}${names[0]} = {names[1]}({names[2]}, '{names[3]}');\n"
            if rng.random() < 0.2:
                line = "// " + " ".join(rng.choices(words, k=9)) + "\n"
            lines.append(line)
            have += len(line)
        return "".join(lines).encode()[:size]

    def database(self, megabytes: int) -> Iterator[bytes]:
        """Pages as of a database, about 40 % of each incompressible."""
        rng = self.random
        templates = [self.code(9000) for _ in range(64)]
        for number in range(megabytes * 64):
            body = templates[rng.randrange(64)] + rng.randbytes(6000)
            yield (number.to_bytes(8, "big") + body).ljust(PAGE, b"\0")

    def write(self, path: Path | bytes, data: bytes) -> None:
        """A file with a time of its own, within some three years."""
        with open(path, "wb") as file:
            file.write(data)
        when = EPOCH_NS + self.random.randrange(10**17)
        os.utime(path, ns=(when, when))


class Lamp:
    """A web server's tree below ``top``."""

    def __init__(
        self, top: Path, source: Source, count: int, pictures: int = PICTURES, megabytes: int = DATABASE_MB
    ) -> None:
        self.top, self.source, self.count = top, source, count
        self.pictures, self.megabytes = pictures, megabytes
        self.folders: list[Path] = []
        self.texts: list[bytes] = []

    def make(self) -> None:
        """Everything; needs about 1.4 GB for the default count."""
        rng = self.source.random
        self.top.mkdir(parents=True)
        self.texts = [self.source.code(200_000) for _ in range(40)]
        self._folders()
        self._sources()
        for number in range(self.pictures):
            path = rng.choice(self.folders) / f"img{number:05}.jpg"
            self.source.write(path, rng.randbytes(rng.randrange(20_000, 400_000)))
        self._databases_and_logs()
        self._oddities()

    def _text(self, size: int) -> bytes:
        rng = self.source.random
        text = self.texts[rng.randrange(len(self.texts))]
        start = rng.randrange(max(1, len(text) - size))
        return b"<?php // %d\n" % rng.getrandbits(48) + text[start : start + size]

    def _folders(self) -> None:
        rng = self.source.random
        for site in range(SITES):
            for folder in range(max(1, self.count // SITES // 20)):
                kinds = ("lib", "src", "view", "plugin", "cache")
                steps = [f"{rng.choice(kinds)}{rng.randrange(9)}" for _ in range(rng.randint(1, 5))]
                path = self.top.joinpath("var/www", f"site{site:02}", *steps, f"d{folder}")
                path.mkdir(parents=True, exist_ok=True)
                self.folders.append(path)

    def _sources(self) -> None:
        rng, owners = self.source.random, (33, 1000, 1001)
        for number in range(self.count):
            size = min(180_000, int(rng.lognormvariate(8.3, 1.2)))
            folder, suffix = rng.choice(self.folders), rng.choice(("php", "html", "js", "css", "json"))
            path = folder / f"f{number:06}.{suffix}"
            self.source.write(path, self._text(size))
            path.chmod(rng.choice((0o644, 0o644, 0o640, 0o600, 0o755)))
            if os.geteuid() == 0 and number % 3 == 0:
                os.chown(path, rng.choice(owners), rng.choice(owners))

    def _databases_and_logs(self) -> None:
        (self.top / "var/lib/mysql").mkdir(parents=True)
        for name in DATABASES:
            with open(self.top / f"var/lib/mysql/{name}.ibd", "wb") as file:
                file.writelines(self.source.database(self.megabytes))
        (self.top / "var/log").mkdir(parents=True)
        for number in range(12):
            self.source.write(self.top / f"var/log/access.log.{number}", self._text(190_000) * 8)

    def _oddities(self) -> None:
        odd = self.top / "odd"
        odd.mkdir()
        self.source.write(os.fsencode(odd) + b"/latin-\xe9\xff", b"x")
        self.source.write(odd / "new\nline", b"y")
        self.source.write(odd / ("n" * 255), b"z")
        self.source.write(odd / "empty", b"")
        (odd / "dangling").symlink_to("nowhere/at/all")
        (odd / "link").symlink_to("../var")
        os.mkfifo(odd / "fifo")
        full = [folder for folder in self.folders if any(path.is_file() for path in folder.iterdir())]
        for number in range(50):
            first = min(path for path in full[number % len(full)].iterdir() if path.is_file())
            os.link(first, odd / f"hard{number}")
        with open(odd / "sparse", "wb") as file:
            file.truncate(256 << 20)
            file.seek(100 << 20)
            file.write(b"island" * 1000)
        os.setxattr(odd / "empty", "user.note", b"value")


def make_many(top: Path, source: Source, count: int) -> None:
    """``count`` files of 50 to 900 bytes, a hundred to a folder."""
    text = source.code(200_000)
    for number in range(count):
        folder = top / f"{number // 10000:03}" / f"{number // 100 % 100:03}"
        if number % 100 == 0:
            folder.mkdir(parents=True, exist_ok=True)
        start = source.random.randrange(190_000)
        data = b"%d\n" % number + text[start : start + source.random.randrange(50, 900)]
        (folder / f"f{number:07}").write_bytes(data)


def make_noise(top: Path, source: Source, megabytes: int) -> None:
    """``megabytes`` that nothing compresses."""
    top.mkdir(parents=True)
    with open(top / "random.bin", "wb") as file:
        for _ in range(megabytes):
            file.write(source.random.randbytes(1 << 20))


def make_big(top: Path, source: Source, megabytes: int) -> None:
    """``megabytes`` of noise, and half as much of database pages."""
    make_noise(top, source, megabytes)
    with open(top / "pages.db", "wb") as file:
        file.writelines(source.database(megabytes // 2))


def mutate(top: Path, source: Source) -> None:
    """A day: 1 % of small files edited, 0.5 % new, 0.3 % gone, a folder renamed, 2 % of pages hit, logs grown."""
    rng = source.random
    sites = top / "var/www"
    found = (Path(root, name) for root, _, names in os.walk(sites) for name in names if name.startswith("f"))
    files = sorted(found, key=str)
    for path in rng.sample(files, len(files) // 100):
        data = path.read_bytes()
        at = rng.randrange(len(data) + 1)
        path.write_bytes(data[:at] + b"/* edit %d */" % rng.getrandbits(32) + data[at:])
    for _ in range(len(files) // 200):
        path = rng.choice(files).parent / f"new{rng.getrandbits(40):05}.php"
        path.write_bytes(source.code(3000))
    for path in rng.sample(files, len(files) * 3 // 1000):
        path.unlink()
    site = rng.choice(sorted(sites.iterdir()))
    site.rename(site.with_name(site.name + "-renamed"))
    for name in DATABASES:
        path = top / f"var/lib/mysql/{name}.ibd"
        count = path.stat().st_size // PAGE
        with open(path, "r+b") as file:
            for page in rng.sample(range(count), count // 50):
                file.seek(page * PAGE + rng.randrange(12000))
                file.write(rng.randbytes(4096))
    for number in range(3):
        with open(top / f"var/log/access.log.{number}", "ab") as file:
            file.write(source.code(200_000))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=("lamp", "many", "big", "noise", "mutate"))
    parser.add_argument("top", type=Path)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--files", type=int, help="60,000 for lamp, 200,000 for many")
    parser.add_argument("--pictures", type=int, default=PICTURES, help="of a lamp tree (default: %(default)s)")
    parser.add_argument(
        "--mb", type=int, help=f"of each of a lamp tree's databases ({DATABASE_MB}); of big and noise (1,024)"
    )
    chosen = parser.parse_args()
    source = Source(chosen.seed)
    if chosen.kind == "lamp":
        Lamp(chosen.top, source, chosen.files or 60_000, chosen.pictures, chosen.mb or DATABASE_MB).make()
    elif chosen.kind == "many":
        make_many(chosen.top, source, chosen.files or 200_000)
    elif chosen.kind in ("big", "noise"):
        make = make_big if chosen.kind == "big" else make_noise
        make(chosen.top, source, chosen.mb or 1024)
    else:
        mutate(chosen.top, source)


if __name__ == "__main__":
    main()
