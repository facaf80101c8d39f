"""Server-sent events: bytes in, events out, and back.

Decoding follows the WHATWG text to the letter (https://html.spec.whatwg.org/multipage/server-sent-events.html),
whatever the cut: lines end at LF, CR or CRLF only; a BOM is swallowed; several ``data`` lines are
joined; an event that no blank line ended is never seen.

One deliberate divergence: an event may not grow past a limit, because a buffer without one is an
upstream's way to fill our memory.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

BOM = b"\xef\xbb\xbf"

_PLAIN = re.compile(rb"event: ([^\r\n]+)(\r?\n)data: ([^\r\n]+)\2\2")
"""An event as nearly all are written."""

_END = re.compile(rb"\r\n\r\n|\n\n|\r\r")


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
        self._cut = bytearray()  # the beginning of a line whose end has not come yet
        self._size = 0  # of the whole lines of the event so far, in bytes
        self._after_cr = False
        self._at_start = True
        self._name: str | None = None
        self._data: bytearray | None = None  # lines kept one by one would take six times as much
        self.between = True
        """Whether an event may begin with the next byte, as no line of another has come."""

    def event_at(self, chunk: bytes, at: int) -> tuple[Iterable[Frame], int]:
        """The event that begins or goes on ``at``, if ``chunk`` has its end, and where that is.

        Where lines end now this way, now that, it can be several. Lazy, and raises, as feed.
        """
        plain = _PLAIN.match(chunk, at) if self.between else None
        if plain is not None and plain.end() - at <= self._limit:
            self._at_start = False
            name, _, data = plain.groups()
            return (Frame(name.decode("utf-8", "replace"), data),), plain.end()
        end = _END.search(chunk, at)
        after = end.end() if end else len(chunk)
        return self.feed(chunk[at:after]), after

    def feed(self, chunk: bytes) -> Iterator[Frame]:
        """The frames that ``chunk`` completes; raises EventTooLarge.

        Lazy: an event is decoded when it is asked for, so ask for all before the next chunk.
        """
        self.between = False
        lines = self._lines(chunk)
        cut = lines.pop()
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
        if cut:
            self._cut += cut
            if self._size + len(self._cut) > self._limit:
                raise self._too_large()
        self.between = not (self._cut or self._size or self._after_cr)

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
        if self._cut and len(lines) > 1:
            lines[0] = b"".join((self._cut, lines[0]))
            self._cut = bytearray()
        if self._at_start and len(lines) > 1:
            self._at_start = False
            lines[0] = lines[0].removeprefix(BOM)
        return lines

    def _too_large(self) -> EventTooLarge:
        return EventTooLarge(f"an event of more than {self._limit} bytes")


END = b"\r\n\r\n"
"""What follows the data of an event."""


def opening(name: str | None) -> bytes:
    """What stands before the data of an event: CRLF, and one blank after each colon."""
    return b"data: " if name is None else b"event: %b\r\ndata: " % name.encode()


def encode(name: str | None, data: bytes) -> bytes:
    """One event for the wire; lines of ``data`` end in a line feed."""
    return opening(name) + data.replace(b"\n", b"\r\ndata: ") + END
