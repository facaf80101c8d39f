"""The ledger on disk: what was counted is appended to a file, which all processes sum up alike.

The file is the truth. A process holds in memory what it has read of it, and what it counted since
it last wrote, a second ago at most. Each write is one whole line under a lock; a line that a crash
tore is passed over, and what could not be written is kept and tried again. When the file has grown
far beyond what it says, it is written anew beside itself and takes its own place, so that a crash
leaves either the one or the other.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import logging
import os
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from . import config, jsontext
from .ledger import Ledger
from .observe import Record

log = logging.getLogger("proxy")

FLUSH = 1.0
"""Seconds after which what was counted is written."""

RETRY = 10.0
"""The same after a write that failed."""

LOCKED = 2.0
"""Seconds that others may hold the lock; nobody needs it for so long."""

SMALL = 256 << 10
"""Up to what size a file is never written anew, in bytes."""

WORDY = 4
"""How many times the size of what it says a file may have."""

_MARK = b'{"ledger":'
"""With what every line begins; a file that begins with another is somebody else's."""


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
        self._summed = Ledger(self._limit)
        """What is in the file, as far as it was read."""
        self._counted = self._summed if self._file is None else Ledger(self._limit)
        """What was counted and is not in the file yet."""
        self._one_at_a_time = asyncio.Lock()
        self._timer: asyncio.TimerHandle | None = None
        self._syncing: set[asyncio.Task[None]] = set()
        self._wordy_at = SMALL
        self._failed = False
        self.revision = 0
        """Grows whenever the ledger may have changed, and never goes back."""

    def count(self, record: Record) -> None:
        """Count an exchange that is over; to be written soon."""
        self._counted.count(record, self._clock())
        self.revision += 1
        if self._timer is None and self._file is not None:
            self._flush_in(FLUSH)

    async def ledger(self) -> Ledger:
        """All that was counted up to now, here and, a second ago, in the other processes."""
        await self.sync()
        if not self._failed:
            return self._summed
        everything = Ledger(self._limit)
        everything.add(self._summed)
        everything.add(self._counted)
        return everything

    async def sync(self) -> None:
        """Write what was counted, and read what others have written; a failure is logged."""
        if self._file is not None:
            # Who waits may give up; what was counted is in the hands of this task.
            await asyncio.shield(self._begin_sync(self._file))

    async def close(self) -> None:
        """Write the last, and let go of the file."""
        await self.sync()
        if self._timer is not None:
            self._timer.cancel()
        if self._file is not None:
            self._file.close()

    async def _sync(self, file: File) -> None:
        async with self._one_at_a_time:
            try:
                await self._write(file)
                await self._read(file)
            except OSError as error:
                self._tell_failure(error)
            else:
                self._failed = False

    async def _write(self, file: File) -> None:
        taken, self._counted = self._counted, Ledger(self._limit)
        try:
            if taken.revision:
                await asyncio.to_thread(lambda: file.append(taken.line()))
        except OSError:
            taken.add(self._counted)
            self._counted = taken
            raise

    async def _read(self, file: File) -> None:
        anew, news = await asyncio.to_thread(_news, file, self._limit)
        self.revision += anew or news.revision > 0
        if anew:
            self._summed = news
        elif news.revision:
            self._summed.add(news)
        if file.read_up_to > self._wordy_at:
            self._wordy_at = await asyncio.to_thread(_rewrite, file, self._summed)

    def _flush_in(self, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(seconds, self._flush)

    def _flush(self) -> None:
        self._timer = None
        if self._file is not None:
            self._begin_sync(self._file)

    def _begin_sync(self, file: File) -> asyncio.Task[None]:
        syncing = asyncio.create_task(self._sync(file))
        self._syncing.add(syncing)
        syncing.add_done_callback(self._syncing.discard)
        return syncing

    def _tell_failure(self, error: OSError) -> None:
        if not self._failed:
            log.error("%s; until it can be, the ledger is in memory alone", _told(error))
        self._failed = True
        if self._timer is None:
            self._flush_in(RETRY)


class File:
    """A file that several processes append lines to, and read what the others appended."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.read_up_to = 0
        """How much of it was read, in bytes."""
        self._opened: int | None = None
        self._anew = True

    def beginning(self, length: int) -> bytes:
        """Its first bytes, which are none if it is new; raises OSError if it cannot be written."""
        with self.locked() as opened:
            if not stat.S_ISREG(os.fstat(opened).st_mode):  # /dev/null takes all and keeps nothing
                raise OSError(errno.EINVAL, "it is no regular file", str(self.path))
            return os.pread(opened, length, 0)

    def append(self, line: bytes) -> None:
        """Append one line; raises OSError, after which none of it counts."""
        with self.locked() as opened:
            _end_torn_line(opened)
            size = os.fstat(opened).st_size
            if os.write(opened, line + b"\n") <= len(line):
                os.ftruncate(opened, size)  # or each attempt would take what space comes free
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))

    def news(self) -> tuple[bool, list[bytes]]:
        """The lines that were appended since it was last asked, by whomever.

        Also whether they are all there are, because the file is another than it was.
        """
        with self.locked() as opened:
            with suppress(OSError):  # a full disk can still be read
                _end_torn_line(opened)
            size = os.fstat(opened).st_size
            if size < self.read_up_to:  # somebody has emptied it
                self.read_up_to = 0
                self._anew = True
            text = b"".join(_parts(opened, self.read_up_to, size))
            text = text[: text.rfind(b"\n") + 1]
            anew, self._anew = self._anew, False
        self.read_up_to += len(text)
        return anew, [line for line in text.split(b"\n") if line.startswith(_MARK)]

    def rewrite(self, line: bytes) -> None:
        """Have the file say ``line`` alone, unless somebody has appended what was not read."""
        with self.locked() as opened:
            if os.fstat(opened).st_size != self.read_up_to:
                return
            beside = self.path.with_name(f"{self.path.name}.new")
            written = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            try:
                with open(written, "wb") as whole:  # noqa: PTH123  (of a descriptor)
                    whole.write(line + b"\n")
                    whole.flush()
                    os.fsync(written)
                beside.replace(self.path)
            except OSError:
                beside.unlink(missing_ok=True)
                raise

    def close(self) -> None:
        """Let go of it."""
        if self._opened is not None:
            os.close(self._opened)
            self._opened = None

    @contextmanager
    def locked(self) -> Iterator[int]:
        """The file, which nobody else writes to for the moment: the one that bears its name."""
        while True:
            opened = self._open()
            _lock(opened, self.path)
            try:
                if self._bears_the_name(opened):
                    yield opened
                    return
            finally:
                with suppress(OSError):
                    fcntl.flock(opened, fcntl.LOCK_UN)
            self.close()  # it was written anew, or taken away

    def _open(self) -> int:
        if self._opened is None:
            flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
            self._opened = os.open(self.path, flags, 0o600)
            self.read_up_to = 0
            self._anew = True
        return self._opened

    def _bears_the_name(self, opened: int) -> bool:
        with suppress(FileNotFoundError):
            return os.path.samestat(os.fstat(opened), self.path.stat())
        return False


def path_of(settings: config.Ledger, shared: Path | None) -> Path | None:
    """Where the ledger is kept: in its file, else where several processes share theirs."""
    if settings.file is not None:
        return Path(settings.file)
    return None if shared is None else shared / "ledger"


def check(settings: config.Ledger) -> None:
    """Let a start go on that could write its ledger; raises OSError, which says what is wrong."""
    if settings.file is None:
        return
    file = File(Path(settings.file))
    try:
        first = file.beginning(len(_MARK))
    except OSError as error:
        raise OSError(_told(error)) from error
    finally:
        file.close()
    if not _MARK.startswith(first):
        raise OSError(f"ledger.file {settings.file} is no ledger: name another file, or a new one")


def _news(file: File, limit: int) -> tuple[bool, Ledger]:
    """What was appended to the file, and whether that is all it says."""
    anew, lines = file.news()
    news = Ledger(limit)
    unread = 0
    for line in lines:
        try:
            news.read(jsontext.loads(line))
        except ValueError:
            unread += 1
    if unread:
        log.warning("ledger: %d lines of %s cannot be read, and are not counted", unread, file.path)
    return anew, news


def _rewrite(file: File, summed: Ledger) -> int:
    """Write the file anew if it is wordy; returns at what size to look again, in bytes."""
    line = summed.line()
    if WORDY * len(line) < file.read_up_to:
        try:
            file.rewrite(line)
        except OSError as error:  # as where the file alone is mounted, and not its folder
            log.warning("ledger: %s cannot be written anew, and grows: %s", file.path, error)
            return 2 * file.read_up_to
    return max(SMALL, WORDY * len(line))


def _told(error: OSError) -> str:
    where = f"ledger.file {error.filename}" if error.filename else "the ledger's file"
    told = f"{where} cannot be written: {error.strerror or error}"
    if not isinstance(error, PermissionError):
        return told
    return f"{told}: uid {os.geteuid()} must be allowed to write there"


def _lock(opened: int, path: Path) -> None:
    """Wait for the lock of a file, but not for ever: it may lie on another machine."""
    deadline = time.monotonic() + LOCKED
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
    """End the last line where a crash or a full disk has not: nobody else is writing it."""
    size = os.fstat(opened).st_size
    if size and os.pread(opened, 1, size - 1) != b"\n":
        os.write(opened, b"\n")


def _parts(opened: int, start: int, end: int) -> Iterator[bytes]:
    """What a file holds between two places."""
    while start < end:
        part = os.pread(opened, end - start, start)
        if not part:
            return
        start += len(part)
        yield part
