"""The ledger of all processes: what each counts is appended to a file that they share.

The file is the truth. A process holds in memory what it has read from it, and what it has counted
since its last write, a second ago at most. What could not be written is kept and tried again. A
file that has grown far beyond what it says is compacted.

Waiting for the disk is done in a thread, computing in slices on the loop: a thread that computes
would hold up the loop for longer, each time the loop wants to go on. A disk may hang, as one on
another machine does: neither who asks for the ledger nor the end of the process waits for long.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

from .. import config
from ..core import jsontext
from ..core.errors import Busy
from ..observe.record import Record
from ..runtime.daemonthread import DaemonThread
from .ledger import Ledger, OtherFormat
from .ledgerfile import File

log = logging.getLogger("proxy")

FLUSH = 1.0
"""Seconds after which what was counted is written."""

RETRY = 10.0
"""The same after a write that failed."""

SLICE = 0.001
"""Seconds of computing after which the loop may serve others."""

DISK_PATIENCE = 5.0
"""Seconds to wait for a disk that hangs."""

COMPACT_FROM = 256 << 10
"""The size up to which a file is never compacted, in bytes."""

BLOAT = 4
"""How many times its compacted size a file may have before it is compacted."""


class Journal:
    """Counts exchanges, in memory alone or, with a file, for all processes that share it."""

    def __init__(
        self,
        settings: config.Ledger,
        shared: Path | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._limit = settings.entries
        self._clock = clock
        path = path_of(settings, shared)
        self._file = None if path is None else File(path)
        self._thread: DaemonThread | None = None
        """Does everything with the file; started when it is first needed."""
        self._summed = Ledger(self._limit)
        """What was read from the file; without one, or while it fails, everything."""
        self._unwritten = Ledger(self._limit)
        """What is about to be appended to the file."""
        self._counted = Ledger(self._limit)
        """What was counted since the last sync began."""
        self._sync_lock = asyncio.Lock()
        self._timer: asyncio.TimerHandle | None = None
        self._syncing: set[asyncio.Task[None]] = set()
        self._next_sync: asyncio.Task[None] | None = None
        """The sync that has not begun yet: all who ask while another is under way share it."""
        self._compact_at = COMPACT_FROM
        self._all_understood = True
        """Whether no line of the file is in the format of another version of the proxy."""
        self._failed = False
        self.revision = 0
        """Grows whenever the ledger may have changed, and never goes back."""

    def count(self, record: Record) -> None:
        """Count an exchange that is over; to be written soon."""
        self._counted.count(record, self._clock())
        self.revision += 1
        if self._timer is None:
            self._flush_in(FLUSH)

    async def ledger(self) -> Ledger:
        """All that was counted, here up to now, by other processes up to a second ago.

        Raises Busy while the disk hangs.
        """
        try:
            async with asyncio.timeout(DISK_PATIENCE):
                await self.sync()
        except TimeoutError:
            raise Busy("the ledger's disk does not answer, try again shortly") from None
        return self._summed

    async def sync(self) -> None:
        """Write what was counted, and read what others have written; a failure is logged."""
        # Whoever waits may be cancelled; the task, which holds what was counted, must not be.
        await asyncio.shield(self._begin_sync())

    async def close(self) -> None:
        """Write what is left, and close the file; a failure is logged."""
        try:
            async with asyncio.timeout(DISK_PATIENCE):
                # Shielded: a disk that answers late may still be written to.
                await asyncio.shield(asyncio.create_task(self._close()))
        except TimeoutError:
            log.error("ledger: the disk does not answer; what was counted last may be lost")
        except OSError as error:  # some disks report a failed write only at close
            log.error("%s; what was counted last may be lost", _explained(error))

    async def _close(self) -> None:
        await self.sync()
        async with self._sync_lock:
            if self._timer is not None:
                self._timer.cancel()
            file, self._file = self._file, None  # whoever asks from now on gets what was read
            thread, self._thread = self._thread, None
            if file is not None and thread is not None:
                try:
                    await thread.do(file.close)
                finally:
                    thread.stop()
            unwritten = self._unwritten.total()
            if unwritten:
                log.error("ledger: %d exchanges could not be written, and are lost", unwritten)

    async def _sync(self) -> None:
        async with self._sync_lock:
            self._next_sync = None
            await self._collect()
            if self._file is None:
                return
            try:
                self._thread = self._thread or DaemonThread()
                if self._failed:
                    # To read it from its start: _summed also has what could not be written.
                    await self._thread.do(self._file.close)
                await self._write(self._file, self._thread)
                await self._read(self._file, self._thread)
            except OSError as error:
                await self._go_on_in_memory(error)
            else:
                self._failed = False

    async def _collect(self) -> None:
        """Move what was counted to what is about to be written."""
        if not self._counted.revision:
            return
        counted, self._counted = self._counted, Ledger(self._limit)
        if self._file is None or self._failed:
            await _in_slices(self._summed.merging(counted, self._clock()))
        if self._unwritten.revision:
            await _in_slices(self._unwritten.merging(counted, self._clock()))
        elif self._file is not None:
            self._unwritten = counted
        self.revision += 1

    async def _write(self, file: File, thread: DaemonThread) -> None:
        if self._unwritten.revision:
            lines: list[bytes] = []
            await _in_slices(_listed(self._unwritten.lines(), lines))
            await thread.do(partial(file.append, lines))
            self._unwritten = Ledger(self._limit)

    async def _read(self, file: File, thread: DaemonThread) -> None:
        starts_over, lines = await thread.do(file.read_new)
        if starts_over or lines:
            into = Ledger(self._limit) if starts_over else self._summed
            self._all_understood = self._all_understood or starts_over
            await _in_slices(self._merging_lines(lines, into, file.path))
            self._summed = into
            self.revision += 1
        # Compacting would lose the lines of a newer proxy, after a downgrade to this one.
        if file.read_up_to > self._compact_at and self._all_understood:
            await self._compact(file, thread)

    def _merging_lines(self, lines: list[bytes], into: Ledger, path: Path) -> Iterator[None]:
        """Add what the lines of the file say, in steps; how many cannot be read is logged."""
        unread = 0
        for line in lines:
            try:
                part = Ledger.read(jsontext.loads(line), into.limit, self._clock())
            except ValueError as error:
                unread += 1
                self._all_understood = self._all_understood and not isinstance(error, OtherFormat)
            else:
                yield
                yield from into.merging(part, self._clock())
        if unread:
            log.warning("ledger: %d lines of %s cannot be read, and are not counted", unread, path)

    async def _compact(self, file: File, thread: DaemonThread) -> None:
        """Compact the file if that is worth it, and note at what size to look again."""
        lines: list[bytes] = []
        await _in_slices(_listed(self._summed.lines(), lines))
        size = sum(map(len, lines))
        self._compact_at = max(COMPACT_FROM, BLOAT * size)
        if BLOAT * size < file.read_up_to:
            try:
                await thread.do(partial(file.compact, lines))
            except OSError as error:  # as where the file alone is mounted, and not its folder
                log.warning("ledger: %s cannot be written anew, and grows: %s", file.path, error)
                self._compact_at = 2 * file.read_up_to

    def _flush_in(self, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(seconds, self._flush)

    def _flush(self) -> None:
        self._timer = None
        self._begin_sync()

    def _begin_sync(self) -> asyncio.Task[None]:
        if self._next_sync is None:
            self._next_sync = asyncio.create_task(self._sync())
            self._syncing.add(self._next_sync)
            self._next_sync.add_done_callback(self._syncing.discard)
        return self._next_sync

    async def _go_on_in_memory(self, error: OSError) -> None:
        if not self._failed:
            log.error("%s; until it can be, the ledger is in memory alone", _explained(error))
            if self._unwritten.revision and self._file is not None and self._thread is not None:
                with suppress(OSError):  # what cannot be written to can still be read
                    await self._read(self._file, self._thread)
            await _in_slices(self._summed.merging(self._unwritten, self._clock()))
        self._failed = True
        if self._timer is None:
            self._flush_in(RETRY)


def path_of(settings: config.Ledger, shared: Path | None) -> Path | None:
    """Where the ledger is kept: its file, else one that the processes share, None for memory."""
    if settings.file is not None:
        return Path(settings.file)
    return None if shared is None else shared / "ledger"


def check(settings: config.Ledger) -> None:
    """Check at the start that the ledger can be written; raises OSError, which says why not."""
    if settings.file is None:
        return
    file = File(Path(settings.file))
    try:
        with file.locked():
            pass
    except OSError as error:
        raise OSError(_explained(error)) from error
    finally:
        file.close()


def _listed(lines: Iterable[bytes], into: list[bytes]) -> Iterator[None]:
    """Append ``lines`` to a list, in steps."""
    for line in lines:
        into.append(line)
        yield


async def _in_slices(steps: Iterator[None]) -> None:
    """Take all steps, and let the loop serve others after each SLICE."""
    began = time.monotonic()
    for _ in steps:
        if time.monotonic() - began >= SLICE:
            await asyncio.sleep(0)
            began = time.monotonic()


def _explained(error: OSError) -> str:
    where = f"ledger.file {error.filename}" if error.filename else "the ledger's file"
    problem = f"{where} cannot be written: {error.strerror or error}"
    if not isinstance(error, PermissionError):
        return problem
    return f"{problem}: uid {os.geteuid()} must be allowed to write there"
