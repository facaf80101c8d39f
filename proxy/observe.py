"""One record per exchange, and the line of the log that it becomes.

A record never holds a prompt, an answer, a key or words of the upstream, so that none can leak.
Whoever wants to know of exchanges is told of the record when the exchange is over.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

log = logging.getLogger("proxy.exchanges")

LONGEST = 300
"""The most that is logged of one value, in characters."""

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

    ``-`` stands for what is not known. Of a request that passes through neither model nor events
    are: nothing of it is read.
    """

    method: str
    path: str
    began: float = field(default_factory=time.monotonic)
    seconds: float = 0.0
    """From the whole head of the request to the end of the exchange."""
    client: str = "-"
    """The program that called, as it names itself; see identity."""
    key: str = "-"
    """The fingerprint of its key."""
    route: str = "-"
    upstream: str = "-"
    client_version: str = "-"
    upstream_version: str = "-"
    changes: Sequence[str] = ()
    """The names of the version changes that the request took."""
    model: str = "-"
    """The model that was asked for."""
    answered_by: str = "-"
    """The model that was asked in its place."""
    streams: bool = False
    """Whether a stream was asked for, or came where nothing of the request is read."""
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
    fault: str = "-"
    """The class of that error, one of those in errors."""
    dropped: tuple[str, ...] = ()
    request_id: str = "-"

    @property
    def failed(self) -> bool:
        """Whether the proxy or the upstream owed the client more than it got."""
        return self.ended in ("upstream failed", "drained", "crashed", "client stalled")

    def line(self) -> str:
        """The record as one line of text, ``name=value`` in a fixed order."""
        told = [self.method, _shown(self.path), f"route={_shown(self.route)}"]
        told.append(f"client={self.client_version} upstream={self.upstream_version}")
        told.append(f"status={self.status} ended={_shown(self.ended)}")
        if self.error:
            told.append(f"error={_shown(self.error)}")
        if self.dropped:
            told.append(f"dropped={_shown(','.join(self.dropped))}")
        told.append(f"bytes={self.bytes_sent}")
        if self.first_byte is not None:
            told.append(f"first_ms={_ms(self.first_byte - self.began)}")
        told.append(f"ms={_ms(self.seconds)} request_id={_shown(self.request_id)}")
        return " ".join(told)


Observer = Callable[[Record], None]
"""Is told of each exchange that is over."""


def write(record: Record) -> None:
    """Log a finished exchange: failures of ours and the upstream's as warnings."""
    level = logging.WARNING if record.failed else logging.INFO
    if log.isEnabledFor(level):
        log.log(level, "%s", record.line())


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.1f}"


_WORD = re.compile(r"[!#-<>-~]+")


def _shown(text: str) -> str:
    """A value on one line, quoted where it would not read as one word."""
    text = text[:LONGEST]
    if _WORD.fullmatch(text):
        return text
    return '"' + text.encode("unicode_escape").decode().replace('"', r"\"") + '"'
