"""One record per exchange, and the line of the log that it becomes.

A record never holds a prompt, an answer, a key or words of the upstream, so that none can leak.
Observers are called with it when the exchange is over.
"""

from __future__ import annotations

import codecs
import logging
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from operator import attrgetter
from typing import Any, Literal

log = logging.getLogger("proxy.exchanges")

UNKNOWN = "-"
"""Stands for what is not known."""

LONGEST_VALUE = 300
"""The most that is logged of one value, in characters."""

MOST_DROPPED = 20
"""How many of the parameters that were left out are logged by name."""

Ended = Literal[
    "complete",
    "refused",  # by us, before the upstream was asked
    "upstream refused",  # the upstream answered with an error
    "upstream failed",  # it could not be reached, spoke nonsense or broke off
    "client left before the first byte",
    "client left mid-stream",
    "client left after the stop",  # as old SDKs do: a success
    "client stalled",
    "drained",  # cut at the end of the drain
    "crashed",  # a fault of ours
]


@dataclass(slots=True)
class Record:
    """What is known of one exchange when it is over. Times are in seconds, sizes in bytes.

    UNKNOWN stands for what is not known. The model and the events of a request that passes through
    are not, for its body is not parsed.
    """

    method: str
    path: str
    began: float = field(default_factory=time.monotonic)
    seconds: float = 0.0
    """From the whole head of the request to the end of the exchange."""
    client: str = UNKNOWN
    """The program that called, as it names itself; see exchange.identity."""
    key: str = UNKNOWN
    """The fingerprint of its key."""
    route: str = UNKNOWN
    upstream: str = UNKNOWN
    client_version: str = UNKNOWN
    upstream_version: str = UNKNOWN
    changes: tuple[str, ...] = ()
    """The names of the version changes that the request took."""
    notes: Sequence[str] = ()
    """What else was changed in the request, and why; see core.change.Call."""
    model: str = UNKNOWN
    """The model that was asked for."""
    answered_by: str = UNKNOWN
    """The model that was asked in its place."""
    streams: bool = False
    """Whether a stream was asked for, or, where the request passed through, was the answer."""
    status: int = 0
    first_byte: float | None = None
    bytes_received: int = 0
    """Of the request's body."""
    upstream_bytes: int = 0
    """Of the body of the upstream's answer, as it stood on the wire."""
    bytes_sent: int = 0
    """Of the body of the client's response."""
    events_received: int = 0
    events_sent: int = 0
    ended: Ended = "complete"
    error: str = ""
    error_class: str = UNKNOWN
    """The name of the error's class."""
    dropped: tuple[str, ...] = ()
    """The parameters that were left out, by name; see exchange.recording.NAMED."""
    request_id: str = UNKNOWN

    @property
    def failed(self) -> bool:
        """Whether the proxy or the upstream owed the client more than it got."""
        return self.ended in ("upstream failed", "drained", "crashed", "client stalled")

    def as_dict(self) -> dict[str, Any]:
        """The fields of the log, always with the same names; None where nothing is known.

        Times are in milliseconds. What strangers chose is cut to LONGEST_VALUE.
        """
        return _request_fields(_request_of(self)) | self._outcome()

    def __str__(self) -> str:
        """The same as one line of text: ``name=value`` for what is known."""
        return f"{_request_line(_request_of(self))} {_line(self._outcome())}"

    def _outcome(self) -> dict[str, Any]:
        first = self.first_byte
        return {
            "status": self.status or None,
            "ended": self.ended,
            "error": self.error[:LONGEST_VALUE] or None,
            "dropped": tuple(name[:LONGEST_VALUE] for name in self.dropped[:MOST_DROPPED]),
            "bytes_received": self.bytes_received,
            "upstream_bytes": self.upstream_bytes,
            "bytes_sent": self.bytes_sent,
            "events_received": self.events_received if self.streams else None,
            "events_sent": self.events_sent if self.streams else None,
            "first_ms": None if first is None else _ms(first - self.began),
            "ms": _ms(self.seconds),
            "request_id": _known(self.request_id),
        }


Observer = Callable[[Record], None]
"""Is called with the record of each exchange that is over."""


def log_exchange(record: Record) -> None:
    """Log a finished exchange: failures of ours and the upstream's as warnings.

    The record itself is the message: the formatter decides what the line looks like. To call
    ``log.info``, which looks up the place in the code, would cost half as much again.
    """
    level = logging.WARNING if record.failed else logging.INFO
    if log.isEnabledFor(level):
        log.handle(logging.LogRecord(log.name, level, "", 0, record, None, None))


def _known(value: Any) -> Any:
    if isinstance(value, str):
        return None if value == UNKNOWN else value[:LONGEST_VALUE]
    return value


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 1)


_REQUEST = (
    *("method", "path", "route", "upstream", "client_version", "upstream_version", "changes"),
    *("client", "key", "model", "answered_by", "streams"),
)
"""The fields that many exchanges of one client have in common, as attributes and in the log."""

_UNNAMED = ("method", "path")
"""Those at the beginning of a line."""

_request_of = attrgetter(*_REQUEST)


def _request_fields(values: tuple[Any, ...]) -> dict[str, Any]:
    fields = dict(zip(_REQUEST, values, strict=True))
    return {
        name: value[:LONGEST_VALUE] if name in _UNNAMED else _known(value)
        for name, value in fields.items()
    }


@lru_cache(maxsize=512)
def _request_line(values: tuple[Any, ...]) -> str:
    return _line(_request_fields(values))


def _line(fields: Mapping[str, Any]) -> str:
    words: list[str] = []
    for name, value in fields.items():
        text = ",".join(value) if isinstance(value, tuple) else value
        if isinstance(text, str):
            if text:
                words.append(_word(text) if name in _UNNAMED else f"{name}={_word(text)}")
        elif value is not None and name != "streams":  # that shows in the numbers of events
            words.append(f"{name}={value}")
    return " ".join(words)


_WORD = re.compile(r"[!#-<>-~]+")

_escaped = codecs.getencoder("unicode_escape")  # now: this opens a file to import it


@lru_cache(maxsize=512)
def _word(text: str) -> str:
    """A value on one line, quoted where it would not read as one word."""
    text = text[:LONGEST_VALUE]
    if _WORD.fullmatch(text):
        return text
    return '"' + _escaped(text)[0].decode().replace('"', r"\"") + '"'
