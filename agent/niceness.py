"""`--nice`: which share of processor and disk a run takes, itself and all processes that it starts.

The kernel hands both on to whatever is forked later, so this comes before any process and thread. What the kernel
forbids stays as it was, and is told.
"""

import ctypes
import os
import platform
from collections.abc import Callable
from dataclasses import dataclass

_IOPRIO_SET = {"x86_64": 251, "aarch64": 30, "riscv64": 30, "armv7l": 314, "i686": 289, "ppc64le": 273, "s390x": 282}
"""The system call's number; the C library has no function for it."""
_WHO_PROCESS = 1
_CLASS_SHIFT = 13
BEST_EFFORT, IDLE = 2, 3
WORDS = "idle, low, normal, or a number from -20 to 19 as nice has it"


class BadNiceness(ValueError):
    """The text says what is wrong with a niceness."""


@dataclass(frozen=True, slots=True)
class Niceness:
    """``cpu`` as nice has it, ``io`` a class and level as ionice has them; ``idle``: only what nobody else wants."""

    cpu: int
    io: tuple[int, int]
    idle: bool = False


NAMED: dict[str, Niceness | None] = {
    "idle": Niceness(19, (IDLE, 0), idle=True),
    "low": Niceness(10, (BEST_EFFORT, 7)),
    "normal": None,
}


def parse_niceness(text: str) -> Niceness | None:
    """None for what a process has by itself. Raises BadNiceness."""
    if text in NAMED:
        return NAMED[text]
    try:
        number = int(text)
    except ValueError:
        number = 20
    if not -20 <= number <= 19:
        raise BadNiceness(f"{text!r}: expected {WORDS}")
    return Niceness(number, (BEST_EFFORT, (number + 20) // 5))


def apply(nice: Niceness, said: Callable[[str], None]) -> None:
    """From now on; ``said`` is told what the kernel does not allow."""
    steps: list[tuple[str, Callable[[], None]]] = [
        ("CPU", lambda: os.setpriority(os.PRIO_PROCESS, 0, nice.cpu)),
        ("I/O", lambda: set_io_class(*nice.io)),
    ]
    if nice.idle:
        steps.append(("CPU", lambda: os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))))
    for what, step in steps:
        try:
            step()
        except OSError as error:
            said(f"--nice: the {what} priority stays as it was: {error.strerror}")


def set_io_class(io_class: int, level: int) -> None:
    """What ionice does, for this process and those that it forks. Raises OSError."""
    number = _IOPRIO_SET.get(platform.machine())
    if number is None:
        raise OSError(0, f"not known how to on {platform.machine()}")
    call = ctypes.CDLL(None, use_errno=True).syscall
    call.restype = ctypes.c_long
    arguments = (number, _WHO_PROCESS, 0, io_class << _CLASS_SHIFT | level)
    if call(*map(ctypes.c_long, arguments)):
        failure = ctypes.get_errno()
        raise OSError(failure, os.strerror(failure))
