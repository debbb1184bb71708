"""Runs the program xdelta3: what comes in through a pipe becomes a VCDIFF against a base, or comes out of one.

Promises: memory of the program is bounded, however large the files are (its windows are). It gets no names, no
environment that could change what it does, and no more time than STALL_S without progress. Whatever else it does is
DeltaFailed; nobody takes its word for what it wrote.
"""

import os
import select
import shutil
import subprocess
from collections.abc import Iterator

STALL_S = 60.0
PIECE = 1024 * 1024
PROGRAM = "xdelta3"
_COMMON = ("-q", "-c", "-B", str(8 * 1024 * 1024))
_ENCODE = ("-e", "-1", "-n", "-A", "-S", "none", "-W", str(1024 * 1024))
"""No checksums of its own (ours is better), no names in the header, no secondary compression (blobs have one)."""


class DeltaFailed(Exception):
    """No delta came of it; the text says why."""


def find_program() -> str | None:
    """Where xdelta3 is."""
    return shutil.which(PROGRAM)


class Encoder:
    """Writes to ``out`` the delta from a base to what it is fed. Its methods raise DeltaFailed."""

    def __init__(self, program: str, base: int, out: int) -> None:
        self._process = _start(program, _ENCODE, base, subprocess.PIPE, out)
        assert self._process.stdin is not None
        self._pipe = self._process.stdin
        os.set_blocking(self._pipe.fileno(), False)
        self._poll = select.poll()
        self._poll.register(self._pipe, select.POLLOUT)

    def feed(self, data: memoryview) -> None:
        """The next bytes."""
        while data:
            if not self._poll.poll(STALL_S * 1000):
                raise DeltaFailed("xdelta3 takes nothing any more")
            try:
                data = data[os.write(self._pipe.fileno(), data) :]
            except BlockingIOError:
                continue
            except OSError as error:
                raise DeltaFailed(f"xdelta3 ended early: {error.strerror}") from None

    def finish(self) -> None:
        """Everything was fed; returns when the delta is whole."""
        self._pipe.close()
        _finish(self._process)

    def kill(self) -> None:
        """End it, whatever it is doing."""
        self._pipe.close()
        _kill(self._process)


def decode(program: str, base: int, delta: int) -> Iterator[bytes]:
    """What a delta makes of a base. Raises DeltaFailed."""
    process = _start(program, ("-d",), base, delta, subprocess.PIPE)
    assert process.stdout is not None
    poll = select.poll()
    poll.register(process.stdout, select.POLLIN)
    try:
        with process.stdout as pipe:
            while True:
                if not poll.poll(STALL_S * 1000):
                    raise DeltaFailed("xdelta3 gives nothing any more")
                data = os.read(pipe.fileno(), PIECE)
                if not data:
                    break
                yield data
        _finish(process)
    finally:
        _kill(process)


def _start(program: str, options: tuple[str, ...], base: int, stdin: int, stdout: int) -> "subprocess.Popen[bytes]":
    for fd in (stdin, stdout):
        if fd >= 0:
            os.lseek(fd, 0, os.SEEK_SET)
    try:
        return subprocess.Popen(
            (program, *options, *_COMMON, "-s", f"/proc/self/fd/{base}"),
            stdin=stdin, stdout=stdout, stderr=subprocess.DEVNULL, pass_fds=(base,), bufsize=0, cwd="/",
            env={"LC_ALL": "C"},
        )  # fmt: skip
    except OSError as error:
        raise DeltaFailed(f"xdelta3 cannot be run: {error.strerror}") from None


def _finish(process: "subprocess.Popen[bytes]") -> None:
    try:
        code = process.wait(STALL_S)
    except subprocess.TimeoutExpired:
        _kill(process)
        raise DeltaFailed("xdelta3 does not end") from None
    if code:
        raise DeltaFailed(f"xdelta3 failed (exit code {code})")


def _kill(process: "subprocess.Popen[bytes]") -> None:
    if process.poll() is None:
        process.kill()
        process.wait()
