"""The metrics of several processes, in files that each of them can add up.

The library has such files, but uses them only if the environment says so when it is imported, and
maps them without regard to what room the disk has. So parts of it are replaced, for the whole
process, and only here.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from prometheus_client import CollectorRegistry, values
from prometheus_client.mmap_dict import MmapedDict
from prometheus_client.multiprocess import MultiProcessCollector

log = logging.getLogger("proxy")

FOLDER = "metrics"
"""The folder of metrics in a shared folder."""

SPACE = {"counter": 512 << 10, "histogram": 1 << 20, "gauge_livesum": 64 << 10}
"""The size of the files of each process at the start, in bytes, by the prefix of their names: it is
enough for all metrics.COMBINATIONS, and for the durations of some sixty routes."""

VALUE_SIZE = 32
"""What a value takes there beyond its name, at most, in bytes."""


def reserve(shared: Path, workers: Iterable[str]) -> None:
    """Make the files that ``workers`` keep their metrics in; raises OSError.

    Their space is allocated at once: a process that writes to a mapped file while the disk is full
    is killed by SIGBUS.
    """
    folder = shared / FOLDER
    folder.mkdir()
    for worker in workers:
        for name, size in SPACE.items():
            with (folder / f"{name}_{worker}.db").open("xb") as file:
                if hasattr(os, "posix_fallocate"):
                    os.posix_fallocate(file.fileno(), 0, size)


def exist(shared: Path) -> bool:
    """Whether the files are still there: something that cleans up may have deleted them."""
    folder = shared / FOLDER
    if not folder.is_dir():
        log.warning("metrics: %s is gone, no more are shown until a restart", folder)
        return False
    return True


def collect(registry: CollectorRegistry, shared: Path) -> None:
    """Have ``registry`` show the sum of what all processes keep in files."""
    MultiProcessCollector(registry, str(shared / FOLDER))


def reset_gauges(shared: Path, worker: str) -> None:
    """Empty the gauges that a dead worker of that name has left.

    It may be long before a successor starts, and that sets only its own: it would go on showing
    those of upstreams that the configuration no longer has.
    """
    with (
        suppress(OSError),  # there is none, or no descriptor for it
        (shared / FOLDER / f"gauge_livesum_{worker}.db").open("r+b") as file,
    ):
        file.write(bytes(8))  # how much of it is used


def keep_in_memory() -> None:
    """Have the library keep all values that are made from now on in memory.

    It would keep them in files where the environment says so.
    """
    values.ValueClass = values.MutexValue


def keep_in_files(shared: Path, worker: str) -> None:
    """Have the library keep all values that are made from now on in the files of ``worker``.

    The counts of a dead worker of that name go on, its gauges do not. A value for which there is no
    room is kept in memory instead, and is missing on the page.
    """
    reset_gauges(shared, worker)
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(shared / FOLDER)
    values.MmapedDict = _Reserving  # type: ignore[attr-defined]  # the library's own import of it
    in_file = values.MultiProcessValue(lambda: worker)
    warned = False

    def value(*what: object, **more: object) -> object:
        nonlocal warned
        try:
            return in_file(*what, **more)
        except OSError as error:
            if not warned:
                log.warning(
                    "metrics: there is no room for more figures, they are not shown: %s", error
                )
            warned = True
            return values.MutexValue(*what, **more)

    values.ValueClass = value


class _Reserving(MmapedDict):
    """The library's file, whose space is allocated at once when it grows, too."""

    def _init_value(self, key: str) -> None:
        """Add a value; raises OSError where there is no room for it."""
        takes = len(key.encode()) + VALUE_SIZE
        if self._used + takes > self._capacity and hasattr(os, "posix_fallocate"):
            os.posix_fallocate(self._f.fileno(), 0, 2 * self._capacity)
        super()._init_value(key)  # type: ignore[no-untyped-call]  # the library has no types here
