"""The ledger on disk: what was counted is appended to a file that several processes may share.

The file is the truth. A process holds in memory what it has read from it, and what it has counted
since its last write, a second ago at most. Whole lines are appended under a lock; a line that a
crash tore is skipped, and what could not be written is kept and tried again. A file that has grown
far beyond what it says is compacted: written anew beside itself and renamed over itself, so that a
crash leaves either the one or the other.

Waiting for the disk is done in a thread, computing in slices on the loop: a thread that computes
would hold up the loop for longer, each time the loop wants to go on. A disk may hang, as one on
another machine does: neither who asks for the ledger nor the end of the process waits for long.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import logging
import os
import stat
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

from . import config, jsontext
from .daemonthread import DaemonThread
from .errors import Busy
from .ledger import Ledger, OtherFormat
from .observe import Record

log = logging.getLogger("proxy")

FLUSH = 1.0
"""Seconds after which what was counted is written."""

RETRY = 10.0
"""The same after a write that failed."""

SLICE = 0.001
"""Seconds of computing after which the loop may serve others."""

LOCK_PATIENCE = 2.0
"""Seconds to wait for the lock of the file; nobody needs it for so long."""

DISK_PATIENCE = 5.0
"""Seconds to wait for a disk that hangs."""

COMPACT_FROM = 256 << 10
"""The size up to which a file is never compacted, in bytes."""

BLOAT = 4
"""How many times its compacted size a file may have before it is compacted."""

PART = 256 << 10
"""How much is read at a time, in bytes: nothing else runs while it is searched for lines."""

_MARK = b'{"ledger":'
"""How every line begins; a file that begins otherwise is somebody else's."""


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
            log.error("ledger: the disk does not answer; what was counted last may be lost")  # noqa: TRY400
        except OSError as error:  # some disks report a failed write only at close
            log.error("%s; what was counted last may be lost", _explained(error))  # noqa: TRY400

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


class File:
    """A file that several processes append lines to, and read what the others appended."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.read_up_to = 0
        """The offset up to which the file was read."""
        self._opened: int | None = None
        self._starts_over = True

    def append(self, lines: Iterable[bytes]) -> None:
        """Append lines; raises OSError, and then none of them is in the file."""
        text = b"".join(lines)
        with self.locked() as opened:
            _end_torn_line(opened)
            size = os.fstat(opened).st_size
            if os.write(opened, text) < len(text):
                os.ftruncate(opened, size)  # or each attempt would take what space comes free
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))

    def read_new(self) -> tuple[bool, list[bytes]]:
        """The lines that any process has appended since the last call; raises OSError.

        Also whether they start over, because the file is another one now or was truncated.
        """
        with self.locked() as opened:
            with suppress(OSError):  # a full disk can still be read
                _end_torn_line(opened)
            lines: list[bytes] = []
            torn = b""
            up_to = self.read_up_to
            for part in _parts(opened, up_to, os.fstat(opened).st_size):
                *whole, torn = (torn + part).split(b"\n")
                lines += [line for line in whole if line.startswith(_MARK)]
                up_to += len(part)
            self.read_up_to = up_to - len(torn)  # only now: where reading fails, nothing was read
            starts_over, self._starts_over = self._starts_over, False
        return starts_over, lines

    def compact(self, lines: Iterable[bytes]) -> None:
        """Replace all that the file says by ``lines``, unless it has more than was read.

        A link to it stays a link; its owner and its mode stay, too. Raises OSError.
        """
        with self.locked() as opened:
            before = os.fstat(opened)
            if before.st_size != self.read_up_to:
                return
            there = self.path.resolve()
            compacted = there.with_name(f"{there.name}.new")
            compacted.unlink(missing_ok=True)  # what a crash left, or a link to somewhere else
            written = os.open(compacted, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            try:
                _give_owner(written, before)
                os.fchmod(written, stat.S_IMODE(before.st_mode))
                with open(written, "wb") as whole:  # noqa: PTH123  (of a descriptor)
                    whole.writelines(lines)
                    whole.flush()
                    os.fsync(written)
                compacted.replace(there)
            except OSError:
                compacted.unlink(missing_ok=True)
                raise

    def close(self) -> None:
        """Close the file; the next use opens it again."""
        if self._opened is not None:
            # Forgotten first: a close that fails has freed the number for the next file, too.
            opened, self._opened = self._opened, None
            os.close(opened)

    @contextmanager
    def locked(self) -> Iterator[int]:
        """The descriptor of the file that has the path now, locked; raises OSError."""
        while True:
            opened = self._open()
            _lock(opened, self.path)
            try:
                if self._is_current(opened):
                    self._notice_truncation(opened)
                    yield opened
                    return
            finally:
                with suppress(OSError):
                    fcntl.flock(opened, fcntl.LOCK_UN)
            self.close()  # it was compacted or deleted: the path is another file's now, or none's

    def _open(self) -> int:
        if self._opened is None:
            # Without O_NONBLOCK opening a FIFO would wait for its other end.
            flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK
            opened = os.open(self.path, flags, 0o600)
            try:
                _check_kind(opened, self.path)
            except OSError:
                os.close(opened)
                raise
            self._opened = opened
            self.read_up_to = 0
            self._starts_over = True
        return self._opened

    def _notice_truncation(self, opened: int) -> None:
        """Start over where somebody has truncated the file, before anything is added to it."""
        if os.fstat(opened).st_size < self.read_up_to:
            self.read_up_to = 0
            self._starts_over = True

    def _is_current(self, opened: int) -> bool:
        with suppress(FileNotFoundError):
            return os.path.samestat(os.fstat(opened), self.path.stat())
        return False


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


def _check_kind(opened: int, path: Path) -> None:
    """Check that it is a regular file, and a ledger or empty; raises OSError."""
    if not stat.S_ISREG(os.fstat(opened).st_mode):  # /dev/null takes all and keeps nothing
        raise OSError(errno.EINVAL, "it is no regular file", str(path))
    if not _MARK.startswith(os.pread(opened, len(_MARK), 0)):
        raise OSError(errno.EINVAL, "it is no ledger: name another file, or a new one", str(path))


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


def _give_owner(written: int, like: os.stat_result) -> None:
    """Give a file the owner and group of another, as far as we may: they share the ledger."""
    for uid, gid in ((-1, like.st_gid), (like.st_uid, -1)):
        with suppress(OSError):  # not permitted, or in a container no such user
            os.fchown(written, uid, gid)


def _explained(error: OSError) -> str:
    where = f"ledger.file {error.filename}" if error.filename else "the ledger's file"
    problem = f"{where} cannot be written: {error.strerror or error}"
    if not isinstance(error, PermissionError):
        return problem
    return f"{problem}: uid {os.geteuid()} must be allowed to write there"


def _lock(opened: int, path: Path) -> None:
    """Lock a file within LOCK_PATIENCE: the lock may be held on another machine. Raises OSError."""
    deadline = time.monotonic() + LOCK_PATIENCE
    while True:
        try:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise OSError(errno.ETIMEDOUT, "it is locked by another", str(path)) from None
            time.sleep(0.005)
        else:
            return


def _end_torn_line(opened: int) -> None:
    """End the last line where a crash or a full disk has cut it; the lock must be held."""
    size = os.fstat(opened).st_size
    if size and os.pread(opened, 1, size - 1) != b"\n":
        os.write(opened, b"\n")


def _parts(opened: int, start: int, end: int) -> Iterator[bytes]:
    """What a file holds between two offsets, in parts."""
    while start < end:
        part = os.pread(opened, min(end - start, PART), start)
        if not part:
            return
        start += len(part)
        yield part
