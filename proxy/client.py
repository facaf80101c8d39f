"""The client's side of one exchange: the one reader of ``receive``, the one caller of ``send``.

That the client has left it hears from our server at once, by an extension; a task of its own that
waits for the message of the standard would cost every exchange as much as the exchange itself.
https://asgi.readthedocs.io/en/latest/specs/www.html
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from email.utils import formatdate
from functools import lru_cache
from time import time
from typing import Protocol

from starlette.types import Receive, Scope, Send

from .errors import ProxyError, RequestTooLarge
from .fields import Fields, has_body, values

CONNECTION = "anthropic-version-proxy"
"""The extension in the scope under which our server offers a Connection."""


class ClientLeft(Exception):
    """The client closed its connection. No error: old SDKs do so once they saw the stop."""


class ClientStalled(ClientLeft):
    """The client took nothing for too long, and was left."""


class Connection(Protocol):
    """What our server knows of a client, and the standard has no word for."""

    def when_left(self, tell: Callable[[ClientLeft], None]) -> None:
        """Call ``tell`` when the client is gone, at once if it is already."""

    def write(self, data: bytes) -> bool:
        """Write a part of the body, if that can be done at once; says whether it was."""


class Client:
    """The client of one exchange."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._connection: Connection | None = scope.get("extensions", {}).get(CONNECTION)
        self.method: str = scope["method"]
        self.path: bytes = scope["raw_path"]
        self.query: bytes = scope["query_string"]
        self.fields: Fields = scope["headers"]
        self.started = False
        """Whether the head of the response is out, so that the status can no longer change."""
        self.complete = False
        """Whether the whole response is out."""
        self.bytes_sent = 0
        self.last_write = 0.0
        """When something was last sent, by the event loop's clock."""
        self._loop = asyncio.get_running_loop()
        self._receive = receive
        self._send = send

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
        more = True
        while more:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise ClientLeft
            if part := message.get("body", b""):
                missing -= len(part)
                yield part
            more = message.get("more_body", False)
        if missing > 0:  # or what follows would be taken for the rest of it upstream
            raise ClientLeft

    def when_left(self, tell: Callable[[ClientLeft], None]) -> None:
        """Have it told if the client leaves before the response is complete."""

        def left(how: ClientLeft) -> None:
            if not self.complete:
                tell(how)

        if self._connection is not None:
            self._connection.when_left(left)

    async def start(self, status: int, fields: Fields) -> None:
        """Send the head of the response."""
        if not values(fields, b"date"):  # RFC 9110 §6.6.1
            fields = [*fields, (b"date", _date(int(time())))]
        await self._send({"type": "http.response.start", "status": status, "headers": fields})
        self.started = True

    def write(self, data: bytes) -> Awaitable[None] | None:
        """Send a part of the body; returns what to wait for before the next, None for nothing."""
        self.bytes_sent += len(data)
        self.last_write = self._loop.time()
        if self._connection is not None and self._connection.write(data):
            return None
        return self._send({"type": "http.response.body", "body": data, "more_body": True})

    def write_all(self, blocks: Iterator[bytes]) -> Awaitable[None] | None:
        """Send parts of the body, each made when the one before it is sent; returns as write."""
        for block in blocks:
            if (wait := self.write(block)) is not None:
                return self._write_rest(wait, blocks)
        return None

    async def _write_rest(self, wait: Awaitable[None], blocks: Iterator[bytes]) -> None:
        await wait
        for block in blocks:
            if (more := self.write(block)) is not None:
                await more

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


@lru_cache(maxsize=1)
def _date(second: int) -> bytes:
    return formatdate(second, usegmt=True).encode()
