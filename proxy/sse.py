"""Server-sent events: bytes in, events out, and back.

Decoding follows the WHATWG text to the letter (https://html.spec.whatwg.org/multipage/server-sent-events.html),
whatever the cut: lines end at LF, CR or CRLF only; a BOM is swallowed; several ``data`` lines are
joined; an event that no blank line ended is never seen.

One deliberate divergence: an event may not grow past a limit, because a buffer without one is an
upstream's way to fill our memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

BOM = b"\xef\xbb\xbf"


class EventTooLarge(ValueError):
    """An event passed the limit."""


class Frame(NamedTuple):
    """One event on the wire: its name, None for the default ``message``, and its data."""

    name: str | None
    data: bytes


class Decoder:
    """Turns chunks of a stream, cut anywhere, into frames. ``limit`` is the bytes of one event."""

    def __init__(self, limit: int = 8 << 20) -> None:
        self._limit = limit
        self._line: list[bytes] = []  # the beginnings of a line whose end has not come yet
        self._size = 0  # of the event so far, in bytes
        self._after_cr = False
        self._at_start = True
        self._name = b""
        self._data: list[bytes] = []

    def feed(self, chunk: bytes) -> Iterator[Frame]:
        """The frames that ``chunk`` completes; raises EventTooLarge.

        Lazy: an event is decoded when it is asked for, so ask for all before the next chunk.
        """
        *lines, rest = self._lines(chunk)
        for line in lines:
            if line:
                self._take(line)
            elif frame := self._dispatch():
                yield frame
        if rest:
            self._size += len(rest)
            if self._size > self._limit:
                raise self._too_large()
            self._line.append(rest)

    def _lines(self, chunk: bytes) -> list[bytes]:
        """Split off the lines that ``chunk`` completes; the last item is an incomplete one.

        A CR ends its line at once, without waiting for the LF that may follow: only so a
        CR-only stream is not always one event late.
        """
        if self._after_cr and chunk:
            self._after_cr = False
            if chunk[0] == 0x0A:  # noqa: PLR2004
                chunk = chunk[1:]
        if b"\r" in chunk:
            self._after_cr = chunk[-1] == 0x0D  # noqa: PLR2004
            chunk = chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        lines = chunk.split(b"\n")
        if self._line and len(lines) > 1:
            beginning = b"".join(self._line)
            self._line.clear()
            self._size -= len(beginning)
            lines[0] = beginning + lines[0]
        return lines

    def _take(self, line: bytes) -> None:
        if self._at_start:
            self._at_start = False
            line = line.removeprefix(BOM)
        self._size += len(line)
        if self._size > self._limit:
            raise self._too_large()
        field, _, value = line.partition(b":")
        if field == b"data":
            self._data.append(value[1:] if value[:1] == b" " else value)
        elif field == b"event":
            self._name = value[1:] if value[:1] == b" " else value

    def _dispatch(self) -> Frame | None:
        self._at_start = False
        name, data = self._name, self._data
        self._name, self._data, self._size = b"", [], 0
        if not data:
            return None
        text = data[0] if len(data) == 1 else b"\n".join(data)
        return Frame(name.decode("utf-8", "replace") or None, text)

    def _too_large(self) -> EventTooLarge:
        return EventTooLarge(f"an event of more than {self._limit} bytes")


def encode(name: str | None, data: bytes) -> bytes:
    """One event for the wire: CRLF, one blank after each colon. ``data`` is one line."""
    if name is None:
        return b"data: %b\r\n\r\n" % data
    return b"event: %b\r\ndata: %b\r\n\r\n" % (name.encode(), data)
