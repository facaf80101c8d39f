"""The client's side of one exchange: the one reader of ``receive``, the one caller of ``send``.

Two readers would race for the one message that says that the client has left.
https://asgi.readthedocs.io/en/latest/specs/www.html
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Iterable
from email.utils import formatdate

from starlette.types import Receive, Scope, Send

from .errors import ProxyError, RequestTooLarge
from .fields import Fields, has_body, values

SEND_SIZE = 64 << 10
"""The most that is handed to the server at once, in bytes. Snapshots that arrived in one read of
64 KiB can be 25 MB: joined into one send they would all be in memory, sent one by one they would
cost a system call each."""

STALLED = "proxy.stalled"
"""What our server leaves in the scope of a client that it gave up, because it took nothing."""


class ClientLeft(Exception):
    """The client closed its connection. No error: old SDKs do so once they saw the stop."""


class ClientStalled(ClientLeft):
    """The client took nothing for too long, and was left."""


class Client:
    """The client of one exchange."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._scope = scope
        self.method: str = scope["method"]
        self.path: bytes = scope["raw_path"]
        self.query: bytes = scope["query_string"]
        self.fields: Fields = scope["headers"]
        self.started = False
        """Whether the head of the response is out, so that the status can no longer change."""
        self.complete = False
        """Whether the whole response is out."""
        self.bytes_sent = 0
        self._receive = receive
        self._send = send
        self._uploaded = asyncio.Event()
        self._left = False

    @property
    def has_body(self) -> bool:
        """Whether the request announces a body (RFC 9112 §6)."""
        return has_body(self.fields)

    async def body(self, limit: int) -> bytes:
        """The whole request body; raises RequestTooLarge and ClientLeft."""
        if not self.has_body:
            return b""
        announced = values(self.fields, b"content-length")
        if announced and int(announced[0]) > limit:
            raise RequestTooLarge(f"the request body is larger than {limit} bytes")
        parts: list[bytes] = []
        size = 0
        async for part in self.upload():
            size += len(part)
            if size > limit:
                raise RequestTooLarge(f"the request body is larger than {limit} bytes")
            parts.append(part)
        return b"".join(parts)

    async def upload(self) -> AsyncIterator[bytes]:
        """The request body as it arrives; raises ClientLeft, also for a body that is cut."""
        announced = values(self.fields, b"content-length")
        missing = int(announced[0]) if announced else 0
        try:
            while True:
                message = await self._receive()
                if message["type"] == "http.disconnect":
                    self._left = True
                    raise ClientLeft
                if part := message.get("body", b""):
                    missing -= len(part)
                    yield part
                if not message.get("more_body", False):
                    break
            if missing > 0:  # or what follows would be taken for the rest of it upstream
                raise ClientLeft
        finally:
            self._uploaded.set()

    async def gone(self) -> ClientLeft | None:
        """Wait until the client leaves, which is watched for once its body was read.

        None: it did not leave before the response was complete.
        """
        if self.has_body:
            await self._uploaded.wait()
        while not self._left:
            message = await self._receive()
            self._left = message["type"] == "http.disconnect"
        if self.complete:
            return None
        return ClientStalled() if STALLED in self._scope else ClientLeft()

    async def start(self, status: int, fields: Fields) -> None:
        """Send the head of the response."""
        if not values(fields, b"date"):  # RFC 9110 §6.6.1
            fields = [*fields, (b"date", formatdate(usegmt=True).encode())]
        await self._send({"type": "http.response.start", "status": status, "headers": fields})
        self.started = True

    def write(self, data: bytes) -> Awaitable[None]:
        """Send a part of the body; returns when the client keeps up."""
        self.bytes_sent += len(data)
        return self._send({"type": "http.response.body", "body": data, "more_body": True})

    async def write_all(self, pieces: Iterable[bytes]) -> None:
        """Send pieces of the body, joined while that is cheap.

        If making one fails, those before it are sent all the same.
        """
        joined: list[bytes] = []
        size = 0
        try:
            for piece in pieces:
                joined.append(piece)
                size += len(piece)
                if size >= SEND_SIZE:
                    full, joined, size = joined, [], 0
                    await self.write(b"".join(full))
        finally:
            if joined:
                await self.write(b"".join(joined))

    async def end(self) -> None:
        """Say that the body is complete. Without this it is cut, and the client can tell."""
        self.complete = True
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    async def answer(self, status: int, fields: Fields, body: bytes) -> None:
        """Send a whole response, with a body of JSON."""
        framing = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
        ]
        await self.start(status, [*fields, *framing])
        self.bytes_sent += len(body)
        self.complete = True
        await self._send({"type": "http.response.body", "body": body, "more_body": False})

    async def refuse(self, error: ProxyError, fields: Fields) -> None:
        """Answer with an error."""
        await self.answer(error.status, [*fields, *error.headers], error.body())
