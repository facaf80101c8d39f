"""The log: what goes into it, in two formats.

A line is text for people or a JSON object, as the environment says. What Python would write to
standard error by itself is in the log, too: else it would wait for whoever reads that.
"""

from __future__ import annotations

import logging
import os
import re
import sys
import threading
import time
import traceback
from functools import lru_cache
from typing import Any, TextIO

from ..core import jsontext
from .handlers import writing_to
from .record import Record

log = logging.getLogger("proxy")

LEVEL = "PROXY_LOG_LEVEL"
FORMAT = "PROXY_LOG_FORMAT"


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
    handler = logging.NullHandler() if _closed(sys.stderr) else writing_to(sys.stderr.fileno())
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
    handler = writing_to(stream.fileno())
    handler.emit(logging.LogRecord("proxy", logging.INFO, "", 0, line, None, None))
    handler.close()


def _closed(stream: TextIO | None) -> bool:
    """Whether the process began without this stream; its number may be a connection's by now."""
    return stream is None


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
