"""Decodes and encodes server-sent events.

Decoding follows the WHATWG's standard (https://html.spec.whatwg.org/multipage/server-sent-events.html),
wherever the stream is cut into chunks: lines end at LF, CR or CRLF only; a BOM at the start is
skipped; several ``data`` lines are joined; an event that no blank line ended is dropped.

One deliberate difference: an event has a maximum size, as without one an upstream could fill our
memory.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

BOM = b"\xef\xbb\xbf"

LARGEST_EVENT = 8 << 20
"""The largest event where nobody says otherwise, in bytes."""

_PLAIN = re.compile(rb"event: ([^\r\n]+)(\r?\n)data: ([^\r\n]+)\2\2")
"""A whole event in the form that nearly all have."""

_BLANK_LINE = re.compile(rb"\r\n\r\n|\n\n|\r\r")
"""The end of an event, if its lines end alike."""


class EventTooLarge(ValueError):
    """An event is larger than the limit."""


class Frame(NamedTuple):
    """One event on the wire: its name, None for the default ``message``, and its data."""

    name: str | None
    data: bytes


class Decoder:
    """Decodes a stream from chunks, cut anywhere. An event has at most ``limit`` bytes."""

    __slots__ = (
        "_after_cr",
        "_at_start",
        "_data",
        "_limit",
        "_name",
        "_partial_line",
        "_size",
        "between",
    )

    def __init__(self, limit: int = LARGEST_EVENT) -> None:
        self._limit = limit
        self._partial_line = bytearray()
        self._size = 0
        """The size of the event's complete lines so far, in bytes."""
        self._after_cr = False
        """Whether a LF that comes next belongs to the line end before."""
        self._at_start = True
        self._name: str | None = None
        self._data: bytearray | None = None
        """The data so far, joined: as a list of lines it would take six times the memory."""
        self.between = True
        """Whether the next byte begins an event, as there is nothing yet of one."""

    def event_at(self, chunk: bytes, at: int) -> tuple[Iterable[Frame], int]:
        """The event whose next byte is ``at``, if ``chunk`` has its end, and where that ends.

        It can be several events where line ends differ. Lazy, and raises, as feed().
        """
        plain = _PLAIN.match(chunk, at) if self.between else None
        if plain is not None and plain.end() - at <= self._limit:
            self._at_start = False
            name, _, data = plain.groups()
            return (Frame(name.decode("utf-8", "replace"), data),), plain.end()
        blank_line = _BLANK_LINE.search(chunk, at)
        end = blank_line.end() if blank_line else len(chunk)
        return self.feed(chunk[at:end]), end

    def feed(self, chunk: bytes) -> Iterator[Frame]:
        """The events that ``chunk`` completes; raises EventTooLarge.

        Lazy: each is decoded when it is asked for, so exhaust the iterator before the next call.
        """
        self.between = False
        lines = self._lines(chunk)
        partial = lines.pop()
        for line in lines:
            if not line:
                if self._data is not None:
                    yield Frame(self._name, bytes(self._data))
                self._name, self._data, self._size = None, None, 0
                continue
            self._size += len(line)
            if self._size > self._limit:
                raise self._too_large()
            field, _, value = line.partition(b":")
            if field == b"data":
                if self._data is None:
                    self._data = bytearray()
                else:
                    self._data += b"\n"
                self._data += value.removeprefix(b" ")
            elif field == b"event":
                self._name = value.removeprefix(b" ").decode("utf-8", "replace") or None
        if partial:
            self._partial_line += partial
            if self._size + len(self._partial_line) > self._limit:
                raise self._too_large()
        self.between = not (self._partial_line or self._size or self._after_cr)

    def _lines(self, chunk: bytes) -> list[bytes]:
        """The lines that ``chunk`` completes, and after them the beginning of the next, or b"".

        A CR ends its line at once. To wait whether a LF follows would make a stream with CR alone
        late by one event.
        """
        if self._after_cr and chunk:
            self._after_cr = False
            chunk = chunk.removeprefix(b"\n")
        if b"\r" in chunk:
            self._after_cr = chunk.endswith(b"\r")
            chunk = chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        lines = chunk.split(b"\n")
        if self._partial_line and len(lines) > 1:
            lines[0] = b"".join((self._partial_line, lines[0]))
            self._partial_line = bytearray()
        if self._at_start and len(lines) > 1:
            self._at_start = False
            lines[0] = lines[0].removeprefix(BOM)
        return lines

    def _too_large(self) -> EventTooLarge:
        return EventTooLarge(f"an event of more than {self._limit} bytes")


CRLF = b"\r\n"
LF = b"\n"

END = b"\r\n\r\n"
"""What stands after the data of an event."""


def opening(name: str | None) -> bytes:
    """What stands before the data of an event, with the CRLF and the blanks that clients expect."""
    return b"data: " if name is None else b"event: %b\r\ndata: " % name.encode()


def encode(name: str | None, data: bytes, line_end: bytes = CRLF) -> bytes:
    """An event as it goes on the wire, its lines ended by ``line_end``.

    Those of ``data`` are separated by line feeds.
    """
    event = opening(name) + data.replace(b"\n", b"\r\ndata: ") + END
    return event if line_end == CRLF else event.replace(CRLF, line_end)
