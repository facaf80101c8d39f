"""The ledger's file, to which several processes append lines.

Whole lines are appended under a lock; a line that a crash tore is ended, and skipped by readers. A
file is compacted by writing it anew beside itself and renaming that over it, so that a crash leaves
either the one or the other. All of this blocks: call it in a thread.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

LOCK_PATIENCE = 2.0
"""Seconds to wait for the lock of the file; nobody needs it for so long."""

PART = 256 << 10
"""How much is read at a time, in bytes: nothing else runs while it is searched for lines."""

_MARK = b'{"ledger":'
"""How every line begins; a file that begins otherwise is somebody else's."""


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
                with open(written, "wb") as whole:  # noqa: PTH123  (of a descriptor)
                    _give_owner(written, before)
                    os.fchmod(written, stat.S_IMODE(before.st_mode))
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


def _check_kind(opened: int, path: Path) -> None:
    """Check that it is a regular file, and a ledger or empty; raises OSError."""
    if not stat.S_ISREG(os.fstat(opened).st_mode):  # /dev/null takes all and keeps nothing
        raise OSError(errno.EINVAL, "it is no regular file", str(path))
    if not _MARK.startswith(os.pread(opened, len(_MARK), 0)):
        raise OSError(errno.EINVAL, "it is no ledger: name another file, or a new one", str(path))


def _give_owner(written: int, like: os.stat_result) -> None:
    """Give a file the owner and group of another, as far as we may: they share the ledger."""
    for uid, gid in ((-1, like.st_gid), (like.st_uid, -1)):
        with suppress(OSError):  # not permitted, or in a container no such user
            os.fchown(written, uid, gid)


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
