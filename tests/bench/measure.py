"""CPU time and memory of a process and all its children, as the kernel counts them.

They are read from outside, so that measuring a process does not change it. Times are in seconds,
sizes in bytes.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

_PROC = Path("/proc")
_PSS = re.compile(r"^Pss:\s+(\d+) kB", re.MULTILINE)
_PEAK = re.compile(r"^VmHWM:\s+(\d+) kB", re.MULTILINE)
_RESIDENT = re.compile(r"^VmRSS:\s+(\d+) kB", re.MULTILINE)
_JIFFIES_PER_SECOND = 100
_RESET_PEAK = "5"


def family(pid: int) -> Iterator[int]:
    """A process and its descendants."""
    yield pid
    for children in (_PROC / str(pid) / "task").glob("*/children"):
        with suppress(OSError):
            for child in children.read_text().split():
                yield from family(int(child))


def cpu(pid: int) -> float:
    """User and system time together."""
    spent = 0.0
    for member in family(pid):
        with suppress(
            OSError
        ):  # the id of a process's clock is its pid inverted, see clock_getcpuclockid(3)
            spent += time.clock_gettime((~member << 3) | 2)
    return spent


def share(pid: int) -> int:
    """The proportional set size (PSS): the memory that would be free without this process."""
    return _sum(pid, "smaps_rollup", _PSS)


def resident(pid: int) -> int:
    return _sum(pid, "status", _RESIDENT)


def peak(pid: int) -> int:
    """The highest resident size since forget_peak()."""
    return _sum(pid, "status", _PEAK)


def forget_peak(pid: int) -> None:
    for member in family(pid):
        (_PROC / str(member) / "clear_refs").write_text(_RESET_PEAK)


def busy(core: int) -> float:
    """How long a core has been busy, with whatever process."""
    for line in (_PROC / "stat").read_text().splitlines():
        name, *fields = line.split()
        if name == f"cpu{core}":
            user, nice, system, _idle, _waiting, interrupts, soft, *_ = map(int, fields)
            return (user + nice + system + interrupts + soft) / _JIFFIES_PER_SECOND
    return 0.0


def _sum(pid: int, file: str, pattern: re.Pattern[str]) -> int:
    total = 0
    for member in family(pid):
        with suppress(OSError):
            found = pattern.search((_PROC / str(member) / file).read_text())
            total += int(found[1]) * 1024 if found else 0
    return total
