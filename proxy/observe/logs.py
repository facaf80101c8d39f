"""The log: its two formats, and its handler, which never blocks.

A line is text for people or a JSON object, as the environment says. What reads the log may be slow,
stuck or gone: then lines are lost, and counted, but no exchange waits. What Python would write to
standard error by itself goes the same way. Only a log in a file waits, for its disk.
"""

from __future__ import annotations

import logging
import os
import re
import select
import stat
import sys
import threading
import time
import traceback
from contextlib import suppress
from functools import lru_cache
from typing import Any, TextIO

from ..core import jsontext
from .record import Record

log = logging.getLogger("proxy")

LEVEL = "PROXY_LOG_LEVEL"
FORMAT = "PROXY_LOG_FORMAT"

PIECE = 4096
"""How much of what waits for another user's terminal is read at a time, in bytes."""


def to_stderr() -> None:
    """Log as the environment says; raises OSError, which says what is wrong there."""
    level = (os.environ.get(LEVEL) or "INFO").upper()
    if level not in logging.getLevelNamesMapping():
        raise OSError(f"{LEVEL} is {level!r}, which is no level such as INFO or WARNING")
    name = os.environ.get(FORMAT) or "text"
    if name not in FORMATS:
        raise OSError(f"{FORMAT} is {name!r}, which is none of {', '.join(FORMATS)}")
    # Our lines name neither threads nor processes, and asking for them at each is dear.
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    handler = (
        logging.NullHandler()
        if _closed(sys.stderr)
        else Descriptor(_nonblocking(sys.stderr.fileno()))
    )
    handler.setFormatter(FORMATS[name]())
    logging.basicConfig(level=level, handlers=[handler])
    logging.getLogger("uvicorn.error").addFilter(_adds_to_our_lines)
    logging.getLogger("asyncio").addFilter(_without_values)
    logging.captureWarnings(True)
    sys.unraisablehook = _log_unraisable
    threading.excepthook = _log_end_of_thread


def _log_unraisable(what: sys.UnraisableHookArgs) -> None:
    log.error("a fault of ours that nobody can catch", exc_info=what.exc_value)


def _log_end_of_thread(what: threading.ExceptHookArgs) -> None:
    if what.exc_type is not SystemExit:
        log.error("a fault of ours ends a thread", exc_info=what.exc_value)


def print_at_once(line: str, stream: TextIO) -> None:
    """Print a line, or lose it where whoever reads is stuck or gone, as a line of the log is."""
    given = stream.fileno()
    own = _nonblocking(given)
    Descriptor(own).emit(logging.LogRecord("proxy", logging.INFO, "", 0, line, None, None))
    if own != given:
        os.close(own)


def _closed(stream: TextIO | None) -> bool:
    """Whether the process began without this stream; its number may be a connection's by now."""
    return stream is None


def _nonblocking(descriptor: int) -> int:
    """A descriptor of the same pipe or terminal that never blocks; of anything else, the given one.

    To ask whether it is writable is not enough: a terminal is, with room for one byte, and other
    workers may fill a pipe meanwhile. The flag is not set on the given descriptor, for others share
    that, and would lose what they print.
    """
    kind = os.fstat(descriptor).st_mode
    if not stat.S_ISFIFO(kind) and not stat.S_ISCHR(kind):
        return descriptor
    with suppress(OSError):
        how = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
        return os.open(f"/proc/self/fd/{descriptor}", how)
    # There is no /proc, or the terminal is another user's, as behind su: a thread may wait for it.
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    threading.Thread(target=hand_on, args=(reading, descriptor), daemon=True).start()
    return writing


def hand_on(reading: int, descriptor: int) -> None:
    """Write what comes through a pipe to ``descriptor``, line by line, as long as that takes it."""
    rest = b""
    with suppress(OSError):
        while data := os.read(reading, PIECE):
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                data = line + b"\n"
                with suppress(BlockingIOError):  # whoever shares it may have set the flag
                    while data:
                        data = data[os.write(descriptor, data) :]
    os.close(reading)  # from now on lines are lost


class Descriptor(logging.Handler):
    """Writes lines to a file descriptor, or loses them; never waits and never raises.

    Each is written in one piece, for other workers write there, too: between two pieces their lines
    could stand, and the second, which a stranger may have worded, would look like a line of ours.
    How many were lost is logged as soon as lines get through again.
    """

    def __init__(self, descriptor: int) -> None:
        super().__init__()
        self._descriptor = descriptor
        self._poll = select.poll()
        self._poll.register(descriptor, select.POLLOUT)
        self._lost = 0
        self._torn = False
        """Whether the last line was cut, and the next is to begin with its end."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write the line of a record."""
        try:
            if self._lost:
                text = f"{self._lost} lines of the log were lost"
                self._write(logging.LogRecord("proxy", logging.WARNING, "", 0, text, None, None))
                self._lost = 0
            self._write(record)
        except Exception:  # noqa: BLE001  (logging's own way would show what it could not write)
            self._lost += 1

    def _write(self, record: logging.LogRecord) -> None:
        line = f"{self.format(record)}\n".encode("utf-8", "backslashreplace")
        data = b"\n" + line if self._torn else line
        if not self._poll.poll(0):
            raise BlockingIOError
        self._torn = os.write(self._descriptor, data) < len(data)
        if self._torn:
            raise BlockingIOError


class Text(logging.Formatter):
    """``time level logger message``, in local time; what follows a fault is on lines of its own."""

    def format(self, record: logging.LogRecord) -> str:
        """The line, or lines, of a record."""
        when = f"{_local_second(int(record.created))},{int(record.msecs):03}"
        line = f"{when} {record.levelname} {record.name} {record.getMessage()}"
        return f"{line}\n{fault(record.exc_info[1])}" if record.exc_info else line


class JSON(logging.Formatter):
    """One object on one line: ``time`` (RFC 3339, UTC), ``level``, ``logger``, ``message``.

    For an exchange the message is ``exchange``, and the fields of Record.as_dict follow; for an
    exception, ``fault`` says where it arose.
    """

    def format(self, record: logging.LogRecord) -> str:
        """The line of a record."""
        fields: dict[str, Any] = {
            "time": f"{_utc_second(int(record.created))}.{int(record.msecs):03}Z",
            "level": record.levelname,
            "logger": record.name,
        }
        if isinstance(record.msg, Record):
            fields["message"] = "exchange"
            fields |= record.msg.as_dict()
        else:
            fields["message"] = record.getMessage()
        if record.exc_info:
            fields["fault"] = fault(record.exc_info[1])
        return jsontext.dumps(fields).decode()


FORMATS: dict[str, type[logging.Formatter]] = {"text": Text, "json": JSON}


def fault(error: BaseException | None) -> str:
    """Where an exception arose, and its class; its message may quote a request or a key."""
    lines: list[str] = []
    while error is not None:
        lines[:0] = [*traceback.format_tb(error.__traceback__), f"{type(error).__qualname__}\n"]
        error = error.__cause__ or error.__context__
    return "".join(lines).rstrip()


@lru_cache(maxsize=1)
def _local_second(second: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(second))


@lru_cache(maxsize=1)
def _utc_second(second: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))


def _adds_to_our_lines(record: logging.LogRecord) -> bool:
    """Whether uvicorn's line says anything that our own lines do not.

    Ours report start and stop, and responses that are cut on purpose.
    """
    cut = "without completing response" in record.getMessage()
    return record.levelno >= logging.WARNING and not cut


def _without_values(record: logging.LogRecord) -> bool:
    """Cut the event loop's message to what failed: its arguments may hold a key, see fault."""
    first_line = record.getMessage().partition("\n")[0]
    record.msg = re.sub(r" ?[(<].*", "", first_line)
    record.args = ()
    return True
