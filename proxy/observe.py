"""One record per exchange, and the line of the log that it becomes.

A record never holds a prompt, an answer, a key or words of the upstream, so that none can leak.
"""

from __future__ import annotations

import logging
import time
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
    """What is known of one exchange when it is over. Times are in seconds, sizes in bytes."""

    method: str
    path: str
    began: float = field(default_factory=time.monotonic)
    route: str = "-"
    client_version: str = "-"
    upstream_version: str = "-"
    status: int = 0
    first_byte: float | None = None
    bytes_sent: int = 0
    ended: Ended = "complete"
    error: str = ""
    dropped: tuple[str, ...] = ()
    request_id: str = "-"

    def line(self) -> str:
        """The record as one line of text, ``name=value`` in a fixed order."""
        values = {
            "route": self.route,
            "client": self.client_version,
            "upstream": self.upstream_version,
            "status": self.status,
            "ended": self.ended,
            "error": self.error,
            "dropped": ",".join(self.dropped),
            "bytes": self.bytes_sent,
            "first_ms": "" if self.first_byte is None else _ms(self.first_byte - self.began),
            "ms": _ms(time.monotonic() - self.began),
            "request_id": self.request_id,
        }
        told = " ".join(f"{name}={_shown(value)}" for name, value in values.items() if value != "")
        return f"{self.method} {_shown(self.path)} {told}"


def write(record: Record) -> None:
    """Log a finished exchange: failures of ours and the upstream's as warnings."""
    failed = record.ended in ("upstream failed", "drained", "crashed", "client stalled")
    log.log(logging.WARNING if failed else logging.INFO, "%s", record.line())


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.1f}"


def _shown(value: object) -> str:
    """A value on one line, quoted where it would not read as one word."""
    text = str(value)[:LONGEST]
    if text.isprintable() and not any(char in text for char in ' "='):
        return text
    return '"' + text.encode("unicode_escape").decode().replace('"', r"\"") + '"'
