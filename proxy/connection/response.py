"""One response on its way to a client: uvicorn's, with a head and an end of our own.

Fields are checked where they are read or made. A last check here sees to it that none breaks the
head apart. https://www.rfc-editor.org/rfc/rfc9112#section-6
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator, Mapping, Sequence
from email.utils import formatdate
from functools import lru_cache
from time import time
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

from ..core.fields import BODILESS, Fields, controls
from ..exchange.extensions import FOLLOWED
from .flow import Flow

WORTH_A_COPY = 16 << 10
"""The size in bytes below which joining a part with its framing costs less than writing three."""

_LINGER_OFF, _RESET_AT_CLOSE = struct.pack("ii", 0, 0), struct.pack("ii", 1, 0)
"""Values of SO_LINGER."""


class Response(RequestResponseCycle):
    """uvicorn's, for an application that gives the names of fields in lower case.

    A client of HTTP/1.0 cannot read chunks: without a content-length its body is unframed, and ends
    with the connection. Only a reset shows then that it was cut.
    """

    flow: Flow

    head = b""
    """The head, while it is kept back to be written together with the first part of the body: each
    write costs a system call and wakes the client."""

    weight = 0
    """What its request takes while that waits behind another, in bytes."""

    _unframed = False
    is_last = False
    """Whether it is complete, and the last of its connection."""

    @property
    def ends_with_connection(self) -> bool:
        """Whether the client would take the end of the connection for the end of the body."""
        return self._unframed and not self.response_complete

    async def send(self, message: Any) -> None:
        """Send the head or a part of the body, once the client has taken enough of what waits."""
        if self.response_started:
            if self._unframed:
                await self._send_unframed(message)
                return
            await self._send_more(message)
            return
        if self.flow.write_paused and not self.disconnected:
            await self.flow.drain()
        if not self.disconnected:
            head = self._begin(message["status"], message["headers"])
            if message.get(FOLLOWED, False) and not self._unframed:
                self.head = head
            else:
                self.transport.write(head)

    def write(self, parts: Sequence[bytes]) -> bool:
        """Write parts of a body that has no length, as most have none, without an ASGI message.

        See exchange.extensions.Connection.
        """
        if self.disconnected:
            return True  # there is nobody to wait for
        if self.flow.write_paused:
            return False
        if self._unframed:
            self.transport.write(b"".join(parts))
            return True
        if not self.chunked_encoding:
            return False
        if len(parts) == 1 and not self.head and (size := len(parts[0])) < WORTH_A_COPY:
            self.transport.write(b"%x\r\n%b\r\n" % (size, parts[0]))
            return True
        pieces = [self.head] if self.head else []
        self.head = b""
        for part in parts:
            pieces += (b"%x\r\n" % len(part), part, b"\r\n")
        if len(parts) == 1:
            self.transport.writelines(pieces)
        else:
            self.transport.write(b"".join(pieces))
        return True

    def _begin(self, status: int, fields: Fields) -> bytes:
        if controls(fields):
            raise RuntimeError("a field of the response has a control character")
        self.response_started = True
        self.waiting_for_100_continue = False
        first = STATUS_LINE[status].removesuffix(b"\r\n")
        named = dict(fields)
        dated = () if b"date" in named else (b": ".join(date()),)
        framing = self._framing(status, named)
        lines = (first, *map(b": ".join, fields), *dated, *framing, b"", b"")
        return b"\r\n".join(lines)

    def _framing(self, status: int, named: Mapping[bytes, bytes]) -> Iterator[bytes]:
        """The lines to add that say where the response ends, and whether the connection does."""
        if b"content-length" in named:
            self.chunked_encoding = False
            self.expected_content_length = int(named[b"content-length"])
        elif self.scope["http_version"] == "1.0":
            self.chunked_encoding = False
            self._unframed = True
            self._set_linger(_RESET_AT_CLOSE)
        elif self.scope["method"] != "HEAD" and status not in BODILESS:
            self.chunked_encoding = True
            yield b"transfer-encoding: chunked"
        if b"connection" in named:
            self.keep_alive = False  # the application sends no other value than close
        elif not self.keep_alive:
            yield b"connection: close"

    async def _send_unframed(self, message: Any) -> None:
        """Send a part; after the last, close cleanly once the client has taken everything.

        Until then the connection is set to end in a reset, for a body that is cut must not look
        whole.
        """
        await self._taken()
        if not self.disconnected:
            self.expected_content_length = len(message.get("body", b""))
            part: Any = {**message, "more_body": True}
            await super().send(part)
        if message.get("more_body", False):
            return
        if not self.transport.is_closing():  # else some of it may be lost already
            self.transport.set_write_buffer_limits(0)
            await self._taken()
            if not self.disconnected:
                self._set_linger(_LINGER_OFF)
        if not self.disconnected:
            await self._send_more({**message, "body": b""})

    async def _send_more(self, message: Any) -> None:
        if not self.keep_alive and not message.get("more_body", False):
            self.keep_alive = self.is_last = True  # or uvicorn would close the connection at once
        if self.head:
            message = self._sent_with_head(message)
        await super().send(message)

    def _sent_with_head(self, message: Any) -> Any:
        """Send the head, and a whole body with it; returns what is left to send."""
        head, self.head = self.head, b""
        body = message["body"]
        whole = not self.chunked_encoding and len(body) == self.expected_content_length
        if not whole or self.scope["method"] == "HEAD":
            self.transport.write(head)
            return message
        self.transport.writelines((head, body))
        self.expected_content_length = 0
        return {**message, "body": b""}

    async def _taken(self) -> None:
        while self.flow.write_paused and not self.disconnected:  # another writer may have resumed
            await self.flow.drain()

    def _set_linger(self, how: bytes) -> None:
        opened: socket.socket = self.transport.get_extra_info("socket")
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, how)


def status_line(status: int) -> bytes:
    """The first line of a response."""
    return STATUS_LINE[status]


def date() -> tuple[bytes, bytes]:
    """The ``date`` field, as of now."""
    return b"date", _date(int(time()))


@lru_cache(maxsize=1)
def _date(second: int) -> bytes:
    return formatdate(second, usegmt=True).encode()
