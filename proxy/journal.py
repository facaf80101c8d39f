"""The ledger on disk: what was counted is appended to a file, which all processes sum up alike.

The file is the truth. A process holds in memory what it has read of it, and what it counted since
it last wrote, a second ago at most. Each write is one whole line under a lock; a line that a crash
tore is passed over, and what could not be written is kept and tried again. When the file has grown
far beyond what it says, it is written anew beside itself and takes its own place, so that a crash
leaves either the one or the other.

Whatever waits for a disk is done in a thread, and whatever computes in slices on the loop: a thread
that computes would hold up the loop for longer, each time it wants to go on. A disk may stand
still, as one on another machine does: who asks, and the end of the process, do not wait for long.
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
from .ledger import Ledger, OtherForm
from .observe import Record

log = logging.getLogger("proxy")

FLUSH = 1.0
"""Seconds after which what was counted is written."""

RETRY = 10.0
"""The same after a write that failed."""

SLICE = 0.001
"""Seconds of computing after which the loop may serve others."""

LOCKED = 2.0
"""Seconds that others may hold the lock; nobody needs it for so long."""

PATIENT = 5.0
"""Seconds that a disk may stand still while somebody waits for it."""

SMALL = 256 << 10
"""Up to what size a file is never written anew, in bytes."""

WORDY = 4
"""How many times the size of what it says a file may have."""

PART = 256 << 10
"""How much is read at a time, in bytes: nothing else runs while it is searched for lines."""

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
        self._thread: DaemonThread | None = None
        """In which all is done with the file, from the first time on."""
        self._summed = Ledger(self._limit)
        """What is in the file, as far as it was read; all, without one or while it fails."""
        self._unwritten = Ledger(self._limit)
        """What is to be written to it."""
        self._counted = Ledger(self._limit)
        """What was counted since that was last looked at."""
        self._one_at_a_time = asyncio.Lock()
        self._timer: asyncio.TimerHandle | None = None
        self._syncing: set[asyncio.Task[None]] = set()
        self._next_sync: asyncio.Task[None] | None = None
        """The one that has not begun yet, for all who ask while another is under way."""
        self._wordy_at = SMALL
        self._all_of_our_form = True
        """Whether no line of the file is in a form that another version of the proxy knows."""
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
        """All that was counted up to now, here and, a second ago, in the other processes.

        Raises Busy while the disk stands still.
        """
        try:
            async with asyncio.timeout(PATIENT):
                await self.sync()
        except TimeoutError:
            raise Busy("the ledger's disk does not answer, try again shortly") from None
        return self._summed

    async def sync(self) -> None:
        """Write what was counted, and read what others have written; a failure is logged."""
        # Who waits may give up; what was counted is in the hands of this task.
        await asyncio.shield(self._begin_sync())

    async def close(self) -> None:
        """Write the last, and let go of the file."""
        try:
            async with asyncio.timeout(PATIENT):
                # Who waits gives up; the loop may go on, and the disk as well.
                await asyncio.shield(asyncio.create_task(self._close()))
        except TimeoutError:
            log.error("ledger: the disk does not answer; what was counted last may be lost")  # noqa: TRY400
        except OSError as error:  # what could not be written some disks tell last of all
            log.error("%s; what was counted last may be lost", _told(error))  # noqa: TRY400

    async def _close(self) -> None:
        await self.sync()
        async with self._one_at_a_time:
            if self._timer is not None:
                self._timer.cancel()
            file, self._file = self._file, None  # who still asks is told what was read
            thread, self._thread = self._thread, None
            if file is not None and thread is not None:
                try:
                    await thread.do(file.close)
                finally:
                    thread.stop()

    async def _sync(self) -> None:
        async with self._one_at_a_time:
            self._next_sync = None
            await self._collect()
            if self._file is None:
                return
            try:
                self._thread = self._thread or DaemonThread()
                if self._failed:
                    # To be read anew: what could not be written was summed, too.
                    await self._thread.do(self._file.close)
                await self._write(self._file, self._thread)
                await self._read(self._file, self._thread)
            except OSError as error:
                await self._do_without(error)
            else:
                self._failed = False

    async def _collect(self) -> None:
        """Put what was counted to what is to be written."""
        if not self._counted.revision:
            return
        counted, self._counted = self._counted, Ledger(self._limit)
        if self._file is None or self._failed:
            await _unhurried(self._summed.adding(counted, self._clock()))
        if self._unwritten.revision:
            await _unhurried(self._unwritten.adding(counted, self._clock()))
        elif self._file is not None:
            self._unwritten = counted
        self.revision += 1

    async def _write(self, file: File, thread: DaemonThread) -> None:
        if self._unwritten.revision:
            lines: list[bytes] = []
            await _unhurried(_listed(self._unwritten.lines(), lines))
            await thread.do(partial(file.append, lines))
            self._unwritten = Ledger(self._limit)

    async def _read(self, file: File, thread: DaemonThread) -> None:
        anew, lines = await thread.do(file.news)
        if anew or lines:
            into = Ledger(self._limit) if anew else self._summed
            self._all_of_our_form = self._all_of_our_form or anew
            await _unhurried(self._reading(lines, into, file.path))
            self._summed = into
            self.revision += 1
        # What is not understood would be lost, as where a proxy of before is taken back into use.
        if file.read_up_to > self._wordy_at and self._all_of_our_form:
            await self._rewrite(file, thread)

    def _reading(self, lines: list[bytes], into: Ledger, path: Path) -> Iterator[None]:
        """Add what the lines of the file say, in steps; what is none of a ledger is told of."""
        unread = 0
        for line in lines:
            try:
                part = Ledger.read(jsontext.loads(line), into.limit, self._clock())
            except ValueError as error:
                unread += 1
                self._all_of_our_form = self._all_of_our_form and not isinstance(error, OtherForm)
            else:
                yield
                yield from into.adding(part, self._clock())
        if unread:
            log.warning("ledger: %d lines of %s cannot be read, and are not counted", unread, path)

    async def _rewrite(self, file: File, thread: DaemonThread) -> None:
        """Write the file anew if it is wordy, and note at what size to look again."""
        lines: list[bytes] = []
        await _unhurried(_listed(self._summed.lines(), lines))
        size = sum(map(len, lines))
        self._wordy_at = max(SMALL, WORDY * size)
        if WORDY * size < file.read_up_to:
            try:
                await thread.do(partial(file.rewrite, lines))
            except OSError as error:  # as where the file alone is mounted, and not its folder
                log.warning("ledger: %s cannot be written anew, and grows: %s", file.path, error)
                self._wordy_at = 2 * file.read_up_to

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

    async def _do_without(self, error: OSError) -> None:
        if not self._failed:
            log.error("%s; until it can be, the ledger is in memory alone", _told(error))
            if self._unwritten.revision and self._file is not None and self._thread is not None:
                with suppress(OSError):  # what cannot be written to can still be read
                    await self._read(self._file, self._thread)
            await _unhurried(self._summed.adding(self._unwritten, self._clock()))
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

    def append(self, lines: Iterable[bytes]) -> None:
        """Append lines; raises OSError, after which none of them counts."""
        text = b"".join(lines)
        with self.locked() as opened:
            _end_torn_line(opened)
            size = os.fstat(opened).st_size
            if os.write(opened, text) < len(text):
                os.ftruncate(opened, size)  # or each attempt would take what space comes free
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))

    def news(self) -> tuple[bool, list[bytes]]:
        """The lines that were appended since it was last asked, by whomever.

        Also whether they are all there are, because the file is another than it was.
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
            self.read_up_to = up_to - len(torn)  # where reading fails, nothing was read
            anew, self._anew = self._anew, False
        return anew, lines

    def rewrite(self, lines: Iterable[bytes]) -> None:
        """Have the file say ``lines`` alone, unless somebody has appended what was not read.

        It stays where it is, be its name a link to there, and who may read it.
        """
        with self.locked() as opened:
            before = os.fstat(opened)
            if before.st_size != self.read_up_to:
                return
            there = self.path.resolve()
            beside = there.with_name(f"{there.name}.new")
            beside.unlink(missing_ok=True)  # what a crash left, or a link to somewhere else
            written = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            try:
                _give(written, before)
                os.fchmod(written, stat.S_IMODE(before.st_mode))
                with open(written, "wb") as whole:  # noqa: PTH123  (of a descriptor)
                    whole.writelines(lines)
                    whole.flush()
                    os.fsync(written)
                beside.replace(there)
            except OSError:
                beside.unlink(missing_ok=True)
                raise

    def close(self) -> None:
        """Let go of it."""
        if self._opened is not None:
            # It is closed even where that fails, and the next thing opened has its number.
            opened, self._opened = self._opened, None
            os.close(opened)

    @contextmanager
    def locked(self) -> Iterator[int]:
        """The file, which nobody else writes to for the moment: the one that bears its name."""
        while True:
            opened = self._open()
            _lock(opened, self.path)
            try:
                if self._bears_the_name(opened):
                    self._heed_size(opened)
                    yield opened
                    return
            finally:
                with suppress(OSError):
                    fcntl.flock(opened, fcntl.LOCK_UN)
            self.close()  # it was written anew, or taken away

    def _open(self) -> int:
        if self._opened is None:
            # What is no file may make whoever opens it wait for another; this says no.
            flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK
            opened = os.open(self.path, flags, 0o600)
            try:
                _check_kind(opened, self.path)
            except OSError:
                os.close(opened)
                raise
            self._opened = opened
            self.read_up_to = 0
            self._anew = True
        return self._opened

    def _heed_size(self, opened: int) -> None:
        """Begin anew where somebody has emptied the file, before anything is added to it."""
        if os.fstat(opened).st_size < self.read_up_to:
            self.read_up_to = 0
            self._anew = True

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
        with file.locked():
            pass
    except OSError as error:
        raise OSError(_told(error)) from error
    finally:
        file.close()


def _check_kind(opened: int, path: Path) -> None:
    """See that lines can be kept there and are at home there; raises OSError."""
    if not stat.S_ISREG(os.fstat(opened).st_mode):  # /dev/null takes all and keeps nothing
        raise OSError(errno.EINVAL, "it is no regular file", str(path))
    if not _MARK.startswith(os.pread(opened, len(_MARK), 0)):
        raise OSError(errno.EINVAL, "it is no ledger: name another file, or a new one", str(path))


def _listed(lines: Iterable[bytes], into: list[bytes]) -> Iterator[None]:
    """Put ``lines`` into a list, in steps."""
    for line in lines:
        into.append(line)
        yield


async def _unhurried(steps: Iterator[None]) -> None:
    """Take all steps, with others served in between."""
    began = time.monotonic()
    for _ in steps:
        if time.monotonic() - began >= SLICE:
            await asyncio.sleep(0)
            began = time.monotonic()


def _give(written: int, like: os.stat_result) -> None:
    """Have a file belong to whom another belongs to, as far as we may: they share the ledger."""
    for uid, gid in ((-1, like.st_gid), (like.st_uid, -1)):
        with suppress(OSError):  # no right to, or in a container no such user
            os.fchown(written, uid, gid)


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
    """What a file holds between two places, in parts."""
    while start < end:
        part = os.pread(opened, min(end - start, PART), start)
        if not part:
            return
        start += len(part)
        yield part
