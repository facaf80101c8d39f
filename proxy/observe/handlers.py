"""The handlers of the log: a line is written in one piece, or lost and counted. None ever waits.

What reads the log may be slow, stuck or gone, and a disk may hang: no exchange waits for them.
"""

from __future__ import annotations

import logging
import os
import select
import stat
import threading
from abc import ABC, abstractmethod
from collections.abc import Sequence
from concurrent import futures
from contextlib import suppress
from itertools import accumulate
from queue import SimpleQueue

from ..runtime.daemonthread import started

MOST_WAITING = 1000
"""How many lines may wait until the thread that writes them takes all of them at once."""

GATHERED_FOR = 0.02
"""How long it lets lines gather, in seconds: to wake it for each costs a tenth of all requests."""

WRITTEN_WITHIN = 1.0
"""How long the end of the process waits for those that do, in seconds."""


def writing_to(descriptor: int) -> Lossy:
    """A handler that writes to what ``descriptor`` is open to, whatever that is.

    To ask whether it is writable is enough for a socket only: a terminal is, with room for one
    byte, other workers may fill a pipe meanwhile, and a file always is. Pipes and terminals are
    opened once more, for others share the given descriptor, and would lose what they print if it
    did not block. A thread may wait for what is left: files, and where there is no /proc or the
    terminal is another user's, as behind su.

    Raises OSError where the system has no thread left.
    """
    kind = os.fstat(descriptor).st_mode
    if stat.S_ISSOCK(kind):
        return Descriptor(descriptor)
    if stat.S_ISFIFO(kind) or stat.S_ISCHR(kind):
        with suppress(OSError):
            how = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
            return Descriptor(os.open(f"/proc/self/fd/{descriptor}", how), own=True)
    return Threaded(Descriptor(descriptor))


class Lossy(logging.Handler, ABC):
    """Writes lines, or loses them; never raises.

    How many were lost is logged as soon as lines get through again.
    """

    def __init__(self) -> None:
        super().__init__()
        self._lost = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Write the line of a record."""
        try:
            line = self._line(record)
        except Exception:  # noqa: BLE001  (logging's own way would show what it could not write)
            self._lost += 1
        else:
            self.write([line])

    def write(self, lines: Sequence[bytes]) -> None:
        """Write lines, each of which ends with its line break, in one piece."""
        told = [self._line(self._loss())] if self._lost else []
        try:
            taken = self._write(b"".join([*told, *lines]))
        except Exception:  # noqa: BLE001  (as above; the thread of Threaded would end)
            taken = 0
        ends = list(accumulate(map(len, [*told, *lines])))
        if told and taken >= ends.pop(0):
            self._lost = 0
        self._lost += sum(end > taken for end in ends)

    def _loss(self) -> logging.LogRecord:
        text = f"{self._lost} lines of the log were lost"
        return logging.LogRecord("proxy", logging.WARNING, "", 0, text, None, None)

    def _line(self, record: logging.LogRecord) -> bytes:
        return f"{self.format(record)}\n".encode("utf-8", "backslashreplace")

    @abstractmethod
    def _write(self, data: bytes) -> int:
        """How many bytes were taken; if it raises, none were."""


class Descriptor(Lossy):
    """Writes to a file descriptor, and closes it in the end if it is its ``own``.

    Each line is written in one piece, for other workers write there, too: between two pieces their
    lines could stand, and the second, which a stranger may have worded, would look like a line of
    ours.
    """

    def __init__(self, descriptor: int, *, own: bool = False) -> None:
        super().__init__()
        self._descriptor = descriptor
        self._own = own
        self._poll = select.poll()
        self._poll.register(descriptor, select.POLLOUT)
        self._torn = False
        """Whether the last line was cut, and the next is to begin with its end."""

    def close(self) -> None:
        """Write no more."""
        super().close()
        self._poll = select.poll()  # of nothing, which is never writable
        if self._own:
            self._own = False
            os.close(self._descriptor)

    def _write(self, data: bytes) -> int:
        if not self._poll.poll(0):
            return 0
        begin = b"\n" if self._torn else b""
        taken = os.write(self._descriptor, begin + data) - len(begin)
        self._torn = taken < len(data)
        return taken


class Threaded(Lossy):
    """Has a thread write to another handler, which may have to wait."""

    def __init__(self, waits: Lossy) -> None:
        super().__init__()
        self._waits = waits
        self._lines: SimpleQueue[bytes | None] = SimpleQueue()
        self._closing = threading.Event()
        self._writing = started(self._write_all)
        if self._writing.done():
            self._writing.result()  # raises why

    def setFormatter(self, fmt: logging.Formatter | None) -> None:  # noqa: N802  (logging's name)
        """Format as ``fmt`` does."""
        super().setFormatter(fmt)
        self._waits.setFormatter(fmt)

    def close(self) -> None:
        """Write no more; wait a moment for what has been handed over."""
        super().close()
        self._closing.set()
        self._lines.put(None)
        futures.wait([self._writing], WRITTEN_WITHIN)

    def _write(self, data: bytes) -> int:
        if self._lines.qsize() >= MOST_WAITING:
            return 0
        self._lines.put(data)
        return len(data)

    def _write_all(self) -> None:
        ended = False
        while not ended:
            gathered = [self._lines.get()]
            self._closing.wait(GATHERED_FOR)
            gathered += [self._lines.get() for _ in range(self._lines.qsize())]
            ended = None in gathered
            self._waits.write([line for line in gathered if line is not None])
